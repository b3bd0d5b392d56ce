//! A real process, really killed.

use std::process::Stdio;

use busway_transport::{Interest, Outcome, OutgoingRequest, PeerId, Transport, TransportError};
use futures::StreamExt as _;

use crate::requests::respond;
use crate::support::{connect, folder, group, later, route, text, try_connect, within};

const DIR: &str = "BUSWAY_IPC_TEST_DIR";

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
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::stand_in", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
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
