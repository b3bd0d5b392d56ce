//! Real processes, really killed and stopped.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use busway_transport::{
    Arrival, Delivery, Interest, Notice, Outcome, OutgoingRequest, PeerId, Transport,
    TransportError,
};
use futures::StreamExt as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use crate::requests::respond;
use crate::support::{
    Bus, connect, folder, group, later, name, next, route, text, try_connect, within,
};

const DIR: &str = "BUSWAY_IPC_TEST_DIR";

/// Runs a stand-in in a process of its own.
fn start(stand_in: &str, dir: &Path) -> Child {
    tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", stand_in, "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().expect("it runs")).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

async fn peer_of(bus: &Bus, child: &Child) -> PeerId {
    let find = || bus.transport.peers().into_iter().find(|peer| peer.pid == child.id());
    bus.notes.until(|_| find().is_some()).await;
    find().unwrap().id
}

/// Not a test of its own: what the child process runs.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn stand_in() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let bus = try_connect(dir.as_ref(), "shop", PeerId::random()).await.unwrap();
    let _asks = respond(&bus, "ask").await;
    let mut work = bus.transport.join(group("job")).await.unwrap();
    let _never_settled = work.next().await;
    let _ = bus.publish("child.has_work", "").await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_process_takes_nothing_with_it() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut told = one.subscribe(1, "child.has_work", "mail").await;
        let mut child = start("child::stand_in", dir.path());
        one.notes
            .until(|_| {
                one.transport.interest(&route("job")) == Interest::Yes
                    && one.transport.responders(&route("ask")) == Interest::Yes
                    && two.transport.peers().len() == 2
            })
            .await;
        let peer = one.transport.peers().into_iter().find(|it| it.pid == child.id()).unwrap();
        one.publish("job", "job").await;
        told.next().await.unwrap();

        let mut rescued = two.transport.join(group("job")).await.unwrap();
        let asked = OutgoingRequest::new(one.envelope("ask", ""), later());
        let (reply, ()) = tokio::join!(one.transport.request(asked), async {
            child.start_kill().unwrap();
            child.wait().await.unwrap();
        });
        assert!(matches!(reply, Err(TransportError::Disconnected { .. })), "{reply:?}");
        let work = rescued.next().await.unwrap();
        assert_eq!((text(&work.envelope.payload).as_str(), work.attempt), ("job", 2));
        work.settlement.settle(Outcome::Done);
        one.transport.flush(later()).await.unwrap();
        one.until_down(peer.id).await;
        two.until_down(peer.id).await;
        assert_eq!(one.transport.responders(&route("ask")), Interest::No);

        // Its socket is removed by the next who starts, if not by the survivors before.
        let three = connect(&dir).await;
        assert!(!dir.path().join(format!("shop/{}.sock", peer.id)).exists());
        assert_eq!(three.transport.peers().len(), 2);
    })
    .await;
}

/// Not a test of its own: repeats what it hears, and says where it missed something.
#[tokio::test]
#[ignore = "run by the test below, in a process of its own"]
async fn echo() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let bus = try_connect(dir.as_ref(), "shop", PeerId::random()).await.unwrap();
    let mut heard = bus.subscribe(1, "say", "echo").await;
    bus.transport.announce(name("ready"));
    while let Some(arrival) = heard.next().await {
        let words = match arrival {
            Arrival::Event(envelope) => text(&envelope.payload),
            gap => format!("{gap:?}"),
        };
        bus.publish("echo", words).await;
    }
}

