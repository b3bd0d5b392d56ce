//! One process's connection to a named bus.

mod builder;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use busway_transport::{
    Capabilities, Changes, Name, NameError, Peer, PeerId, Source, Status, Topic, TransportError,
    TransportHandle,
};

use crate::codec::Codec;
use crate::config::Settings;
use crate::endpoint::Endpoint;
use crate::error::{CloseError, OpenError, ReadyError};
use crate::event::Event;
use crate::notice::{Board, Notices};
use crate::publish::job;
use crate::publish::outlet::Outlets;
use crate::request::remote::Packing;
use crate::request::responders::Responders;
use crate::router::Router;
use crate::router::intake::Intakes;
use crate::router::topic::TopicNode;
use crate::subscribe::AllSeen;

pub(crate) use crate::running::{IN_HANDLER, Running};
pub use builder::Builder;

/// One process's connection to a named bus: its router and its transport. Clones are the same
/// connection.
///
/// [`close`](Self::close) drains it. Dropping the last of its handles and endpoints cuts it off:
/// what is in work is finished by nobody.
#[derive(Clone)]
pub struct Bus {
    pub(crate) core: Arc<Core>,
}

/// What the handles of one bus share.
pub(crate) struct Core {
    pub(crate) peer: PeerId,
    pub(crate) settings: Settings,
    pub(crate) capabilities: Capabilities,
    /// The codec of events that name none.
    pub(crate) codec: Codec,
    pub(crate) transport: TransportHandle,
    /// How often the transport's answers to `interest` may have changed.
    pub(crate) interest_changes: Changes,
    pub(crate) router: Router,
    pub(crate) intakes: Arc<Intakes>,
    pub(crate) responders: Responders,
    pub(crate) board: Arc<Board>,
    /// Handlers, responders and confirmations: what a drain waits for.
    pub(crate) tasks: TaskTracker,
    /// What may still publish while the bus drains: members of groups and responders, as long as
    /// they have work.
    pub(crate) busy: TaskTracker,
    /// Cancelled when the bus is closed, dropped, or its drain took too long.
    pub(crate) gone: CancellationToken,
    /// What groups with `deduplicate` have handled.
    pub(crate) seen: AllSeen,
    runtime: tokio::runtime::Handle,
    endpoints: DashMap<Name, Arc<Outlets>>,
    topics: DashMap<&'static str, Arc<TopicNode>>,
    numbers: AtomicU64,
    ready: AtomicBool,
    closing: AtomicBool,
    closed: tokio::sync::Mutex<bool>,
    /// Cancels `gone` when the bus is dropped: after the transport, so that it goes as one that
    /// died, and its groups' members do not leave in order before.
    _cut: DropGuard,
}

