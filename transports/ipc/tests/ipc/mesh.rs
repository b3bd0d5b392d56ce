use busway_transport::{Arrival, Notice, PeerId, Status, Transport};
use futures::StreamExt as _;
use futures::future::join_all;

use crate::support::{connect, folder, later, name, next, try_connect, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_that_start_at_once_all_see_each_other() {
    within(async {
        let dir = folder();
        let buses = join_all((0..8).map(|_| connect(&dir))).await;
        for bus in &buses {
            bus.until_peers(7).await;
        }
        let mut streams = join_all(buses.iter().map(|bus| bus.subscribe(1, "a", "mail"))).await;
        for (n, bus) in buses.iter().enumerate() {
            assert_eq!(bus.publish("a", n).await.reached, 7);
        }
        for (n, stream) in streams.iter_mut().enumerate() {
            let mut seen = Vec::new();
            for _ in 0..7 {
                seen.push(next(stream).await.parse::<usize>().unwrap());
            }
            seen.sort_unstable();
            assert_eq!(seen, (0..8).filter(|it| *it != n).collect::<Vec<_>>());
        }
        for bus in &buses {
            assert!(
                !bus.notes.any(|it| matches!(it, Notice::Protocol { .. } | Notice::PeerDown(_)))
            );
        }
        join_all(buses.iter().map(|bus| bus.transport.close(later()))).await;
    })
    .await;
}

#[tokio::test]
async fn whoever_comes_later_is_linked_when_connect_returns() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        one.transport.announce(name("accounts"));
        let mut events = one.subscribe(1, "a", "mail").await;
        one.transport.set_ready();
        let two = connect(&dir).await;
        let peers = two.transport.peers();
        assert_eq!(peers.len(), 1);
        assert_eq!(peers[0].id, one.peer);
        assert_eq!(peers[0].pid, Some(std::process::id()));
        assert!(peers[0].ready);
        assert!(peers[0].endpoints.contains("accounts"));
        assert_eq!(two.try_publish("a", "at once").unwrap().reached, 1);
        assert_eq!(next(&mut events).await, "at once");
        two.transport.announce(name("late"));
        one.notes
            .until(|_| one.transport.peers().iter().any(|it| it.endpoints.contains("late")))
            .await;
    })
    .await;
}

#[tokio::test]
async fn buses_of_other_names_are_other_buses() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let two = try_connect(dir.path(), "other", PeerId::random()).await.unwrap();
        assert!(one.transport.peers().is_empty());
        assert!(two.transport.peers().is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_restart_on_the_same_name_works_at_once() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let mut events = one.subscribe(1, "a", "mail").await;
        for n in 0..5 {
            let two = connect(&dir).await;
            assert_eq!(two.publish("a", n).await.reached, 1);
            assert_eq!(next(&mut events).await, n.to_string());
            if n % 2 == 0 {
                two.transport.close(later()).await.unwrap();
                assert_eq!(two.transport.status(), Status::Closed);
                continue;
            }
            // As a crash.
            drop(two);
            assert!(matches!(events.next().await, Some(Arrival::Gap(_))));
        }
        one.until_peers(0).await;
    })
    .await;
}