#[tokio::test]
async fn a_stopped_process_is_cut_off_and_comes_back() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let mut at_one = one.subscribe(1, "echo", "mail").await;
        let mut at_two = two.subscribe(1, "say", "mail").await;
        let child = start("child::echo", dir.path());
        let peer = peer_of(&one, &child).await;
        one.notes
            .until(|_| one.transport.peers().iter().any(|it| it.endpoints.contains("ready")))
            .await;
        one.publish("say", "hello").await;
        assert_eq!(next(&mut at_one).await, "hello");
        assert_eq!(next(&mut at_two).await, "hello");

        signal(&child, Signal::STOP);
        // The others go on at once; whoever needs its word waits until it is cut off, no longer.
        assert_eq!(one.publish("say", "while it stands still").await.reached, 2);
        assert_eq!(next(&mut at_two).await, "while it stands still");
        let mut late = two.subscribe(2, "late", "mail").await;
        assert!(
            two.notes.any(
                |it| matches!(it, Notice::Protocol { reason, .. } if reason.contains("silent"))
            )
        );
        one.until_down(peer).await;
        assert_eq!(one.publish("say", "without it").await.reached, 1);
        assert_eq!(one.publish("late", "1").await.reached, 1);
        assert_eq!(next(&mut late).await, "1");
        let Some(Arrival::Gap(_)) = at_one.next().await else { panic!("no gap") };

        // It reads what it had been sent, learns that it was cut off, and is back by a new hello.
        signal(&child, Signal::CONT);
        for bus in [&one, &two] {
            bus.notes.until(|_| bus.transport.peers().iter().any(|it| it.id == peer)).await;
        }
        one.publish("say", "welcome").await;
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last| last != "welcome") {
            heard.push(next(&mut at_one).await);
        }
        // What it says while it is linked with nobody is for nobody.
        let gap = heard.iter().position(|it| it.contains("Disconnected"));
        let before = heard.iter().position(|it| it == "while it stands still");
        assert!(gap.is_none() || before < gap, "{heard:?}");
        assert!(!heard.contains(&"without it".to_owned()), "{heard:?}");
    })
    .await;
}

#[tokio::test]
async fn who_starts_beside_a_stopped_process_is_linked_with_it_later() {
    within(async {
        let dir = folder();
        let child = start("child::echo", dir.path());
        let first = connect(&dir).await;
        let peer = peer_of(&first, &child).await;
        first.transport.close(later()).await.unwrap();
        // Now nobody else is there who could tell it of us.
        signal(&child, Signal::STOP);
        let one = connect(&dir).await;
        assert!(one.transport.peers().is_empty());
        assert!(one.notes.any(|it| matches!(it, Notice::Protocol { .. })));
        let mut echo = one.subscribe(1, "echo", "mail").await;
        signal(&child, Signal::CONT);
        one.notes.until(|_| one.transport.interest(&route("say")) == Interest::Yes).await;
        assert!(one.transport.peers().iter().any(|it| it.id == peer));
        one.publish("say", "good morning").await;
        assert_eq!(next(&mut echo).await, "good morning");
    })
    .await;
}

#[tokio::test]
async fn work_waits_for_the_next_member_when_the_last_one_was_killed() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let mut told = one.subscribe(1, "child.has_work", "mail").await;
        let mut child = start("child::stand_in", dir.path());
        one.notes.until(|_| one.transport.interest(&route("job")) == Interest::Yes).await;
        one.publish("job", "in hand").await;
        assert_eq!(next(&mut told).await, "");
        let peer = peer_of(&one, &child).await;
        child.kill().await.unwrap();
        one.until_down(peer).await;
        // With nobody there: held by the publisher, and so bounded.
        assert_eq!(one.publish("job", "after").await.reached, 1);
        while one.try_publish("job", "more").is_ok() {}
        let Err(TransportError::Full { by: Some(by) }) = one.try_publish("job", "more") else {
            panic!("no bound")
        };
        assert_eq!((by.endpoint, by.group), (name("billing"), Some(name("invoicing"))));

        let two = connect(&dir).await;
        let mut work = two.transport.join(group("job")).await.unwrap();
        for (expected, attempt) in [("in hand", 2), ("after", 1), ("more", 1)] {
            let Delivery { envelope, attempt: found, settlement, .. } = work.next().await.unwrap();
            assert_eq!((text(&envelope.payload).as_str(), found), (expected, attempt));
            settlement.settle(Outcome::Done);
        }
    })
    .await;
}

#[tokio::test]
async fn work_that_nobody_comes_for_is_told_as_lost() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let two = connect(&dir).await;
        let mut spec = group("job");
        spec.hold = Duration::from_millis(30);
        let mut work = two.transport.join(spec.clone()).await.unwrap();
        one.publish("job", "in hand").await;
        one.publish("job", "waiting").await;
        let held = work.next().await.unwrap();
        drop(two);
        one.notes
            .until_any(|notice| matches!(notice, Notice::GroupLost { group, missed: 2 } if *group == spec.key))
            .await;
        assert_eq!(one.transport.interest(&route("job")), Interest::No);
        drop(held);
    })
    .await;
}
