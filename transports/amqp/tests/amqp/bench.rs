//! What the tests stand on: brokers, buses with a fake host, a watchdog.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use busway_amqp::{AmqpConnector, AmqpTransport};
use busway_test_broker::Broker;
use busway_transport::{
    Arrival, Commit, ConnectOptions, Connector, ContentType, Deliveries, Envelope, GroupDeliveries,
    GroupKey, GroupSpec, Host, MessageId, Name, Notice, OutgoingRequest, Payload, PeerId, Permit,
    PlainInterest, Receipt, Reply, Route, Source, SubscriptionId, Topic, TopicFilter, Transport,
    TransportError,
};
use futures::StreamExt;
use tokio::sync::watch;

/// The longest that any test may take.
const WATCHDOG: Duration = Duration::from_secs(120);

/// Runs a test with a limit.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(WATCHDOG, test).await.expect("the test hangs");
    });
    runtime.shutdown_background();
}

/// The broker of all tests that only have traffic.
pub(crate) async fn shared() -> &'static Broker {
    tokio::task::spawn_blocking(|| Broker::shared().expect("a RabbitMQ")).await.unwrap()
}

/// Runs a test that breaks things, with a broker for such tests: one at a time, and the limit counts
/// from its turn on.
pub(crate) fn run_alone<F: Future<Output = ()>>(test: impl FnOnce(&'static Broker) -> F) {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    // Who failed before leaves a broker that works: it is the buses that are tested.
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    run(test(BROKER.get_or_init(|| Broker::start().expect("a RabbitMQ"))));
}

/// Runs what blocks beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// A bus name that no other test has.
pub(crate) fn fresh() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("t{}-{}", PeerId::random(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A host that keeps what it is told.
pub(crate) struct FakeHost {
    notices: Mutex<Vec<Notice>>,
    count: watch::Sender<usize>,
}

impl Host for FakeHost {
    fn notice(&self, notice: Notice) {
        self.notices.lock().unwrap().push(notice);
        self.count.send_modify(|count| *count += 1);
    }
}

impl FakeHost {
    /// Waits until some notice is like that, old ones included.
    pub(crate) async fn saw(&self, what: impl Fn(&Notice) -> bool) {
        let mut count = self.count.subscribe();
        count.wait_for(|_| self.notices.lock().unwrap().iter().any(&what)).await.unwrap();
    }

    pub(crate) fn forget(&self) {
        self.notices.lock().unwrap().clear();
    }
}

/// A transport with its host.
pub(crate) struct Bus {
    pub(crate) transport: AmqpTransport,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) peer: PeerId,
}

pub(crate) async fn try_connect(url: &str, timeout: Duration) -> Result<Bus, TransportError> {
    let host = Arc::new(FakeHost { notices: Mutex::default(), count: watch::Sender::new(0) });
    let peer = PeerId::random();
    let options = ConnectOptions::new(peer, host.clone(), timeout);
    let address = url.parse()?;
    let transport = AmqpConnector::new().connect(&address, options).await?;
    Ok(Bus { transport, host, peer })
}

pub(crate) async fn connect(broker: &Broker, bus: &str) -> Bus {
    connect_with(broker, &format!("bus={bus}")).await
}

pub(crate) async fn connect_with(broker: &Broker, query: &str) -> Bus {
    let url = format!("{}?{query}", broker.url());
    try_connect(&url, Duration::from_secs(30)).await.expect("connects")
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

impl Bus {
    pub(crate) fn envelope(&self, on: &str, body: impl Into<String>) -> Envelope {
        let source = Source { endpoint: name("tester"), peer: self.peer };
        let payload = Payload::encoded(ContentType::JSON, body.into());
        Envelope::new(MessageId::new(), topic(on), source, payload)
    }

    /// Reserves and commits; the future is the confirm.
    pub(crate) async fn commit(
        &self,
        route: &Route,
        envelope: Envelope,
    ) -> impl Future<Output = Result<Receipt, TransportError>> + Send + 'static {
        let permit = self.transport.reserve(route).await.expect("room");
        let commit = permit.commit(envelope);
        async move {
            match commit {
                Commit::Done(receipt) => Ok(receipt),
                Commit::Pending(confirm) => confirm.await,
            }
        }
    }

    pub(crate) async fn publish(&self, on: &str, body: &str) -> MessageId {
        let envelope = self.envelope(on, body);
        let id = envelope.id;
        self.commit(&Route::new(topic(on), None), envelope).await.await.expect("confirmed");
        id
    }

    pub(crate) async fn publish_to(&self, on: &str, to: &str, body: &str) {
        let mut envelope = self.envelope(on, body);
        envelope.to = Some(name(to));
        let route = Route::new(topic(on), Some(name(to)));
        self.commit(&route, envelope).await.await.expect("confirmed");
    }

    pub(crate) async fn publish_mandatory(&self, on: &str) -> Receipt {
        let mut route = Route::new(topic(on), None);
        route.mandatory = true;
        self.commit(&route, self.envelope(on, "{}")).await.await.expect("confirmed")
    }

    pub(crate) async fn subscribe(&self, id: u64, filter: &str, endpoints: &[&str]) -> Deliveries {
        self.subscribe_with(id, filter, endpoints, 10_000).await
    }

    pub(crate) async fn subscribe_with(
        &self,
        id: u64,
        filter: &str,
        endpoints: &[&str],
        capacity: usize,
    ) -> Deliveries {
        let filter = TopicFilter::new(filter).unwrap();
        let endpoints: BTreeSet<Name> = endpoints.iter().map(|text| name(text)).collect();
        let interest = PlainInterest::new(SubscriptionId(id), filter, endpoints, capacity);
        self.transport.subscribe(interest).await.expect("subscribes")
    }

    pub(crate) async fn join(&self, spec: GroupSpec) -> GroupDeliveries {
        self.transport.join(spec).await.expect("joins")
    }

    pub(crate) async fn ask(
        &self,
        on: &str,
        to: Option<&str>,
        limit: Duration,
    ) -> Result<Reply, TransportError> {
        let mut envelope = self.envelope(on, "\"question\"");
        envelope.to = to.map(name);
        let request = OutgoingRequest::new(envelope, Instant::now() + limit);
        self.transport.request(request).await
    }

    pub(crate) async fn close(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        self.transport.close(deadline).await.expect("closes");
    }
}

pub(crate) fn group(on: &str) -> GroupSpec {
    GroupSpec::new(GroupKey { endpoint: name("billing"), group: name("work"), topic: topic(on) })
}

/// The next arrival, which must be an event.
pub(crate) async fn event(deliveries: &mut Deliveries) -> Envelope {
    match deliveries.next().await.expect("the stream goes on") {
        Arrival::Event(envelope) => envelope,
        other => panic!("{other:?} instead of an event"),
    }
}

pub(crate) fn body(envelope: &Envelope) -> String {
    text(&envelope.payload)
}

pub(crate) fn text(payload: &Payload) -> String {
    match payload {
        Payload::Encoded { bytes, .. } => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?} came over the wire"),
    }
}
