//! Opening a bus: from code, environment and file to a connected transport.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use dashmap::DashMap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use busway_transport::{Address, ConnectOptions, Connector, PeerId, Registry, TransportError};

use super::{Bus, Core};
use crate::config::{Config, Settings};
use crate::error::OpenError;
use crate::notice::Board;
use crate::publish::job;
use crate::request::responders::Responders;
use crate::router::Router;
use crate::router::intake::Intakes;
use crate::subscribe::AllSeen;

/// A bus with settings made in code; they come before the environment and the file.
#[derive(Debug)]
#[must_use = "a bus is opened by `open`"]
pub struct Builder {
    registry: Registry,
    code: Config,
    file: Option<PathBuf>,
    configured: bool,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            registry: crate::transports::registry(),
            code: Config::default(),
            file: None,
            configured: true,
        }
    }

    /// The transport's address, such as `ipc:shop`.
    pub fn transport(mut self, address: &str) -> Self {
        self.code.transport = Some(address.to_owned());
        self
    }

    /// Adds a transport of your own; see the crate `busway-transport`.
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.registry = self.registry.with(connector);
        self
    }

    /// How many events wait in a subscription's queue at most, unless it says otherwise (1024).
    pub fn capacity(mut self, events: usize) -> Self {
        self.code.capacity = Some(events);
        self
    }

    /// How long connecting and [`Bus::ready`] may take (30 s).
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.code.connect_timeout = Some(timeout);
        self
    }

    /// How long a publish may wait (30 s).
    pub fn publish_timeout(mut self, timeout: Duration) -> Self {
        self.code.publish_timeout = Some(timeout);
        self
    }

    /// How long subscribing may take (30 s).
    pub fn subscribe_timeout(mut self, timeout: Duration) -> Self {
        self.code.subscribe_timeout = Some(timeout);
        self
    }

    /// How long a request may take unless it says otherwise (30 s).
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.code.request_timeout = Some(timeout);
        self
    }

    /// How long closing may take (30 s).
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.code.drain_timeout = Some(timeout);
        self
    }

    /// Reads this file instead of `busway.toml` or the one at `BUSWAY_CONFIG`.
    pub fn config_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Reads neither the environment nor a file.
    pub fn without_configuration(mut self) -> Self {
        self.configured = false;
        self
    }

    /// Opens the bus.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(self) -> Result<Bus, OpenError> {
        let mut config = self.code;
        if self.configured {
            config = config.or(Config::from_environment(std::env::vars_os())?);
            config = config.or(Config::from_file(self.file)?);
        }
        let settings = Settings::from(&config);
        let address: Address = config.transport.as_deref().unwrap_or("memory:").parse()?;
        let board = Arc::new(Board::new());
        let peer = PeerId::random();
        let options = ConnectOptions::new(peer, board.clone(), settings.connect_timeout);
        let connecting = self.registry.connect(&address, options);
        let after = settings.connect_timeout;
        let transport = match tokio::time::timeout(after, connecting).await {
            Ok(transport) => transport?,
            Err(_) => {
                let what = format!("connecting to {address}");
                return Err(TransportError::TimedOut { what, after, by: None }.into());
            }
        };
        let capabilities = transport.capabilities();
        let gone = CancellationToken::new();
        let capacity = settings.capacity;
        let core = Core {
            peer,
            settings,
            codec: job::default_codec(&capabilities),
            capabilities,
            intakes: Intakes::new(transport.clone()),
            interest_changes: transport.interest_changes(),
            transport,
            router: Router::new(capacity),
            responders: Responders::default(),
            board,
            tasks: TaskTracker::new(),
            busy: TaskTracker::new(),
            _cut: gone.clone().drop_guard(),
            gone,
            seen: AllSeen::default(),
            runtime: tokio::runtime::Handle::current(),
            endpoints: DashMap::new(),
            topics: DashMap::new(),
            numbers: AtomicU64::new(1),
            ready: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            closed: tokio::sync::Mutex::new(false),
        };
        Ok(Bus { core: Arc::new(core) })
    }
}
