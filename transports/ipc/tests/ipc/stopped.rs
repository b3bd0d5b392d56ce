//! Real processes, really stopped for a while.

use busway_transport::{Arrival, Interest, Notice, PeerId, Transport};
use futures::StreamExt as _;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::process::Child;

use crate::child::{DIR, peer_of, start};
use crate::support::{connect, folder, later, name, next, route, text, try_connect, within};

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id().expect("it runs")).unwrap();
    let pid = Pid::from_raw(pid).unwrap();
    kill_process(pid, signal).unwrap();
    if signal == Signal::STOP {
        // On a busy machine its threads may run on for a while.
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).unwrap();
    }
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
        let child = start("stopped::echo", dir.path());
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
        let child = start("stopped::echo", dir.path());
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
