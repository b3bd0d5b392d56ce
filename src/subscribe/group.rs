//! Shared: one member of a queue group gets each event, settled after its handler returned.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use busway_transport::{
    DeadReason, Delivery, Failure, Gap, GapReason, GroupDeliveries, GroupKey, GroupSpec, Name,
    NameError, Outcome, Retry, Source, Topic,
};

use crate::bus::Running;
use crate::error::SubscribeError;
use crate::event::Event;
use crate::ledger::{Counters, Fate};
use crate::message::Message;
use crate::parcel;
use crate::subscribe::Plain;
use crate::subscribe::builder::{Options, Starting, Subscribe};
use crate::subscribe::handler::{
    Counted, Handled, HandlerError, Subscription, Told, infallible, run,
};
use crate::subscribe::reader::{Opened, open};

/// A member of a queue group is being built.
#[derive(Debug)]
pub struct Grouped {
    group: Result<Name, NameError>,
    concurrency: usize,
    retry: Retry,
    durable: bool,
    handler_timeout: Option<Duration>,
    hold: Duration,
}

impl<'a, E: Event> Subscribe<'a, E, Plain> {
    /// Shares the work: each event goes to one member of this endpoint's group of that name, and
    /// is acked after the handler returned `Ok`. At least once: a failed, panicked, timed-out or
    /// killed handler means another attempt.
    pub fn group(self, name: &str) -> Subscribe<'a, E, Grouped> {
        let Self { endpoint, filter, options, .. } = self;
        let mode = Grouped {
            group: Name::new(name),
            concurrency: 1,
            retry: Retry::default(),
            durable: false,
            handler_timeout: None,
            hold: Duration::from_secs(60),
        };
        Subscribe { endpoint, filter, options, mode }
    }
}

impl<'a, E: Event> Subscribe<'a, E, Grouped> {
    /// How many events this member handles at once (1 unless set: first attempts then keep their
    /// order).
    pub fn concurrency(mut self, handlers: usize) -> Self {
        self.mode.concurrency = handlers.max(1);
        self
    }

    /// When a failed event is attempted again, and how often ([`Retry::default`] unless set).
    pub fn retry(mut self, retry: Retry) -> Self {
        self.mode.retry = retry;
        self
    }

    /// The group's work survives all of its members and publishers. Refused by transports that
    /// cannot do it.
    pub fn durable(mut self) -> Self {
        self.mode.durable = true;
        self
    }

    /// How long a handler may take; one that takes longer is cut off, and has failed. No limit
    /// unless set.
    pub fn handler_timeout(mut self, timeout: Duration) -> Self {
        self.mode.handler_timeout = Some(timeout);
        self
    }

    /// How long the group's events are kept when its last member is gone (60 s unless set).
    pub fn hold(mut self, hold: Duration) -> Self {
        self.mode.hold = hold;
        self
    }

    /// Calls `handler` with each event that falls to this member. See
    /// [`try_for_each`](Self::try_for_each).
    pub fn for_each<F, Fut>(self, handler: F) -> Starting<'a, Subscription>
    where
        F: Fn(Message<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Starting::new(join(self, infallible(handler)))
    }

    /// Calls `handler` with each event that falls to this member, and acks it after `Ok`.
    ///
    /// # Errors
    /// [`SubscribeError`], also when the transport cannot do what the group asks for.
    pub fn try_for_each<F, Fut>(self, handler: F) -> Starting<'a, Subscription>
    where
        F: Fn(Message<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        Starting::new(join(self, handler))
    }
}

async fn join<E: Event, F, Fut>(
    mut builder: Subscribe<'_, E, Grouped>,
    handler: F,
) -> Result<Subscription, SubscribeError>
where
    F: Fn(Message<E>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let topic = E::SCHEMA.topic.to_owned();
    let scope = builder.scope()?;
    let capacity = builder.capacity_or_default();
    let Subscribe { endpoint, options, mode, .. } = builder;
    let wrong = |error| SubscribeError::Name { topic: topic.clone(), error };
    let group = mode.group.map_err(wrong)?;
    let key = GroupKey {
        endpoint: endpoint.name.clone(),
        group,
        topic: Topic::new(E::SCHEMA.topic).map_err(wrong)?,
    };
    let mut spec = GroupSpec::new(key);
    spec.concurrency = mode.concurrency;
    spec.retry = mode.retry;
    spec.capacity = capacity;
    spec.hold = mode.hold;
    spec.durable = mode.durable;

    let bus = endpoint.bus.clone();
    bus.check_not_closing(|| SubscribeError::Closed { topic: topic.clone() })?;
    let deliveries = bus.within(&topic, bus.transport.join(spec.clone())).await?;
    // A bus that closed meanwhile has drained without this member.
    bus.check_not_closing(|| SubscribeError::Closed { topic: topic.clone() })?;
    bus.board.touch();
    let member = Arc::new(Member {
        handler,
        from: scope.from,
        not_from: options.not_own.then(|| bus.source(&endpoint.name)),
        left: options.take.map(std::sync::atomic::AtomicU64::new),
        options,
        counters: Arc::default(),
        retry: spec.retry,
        handler_timeout: mode.handler_timeout,
        told: Told::new(&bus),
        topic: spec.key.topic,
    });
    let counted = Counted::Group(member.counters.clone());
    let (stop, tasks) = (bus.gone.child_token(), TaskTracker::new());
    let work = work::<E, _, _>(member, deliveries, mode.concurrency, stop.clone());
    bus.spawn(bus.busy.track_future(tasks.track_future(work)));
    Ok(Subscription::new(topic, counted, stop, tasks))
}

