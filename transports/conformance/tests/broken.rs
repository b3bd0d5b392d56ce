//! The kit against broken fakes: a transport that has one fault must fail the case that is about
//! it, and the same wrapper without a fault must pass them all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use busway::{Address, Builder, Capabilities, Connector, Name, Peer, Status, TransportError};
use busway_conformance::{Case, Harness, WATCHDOG, run, run_case_within};
use busway_memory::{MemoryConnector, MemoryTransport};
use busway_transport::{
    Arrival, Ask, Asks, Changes, Common, ConnectOptions, DeadLetter, Deliveries, Delivery, Express,
    GroupDeliveries, GroupKey, GroupSpec, Interest, Letters, Outcome, OutgoingRequest,
    PlainInterest, Replier, Reply, ResponderSpec, Route, Settlement, SubscriptionId, Transport,
};
use futures::future::join_all;
use futures::{Stream, StreamExt, stream};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing: the wrapper itself changes nothing.
    None,
    /// Every tenth plain event is lost, and its number with it.
    DropsPlain,
    /// Every tenth plain event comes twice.
    RepeatsPlain,
    /// Every tenth plain event comes after the next one.
    ReordersPlain,
    /// An ack never arrives.
    LosesAcks,
    /// Work counts as done when it is delivered.
    AcksEarly,
    /// Every tenth delivery of a group comes twice.
    RepeatsWork,
    /// A failed attempt counts as done.
    ForgetsFailures,
    /// Each event has a key of its own.
    MixesKeys,
    /// What is replayed is lost.
    LosesReplays,
    /// What is purged stays listed.
    KeepsPurged,
    /// An interest is never withdrawn.
    LeaksInterests,
    /// Every tenth reply is lost.
    LosesReplies,
    /// The caller's going is not told, though it is claimed that it is.
    KeepsCancellation,
    /// Closing waits for nothing.
    ClosesHastily,
}

/// Each fault, the case that must fail for it, and a piece of the reason.
const CAUGHT: &[(Fault, &str, &str, &str)] = &[
    (Fault::DropsPlain, "law_02", "one_publishers_events_arrive_in_order", "out of order, lost"),
    (Fault::DropsPlain, "law_10", "own_events_are_not_echoed", "left: 10"),
    (Fault::RepeatsPlain, "law_02", "one_publishers_events_arrive_in_order", "out of order, lost"),
    (Fault::ReordersPlain, "law_02", "one_publishers_events_arrive_in_order", "out of order, lost"),
    (Fault::LosesAcks, "law_07", "each_event_goes_to_one_member", "hung"),
    (Fault::LosesAcks, "law_12", "close_of_the_publisher_waits_for_its_group_work", "hung"),
    (Fault::AcksEarly, "law_07", "work_of_a_dead_member_goes_to_another", "hung"),
    (Fault::RepeatsWork, "law_07", "each_event_goes_to_one_member", "was handled twice"),
    (
        Fault::ForgetsFailures,
        "law_07",
        "failed_event_is_attempted_again_and_then_dead_lettered",
        "hung",
    ),
    (Fault::MixesKeys, "law_07", "failing_key_waits_in_place_and_blocks_no_other", "(11, 1)"),
    (Fault::LosesReplays, "law_07", "replayed_letter_comes_back_and_is_listed_no_longer", "hung"),
    (
        Fault::KeepsPurged,
        "law_07",
        "replayed_letter_comes_back_and_is_listed_no_longer",
        "expected NotListed twice",
    ),
    (Fault::LeaksInterests, "law_15", "what_is_given_up_is_withdrawn", "hung"),
    (Fault::LosesReplies, "law_08", "response_arrives", "hung"),
    (Fault::KeepsCancellation, "law_08", "dropped_request_tells_its_responder", "hung"),
    (Fault::ClosesHastily, "law_12", "close_of_the_publisher_waits_for_its_group_work", "hung"),
];

struct Fake(Fault);

impl Harness for Fake {
    fn address(&self, case: &str) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let case: String = case.chars().take(32).collect();
        format!("memory:fake-{number}-{case}")
    }

    fn connector(&self, builder: Builder) -> Builder {
        builder.connector(FakeConnector(self.0))
    }
}

struct FakeConnector(Fault);

impl Connector for FakeConnector {
    type Transport = FakeTransport;

