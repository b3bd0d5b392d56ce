//! From an address to a transport.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::erased::{self, TransportHandle};
use crate::{Address, Host, PeerId, Transport, TransportError};

/// What a bus tells its connector.
#[derive(Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The bus's identity.
    pub peer: PeerId,
    /// Where notices go.
    pub host: Arc<dyn Host>,
    /// How long connecting may take.
    pub timeout: Duration,
}

impl ConnectOptions {
    /// The options of a bus.
    pub fn new(peer: PeerId, host: Arc<dyn Host>, timeout: Duration) -> Self {
        Self { peer, host, timeout }
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("peer", &self.peer)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Builds one kind of transport from its addresses.
pub trait Connector: Send + Sync + 'static {
    /// What it builds.
    type Transport: Transport;

    /// The schemes it serves.
    fn schemes(&self) -> &'static [&'static str];

    /// Connects.
    ///
    /// # Errors
    /// [`TransportError::BadAddress`], [`Unreachable`](TransportError::Unreachable),
    /// [`Denied`](TransportError::Denied) or [`TimedOut`](TransportError::TimedOut), each within
    /// the timeout of the options and with an address that shows no secrets.
    fn connect(
        &self,
        address: &Address,
        options: ConnectOptions,
    ) -> impl Future<Output = Result<Self::Transport, TransportError>> + Send;
}

/// The transports that a program can use, by scheme.
#[derive(Clone, Default)]
pub struct Registry {
    by_scheme: BTreeMap<&'static str, Arc<dyn erased::DynConnector>>,
    hints: BTreeMap<&'static str, &'static str>,
}

impl Registry {
    /// A registry without transports.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a connector, for all of its schemes; a later one replaces an earlier one.
    #[must_use]
    pub fn with(mut self, connector: impl Connector) -> Self {
        let connector: Arc<dyn erased::DynConnector> = Arc::new(connector);
        for scheme in connector.schemes() {
            self.by_scheme.insert(scheme, connector.clone());
        }
        self
    }

    /// Says how to get a scheme that is not there.
    #[must_use]
    pub fn with_hint(mut self, scheme: &'static str, hint: &'static str) -> Self {
        self.hints.insert(scheme, hint);
        self
    }

    /// The schemes that are there.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> {
        self.by_scheme.keys().copied()
    }

    /// Connects to an address.
    ///
    /// # Errors
    /// [`TransportError::UnknownScheme`], which names those that are there; others as
    /// [`Connector::connect`].
    pub async fn connect(
        &self,
        address: &Address,
        options: ConnectOptions,
    ) -> Result<TransportHandle, TransportError> {
        let scheme = address.scheme();
        match self.by_scheme.get(scheme) {
            Some(connector) => connector.connect(address, options).await,
            None => Err(TransportError::UnknownScheme {
                scheme: scheme.to_owned(),
                available: self.schemes().map(str::to_owned).collect(),
                hint: self.hints.get(scheme).map_or_else(String::new, |hint| format!("; {hint}")),
            }),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_scheme.keys()).finish()
    }
}
