//! Pushed: a handler that is called with each event, one after the other.

use std::any::Any as StdAny;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use busway_transport::{Gap, Notice, PeerId, TopicFilter};

use crate::bus::{Core, IN_HANDLER, Running};
use crate::error::SubscribeError;
use crate::event::Event;
use crate::ledger::{Fate, Ledger};
use crate::message::Message;
use crate::router::queue::Queue;
use crate::subscribe::Plain;
use crate::subscribe::builder::{Starting, Subscribe};
use crate::subscribe::kind::{Any, Kind};
use crate::subscribe::reader::Reader;

/// A handler's failure, made from any error by `?`.
pub struct HandlerError(Box<dyn std::error::Error + Send + Sync>);

impl HandlerError {
    /// A failure without an error type.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }

    /// The error it was made from.
    pub fn error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

// Not itself an `Error`: that would collide with this.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How one call of a handler ended.
pub(crate) enum Handled {
    Ok,
    Error(String),
    Panic(String),
}

/// Runs one call of a handler, isolated: an error or a panic in it stops nothing else (law 11).
pub(crate) async fn run<Fut>(running: Running, call: impl FnOnce() -> Fut) -> Handled
where
    Fut: Future<Output = Result<(), HandlerError>>,
{
    // The call itself may panic as well as the future it returns.
    let guarded = AssertUnwindSafe(IN_HANDLER.scope(running, async { call().await }));
    match guarded.catch_unwind().await {
        Ok(Ok(())) => Handled::Ok,
        Ok(Err(error)) => Handled::Error(error.to_string()),
        Err(panic) => Handled::Panic(panic_text(&*panic)),
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn StdAny + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".into())
}

/// An open interest that is pushed to a handler.
///
/// Dropping it leaves it running as long as its bus; [`unsubscribe`](Self::unsubscribe) ends it.
pub struct Subscription {
    topic: String,
    counters: Counted,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Where a subscription's account is kept.
#[derive(Clone)]
pub(crate) enum Counted {
    Queue(Arc<Queue>),
    Group(Arc<crate::ledger::Counters>),
}

impl Counted {
    fn read(&self) -> Ledger {
        match self {
            Self::Queue(queue) => queue.ledger(),
            Self::Group(counters) => counters.read(|| 0),
        }
    }
}

impl Subscription {
    pub(crate) fn new(
        topic: String,
        counters: Counted,
        stop: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        tasks.close();
        Self { topic, counters, stop, tasks }
    }

    /// Withdraws the interest, and waits for the handler that is running now. Events that still
    /// wait in the queue are dropped and counted; a group's go to its other members.
    ///
    /// # Cancel safety
    /// Once polled, the interest is withdrawn also when this is dropped.
    pub async fn unsubscribe(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// Resolves when the subscription has ended: after `take`, or with its bus.
    pub async fn ended(&self) {
        self.tasks.wait().await;
    }

    /// What became of the events so far.
    pub fn ledger(&self) -> Ledger {
        self.counters.read()
    }

    /// Its topic or topic filter.
    pub fn topic(&self) -> &str {
        &self.topic
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", &self.topic)
            .field("ledger", &self.ledger())
            .finish_non_exhaustive()
    }
}

impl<'a, E: Event> Subscribe<'a, E, Plain> {
    /// Calls `handler` with each event, one after the other.
    ///
    /// # Errors
    /// [`SubscribeError`]. When this returns `Ok`, every event that any connected peer publishes
    /// from then on is seen.
    pub fn for_each<F, Fut>(self, handler: F) -> Starting<'a, Subscription>
    where
        F: Fn(Message<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Starting::new(start(self, !E::SCHEMA.local, infallible(handler)))
    }

    /// As [`for_each`](Self::for_each), with a handler that may fail: an error is counted and
    /// logged, and the next event is handled.
    pub fn try_for_each<F, Fut>(self, handler: F) -> Starting<'a, Subscription>
    where
        F: Fn(Message<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        Starting::new(start(self, !E::SCHEMA.local, handler))
    }
}

impl<'a> Subscribe<'a, Any, Plain> {
    /// Calls `handler` with each event, one after the other.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn for_each<F, Fut>(self, handler: F) -> Starting<'a, Subscription>
    where
        F: Fn(<Any as Kind>::Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Starting::new(start(self, true, infallible(handler)))
    }

    /// As [`for_each`](Self::for_each), with a handler that may fail.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn try_for_each<F, Fut>(self, handler: F) -> Starting<'a, Subscription>
    where
        F: Fn(<Any as Kind>::Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        Starting::new(start(self, true, handler))
    }
}

/// The future of a handler that cannot fail, as one that may.
type Infallible<Fut> = futures::future::Map<Fut, fn(()) -> Result<(), HandlerError>>;

/// A handler that cannot fail, as one that may.
pub(crate) fn infallible<M, F, Fut>(
    handler: F,
) -> impl Fn(M) -> Infallible<Fut> + Send + Sync + 'static
where
    F: Fn(M) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    move |message| handler(message).map(Ok as fn(()) -> Result<(), HandlerError>)
}

async fn start<K: Kind, F, Fut>(
    builder: Subscribe<'_, K, Plain>,
    shared: bool,
    handler: F,
) -> Result<Subscription, SubscribeError>
where
    F: Fn(K::Message) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let bus = builder.endpoint.bus.clone();
    let reader = Reader::start(builder, true, shared).await?;
    let topic = reader.registration.filter.to_string();
    let counted = Counted::Queue(reader.registration.queue.clone());
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let work = tasks.track_future(work(reader, handler, stop.clone(), Told::new(&bus)));
    bus.spawn(work);
    Ok(Subscription::new(topic, counted, stop, tasks))
}

async fn work<K: Kind, F, Fut>(
    mut reader: Reader<K>,
    handler: F,
    stop: CancellationToken,
    told: Told,
) where
    F: Fn(K::Message) -> Fut,
    Fut: Future<Output = Result<(), HandlerError>>,
{
    let queue = reader.registration.queue.clone();
    // One handler at a time: while it runs, nobody empties its queue.
    let running = Running { bus: told.bus, gates: Arc::as_ptr(&queue).addr() };
    loop {
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = reader.next() => next,
        };
        match next {
            None => break,
            Some(Ok(message)) => {
                match until_done(&mut reader, &stop, run(running, || handler(message))).await {
                    Handled::Ok => reader.settle(Fate::handled),
                    Handled::Error(error) => {
                        reader.settle(Fate::failed);
                        let topic = &reader.registration.filter;
                        tracing::warn!(%topic, %error, "a handler failed");
                    }
                    Handled::Panic(panic) => {
                        reader.settle(Fate::failed);
                        let topic = &reader.registration.filter;
                        tracing::error!(%topic, %panic, "a handler panicked");
                    }
                }
            }
            Some(Err(gap)) => match &reader.options.on_gap {
                Some(on_gap) => {
                    let on_gap = on_gap.clone();
                    run(running, || async move {
                        on_gap(gap);
                        Ok(())
                    })
                    .await;
                }
                None => told.gap(&reader.registration.filter, gap),
            },
        }
    }
}

/// Waits for a handler that runs; told to stop meanwhile, it withdraws at once, so that a handler
/// that is stuck holds nobody up any more.
async fn until_done<K: Kind>(
    reader: &mut Reader<K>,
    stop: &CancellationToken,
    call: impl Future<Output = Handled>,
) -> Handled {
    tokio::pin!(call);
    tokio::select! {
        biased;
        handled = &mut call => return handled,
        () = stop.cancelled() => reader.registration.end(),
    }
    call.await
}

/// Where a handler's task tells of losses that nobody else hears of.
pub(crate) struct Told {
    pub(crate) bus: PeerId,
    board: Arc<crate::notice::Board>,
}

impl Told {
    pub(crate) fn new(bus: &Core) -> Self {
        Self { bus: bus.peer, board: bus.board.clone() }
    }

    pub(crate) fn gap(&self, filter: &TopicFilter, gap: Gap) {
        tracing::warn!(topic = %filter, %gap, "a subscription lost events");
        self.board.tell(Notice::Gap { filter: filter.clone(), gap });
    }
}
