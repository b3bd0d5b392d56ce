//! Shared: one member of a queue group gets each event, settled after its handler returned.

use std::future::Future;
use std::hash::Hash;
use std::num::NonZeroU16;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use busway_transport::{
    DeadReason, Delivery, Failure, Gap, GapReason, GroupDeliveries, GroupKey, GroupSpec, MessageId,
    Name, NameError, Outcome, Retry, Source, Topic,
};

use crate::bus::Running;
use crate::config::MOST;
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
use crate::subscribe::key::number_of;
use crate::subscribe::panic_text;
use crate::subscribe::reader::{Opened, open};
use crate::subscribe::seen::{Limits, Seen};

/// A member of a queue group is being built.
#[derive(Debug)]
pub struct Grouped {
    group: Result<Name, NameError>,
    concurrency: usize,
    retry: Retry,
    durable: bool,
    handler_timeout: Option<Duration>,
    hold: Duration,
    partitions: NonZeroU16,
    deduplicate: Option<Limits>,
}

/// How many partitions a group has that is ordered by key, where it needs any.
const PARTITIONS: NonZeroU16 = NonZeroU16::new(16).unwrap();

/// The most events that wait at a broker for a group that says nothing of it.
const BACKLOG: usize = 100_000;

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
            partitions: PARTITIONS,
            deduplicate: None,
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

    /// Orders the work by key: the events of one key are handled one at a time and in order, over
    /// all members, whatever the concurrency; those of other keys beside them. A failed event is
    /// attempted again before the next one of its key, and blocks no other key; when it is dead the
    /// next one goes. When a member dies or leaves, its keys go to others, in order.
    ///
    /// All members must give it, with the same key: a newer program with another one is to use
    /// another group. Each event is given to a member twice, once for its key to be told. Order is
    /// that of arrival at the group; a repeat (at least once) may come out of it.
    ///
    /// On RabbitMQ keys share [partitions](Self::partitions). If `key` panics the event is a dead
    /// letter at once.
    pub fn by_key<Key: Hash>(mut self, key: impl Fn(&E) -> Key + Send + Sync + 'static) -> Self {
        self.options.key = Some(Arc::new(move |event| number_of(&key(event))));
        self
    }

    /// Over how many queues RabbitMQ spreads the keys of [`by_key`](Self::by_key) (16 unless set,
    /// at most 256): as many members can work at a time. Of all members the same, and never changed
    /// while the group has events. Other transports need none.
    pub fn partitions(mut self, partitions: u16) -> Self {
        self.mode.partitions = NonZeroU16::new(partitions.min(256)).unwrap_or(NonZeroU16::MIN);
        self
    }

    /// Drops events whose id a member of this group in this process has handled before, as far as
    /// the newest `count` ids go, for `age`. An id counts as handled only after its handler
    /// returned `Ok`: of two that arrive at the same time both are handled. Other processes, and
    /// this one after a restart, know nothing of it. What it drops is acked, and counted as
    /// [`dropped_duplicate`](crate::Ledger::dropped_duplicate). An id takes about 64 bytes.
    pub fn deduplicate(mut self, count: usize, age: Duration) -> Self {
        self.mode.deduplicate = Some(Limits { count, age });
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
    spec.backlog = options.capacity.unwrap_or(BACKLOG).clamp(1, MOST);
    spec.keyed = options.key.is_some().then_some(mode.partitions);

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
        seen: mode.deduplicate.map(|limits| bus.seen.of(&spec.key, limits)),
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
    seen: Option<Arc<Seen>>,
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
        let Delivery { envelope, attempt, key, settlement, .. } = delivery;
        let opened = self.open(envelope, attempt);
        let opened = match (opened, &self.options.key) {
            (Opened::Message(message), Some(key_of)) if key.is_none() => {
                match panic::catch_unwind(AssertUnwindSafe(|| key_of(&message))) {
                    // It has not arrived yet: it comes again in its key's turn.
                    Ok(key) => return settlement.settle(Outcome::Keyed(key)),
                    Err(panic) => Opened::Panicked(panic_text(&*panic)),
                }
            }
            (opened, _) => opened,
        };
        self.counters.arrived();
        let (outcome, fate) = match opened {
            Opened::Panicked(panic) if self.options.key.is_some() && key.is_none() => {
                // Without a key it has no turn to be tried again in.
                let failure = Failure::new(DeadReason::Panic, panic);
                (Outcome::Refused(failure), Fate::dead_lettered)
            }
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
            Opened::Message(message) if self.has_seen(message.id()) => {
                (Outcome::Done, Fate::dropped_duplicate)
            }
            Opened::Message(_) if !self.takes_one_more() => (Outcome::HandBack, Fate::handed_back),
            Opened::Message(message) => self.call(message, attempt).await,
        };
        self.counters.settled(fate);
        settlement.settle(outcome);
    }

    /// Runs the handler, and says what that means for the event.
    async fn call(&self, message: Message<E>, attempt: u32) -> (Outcome, Fate) {
        let id = message.id();
        let call = run(self.running(), || (self.handler)(message));
        let handled = match self.handler_timeout {
            None => Some(call.await),
            Some(limit) => tokio::time::timeout(limit, call).await.ok(),
        };
        let failure = match handled {
            Some(Handled::Ok) => {
                if let Some(seen) = &self.seen {
                    seen.insert(id);
                }
                return (Outcome::Done, Fate::handled);
            }
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

    fn has_seen(&self, id: MessageId) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.contains(id))
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
