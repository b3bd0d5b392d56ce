//! A transport that does what a test tells it to: it carries nothing by itself.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use busway::Bus;
use busway_transport::{
    Address, Arrival, Asks, BoxStream, Capabilities, Changes, Commit, Common, ConnectOptions,
    Connector, ContentType, DeadLetter, Deliveries, Envelope, Express, GroupDeliveries, GroupKey,
    GroupSpec, Interest, Letters, MessageId, Name, OutgoingRequest, Payload, Peer, PeerId, Permit,
    PlainInterest, Receipt, Reply, ResponderSpec, Route, Source, Status, SubscriptionId, Transport,
    TransportError,
};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What becomes of an event that was committed.
#[derive(Default, Clone, Copy)]
pub(crate) enum Fate {
    /// It was handed over, and reached nobody that is known.
    #[default]
    Done,
    /// Its confirmation never comes.
    Silent,
    /// The other side reports it as unconfirmed: "lost".
    Lost,
}

/// The knobs, and what the bus did with its transport.
#[derive(Default)]
pub(crate) struct Knobs {
    /// Whether somebody out there wants every event.
    interested: AtomicBool,
    interest_changes: Changes,
    /// What becomes of committed events.
    pub(crate) fate: Mutex<Fate>,
    /// How many events were committed.
    pub(crate) committed: AtomicUsize,
    /// Whether `flush` fails with a lost connection.
    pub(crate) flush_fails: AtomicBool,
    /// Whether `join` waits for `join_goes_on`.
    pub(crate) join_waits: AtomicBool,
    /// Told when a `join` waits.
    pub(crate) joining: Notify,
    /// Lets a waiting `join` go on.
    pub(crate) join_goes_on: Notify,
    /// Whether the bus has left.
    pub(crate) left: AtomicBool,
    /// The open plain interests, until the bus leaves.
    interests: Mutex<Vec<(PlainInterest, UnboundedSender<Arrival>)>>,
}

impl Knobs {
    /// From now on somebody out there wants every event.
    pub(crate) fn interest(&self) {
        self.interested.store(true, Ordering::SeqCst);
        self.interest_changes.add();
    }

    /// Lets something arrive for the first interest of the bus.
    pub(crate) fn arrive(&self, arrival: Arrival) {
        self.interests.lock().unwrap()[0].1.send(arrival).unwrap();
    }

    /// The capacities of the open plain interests.
    pub(crate) fn capacities(&self) -> Vec<usize> {
        self.interests.lock().unwrap().iter().map(|(interest, _)| interest.capacity).collect()
    }
}

/// The transport, its permits and its connector at once.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Knobs>);

/// A bus on a fake transport, whose drain may take 20 s.
pub(crate) async fn fake_bus() -> (Bus, Arc<Knobs>) {
    let fake = Fake::default();
    let knobs = fake.0.clone();
    let bus = Bus::builder().without_configuration().connector(fake).transport("fake:");
    (bus.drain_timeout(Duration::from_secs(20)).open().await.unwrap(), knobs)
}

/// An event of the one peer, `p`.
pub(crate) fn event(topic: &str, sequence: u64, payload: Payload) -> Arrival {
    let source = Source { endpoint: Name::new("p").unwrap(), peer: PeerId::from_u64(9) };
    let mut envelope = Envelope::new(MessageId::new(), topic.parse().unwrap(), source, payload);
    envelope.sequence = Some(sequence);
    Arrival::Event(envelope)
}

/// A payload in JSON.
pub(crate) fn json(text: &'static str) -> Payload {
    Payload::encoded(ContentType::JSON, text)
}

impl Permit for Fake {
    fn commit(self, envelope: Envelope) -> Commit {
        self.0.committed.fetch_add(1, Ordering::SeqCst);
        let fate = *self.0.fate.lock().unwrap();
        match fate {
            Fate::Done => Commit::Done(Receipt::default()),
            Fate::Silent => Commit::Pending(Box::pin(std::future::pending())),
            Fate::Lost => Commit::Pending(Box::pin(async move {
                Err(TransportError::Unconfirmed {
                    id: envelope.id,
                    reached: 3,
                    reason: "lost".into(),
                })
            })),
        }
    }
}