impl Bus {
    /// Opens the bus that the configuration names: `BUSWAY_TRANSPORT` (and other `BUSWAY_`
    /// variables), then the file `busway.toml` here or at `BUSWAY_CONFIG`; private and in-process
    /// when nothing is configured.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open() -> Result<Self, OpenError> {
        Self::builder().open().await
    }

    /// Opens the bus at an address: `memory:NAME`, `ipc:NAME`, `amqp://…`. Its other settings come
    /// from the environment and the file, as for [`open`](Self::open).
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn connect(address: &str) -> Result<Self, OpenError> {
        Self::builder().transport(address).open().await
    }

    /// A bus of this process alone, whatever is configured: for tests and for embedding.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn private() -> Result<Self, OpenError> {
        Self::builder().transport("memory:").without_configuration().open().await
    }

    /// A bus with settings made in code.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The endpoint of that name, announced to the peers on first use.
    ///
    /// # Errors
    /// [`NameError`] unless the name is `[a-z0-9_-]{1,64}`.
    pub fn endpoint(&self, name: &str) -> Result<Endpoint, NameError> {
        let name = Name::new(name)?;
        let mut is_new = false;
        let outlets = self.core.endpoints.entry(name.clone()).or_insert_with(|| {
            is_new = true;
            Arc::default()
        });
        let outlets = outlets.clone();
        if is_new {
            self.core.transport.announce(name.clone());
            self.core.board.touch();
        }
        Ok(Endpoint { bus: self.core.clone(), name, outlets })
    }

    /// The start-up barrier: says that this process is ready (all that it subscribes to at its
    /// start is live), and waits until the processes of all named endpoints have said so too, up
    /// to the connect timeout.
    ///
    /// Call it after subscribing and before publishing, in every process that others wait for.
    ///
    /// # Errors
    /// [`ReadyError::TimedOut`] names who is missing, and who is there but has not called it.
    ///
    /// # Cancel safety
    /// Once polled, this process counts as ready.
    pub async fn ready<I>(&self, endpoints: I) -> Result<(), ReadyError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let core = &self.core;
        let names = endpoints.into_iter().map(|name| Name::new(name.as_ref()));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        core.check_open(|| ReadyError::Closed)?;
        if !core.ready.swap(true, Ordering::SeqCst) {
            core.transport.set_ready();
            core.board.touch();
        }
        let missing = |ready: bool| {
            let peers = core.transport.peers();
            let has = |name: &Name| {
                core.endpoints.contains_key(name)
                    || peers
                        .iter()
                        .any(|peer| peer.endpoints.contains(name) && (!ready || peer.ready))
            };
            names.iter().filter(|name| !has(name)).map(Name::to_string).collect::<Vec<_>>()
        };
        let after = core.settings.connect_timeout;
        core.wait_until(after, || missing(true).is_empty()).await?.ok_or_else(|| {
            let (absent, mut not_ready) = (missing(false), missing(true));
            not_ready.retain(|name| !absent.contains(name));
            ReadyError::TimedOut { after, missing: absent, not_ready }
        })
    }

    /// The other buses that are connected now.
    pub fn peers(&self) -> Vec<Peer> {
        self.core.transport.peers()
    }

    /// What happens on the bus from now on: peers up and down, connection lost and back, gaps
    /// that nobody else was told.
    pub fn notices(&self) -> Notices {
        self.core.board.notices()
    }

    /// The state of the transport's connection.
    pub fn status(&self) -> Status {
        self.core.transport.status()
    }

    /// What the transport can do.
    pub fn capabilities(&self) -> &Capabilities {
        &self.core.capabilities
    }

    /// This bus's identity among its peers.
    pub fn id(&self) -> PeerId {
        self.core.peer
    }

    /// Drains and closes: takes nothing new, finishes what was taken (handlers, groups, requests,
    /// confirmations), and says goodbye. Streams keep what they hold, and then end.
    ///
    /// # Errors
    /// [`CloseError::InsideHandler`] at once when a handler of this bus calls it;
    /// [`CloseError::TimedOut`] when the drain timeout (30 s unless set) passed: the rest was cut
    /// off.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, the bus takes nothing new; call it again to go on.
    pub async fn close(&self) -> Result<(), CloseError> {
        let core = &self.core;
        if core.in_handler() {
            return Err(CloseError::InsideHandler);
        }
        core.close().await
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("transport", &self.core.capabilities.transport)
            .field("id", &self.core.peer)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn source(&self, endpoint: &Name) -> Source {
        Source { endpoint: endpoint.clone(), peer: self.peer }
    }

    /// How events of a type are encoded.
    pub(crate) fn codec_of<E: Event>(&self) -> Codec {
        E::SCHEMA.codec.unwrap_or(self.codec)
    }

    pub(crate) fn in_process(&self) -> bool {
        job::in_process(&self.capabilities)
    }

    pub(crate) fn packing(&self) -> Packing {
        Packing {
            in_process: self.in_process(),
            codec: self.codec,
            limit: self.capabilities.max_payload,
        }
    }

    /// The node of an event type's topic.
    ///
    /// # Panics
    /// When a hand-written [`Schema`](crate::Schema) has a topic that is none: the derive checks
    /// names when it compiles.
    pub(crate) fn node_of(&self, topic: &'static str) -> Arc<TopicNode> {
        if let Some(node) = self.topics.get(topic) {
            return node.clone();
        }
        let name = Topic::new(topic)
            .unwrap_or_else(|error| panic!("a hand-written schema has a wrong topic: {error}"));
        let node = self.router.node(&name);
        self.topics.insert(topic, node.clone());
        node
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn in_handler(&self) -> bool {
        IN_HANDLER.try_with(|running| running.bus == self.peer).unwrap_or(false)
    }

    /// An error once the bus is closing; but handlers that are being drained may still publish
    /// and ask.
    pub(crate) fn check_open<E>(&self, error: impl FnOnce() -> E) -> Result<(), E> {
        if self.closing.load(Ordering::Acquire) && !self.in_handler() {
            return Err(error());
        }
        Ok(())
    }

    /// As [`spawn`](Self::spawn), also from outside of a runtime: then on the one that the bus was
    /// opened on.
    pub(crate) fn spawn_anywhere(&self, work: impl Future<Output = ()> + Send + 'static) {
        let _runtime = self.runtime.enter();
        self.spawn(work);
    }

    /// Runs work that a drain waits for, and that is cut off when the bus is gone.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let gone = self.gone.clone();
        self.tasks.spawn(async move {
            gone.run_until_cancelled(work).await;
        });
    }

    /// An error once the bus is closing, also for handlers: whoever registers now would not be
    /// drained.
    pub(crate) fn check_not_closing<E>(&self, error: impl FnOnce() -> E) -> Result<(), E> {
        if self.closing.load(Ordering::Acquire) { Err(error()) } else { Ok(()) }
    }

    async fn close(&self) -> Result<(), CloseError> {
        let mut closed = self.closed.lock().await;
        if *closed {
            return Ok(());
        }
        self.closing.store(true, Ordering::Release);
        self.router.closing();
        self.board.touch();
        let after = self.settings.drain_timeout;
        let deadline = tokio::time::Instant::from_std(deadline_after(after));
        let drained = tokio::time::timeout_at(deadline, self.drain(deadline)).await;
        let handlers = self.tasks.len();
        if drained.is_err() {
            // Cut off; but the transport still says goodbye.
            self.router.end_all();
        }
        // Ends what is still running, and the requests that are still under way.
        self.gone.cancel();
        let goodbye = deadline.max(tokio::time::Instant::now() + Duration::from_secs(1));
        let goodbye = self.transport.close(goodbye.into_std()).await;
        *closed = true;
        let outcome = drained.map_err(|_| TransportError::TimedOut {
            what: "draining".into(),
            after,
            by: None,
        });
        match outcome.and_then(|drained| drained).and(goodbye) {
            // Closed already, by a call of this that was dropped in the middle.
            Ok(()) | Err(TransportError::Closed) => Ok(()),
            Err(TransportError::TimedOut { .. }) => Err(CloseError::TimedOut { after, handlers }),
            Err(error) => Err(CloseError::Transport(error)),
        }
    }

    /// Every step is taken, whatever became of those before it; the first error is kept.
    async fn drain(&self, deadline: tokio::time::Instant) -> Result<(), TransportError> {
        // Own events first, while own members and handlers still work.
        let flushed = self.transport.flush(deadline.into_std()).await;
        let left = self.transport.leave().await;
        // What the transport had accepted finds its way into the queues, past their bounds. So
        // does what handlers publish while they drain.
        self.router.drain_all();
        self.intakes.drained().await;
        self.router.come_to_rest(&self.busy).await;
        self.router.close_all();
        self.tasks.close();
        self.tasks.wait().await;
        // What handlers published and settled while they drained.
        let flushed_again = self.transport.flush(deadline.into_std()).await;
        flushed.and(left).and(flushed_again)
    }
}

/// The time by tokio's clock, which tests can stop.
pub(crate) fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// A time from now, however far.
pub(crate) fn deadline_after(timeout: Duration) -> std::time::Instant {
    let now = now();
    // About thirty years, as tokio takes it for "never".
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(86_400 * 365 * 30))
}

impl Drop for Core {
    fn drop(&mut self) {
        if *self.closed.get_mut() {
            // Streams keep what they hold.
            self.router.close_all();
        } else {
            self.router.end_all();
        }
    }
}
