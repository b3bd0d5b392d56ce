//! `endpoint.publish(event)`: a builder that is its own future.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use busway_transport::{
    BoxFuture, ContentType, Headers, MessageId, Name, NameError, Party, TransportError,
};

use crate::bus::{Core, deadline_after};
use crate::endpoint::Endpoint;
use crate::error::{PublishError, TryPublishError};
use crate::event::Event;
use crate::parcel::Parcel;
use crate::publish::job::{self, Job, Path, Sent, Stop, Wait, Wishes, is_gated_here};
use crate::publish::line::{Among, Place};
use crate::publish::outlet::{Outlet, Outside, Reached};
use crate::publish::{self, Receipt};
use crate::router::queue::Queue;
use crate::router::topic::{Busy, TopicRing};

/// An event about to be published; awaiting it publishes, and gives a [`Receipt`].
///
/// It waits while a waiting subscription's queue is full, in the order of first polls, up to the
/// publish timeout (30 s unless set), and fails with the name of who is in the way.
///
/// # Errors
/// [`PublishError`]; unless it is [`Unconfirmed`](PublishError::Unconfirmed) or
/// [`GroupFull`](PublishError::GroupFull), nobody got the event.
///
/// # Cancel safety
/// Dropped before it is ready, either nobody got the event or, on a transport with confirmations,
/// everybody will. While it waits it has its place before all that this endpoint publishes later on
/// the topic: poll it or drop it, for those behind it wait until its deadline has been polled away.
///
/// # Delivery
/// To plain subscriptions at most once, and every loss is told; to groups at least once.
#[must_use = "an event is published when this is awaited"]
pub struct Publish<'a, E: Event> {
    endpoint: &'a Endpoint,
    /// Known beforehand by a [`Publisher`](crate::Publisher).
    outlet: Option<Arc<Outlet>>,
    event: Option<E>,
    /// Its bytes, if they were made for an attempt to take the short way.
    encoded: Option<(ContentType, Bytes)>,
    options: Option<Box<Options>>,
    place: Option<Place>,
    slow: Option<BoxFuture<'a, Result<Receipt, PublishError>>>,
}

/// Why an attempt did not publish.
enum Refusal {
    /// This one is in the way, or those who wait already are.
    Wait(Option<Party>),
    Fail(PublishError),
}

#[derive(Default)]
struct Options {
    wishes: Wishes,
    wrong: Option<NameError>,
    timeout: Option<Duration>,
}

// No field is ever pinned in place.
impl<E: Event> Unpin for Publish<'_, E> {}

impl<'a, E: Event> Publish<'a, E> {
    pub(crate) fn new(endpoint: &'a Endpoint, event: E) -> Self {
        Self {
            endpoint,
            outlet: None,
            event: Some(event),
            encoded: None,
            options: None,
            place: None,
            slow: None,
        }
    }

    pub(crate) fn through(mut self, outlet: Arc<Outlet>) -> Self {
        self.outlet = Some(outlet);
        self
    }

    pub(crate) fn encoded(mut self, encoded: Option<(ContentType, Bytes)>) -> Self {
        self.encoded = encoded;
        self
    }

    fn outlet(&mut self) -> Arc<Outlet> {
        let endpoint = self.endpoint;
        self.outlet.get_or_insert_with(|| endpoint.outlet::<E, _>(Arc::clone)).clone()
    }

    /// A short way, here or out of the process, where nothing was asked for that only the long one can do.
    #[inline]
    pub(crate) fn publish_simply(&mut self) -> Option<Receipt> {
        if self.options.is_some() {
            return None;
        }
        let Self { endpoint, event, encoded, .. } = self;
        let mut publish = |outlet: &Arc<Outlet>| {
            let mut parcel = None;
            let keep = |kept: &Arc<dyn Parcel>| parcel = Some(kept.clone());
            let Some(here) = outlet.publish_with(&endpoint.bus, event, keep) else {
                return publish_outside(outlet, &endpoint.bus, event, encoded);
            };
            let queues = parcel.is_some().then(|| (outlet.node.queues(), None));
            Some(Receipt { here, queues, parcel, ..Receipt::default() })
        };
        match &self.outlet {
            Some(outlet) => publish(outlet),
            None => endpoint.outlet::<E, _>(publish),
        }
    }

    fn options(&mut self) -> &mut Options {
        self.options.get_or_insert_default()
    }

    /// Only for subscriptions, streams and groups of that endpoint, on whatever bus it lives.
    pub fn to(mut self, endpoint: &str) -> Self {
        match Name::new(endpoint) {
            Ok(name) => self.options().wishes.to = Some(name),
            Err(error) => self.options().wrong = Some(error),
        }
        self
    }

