//! The transports that are compiled in.

use busway_transport::Registry;

/// Every transport of this build, by scheme.
pub(crate) fn registry() -> Registry {
    let registry = Registry::new().with(busway_memory::MemoryConnector::new());
    #[cfg(feature = "ipc")]
    let registry = registry.with(busway_ipc::IpcConnector::new());
    #[cfg(not(feature = "ipc"))]
    let registry = registry.with_hint("ipc", "turn on the feature `ipc` of busway for it");
    #[cfg(feature = "amqp")]
    let registry = registry.with(busway_amqp::AmqpConnector::new());
    #[cfg(not(feature = "amqp"))]
    let registry = registry
        .with_hint("amqp", "turn on the feature `amqp` of busway for it")
        .with_hint("amqps", "turn on the feature `amqp` of busway for it");
    registry
}
