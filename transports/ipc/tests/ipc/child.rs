//! Real processes, really killed.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use busway_transport::{
    Delivery, Interest, Notice, Outcome, OutgoingRequest, PeerId, Transport, TransportError,
};
use futures::StreamExt as _;
use tokio::process::Child;

use crate::requests::respond;
use crate::support::{
    Bus, connect, entry, folder, group, later, name, next, route, text, try_connect, within,
};

pub(crate) const DIR: &str = "BUSWAY_IPC_TEST_DIR";

/// Runs a stand-in in a process of its own.
pub(crate) fn start(stand_in: &str, dir: &Path) -> Child {
    tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", stand_in, "--ignored", "--nocapture"])
        .env(DIR, dir)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

pub(crate) async fn peer_of(bus: &Bus, child: &Child) -> PeerId {
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
        assert!(!entry(&dir, peer.id).exists());
        assert_eq!(three.transport.peers().len(), 2);
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