    /// Only for plain subscriptions of this bus: it is never encoded and never leaves the
    /// process.
    pub fn local(mut self) -> Self {
        self.options().wishes.local = true;
        self
    }

    /// Fails with [`PublishError::NoSubscriber`] when nobody takes it.
    pub fn require_subscriber(mut self) -> Self {
        self.options().wishes.require_subscriber = true;
        self
    }

    /// Attaches a header.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.options().wishes.headers.insert(key, value);
        self
    }

    /// Attaches headers.
    pub fn headers(mut self, headers: Headers) -> Self {
        for (key, value) in headers.iter() {
            self.options().wishes.headers.insert(key, value);
        }
        self
    }

    /// Stamps the time also when the event stays in the process.
    pub fn timestamped(mut self) -> Self {
        self.options().wishes.timestamped = true;
        self
    }

    /// Publishes under this id: for a retry after [`PublishError::Unconfirmed`], or an event that
    /// has an identity already.
    pub fn id(mut self, id: MessageId) -> Self {
        self.options().wishes.id = Some(id);
        self
    }

    /// How long it may wait for room and confirmation.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options().timeout = Some(timeout);
        self
    }

    /// Publishes now or not at all. Works outside of a runtime too. On a transport with
    /// confirmations the receipt then says nothing about the others, and a failure comes as a
    /// [notice](crate::Notice::PublishFailed).
    ///
    /// # Errors
    /// [`TryPublishError`] gives the event back; its error names the one in the way.
    pub fn try_now(self) -> Result<Receipt, TryPublishError<E>> {
        let mut this = self;
        if let Some(receipt) = this.publish_simply() {
            return Ok(receipt);
        }
        let (bus, topic) = (&this.endpoint.bus, this.topic());
        let Sent { receipt, pending, .. } = this.try_send()?;
        if let Some(pending) = pending {
            bus.report_later(topic, pending);
        }
        Ok(receipt)
    }

    /// As [`try_now`](Self::try_now); what is still to be confirmed is left to the caller.
    pub(crate) fn try_send(mut self) -> Result<Sent, TryPublishError<E>> {
        let event = self.event.take().expect("a publish that was polled is not tried again");
        let mut job = Job::new(event, self.encoded.take());
        let error = match self.attempt(&mut job, false) {
            Ok(sent) => return Ok(sent),
            Err(Refusal::Fail(error)) => error,
            Err(Refusal::Wait(by)) => PublishError::Full { topic: self.topic(), by },
        };
        let event = job.event.take().expect("an attempt that failed leaves the event");
        Err(TryPublishError { event, error })
    }

    /// Whether it reached somebody, if that was asked for: those who were interested may have
    /// left at the last moment.
    fn is_enough(&self, receipt: &Receipt) -> bool {
        let options = self.options.as_ref();
        receipt.reached() > 0 || !options.is_some_and(|options| options.wishes.require_subscriber)
    }

    fn topic(&self) -> String {
        E::SCHEMA.topic.to_owned()
    }

    /// The attempt of a newcomer. If it has to wait and `queue_up` says so, it has its place in
    /// the line when this returns.
    fn attempt(&mut self, job: &mut Job<E>, queue_up: bool) -> Result<Sent, Refusal> {
        if let Some(error) = self.options.as_mut().and_then(|options| options.wrong.take()) {
            let error = PublishError::Addressee { topic: self.topic(), error };
            return Err(Refusal::Fail(error));
        }
        let bus = &self.endpoint.bus;
        let outlet = self.outlet();
        let node = &outlet.node;
        let default = Wishes::default();
        let wishes = self.options.as_ref().map_or(&default, |options| &options.wishes);
        let path = Path { bus, outlet: &outlet, wishes };
        let by = loop {
            job.encode(&path).map_err(Refusal::Fail)?;
            if !outlet.line.is_empty() || node.is(Busy::Waiting) {
                // Those who wait may wait for the very handler that publishes here.
                let own = node.queues().iter().find(|queue| is_gated_here(queue)).cloned();
                if let Some(own) = own.filter(|own| own.is_full()) {
                    let (topic, by) = (self.topic(), Some(own.party()));
                    return Err(Refusal::Fail(PublishError::Full { topic, by }));
                }
                break outlet.line.by();
            }
            match job.attempt(&path, &mut node.attempt()) {
                Ok(sent) => return Ok(sent),
                Err(Stop::Fail(error)) => return Err(Refusal::Fail(error)),
                Err(Stop::Encode) => {}
                Err(Stop::Wait(wait)) => break in_the_way(&wait),
            }
        };
        if queue_up {
            self.place = Some(Place::take(&outlet));
            if by.is_some() {
                outlet.line.wait_for(by.clone());
            }
        }
        Err(Refusal::Wait(by))
    }

    /// Publishes, up to the commit: what is still to be confirmed is left to the caller.
    pub(crate) async fn send(mut self, gives_way: bool) -> Result<Sent, PublishError> {
        let event = self.event.take().expect("sent once");
        let mut job = Job::new(event, self.encoded.take());
        if gives_way {
            self.place = Some(Place::take(&self.outlet()));
            return self.waiting(job, true).wait_for_room().await;
        }
        match self.attempt(&mut job, true) {
            Ok(sent) => Ok(sent),
            Err(Refusal::Fail(error)) => Err(error),
            Err(Refusal::Wait(_)) => self.waiting(job, false).wait_for_room().await,
        }
    }

    fn waiting(&mut self, job: Job<E>, gives_way: bool) -> Waiting<'a, E> {
        let bus = &self.endpoint.bus;
        let outlet = self.outlet();
        let Options { wishes, timeout, .. } =
            self.options.take().map(|boxed| *boxed).unwrap_or_default();
        let after = timeout.unwrap_or(bus.settings.publish_timeout);
        let (place, deadline) = (self.place.take(), deadline_after(after).into());
        Waiting { bus, outlet, wishes, job, _place: place, gives_way, after, deadline }
    }
}

