//! Load under which things break, and the ledger that says what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use busway_transport::{GroupDeliveries, MessageId, Outcome, Route, TransportError};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bench::{Bus, group, topic};

/// How many events may be published beyond those that were handled: a load and not a flood, as the
/// broker is to be restarted with what has piled up, and all of it is to be handled in the end.
const AHEAD: usize = 1000;
/// How many deliveries are in work at once.
const CONCURRENCY: usize = 32;

/// What was published and what arrived, by id.
#[derive(Default)]
struct Ledger {
    published: BTreeSet<MessageId>,
    confirmed: BTreeSet<MessageId>,
    handled: BTreeMap<MessageId, usize>,
}

/// One bus publishes without a break, another handles as a group.
pub(crate) struct Load {
    ledger: Arc<Mutex<Ledger>>,
    /// How many were confirmed, and that something was handled.
    confirmed: watch::Sender<usize>,
    handled: Arc<watch::Sender<usize>>,
    stop: Arc<AtomicBool>,
    publishing: JoinHandle<()>,
    handling: JoinHandle<()>,
}

impl Load {
    pub(crate) async fn start(from: Arc<Bus>, to: &Bus) -> Self {
        let mut spec = group("x.load");
        spec.durable = true;
        spec.concurrency = CONCURRENCY;
        let work = to.join(spec).await;
        let ledger: Arc<Mutex<Ledger>> = Arc::default();
        let (confirmed, handled) = (watch::Sender::new(0), Arc::new(watch::Sender::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let ahead_of = handled.subscribe();
        let publishing = publish(from, ledger.clone(), confirmed.clone(), ahead_of, stop.clone());
        let handling = handle(work, ledger.clone(), handled.clone());
        Self {
            publishing: tokio::spawn(publishing),
            handling: tokio::spawn(handling),
            ledger,
            confirmed,
            handled,
            stop,
        }
    }

    /// Waits until so many more were confirmed, and gives how long that took.
    pub(crate) async fn goes_on(&self, more: usize) -> Duration {
        let start = Instant::now();
        let mut confirmed = self.confirmed.subscribe();
        let goal = *confirmed.borrow() + more;
        confirmed.wait_for(|count| *count >= goal).await.unwrap();
        start.elapsed()
    }

    /// Stops publishing, waits for the rest to be handled and checks the ledger. `faults` says how
    /// often there was a reason for duplicates: a window of publishes and a prefetch each time.
    pub(crate) async fn end(self, what: &str, faults: usize, window: usize) {
        self.stop.store(true, Ordering::Relaxed);
        self.publishing.await.unwrap();
        let ledger = self.ledger.clone();
        let lost = move || {
            let ledger = ledger.lock().unwrap();
            ledger.confirmed.iter().filter(|id| !ledger.handled.contains_key(id)).count()
        };
        // Under the watchdog: what is lost never comes.
        let mut handled = self.handled.subscribe();
        handled.wait_for(|_| lost() == 0).await.unwrap();
        self.handling.abort();
        let ledger = self.ledger.lock().unwrap();
        let unexpected = ledger.handled.keys().filter(|id| !ledger.published.contains(id)).count();
        let duplicates: usize = ledger.handled.values().map(|times| times - 1).sum();
        println!(
            "{what}: published {}, confirmed {}, lost 0, unexpected {unexpected}, duplicates {duplicates}",
            ledger.published.len(),
            ledger.confirmed.len(),
        );
        assert_eq!(unexpected, 0, "{what}");
        let most = faults * (window + CONCURRENCY);
        assert!(
            duplicates <= most,
            "{what}: {duplicates} duplicates, at most {most} have a reason"
        );
    }
}

async fn publish(
    bus: Arc<Bus>,
    ledger: Arc<Mutex<Ledger>>,
    confirmed: watch::Sender<usize>,
    mut handled: watch::Receiver<usize>,
    stop: Arc<AtomicBool>,
) {
    let route = Route::new(topic("x.load"), None);
    let mut flying = FuturesUnordered::new();
    let take = |(id, outcome): (MessageId, Result<_, TransportError>)| match outcome {
        Ok(_) => {
            ledger.lock().unwrap().confirmed.insert(id);
            confirmed.send_modify(|count| *count += 1);
        }
        // It may have arrived or not.
        Err(TransportError::Unconfirmed { .. }) => {}
        Err(error) => panic!("{error}"),
    };
    for published in 0.. {
        let is_enough = |handled: &usize| published < *handled + AHEAD;
        while !stop.load(Ordering::Relaxed) && !is_enough(&handled.borrow_and_update()) {
            // What was published is handled, so that this ends also when we are stopped.
            tokio::select! {
                Some(done) = flying.next(), if !flying.is_empty() => take(done),
                changed = handled.changed() => changed.unwrap(),
            }
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let envelope = bus.envelope("x.load", "\"load\"");
        let id = envelope.id;
        ledger.lock().unwrap().published.insert(id);
        let confirm = bus.commit(&route, envelope).await;
        flying.push(async move { (id, confirm.await) });
        while let Some(Some(done)) = futures::FutureExt::now_or_never(flying.next()) {
            take(done);
        }
        while flying.len() >= 200 {
            if let Some(done) = flying.next().await {
                take(done);
            }
        }
        tokio::task::yield_now().await;
    }
    while let Some(done) = flying.next().await {
        take(done);
    }
}

async fn handle(
    mut work: GroupDeliveries,
    ledger: Arc<Mutex<Ledger>>,
    handled: Arc<watch::Sender<usize>>,
) {
    let count = AtomicUsize::new(0);
    while let Some(delivery) = work.next().await {
        *ledger.lock().unwrap().handled.entry(delivery.envelope.id).or_default() += 1;
        delivery.settlement.settle(Outcome::Done);
        handled.send_replace(count.fetch_add(1, Ordering::Relaxed));
    }
}
