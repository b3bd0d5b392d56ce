//! From an address to a connected transport.

use std::sync::Arc;
use std::time::{Duration, Instant};

use busway_transport::{Address, ConnectOptions, Connector, TransportError};
use tokio::sync::oneshot;

use crate::address::Settings;
use crate::connection::{Care, Events, Link, backoff};
use crate::error::{timed_out, within};
use crate::peers::{self, Peers};
use crate::presence::Presence;
use crate::publish::Publisher;
use crate::rebind::Rebind;
use crate::request::Requests;
use crate::shared::Shared;
use crate::status::{Board, Role};
use crate::tasks::{Gauge, PhaseWatch, Tasks};
use crate::topology::{self, Topology};
use crate::transport::AmqpTransport;

/// Connects to RabbitMQ: `amqp://` and `amqps://`, whose certificate must be valid for the host.
///
/// `amqp://user:password@host:port/vhost?bus=NAME`, all parts optional; `/` in a vhost is written
/// `%2f`. Parameters: `bus` (its name, `busway` unless set), `heartbeat` (seconds, 5), `window`
/// (publishes that may be unconfirmed, 256), `queue_type` (of groups: `quorum` or `classic`),
/// `wait` (`true`: until the connect timeout for a broker that is not there yet, instead of an
/// error at once), `password_file` and `password_env` (where the password is, instead of the URL);
/// for `amqps`, files in PEM: `ca` (who is trusted beside the system's roots), `cert` and `key`
/// (who we are). Secrets are never shown, in no error and no `Debug`.
#[derive(Debug, Clone, Copy, Default)]
pub struct AmqpConnector;

impl AmqpConnector {
    /// A connector.
    pub fn new() -> Self {
        Self
    }
}

impl Connector for AmqpConnector {
    type Transport = AmqpTransport;

    fn schemes(&self) -> &'static [&'static str] {
        &["amqp", "amqps"]
    }

    async fn connect(
        &self,
        address: &Address,
        options: ConnectOptions,
    ) -> Result<AmqpTransport, TransportError> {
        let settings = Arc::new(Settings::parse(address)?);
        let timeout = options.timeout;
        let what = format!("connecting to {}", settings.shown);
        let connected = Box::pin(connect(settings, options));
        tokio::time::timeout(timeout, connected)
            .await
            .unwrap_or_else(|_| Err(timed_out(&what, timeout)))
    }
}

/// Connects both links: once, or until the time is up, as the settings have it.
async fn dialled(
    settings: &Settings,
    care: &impl Fn(Role) -> Care,
    timeout: Duration,
) -> Result<(Dialled, Dialled), TransportError> {
    let deadline = Instant::now() + timeout;
    let mut delays = backoff();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let (publish, consume) = (care(Role::Publish).dial(left), care(Role::Consume).dial(left));
        let error = match futures::try_join!(publish, consume) {
            Err(error @ TransportError::Unreachable { .. }) if settings.wait => error,
            other => return other,
        };
        let delay = delays.next().unwrap_or_default();
        if Instant::now() + delay >= deadline {
            return Err(error);
        }
        tracing::debug!(%error, "waiting for the broker");
        tokio::time::sleep(delay).await;
    }
}

type Dialled = (lapin::Connection, Events);

async fn connect(
    settings: Arc<Settings>,
    options: ConnectOptions,
) -> Result<AmqpTransport, TransportError> {
    let ConnectOptions { peer, host, timeout, .. } = options;
    let topology = Topology::new(&settings)?;
    let board = Arc::new(Board::new(host.clone()));
    let care = |role| Care { settings: settings.clone(), peer, role, board: board.clone() };
    let (publish, consume) = dialled(&settings, &care, timeout).await?;

    // What everybody needs stands before anything else is tried, so that missing permissions are
    // this call's error.
    let declaring = async {
        let channel = publish.0.create_channel().await?;
        topology::apply(&channel, &topology.exchanges()).await?;
        channel.close(200, "declared".into()).await
    };
    within(&settings, "declaring exchanges", declaring).await?;

    let (phase_to, phase) = PhaseWatch::new();
    let (tasks, tasks_end) = Tasks::new();
    let link = |role, connection| Link::supervise(care(role), connection, &tasks, phase.clone());
    let publish = link(Role::Publish, publish);
    let consume = link(Role::Consume, consume);
    let rebind = Rebind::default();
    let publisher = |told| {
        let (settings, exchanges) = (settings.clone(), topology.exchanges());
        let (link, rebind) = (publish.clone(), rebind.clone());
        Publisher::start(settings, link, exchanges, told, rebind, &tasks, phase.clone())
    };
    let back = publisher(None);
    let (presence, wishes) =
        Presence::new(peer, Peers::new(peer, host.clone(), rebind.clone()), rebind.clone());
    let shared = Arc::new(Shared {
        events: publisher(Some(host.clone())),
        requests: Requests::start(
            settings.clone(),
            publish.clone(),
            back.clone(),
            &tasks,
            phase.clone(),
        ),
        back,
        topology,
        peer,
        host,
        board,
        consume,
        presence: presence.clone(),
        rebind: rebind.clone(),
        phase: phase.clone(),
        tasks: tasks.clone(),
        reading: tokio::sync::Mutex::default(),
        consumers: Gauge::new(),
        work: Gauge::new(),
        settings,
    });
    let exchange = shared.topology.presence.clone();
    tasks.spawn(presence.announcer(shared.back.clone(), exchange, wishes, phase));
    let (ready, is_ready) = oneshot::channel();
    tasks.spawn(peers::listen(shared.clone(), ready));
    // From here on a drop of the transport, and so of this future, ends the tasks.
    let transport = AmqpTransport::new(shared, phase_to, tasks_end);
    let start = Instant::now();
    match tokio::time::timeout(timeout, is_ready).await {
        Ok(Ok(ready)) => ready.map(|()| transport),
        Ok(Err(_)) => Err(TransportError::Closed),
        Err(_) => Err(timed_out("greeting the other buses", start.elapsed())),
    }
}