impl Transport for Fake {
    type Permit = Self;

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("fake", &[], ContentType::JSON, 1 << 20)
    }

    fn status(&self) -> Status {
        Status::Connected
    }

    fn peers(&self) -> Vec<Peer> {
        Vec::new()
    }

    fn announce(&self, _: Name) {}

    fn set_ready(&self) {}

    fn interest(&self, _: &Route) -> Interest {
        if self.0.interested.load(Ordering::SeqCst) { Interest::Yes } else { Interest::No }
    }

    fn interest_changes(&self) -> Changes {
        self.0.interest_changes.clone()
    }

    fn responders(&self, _: &Route) -> Interest {
        Interest::No
    }

    fn express(&self, _: Common) -> Option<Arc<dyn Express>> {
        None
    }

    fn try_reserve(&self, _: &Route) -> Result<Self, TransportError> {
        Ok(self.clone())
    }

    async fn reserve(&self, _: &Route) -> Result<Self, TransportError> {
        Ok(self.clone())
    }

    async fn subscribe(&self, interest: PlainInterest) -> Result<Deliveries, TransportError> {
        let (sender, receiver) = unbounded_channel();
        self.0.interests.lock().unwrap().push((interest, sender));
        Ok(stream(receiver))
    }

    async fn update(&self, _: SubscriptionId, _: BTreeSet<Name>) -> Result<(), TransportError> {
        Ok(())
    }

    async fn join(&self, _: GroupSpec) -> Result<GroupDeliveries, TransportError> {
        if self.0.join_waits.load(Ordering::SeqCst) {
            self.0.joining.notify_one();
            self.0.join_goes_on.notified().await;
        }
        Ok(Box::pin(futures::stream::pending()))
    }

    async fn dead_letters(&self, _: &GroupKey) -> Result<Vec<DeadLetter>, TransportError> {
        Ok(Vec::new())
    }

    async fn replay(&self, _: &GroupKey, _: Letters) -> Result<usize, TransportError> {
        Ok(0)
    }

    async fn purge(&self, _: &GroupKey, _: Letters) -> Result<usize, TransportError> {
        Ok(0)
    }

    async fn remove_group(&self, _: &GroupKey, _: bool) -> Result<(), TransportError> {
        Ok(())
    }

    async fn respond(&self, _: ResponderSpec) -> Result<Asks, TransportError> {
        Ok(Box::pin(futures::stream::pending()))
    }

    async fn request(&self, request: OutgoingRequest) -> Result<Reply, TransportError> {
        Err(TransportError::NoResponder { topic: request.envelope.topic.to_string() })
    }

    async fn flush(&self, _: Instant) -> Result<(), TransportError> {
        if self.0.flush_fails.load(Ordering::SeqCst) {
            return Err(TransportError::Disconnected { reason: "the broker is down".into() });
        }
        Ok(())
    }

    async fn leave(&self) -> Result<(), TransportError> {
        self.0.left.store(true, Ordering::SeqCst);
        self.0.interests.lock().unwrap().clear();
        Ok(())
    }

    async fn close(&self, _: Instant) -> Result<(), TransportError> {
        Ok(())
    }
}

impl Connector for Fake {
    type Transport = Self;

    fn schemes(&self) -> &'static [&'static str] {
        &["fake"]
    }

    async fn connect(&self, _: &Address, _: ConnectOptions) -> Result<Self, TransportError> {
        Ok(self.clone())
    }
}

fn stream<T: Send + 'static>(mut receiver: UnboundedReceiver<T>) -> BoxStream<'static, T> {
    Box::pin(futures::stream::poll_fn(move |context| receiver.poll_recv(context)))
}
