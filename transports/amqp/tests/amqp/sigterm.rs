//! A process that is told to go, by SIGTERM, in the middle of its work: it closes its bus, and the
//! ledger of both processes says that nothing is lost, cut off or done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;

use busway::{Bus, Event, Message, PublishError, Subscription};
use busway_amqp::AmqpConnector;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use crate::bench::{blocking, fresh, run, shared};
use crate::processes::{Other, say};

/// How many orders may be under way: a load and not a flood.
const UNDER_WAY: usize = 400;

#[derive(Event, Serialize, Deserialize, Debug)]
#[event("term.ordered")]
struct Ordered {
    number: u64,
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event("term.shipped")]
struct Shipped {
    number: u64,
}

async fn open(url: &str) -> Bus {
    let bus = Bus::builder().connector(AmqpConnector::new()).transport(url);
    bus.without_configuration().open().await.unwrap()
}

/// Ships what is ordered: while it is in its handler an order waits for the broker.
async fn ship(bus: &Bus, done: impl Fn(u64) + Send + Sync + 'static) -> Subscription {
    let shop = bus.endpoint("shop").unwrap();
    let (from, done) = (shop.clone(), Arc::new(done));
    let handler = move |ordered: Message<Ordered>| {
        let (from, done) = (from.clone(), done.clone());
        async move {
            let number = ordered.number;
            from.publish(Shipped { number }).await?;
            done(number);
            Ok(())
        }
    };
    let orders = shop.subscribe::<Ordered>().group("shipping").durable().concurrency(32);
    orders.try_for_each(handler).await.unwrap()
}

/// The process that is told to go: publishes and handles, and says what it did.
pub(crate) async fn until_told(url: &str) {
    let mut told = signal(SignalKind::terminate()).unwrap();
    let bus = open(url).await;
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    let freed = room.clone();
    let handled = move |number| {
        say(format!("handled {number}"));
        freed.add_permits(1);
    };
    let _shipping = ship(&bus, handled).await;
    let publisher = bus.endpoint("till").unwrap().publisher::<Ordered>();
    let taken = room.clone();
    let publishing = tokio::spawn(async move {
        for number in 0.. {
            let Ok(permit) = taken.acquire().await else { return };
            permit.forget();
            say(format!("offered {number}"));
            match publisher.publish(Ordered { number }).await {
                Ok(_) => say(format!("accepted {number}")),
                Err(PublishError::Closed { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
    });
    told.recv().await.unwrap();
    bus.close().await.unwrap();
    room.close();
    publishing.await.unwrap();
    say("closed 0");
}

/// Tells it to go when so many were handled, and hears it to its end.
fn tell(mut other: Other, after: usize) -> BTreeMap<String, BTreeSet<u64>> {
    let mut said: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    while let Some(line) = other.hear() {
        let (what, number) = line.split_once(' ').unwrap();
        let numbers = said.entry(what.to_owned()).or_default();
        assert!(numbers.insert(number.parse().unwrap()), "{line} twice");
        if what == "handled" && numbers.len() == after {
            let pid = other.child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        }
    }
    assert!(other.child.wait().unwrap().success());
    said
}

#[test]
fn sigterm_under_load_loses_nothing() {
    run(async {
        let url = format!("{}?bus={}", shared().await.url(), fresh());
        let bus = open(&url).await;
        let (arrived, mut arrivals) = mpsc::unbounded_channel();
        let audit = bus.endpoint("audit").unwrap();
        let all = audit.subscribe::<Shipped>().group("books").durable().concurrency(32);
        let entering = all.for_each(move |shipped| {
            let _ = arrived.send(shipped.number);
            async {}
        });
        entering.await.unwrap();
        let address = url.clone();
        let said = blocking(move || tell(Other::start("until-told", &address), 1000)).await;
        let of = |what: &str| said.get(what).cloned().unwrap_or_default();
        let (offered, accepted, handled) = (of("offered"), of("accepted"), of("handled"));
        assert_eq!(of("closed").len(), 1, "it was closed, not killed");
        assert!(handled.is_subset(&offered));
        // Another one ships the rest.
        let rest = ship(&bus, |_| {}).await;
        let mut shipped: BTreeMap<u64, usize> = BTreeMap::new();
        // Under the watchdog: what is lost never comes.
        while !accepted.iter().all(|number| shipped.contains_key(number)) {
            *shipped.entry(arrivals.recv().await.unwrap()).or_default() += 1;
        }
        rest.unsubscribe().await;
        bus.close().await.unwrap();
        while let Ok(number) = arrivals.try_recv() {
            *shipped.entry(number).or_default() += 1;
        }
        let unexpected = shipped.keys().filter(|number| !offered.contains(number)).count();
        let twice = shipped.values().filter(|times| **times > 1).count();
        println!(
            "SIGTERM: accepted {}, handled by then {}, lost 0, unexpected {unexpected}, twice {twice}",
            accepted.len(),
            handled.len(),
        );
        assert_eq!((unexpected, twice), (0, 0));
    });
}