    fn schemes(&self) -> &'static [&'static str] {
        &["memory"]
    }

    async fn connect(
        &self,
        address: &Address,
        options: ConnectOptions,
    ) -> Result<FakeTransport, TransportError> {
        let inner = MemoryConnector::new().connect(address, options).await?;
        Ok(FakeTransport { inner, fault: self.0 })
    }
}

struct FakeTransport {
    inner: MemoryTransport,
    fault: Fault,
}

/// Whether it is the turn of every tenth.
fn tenth(count: &mut u64) -> bool {
    *count += 1;
    count.is_multiple_of(10)
}

/// An event without its number, which the core would see a repeat or a hole by.
fn unnumbered(arrival: Arrival) -> Arrival {
    match arrival {
        Arrival::Event(mut envelope) => {
            envelope.sequence = None;
            Arrival::Event(envelope)
        }
        other => other,
    }
}

/// A stream that is not dropped with its reader.
struct Leaked<S>(Option<S>);

impl<S> Drop for Leaked<S> {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

impl<S: Stream + Unpin> Stream for Leaked<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        match &mut self.0 {
            Some(stream) => stream.poll_next_unpin(context),
            None => std::task::Poll::Ready(None),
        }
    }
}

fn break_plain(fault: Fault, deliveries: Deliveries) -> Deliveries {
    let mut count = 0;
    let mut held: Option<Arrival> = None;
    match fault {
        Fault::DropsPlain => Box::pin(deliveries.map(unnumbered).filter(move |_| {
            let keep = !tenth(&mut count);
            std::future::ready(keep)
        })),
        Fault::RepeatsPlain => Box::pin(deliveries.map(unnumbered).flat_map(move |arrival| {
            let times = if tenth(&mut count) { 2 } else { 1 };
            stream::iter(vec![arrival; times])
        })),
        Fault::ReordersPlain => Box::pin(deliveries.map(unnumbered).flat_map(move |arrival| {
            if tenth(&mut count) {
                held = Some(arrival);
                return stream::iter(Vec::new());
            }
            stream::iter([arrival].into_iter().chain(held.take()).collect::<Vec<_>>())
        })),
        Fault::LeaksInterests => Box::pin(Leaked(Some(deliveries))),
        _ => deliveries,
    }
}

/// A delivery whose settlement goes through `change`; `None` swallows it.
fn resettled(
    delivery: Delivery,
    change: impl FnOnce(Outcome) -> Option<Outcome> + Send + 'static,
) -> Delivery {
    let Delivery { envelope, attempt, key, settlement, .. } = delivery;
    let settlement = Settlement::new(move |outcome| match change(outcome) {
        Some(outcome) => settlement.settle(outcome),
        None => std::mem::forget(settlement),
    });
    Delivery::new(envelope, attempt, settlement).with_key(key)
}

fn break_work(fault: Fault, deliveries: GroupDeliveries) -> GroupDeliveries {
    let mut count = 0;
    match fault {
        Fault::LosesAcks => Box::pin(deliveries.map(|delivery| {
            resettled(delivery, |outcome| (outcome != Outcome::Done).then_some(outcome))
        })),
        Fault::ForgetsFailures => Box::pin(deliveries.map(|delivery| {
            resettled(delivery, |outcome| match outcome {
                Outcome::Failed(_) => Some(Outcome::Done),
                other => Some(other),
            })
        })),
        Fault::MixesKeys => Box::pin(deliveries.map(move |delivery| {
            count += 1;
            resettled(delivery, move |outcome| match outcome {
                Outcome::Keyed(_) => Some(Outcome::Keyed(count)),
                other => Some(other),
            })
        })),
        Fault::AcksEarly => Box::pin(deliveries.map(|delivery| {
            let Delivery { envelope, attempt, settlement, .. } = delivery;
            settlement.settle(Outcome::Done);
            Delivery::new(envelope, attempt, Settlement::new(drop))
        })),
        Fault::RepeatsWork => Box::pin(deliveries.flat_map(move |delivery| {
            let again = tenth(&mut count).then(|| {
                Delivery::new(delivery.envelope.clone(), delivery.attempt, Settlement::new(drop))
            });
            stream::iter([delivery].into_iter().chain(again).collect::<Vec<_>>())
        })),
        _ => deliveries,
    }
}

fn break_asks(fault: Fault, asks: Asks) -> Asks {
    let mut count = 0;
    match fault {
        Fault::LosesReplies => Box::pin(asks.map(move |ask| {
            if !tenth(&mut count) {
                return ask;
            }
            std::mem::forget(ask.replier);
            Ask::new(ask.envelope, ask.deadline, Replier::new(drop), ask.cancelled)
        })),
        Fault::KeepsCancellation => Box::pin(asks.map(|ask| {
            Ask::new(ask.envelope, ask.deadline, ask.replier, Box::pin(std::future::pending()))
        })),
        _ => asks,
    }
}

