//! Other processes: this test program again, told by its environment what to be.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use busway_transport::{
    DeadReason, GroupSpec, MessageId, Notice, Outcome, Retry, Route, Status, Transport,
};
use futures::StreamExt;

use crate::bench::{blocking, connect, fresh, group, run, shared, topic, try_connect};
use crate::proxy::{Mode, Proxy};

const ROLE: &str = "BUSWAY_TEST_ROLE";
const URL: &str = "BUSWAY_TEST_URL";

/// A process in a role, killed at the latest when this goes.
pub(crate) struct Other {
    pub(crate) child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Other {
    pub(crate) fn start(role: &str, url: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::in_a_role", "--nocapture"])
            .env(ROLE, role)
            .env(URL, url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next thing that it says.
    pub(crate) fn hear(&mut self) -> Option<String> {
        self.lines
            .find_map(|line| line.unwrap().split_once("says: ").map(|(_, said)| said.to_owned()))
    }

    /// `kill -9`.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn say(what: impl std::fmt::Display) {
    println!("says: {what}");
}

#[test]
fn in_a_role() {
    let (Ok(role), Ok(url)) = (std::env::var(ROLE), std::env::var(URL)) else { return };
    run(async move {
        match role.as_str() {
            "hold" => hold(&url).await,
            "publish" => publish(&url).await,
            "die" => die(&url).await,
            "leak" => leak(&url).await,
            #[cfg(unix)]
            "until-told" => crate::sigterm::until_told(&url).await,
            other => panic!("{other}"),
        }
    });
}

/// Takes one delivery and never settles it.
async fn hold(url: &str) {
    let bus = try_connect(url, Duration::from_secs(30)).await.unwrap();
    let mut work = bus.join(group("x.y")).await;
    let delivery = work.next().await.unwrap();
    say(delivery.envelope.id);
    std::future::pending::<()>().await;
}

/// How often the event that kills its process is attempted.
const ATTEMPTS: u32 = 2;

fn deadly() -> GroupSpec {
    let mut spec = group("x.deadly");
    spec.retry = Retry::fixed(Duration::from_millis(200)).attempts(ATTEMPTS);
    spec
}

/// Dies of the first event that it gets, unless that goes to the dead letters before.
async fn die(url: &str) {
    let bus = try_connect(url, Duration::from_secs(30)).await.unwrap();
    let mut work = bus.join(deadly()).await;
    say("there");
    tokio::select! {
        delivery = work.next() => {
            say(delivery.unwrap().attempt);
            std::process::abort();
        }
        () = bus.host.saw(|notice| matches!(notice, Notice::DeadLettered(_))) => say("buried"),
    }
    bus.close().await;
}

/// The attempts of an event whose handling kills the process each time.
async fn attempts_of_a_deadly_event(query: &str) -> Vec<String> {
    let (broker, name) = (shared().await, fresh());
    let url = format!("{}?bus={name}{query}", broker.url());
    let bus = try_connect(&url, Duration::from_secs(30)).await.unwrap();
    let mut attempts = Vec::new();
    let mut id = None;
    loop {
        let url = url.clone();
        let mut other = blocking(move || Other::start("die", &url)).await;
        let (there, mut other) = blocking(move || (other.hear(), other)).await;
        assert_eq!(there.as_deref(), Some("there"));
        if id.is_none() {
            id = Some(bus.publish("x.deadly", "1").await);
        }
        let said = blocking(move || other.hear()).await.expect("it says what it dies of");
        if said == "buried" {
            break;
        }
        attempts.push(said);
        assert!(attempts.len() < 10, "{attempts:?}");
    }
    let letters = bus.transport.dead_letters(&deadly().key).await.unwrap();
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((Some(letter.envelope.id), letter.attempts), (id, ATTEMPTS));
    assert_eq!(letter.failure.reason, DeadReason::Lost);
    bus.close().await;
    attempts
}

#[test]
fn an_event_that_kills_its_process_ends_with_the_dead_letters() {
    run(async {
        // Twice for each attempt: the first time it may have been handed back.
        assert_eq!(attempts_of_a_deadly_event("").await, ["1", "1", "2", "2"]);
        assert_eq!(attempts_of_a_deadly_event("&queue_type=classic").await, ["1", "2"]);
    });
}

/// Publishes with a full window until it is killed, and says what was confirmed.
async fn publish(url: &str) {
    let bus = try_connect(url, Duration::from_secs(30)).await.unwrap();
    let route = Route::new(topic("x.y"), None);
    loop {
        let envelope = bus.envelope("x.y", "1");
        let id = envelope.id;
        let confirm = bus.commit(&route, envelope).await;
        tokio::spawn(async move {
            confirm.await.unwrap();
            say(id);
        });
    }
}

#[test]
fn what_a_killed_handler_had_goes_to_another() {
    run(async {
        let (broker, name) = (shared().await, fresh());
        let url = format!("{}?bus={name}", broker.url());
        let mut other = blocking(move || Other::start("hold", &url)).await;
        let bus = connect(broker, &name).await;
        // Until its queue stands an event reaches nobody.
        let mut route = Route::new(topic("x.y"), None);
        route.mandatory = true;
        let id = loop {
            let envelope = bus.envelope("x.y", "1");
            let id = envelope.id;
            if bus.commit(&route, envelope).await.await.unwrap().reached > 0 {
                break id;
            }
        };
        let (said, mut other) = blocking(move || (other.hear(), other)).await;
        assert_eq!(said, Some(id.to_string()));
        let mut work = bus.join(group("x.y")).await;
        blocking(move || other.kill()).await;
        let delivery = work.next().await.unwrap();
        assert_eq!(delivery.envelope.id, id);
        delivery.settlement.settle(Outcome::Done);
        bus.close().await;
    });
}

#[test]
fn what_a_killed_publisher_had_confirmed_is_not_lost() {
    run(async {
        let (broker, name) = (shared().await, fresh());
        let bus = connect(broker, &name).await;
        let mut spec = group("x.y");
        spec.concurrency = 64;
        let mut work = bus.join(spec).await;
        let url = format!("{}?bus={name}", broker.url());
        let hearing = tokio::task::spawn_blocking(move || {
            let mut other = Other::start("publish", &url);
            let mut confirmed: BTreeSet<String> = BTreeSet::new();
            while confirmed.len() < 1000 {
                confirmed.insert(other.hear().expect("it lives"));
            }
            other.kill();
            while let Some(id) = other.hear() {
                // The last line may be cut off.
                if id.parse::<MessageId>().is_ok() {
                    confirmed.insert(id);
                }
            }
            confirmed
        });
        let mut seen = BTreeSet::new();
        let mut hearing = std::pin::pin!(hearing);
        let mut confirmed: Option<BTreeSet<String>> = None;
        while confirmed.as_ref().is_none_or(|confirmed| !confirmed.is_subset(&seen)) {
            tokio::select! {
                all = &mut hearing, if confirmed.is_none() => confirmed = Some(all.unwrap()),
                delivery = work.next() => {
                    let delivery = delivery.unwrap();
                    assert!(seen.insert(delivery.envelope.id.to_string()), "handed out twice");
                    delivery.settlement.settle(Outcome::Done);
                }
            }
        }
        drop(work);
        bus.close().await;
    });
}

/// Threads and descriptors of this process.
#[cfg(target_os = "linux")]
fn open() -> (usize, usize) {
    let count = |folder| std::fs::read_dir(folder).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

/// Loses its connections and tries silent peers, then closes: nothing stays.
#[cfg(target_os = "linux")]
async fn leak(url: &str) {
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
    let proxy = Proxy::start(port).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("amqp://guest:x@{}/", silent.local_addr().unwrap());
    // What a first bus leaves (the runtime's threads and the like) is not counted.
    let first = try_connect(&proxy.url("bus=leak"), Duration::from_secs(30)).await.unwrap();
    first.close().await;
    drop(first);
    let before = settled(|_| true).await;
    for _ in 0..5 {
        let limit = Duration::from_millis(200);
        assert!(try_connect(&silent_url, limit).await.is_err(), "nobody answers");
    }
    let bus = Arc::new(try_connect(&proxy.url("bus=leak"), Duration::from_secs(30)).await.unwrap());
    for _ in 0..10 {
        bus.host.forget();
        proxy.set(Mode::Reset);
        bus.host.saw(|n| matches!(n, Notice::Status(Status::Reconnecting { .. }))).await;
        proxy.set(Mode::Pass);
        bus.host.saw(|n| matches!(n, Notice::Status(Status::Connected))).await;
        bus.publish("x.y", "1").await;
    }
    bus.close().await;
    drop(bus);
    let after = settled(|now| now.0 <= before.0 && now.1 <= before.1).await;
    say(format!("{before:?} {after:?}"));
}

#[cfg(not(target_os = "linux"))]
async fn leak(_: &str) {}

/// What is open once `wanted` holds and it has not changed for a while.
#[cfg(target_os = "linux")]
async fn settled(wanted: impl Fn((usize, usize)) -> bool) -> (usize, usize) {
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let (mut last, mut same) = (open(), 0);
    while same < 10 || !wanted(last) {
        looks.tick().await;
        let now = open();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

#[test]
#[cfg(target_os = "linux")]
fn lost_connections_and_silent_peers_leave_nothing_behind() {
    run(async {
        let url = shared().await.url();
        let mut other = blocking(move || Other::start("leak", url)).await;
        let said = blocking(move || other.hear()).await.expect("threads and descriptors");
        println!("threads and descriptors before and after: {said}");
    });
}
