//! From `memory:NAME` to a transport.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use busway_transport::{Address, ConnectOptions, Connector, Name, TransportError};

use crate::hub::Hub;
use crate::transport::MemoryTransport;

/// The hubs of this process. A hub goes with its last bus.
static HUBS: LazyLock<Mutex<HashMap<Name, Weak<Hub>>>> = LazyLock::new(Mutex::default);

/// Builds transports between the buses of one process.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct MemoryConnector;

impl MemoryConnector {
    /// The connector for `memory:NAME`.
    pub fn new() -> Self {
        Self
    }
}

impl Connector for MemoryConnector {
    type Transport = MemoryTransport;

    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    async fn connect(
        &self,
        address: &Address,
        options: ConnectOptions,
    ) -> Result<MemoryTransport, TransportError> {
        let hub = match address.rest() {
            "" => Arc::default(),
            name => hub(Name::new(name).map_err(|error| TransportError::BadAddress {
                address: address.to_string(),
                reason: error.to_string(),
            })?),
        };
        Ok(MemoryTransport::join(hub, options))
    }
}

fn hub(name: Name) -> Arc<Hub> {
    let mut hubs = HUBS.lock().unwrap_or_else(PoisonError::into_inner);
    hubs.retain(|_, hub| hub.strong_count() > 0);
    let known = hubs.get(&name).and_then(Weak::upgrade);
    known.unwrap_or_else(|| {
        let hub = Arc::<Hub>::default();
        hubs.insert(name, Arc::downgrade(&hub));
        hub
    })
}