impl Transport for FakeTransport {
    type Permit = <MemoryTransport as Transport>::Permit;

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn status(&self) -> Status {
        self.inner.status()
    }

    fn peers(&self) -> Vec<Peer> {
        self.inner.peers()
    }

    fn announce(&self, endpoint: Name) {
        self.inner.announce(endpoint);
    }

    fn set_ready(&self) {
        self.inner.set_ready();
    }

    fn interest(&self, route: &Route) -> Interest {
        self.inner.interest(route)
    }

    fn interest_changes(&self) -> Changes {
        self.inner.interest_changes()
    }

    fn responders(&self, route: &Route) -> Interest {
        self.inner.responders(route)
    }

    fn express(&self, common: Common) -> Option<Arc<dyn Express>> {
        self.inner.express(common)
    }

    fn try_reserve(&self, route: &Route) -> Result<Self::Permit, TransportError> {
        self.inner.try_reserve(route)
    }

    async fn reserve(&self, route: &Route) -> Result<Self::Permit, TransportError> {
        self.inner.reserve(route).await
    }

    async fn subscribe(&self, interest: PlainInterest) -> Result<Deliveries, TransportError> {
        Ok(break_plain(self.fault, self.inner.subscribe(interest).await?))
    }

    async fn update(
        &self,
        id: SubscriptionId,
        endpoints: BTreeSet<Name>,
    ) -> Result<(), TransportError> {
        self.inner.update(id, endpoints).await
    }

    async fn join(&self, spec: GroupSpec) -> Result<GroupDeliveries, TransportError> {
        Ok(break_work(self.fault, self.inner.join(spec).await?))
    }

    async fn dead_letters(&self, group: &GroupKey) -> Result<Vec<DeadLetter>, TransportError> {
        self.inner.dead_letters(group).await
    }

    async fn replay(&self, group: &GroupKey, which: Letters) -> Result<usize, TransportError> {
        match self.fault {
            Fault::LosesReplays => self.inner.purge(group, which).await,
            _ => self.inner.replay(group, which).await,
        }
    }

    async fn purge(&self, group: &GroupKey, which: Letters) -> Result<usize, TransportError> {
        match self.fault {
            Fault::KeepsPurged => Ok(self.inner.dead_letters(group).await?.len()),
            _ => self.inner.purge(group, which).await,
        }
    }

    async fn remove_group(&self, group: &GroupKey, force: bool) -> Result<(), TransportError> {
        self.inner.remove_group(group, force).await
    }

    async fn respond(&self, spec: ResponderSpec) -> Result<Asks, TransportError> {
        Ok(break_asks(self.fault, self.inner.respond(spec).await?))
    }

    async fn request(&self, request: OutgoingRequest) -> Result<Reply, TransportError> {
        self.inner.request(request).await
    }

    async fn flush(&self, deadline: Instant) -> Result<(), TransportError> {
        if self.fault == Fault::ClosesHastily {
            return Ok(());
        }
        self.inner.flush(deadline).await
    }

    async fn leave(&self) -> Result<(), TransportError> {
        self.inner.leave().await
    }

    async fn close(&self, deadline: Instant) -> Result<(), TransportError> {
        self.inner.close(deadline).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_fails_its_case() {
    let caught = CAUGHT.iter().map(|(fault, group, name, piece)| async move {
        let case = Case::find(group, name).expect("a case of the kit");
        // What hangs is meant to: no need to wait for long.
        let watchdog = if *piece == "hung" { Duration::from_secs(3) } else { WATCHDOG };
        let (report, _) = run_case_within(Arc::new(Fake(*fault)), case, watchdog).await;
        match report.outcome {
            Err(reason) if reason.contains(piece) => None,
            other => Some(format!("{fault:?} in {case:?}: expected {piece:?}, not {other:?}")),
        }
    });
    let missed: Vec<_> = join_all(caught).await.into_iter().flatten().collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_fault_all_pass() {
    let report = run(Fake(Fault::None)).await;
    println!("{report}");
    println!("{}", busway_conformance::capability_table(std::slice::from_ref(&report)));
    report.assert_all();
    assert_eq!(report.cases.len(), busway_conformance::cases().len());
}
