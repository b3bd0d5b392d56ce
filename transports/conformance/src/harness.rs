//! What a transport's author writes.

use busway::Builder;

/// How the kit gets at a transport. See the [crate] for an example.
///
/// No default methods: a wrapper round a harness cannot forget one.
pub trait Harness: Send + Sync + 'static {
    /// The address of a fresh bus, which nobody used before and nobody else uses: each call gives
    /// another one. `case` is the case's name, `[a-z0-9_]`, for people who look at what is left
    /// behind.
    fn address(&self, case: &str) -> String;

    /// Makes the transport known to a bus: `builder.connector(MyConnector::new())`. Settings of
    /// the bus may be made here too.
    fn connector(&self, builder: Builder) -> Builder;
}