impl<E: Event> Future for Publish<'_, E> {
    type Output = Result<Receipt, PublishError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if this.slow.is_none() && this.event.is_some() {
            if !publish::may_go_on(context) {
                let event = this.event.take().expect("just seen");
                this.place = Some(Place::take(&this.outlet()));
                let waiting = this.waiting(Job::new(event, None), true);
                this.slow = Some(Box::pin(waiting.publish()));
            } else if let Some(receipt) = this.publish_simply() {
                return Poll::Ready(Ok(receipt));
            }
        }
        if let Some(event) = this.event.take() {
            let mut job = Job::new(event, this.encoded.take());
            match this.attempt(&mut job, true) {
                Ok(Sent { receipt, pending: None, .. }) if this.is_enough(&receipt) => {
                    return Poll::Ready(Ok(receipt));
                }
                Ok(sent) => {
                    let waiting = this.waiting(job, false);
                    this.slow = Some(Box::pin(waiting.confirmed(sent)));
                }
                Err(Refusal::Fail(error)) => return Poll::Ready(Err(error)),
                Err(Refusal::Wait(_)) => {
                    let waiting = this.waiting(job, false);
                    this.slow = Some(Box::pin(waiting.publish()));
                }
            }
        }
        match &mut this.slow {
            Some(slow) => slow.as_mut().poll(context),
            None => panic!("a publish was polled after it was ready"),
        }
    }
}

impl<E: Event> std::fmt::Debug for Publish<'_, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publish").field("topic", &E::SCHEMA.topic).finish_non_exhaustive()
    }
}

/// Out of the process by the short way, if there is one. If not, `encoded` is what was made for it.
fn publish_outside<E: Event>(
    outlet: &Outlet,
    bus: &Core,
    event: &mut Option<E>,
    encoded: &mut Option<(ContentType, Bytes)>,
) -> Option<Receipt> {
    let mut elsewhere = None;
    match outlet.publish_outside(bus, event, Some(&mut elsewhere)) {
        Outside::Reached(Reached { id, here, there }) => {
            let queues = (here > 0).then(|| (outlet.node.queues(), None));
            let mut elsewhere = elsewhere.unwrap_or_else(busway_transport::Receipt::unknown);
            elsewhere.reached = elsewhere.reached.max(there);
            Some(Receipt { here, queues, parcel: None, id: Some(id), elsewhere: Some(elsewhere) })
        }
        Outside::No(was_encoded) => {
            *encoded = was_encoded;
            None
        }
    }
}

/// A publish that could not be done at once.
struct Waiting<'a, E: Event> {
    bus: &'a Core,
    outlet: Arc<Outlet>,
    wishes: Wishes,
    job: Job<E>,
    _place: Option<Place>,
    /// Whether it has its task let others run first.
    gives_way: bool,
    after: Duration,
    deadline: Instant,
}