/// One member of a group, shared by the deliveries it handles at once.
struct Member<E: Event, F> {
    handler: F,
    from: Option<Name>,
    not_from: Option<Source>,
    left: Option<std::sync::atomic::AtomicU64>,
    options: Options<E>,
    counters: Arc<Counters>,
    retry: Retry,
    handler_timeout: Option<Duration>,
    told: Told,
    topic: Topic,
}

/// Takes deliveries while fewer than `concurrency` are in work.
async fn work<E: Event, F, Fut>(
    member: Arc<Member<E, F>>,
    mut deliveries: GroupDeliveries,
    concurrency: usize,
    stop: CancellationToken,
) where
    F: Fn(Message<E>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let mut running = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = running.join_next(), if !running.is_empty() => {}
            next = deliveries.next(), if running.len() < concurrency => {
                let Some(delivery) = next else { break };
                member.counters.arrived();
                running.spawn(member.clone().handle(delivery));
            }
        }
        if member.is_done() && running.is_empty() {
            break;
        }
    }
    // Leaves the group before it waits: what is not in work goes to others.
    drop(deliveries);
    while running.join_next().await.is_some() {}
}

impl<E: Event, F, Fut> Member<E, F>
where
    F: Fn(Message<E>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    async fn handle(self: Arc<Self>, delivery: Delivery) {
        let Delivery { envelope, attempt, settlement, .. } = delivery;
        let (outcome, fate) = match self.open(envelope, attempt) {
            Opened::Filtered => (Outcome::Done, Fate::filtered),
            Opened::Panicked(panic) => self.failed(Failure::new(DeadReason::Panic, panic), attempt),
            Opened::Lost(_, reason) => {
                let dead = match reason {
                    GapReason::Version { .. } => DeadReason::Version,
                    _ => DeadReason::Undecodable,
                };
                self.tell(reason.clone()).await;
                (Outcome::Refused(Failure::new(dead, reason.to_string())), Fate::dead_lettered)
            }
            Opened::Message(_) if !self.takes_one_more() => (Outcome::HandBack, Fate::handed_back),
            Opened::Message(message) => self.call(message, attempt).await,
        };
        self.counters.settled(fate);
        settlement.settle(outcome);
    }

    /// Runs the handler, and says what that means for the event.
    async fn call(&self, message: Message<E>, attempt: u32) -> (Outcome, Fate) {
        let call = run(self.running(), || (self.handler)(message));
        let handled = match self.handler_timeout {
            None => Some(call.await),
            Some(limit) => tokio::time::timeout(limit, call).await.ok(),
        };
        let failure = match handled {
            Some(Handled::Ok) => return (Outcome::Done, Fate::handled),
            Some(Handled::Error(text)) => Failure::new(DeadReason::Error, text),
            Some(Handled::Panic(text)) => Failure::new(DeadReason::Panic, text),
            None => Failure::new(
                DeadReason::TimedOut,
                format!(
                    "the handler took longer than {:?}",
                    self.handler_timeout.unwrap_or_default()
                ),
            ),
        };
        self.failed(failure, attempt)
    }
}

impl<E: Event, F> Member<E, F> {
    /// What a failed attempt means for the event.
    fn failed(&self, failure: Failure, attempt: u32) -> (Outcome, Fate) {
        tracing::warn!(
            topic = %self.topic, attempt, reason = %failure.reason, error = failure.text,
            "an attempt failed"
        );
        let last = self.retry.after(attempt).is_none();
        (Outcome::Failed(failure), if last { Fate::dead_lettered } else { Fate::failed })
    }

    fn running(&self) -> Running {
        // Whatever it waits for, the other members of the group go on.
        Running { bus: self.told.bus, gates: 0 }
    }

    fn open(&self, envelope: busway_transport::Envelope, attempt: u32) -> Opened<Message<E>> {
        match parcel::from_envelope(envelope) {
            Err(reason) => Opened::Lost(Fate::dropped_undecodable, reason),
            Ok(parcel) => {
                let (from, not_from) = (self.from.as_ref(), self.not_from.as_ref());
                open(&parcel, attempt, from, not_from, &self.options)
            }
        }
    }

    async fn tell(&self, reason: GapReason) {
        let gap = Gap::new(Some(1), reason);
        match self.options.on_gap.clone() {
            None => self.told.gap(&self.topic.filter(), gap),
            Some(on_gap) => {
                run(self.running(), || async move {
                    on_gap(gap);
                    Ok(())
                })
                .await;
            }
        }
    }

    /// Counts one message against `take`.
    fn takes_one_more(&self) -> bool {
        use std::sync::atomic::Ordering::Relaxed;
        self.left.as_ref().is_none_or(|left| {
            left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
        })
    }

    fn is_done(&self) -> bool {
        let left = self.left.as_ref();
        left.is_some_and(|left| left.load(std::sync::atomic::Ordering::Relaxed) == 0)
    }
}
