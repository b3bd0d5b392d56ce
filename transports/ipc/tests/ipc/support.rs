//! A bus that is only a transport, and what the tests have in common.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use busway_ipc::{IpcConnector, IpcTransport};
use busway_transport::{
    Address, Arrival, ConnectOptions, Connector, ContentType, Deliveries, Envelope, GroupKey,
    GroupSpec, Host, MessageId, Name, Notice, Payload, PeerId, Permit, PlainInterest, Receipt,
    Route, Source, SubscriptionId, Topic, Transport, TransportError,
};
use futures::StreamExt as _;
use tempfile::TempDir;
use tokio::sync::Notify;

/// How long a test may take before it counts as hanging.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(30);

/// Runs a test under the watchdog.
pub(crate) async fn within<T>(test: impl Future<Output = T>) -> T {
    let (done, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        // A task that blocks its thread keeps the runtime's timers from firing.
        if ended.recv_timeout(2 * WATCHDOG) == Err(RecvTimeoutError::Timeout) {
            eprintln!("a test blocks its thread");
            std::process::abort();
        }
    });
    let result = tokio::time::timeout(WATCHDOG, test).await.expect("the test hangs");
    drop(done);
    result
}

/// A deadline that no working test meets.
pub(crate) fn later() -> Instant {
    Instant::now() + WATCHDOG
}

/// Takes notes.
#[derive(Default)]
pub(crate) struct Notes {
    notices: Mutex<Vec<Notice>>,
    changed: Notify,
}

impl Host for Notes {
    fn notice(&self, notice: Notice) {
        self.notices.lock().unwrap().push(notice);
        self.changed.notify_waiters();
    }
}

impl Notes {
    pub(crate) async fn until(&self, mut holds: impl FnMut(&[Notice]) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let notices = self.notices.lock().unwrap().clone();
            if holds(&notices) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) async fn until_any(&self, fits: impl Fn(&Notice) -> bool) {
        self.until(|notices| notices.iter().any(&fits)).await;
    }

    pub(crate) fn any(&self, fits: impl Fn(&Notice) -> bool) -> bool {
        self.notices.lock().unwrap().iter().any(fits)
    }
}

pub(crate) struct Bus {
    pub(crate) transport: IpcTransport,
    pub(crate) notes: Arc<Notes>,
    pub(crate) peer: PeerId,
}

pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().prefix("bw").tempdir().unwrap()
}

/// What shows in the folder that a bus is there.
pub(crate) fn entry(dir: &TempDir, peer: PeerId) -> PathBuf {
    dir.path().join(format!("shop/{peer}.{}", if cfg!(windows) { "pipe" } else { "sock" }))
}

pub(crate) async fn try_connect(
    dir: &Path,
    bus: &str,
    peer: PeerId,
) -> Result<Bus, TransportError> {
    try_connect_at(&format!("ipc:{bus}?dir={}", dir.display()), peer).await
}

pub(crate) async fn try_connect_at(address: &str, peer: PeerId) -> Result<Bus, TransportError> {
    let address: Address = address.parse().unwrap();
    let notes = Arc::new(Notes::default());
    let options = ConnectOptions::new(peer, notes.clone(), WATCHDOG);
    let transport = IpcConnector::new().connect(&address, options).await?;
    Ok(Bus { transport, notes, peer })
}

pub(crate) async fn connect(dir: &TempDir) -> Bus {
    try_connect(dir.path(), "shop", PeerId::random()).await.unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn topic(text: &str) -> Topic {
    Topic::new(text).unwrap()
}

pub(crate) fn route(to: &str) -> Route {
    Route::new(topic(to), None)
}

impl Bus {
    pub(crate) fn envelope(&self, event: &str, payload: impl ToString) -> Envelope {
        let source = Source { endpoint: name("test"), peer: self.peer };
        let payload = Payload::encoded(ContentType::JSON, payload.to_string());
        Envelope::new(MessageId::new(), topic(event), source, payload)
    }

    pub(crate) async fn subscribe(&self, id: u64, filter: &str, endpoint: &str) -> Deliveries {
        self.subscribe_with(id, filter, endpoint, 64).await
    }

    pub(crate) async fn subscribe_with(
        &self,
        id: u64,
        filter: &str,
        endpoint: &str,
        capacity: usize,
    ) -> Deliveries {
        let endpoints = BTreeSet::from([name(endpoint)]);
        let filter = filter.parse().unwrap();
        let interest = PlainInterest::new(SubscriptionId(id), filter, endpoints, capacity);
        self.transport.subscribe(interest).await.unwrap()
    }

    /// Publishes, waiting for room.
    pub(crate) async fn publish(&self, event: &str, payload: impl ToString) -> Receipt {
        let permit = self.transport.reserve(&route(event)).await.unwrap();
        receipt(permit.commit(self.envelope(event, payload)))
    }

    /// Publishes, or says what is in the way.
    pub(crate) fn try_publish(
        &self,
        event: &str,
        payload: impl ToString,
    ) -> Result<Receipt, TransportError> {
        let permit = self.transport.try_reserve(&route(event))?;
        Ok(receipt(permit.commit(self.envelope(event, payload))))
    }

    pub(crate) async fn until_peers(&self, count: usize) {
        self.notes.until(|_| self.transport.peers().len() == count).await;
    }

    pub(crate) async fn until_down(&self, peer: PeerId) {
        self.notes
            .until_any(|notice| matches!(notice, Notice::PeerDown(it) if it.id == peer))
            .await;
    }
}

pub(crate) fn receipt(commit: busway_transport::Commit) -> Receipt {
    match commit {
        busway_transport::Commit::Done(receipt) => receipt,
        other => panic!("a local socket confirms nothing later: {other:?}"),
    }
}

pub(crate) fn text(payload: &Payload) -> String {
    match payload {
        Payload::Encoded { bytes, .. } => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The payload of the next event.
pub(crate) async fn next(deliveries: &mut Deliveries) -> String {
    match deliveries.next().await {
        Some(Arrival::Event(envelope)) => text(&envelope.payload),
        other => panic!("an event was expected, not {other:?}"),
    }
}

pub(crate) fn group(event: &str) -> GroupSpec {
    GroupSpec::new(GroupKey {
        endpoint: name("billing"),
        group: name("invoicing"),
        topic: topic(event),
    })
}