impl<E: Event> Waiting<'_, E> {
    async fn publish(mut self) -> Result<Receipt, PublishError> {
        let sent = self.wait_for_room().await?;
        self.confirmed(sent).await
    }

    /// Waits for its turn and for room, and commits. Its place in the line goes with it.
    async fn wait_for_room(&mut self) -> Result<Sent, PublishError> {
        let (after, deadline) = (self.after, self.deadline);
        let outcome = tokio::time::timeout_at(deadline, self.take_turn()).await;
        let by = self.outlet.line.by();
        self._place = None;
        let topic = || self.outlet.node.topic.to_string();
        outcome.unwrap_or_else(|_| Err(PublishError::TimedOut { topic: topic(), after, by }))
    }

    async fn take_turn(&mut self) -> Result<Sent, PublishError> {
        let Self { bus, outlet, wishes, job, .. } = self;
        let path = Path { bus, outlet, wishes };
        let node = &outlet.node;
        let _turn = outlet.line.turn().await;
        if self.gives_way {
            tokio::task::yield_now().await;
        }
        let mut among = Among::new(node);
        // The queue that was full at the last attempt: an attempt is made while its room is
        // already being listened for, so that no wake-up falls between.
        let mut full: Option<Arc<Queue>> = None;
        loop {
            among.find_open().await;
            job.encode(&path)?;
            let queue = full.take();
            let mut room = std::pin::pin!(queue.as_ref().map(|queue| queue.room.notified()));
            if let Some(room) = room.as_mut().as_pin_mut() {
                room.enable();
            }
            let attempt = job.attempt(&path, &mut node.attempt());
            let wait = match attempt {
                Ok(sent) => return Ok(sent),
                Err(Stop::Fail(error)) => return Err(error),
                Err(Stop::Encode) => continue,
                Err(Stop::Wait(wait)) => wait,
            };
            outlet.line.wait_for(in_the_way(&wait));
            among.is_outrun().await;
            match wait {
                Wait::Transport(_) => {
                    let permit = bus.transport.reserve(&path.route()).await;
                    job.set_permit(permit.map_err(|error| job::refused(path.topic(), error))?);
                }
                Wait::Ring(_) => {
                    if let Some(ring) = node.ring() {
                        ring.room().await;
                        catch_breath(ring).await;
                    }
                }
                // A few instructions, unless its thread was stopped.
                Wait::Writer => tokio::task::yield_now().await,
                Wait::Queue(blocking) => {
                    let same = queue.as_ref().is_some_and(|queue| Arc::ptr_eq(queue, &blocking));
                    if same && let Some(room) = room.as_mut().as_pin_mut() {
                        room.await;
                    }
                    full = Some(blocking);
                }
            }
        }
    }

    /// Waits for the confirmation, if there is one to wait for.
    async fn confirmed(self, sent: Sent) -> Result<Receipt, PublishError> {
        let Sent { mut receipt, pending, .. } = sent;
        let topic = self.outlet.node.topic.to_string();
        if let Some(pending) = pending {
            let outcome = tokio::time::timeout_at(self.deadline, pending).await;
            let outcome = outcome.unwrap_or_else(|_| {
                let what = format!("the confirmation of {topic}");
                Err(TransportError::TimedOut { what, after: self.after, by: None })
            });
            let elsewhere = outcome.map_err(|error| confirm_error(&topic, &receipt, error))?;
            receipt.elsewhere = Some(elsewhere);
        }
        if self.wishes.require_subscriber && receipt.reached() == 0 {
            return Err(PublishError::NoSubscriber { topic });
        }
        Ok(receipt)
    }
}

/// A failed confirmation: after the commit every error is `Unconfirmed`, unless the other side
/// said that it did not take the event and nobody here did either.
pub(crate) fn confirm_error(topic: &str, receipt: &Receipt, error: TransportError) -> PublishError {
    unconfirmed(topic, receipt.id(), receipt.here, error)
}

/// As [`confirm_error`], for an event that reached so many here.
pub(crate) fn unconfirmed(
    topic: &str,
    id: Option<MessageId>,
    here: usize,
    error: TransportError,
) -> PublishError {
    let topic = topic.to_owned();
    match (error, id) {
        (error @ TransportError::Rejected { .. }, _) if here == 0 => {
            PublishError::Transport { topic, error }
        }
        (TransportError::GroupFull { id, .. }, _) => PublishError::GroupFull { topic, id },
        (TransportError::Unconfirmed { id, reached, reason }, _) => {
            PublishError::Unconfirmed { topic, id, reached: here + reached, reason }
        }
        (error, Some(id)) => {
            let reason = error.to_string();
            PublishError::Unconfirmed { topic, id, reached: here, reason }
        }
        (error, None) => PublishError::Transport { topic, error },
    }
}

/// Lets readers go on, as long as they do and there is little room: who publishes as soon as one
/// slot is free waits again for the next, and the wake-ups cost more than everything else.
async fn catch_breath(ring: &TopicRing) {
    let mut room = ring.free();
    while room < ring.length() as u64 / 4 {
        tokio::task::yield_now().await;
        let before = std::mem::replace(&mut room, ring.free());
        if room <= before {
            return;
        }
    }
}

fn in_the_way(wait: &Wait) -> Option<Party> {
    match wait {
        Wait::Queue(queue) => Some(queue.party()),
        Wait::Ring(by) => Some(by.party()),
        Wait::Writer => None,
        Wait::Transport(TransportError::Full { by }) => by.clone(),
        Wait::Transport(_) => None,
    }
}
