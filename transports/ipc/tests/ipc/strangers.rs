//! Those who do not speak our protocol, or stop speaking.

use std::time::Duration;

use busway_transport::{Interest, Notice, PeerId, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use crate::support::{Bus, connect, entry, folder, group, next, route, within};

/// A hello as `docs/wire-ipc.md` has it, made by hand.
pub(crate) fn hello(version: u16, bus: &str, peer: u64) -> Vec<u8> {
    let body = (bus, peer, 1u32, 1u64 << 20);
    let body = bincode::serde::encode_to_vec(body, bincode::config::standard()).unwrap();
    let mut frame = Vec::new();
    frame.extend((1 + 4 + 2 + body.len() as u32).to_le_bytes());
    frame.push(1);
    frame.extend(b"BWIP");
    frame.extend(version.to_le_bytes());
    frame.extend(body);
    frame
}

pub(crate) fn protocol(expected: &'static str) -> impl Fn(&Notice) -> bool {
    move |notice| matches!(notice, Notice::Protocol { reason, .. } if reason.contains(expected))
}

async fn hangs_up(mut stream: UnixStream) {
    let mut rest = Vec::new();
    // With what it had not read, a socket may be closed by a reset.
    let _ = stream.read_to_end(&mut rest).await;
}

pub(crate) async fn still_works(one: &Bus, two: &Bus) {
    let mut events = two.subscribe(99, "check", "mail").await;
    assert_eq!(one.publish("check", "fine").await.reached, 1);
    assert_eq!(next(&mut events).await, "fine");
}

#[tokio::test]
async fn garbage_closes_only_its_own_link() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        for (bytes, expected) in [
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "over the limit of 4096"),
            (vec![0; 4], "empty frame"),
            (vec![5, 0, 0, 0, 1, b'a', b'b', b'c', b'd'], "no busway peer"),
            (vec![1, 0, 0, 0, 77], "unknown kind 77"),
            (hello(2, "shop", 1), "version 2"),
            (hello(1, "other", 1), "bus \"other\""),
        ] {
            let mut stranger = UnixStream::connect(entry(&dir, one.peer)).await.unwrap();
            stranger.write_all(&bytes).await.unwrap();
            hangs_up(stranger).await;
            one.notes.until_any(protocol(expected)).await;
        }
        // After a good hello as well.
        let mut stranger = UnixStream::connect(entry(&dir, one.peer)).await.unwrap();
        stranger.write_all(&hello(1, "shop", 5)).await.unwrap();
        stranger.write_all(&[9, 0, 0, 0, 4, 255, 255, 255, 255, 1, 2, 3, 4]).await.unwrap();
        hangs_up(stranger).await;
        one.notes.until_any(protocol("in the middle of")).await;
        assert_eq!(one.transport.peers().len(), 1);
        still_works(&one, &two).await;
    })
    .await;
}

#[tokio::test]
async fn one_that_fails_its_hello_is_skipped_and_told() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let silent = UnixListener::bind(entry(&dir, PeerId::from_u64(3))).unwrap();
        let two = connect(&dir).await;
        assert_eq!(two.transport.peers().len(), 1);
        let told = two.notes.any(
            |it| matches!(it, Notice::Protocol { peer, .. } if *peer == PeerId::from_u64(3).to_string()),
        );
        assert!(told);
        still_works(&one, &two).await;
        drop(silent);
    })
    .await;
}

#[tokio::test]
async fn a_silent_peer_is_cut_off_and_subscribing_goes_on() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let mut stuck = UnixStream::connect(entry(&dir, one.peer)).await.unwrap();
        stuck.write_all(&hello(1, "shop", 5)).await.unwrap();
        let mut welcome = [0; 16];
        stuck.read_exact(&mut welcome).await.unwrap();
        // It is linked, and says nothing more: no table, no acks.
        let _events = one.subscribe(1, "a", "mail").await;
        one.notes.until_any(protocol("silent")).await;
        hangs_up(stuck).await;
        assert!(one.transport.peers().is_empty());
    })
    .await;
}

/// A whole frame after the hello: its kind and body.
async fn read_frame(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let length = stream.read_u32_le().await.unwrap() as usize;
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await.unwrap();
    (frame[0], frame.split_off(1))
}

async fn send_control(stream: &mut UnixStream, control: impl serde::Serialize) {
    let body = bincode::serde::encode_to_vec(control, bincode::config::standard()).unwrap();
    let mut frame = (1 + body.len() as u32).to_le_bytes().to_vec();
    frame.push(3);
    frame.extend(body);
    stream.write_all(&frame).await.unwrap();
}

#[tokio::test]
async fn a_dead_letter_that_its_member_does_not_take_stays_with_the_publisher() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let key = group("job").key;
        let mut member = UnixStream::connect(entry(&dir, one.peer)).await.unwrap();
        member.write_all(&hello(1, "shop", 5)).await.unwrap();
        // Table { serial, [Join { member, spec }] }: one attempt, and no more.
        let zero = Duration::ZERO;
        let minute = Duration::from_secs(60);
        let names = ("billing", "invoicing", "job");
        let spec = (names, 1u64, 10u64, minute, 1u32, zero, zero, false, None::<u16>);
        send_control(&mut member, (0u32, 1u64, vec![(4u32, 8u64, spec)])).await;
        one.notes.until(|_| one.transport.interest(&route("job")) == Interest::Yes).await;
        one.publish("job", "x").await;
        let work = loop {
            match read_frame(&mut member).await {
                (5, body) => break body,
                _ => continue,
            }
        };
        let tag = u64::from_le_bytes(work[8..16].try_into().unwrap());
        // Settle { member, tag, Failed { reason, text } }, and then it dies.
        send_control(&mut member, (5u32, 8u64, tag, (1u32, "error", "no paper"))).await;
        drop(member);
        one.notes
            .until_any(|notice| matches!(notice, Notice::DeadLettered(group) if *group == key))
            .await;
        let letters = one.transport.dead_letters(&key).await.unwrap();
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].failure.text, "no paper");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_event_takes_its_time_either_way_unless_it_stops() {
    within(async {
        const LARGE: usize = 6 << 20;
        let second = Duration::from_secs(1);
        let dir = folder();
        let one = connect(&dir).await;
        let mut slow = UnixStream::connect(entry(&dir, one.peer)).await.unwrap();
        slow.write_all(&hello(1, "shop", 5)).await.unwrap();
        // Table { serial, [Interest { id, filter, endpoints, capacity }] }, then Ack { serial } for theirs.
        let interest = (1u32, 1u64, "a", vec!["mail"], 8u64);
        send_control(&mut slow, (0u32, 1u64, vec![interest])).await;
        while read_frame(&mut slow).await.0 != 3 {}
        send_control(&mut slow, (2u32, 1u64)).await;
        one.notes.until_any(|notice| matches!(notice, Notice::PeerUp(_))).await;

        // For 6 s it reads one event and says nothing.
        one.publish("a", "x".repeat(LARGE)).await;
        let mut read = 0;
        while read < LARGE {
            read = slow.read_u32_le().await.unwrap() as usize;
            for part in vec![0; read].chunks_mut(1 << 20) {
                tokio::time::sleep(second).await;
                slow.read_exact(part).await.unwrap();
            }
        }
        // Then it sends one as slowly, and its ack behind that. (Nobody wants that event any more.)
        let answers = async {
            let body = [&1u32.to_le_bytes()[..], &99u64.to_le_bytes(), &vec![0; LARGE]].concat();
            slow.write_all(&(1 + body.len() as u32).to_le_bytes()).await.unwrap();
            slow.write_all(&[4]).await.unwrap();
            for part in body.chunks(LARGE / 25) {
                tokio::time::sleep(second / 4).await;
                slow.write_all(part).await.unwrap();
            }
            // Change { serial, .. }
            let serial = loop {
                match read_frame(&mut slow).await {
                    (3, body) if body[0] == 1 => break u64::from(body[1]),
                    _ => {}
                }
            };
            send_control(&mut slow, (2u32, serial)).await;
        };
        let (events, ()) = tokio::join!(one.subscribe(1, "b", "mail"), answers);
        assert!(!one.notes.any(protocol("")));
        assert_eq!(one.transport.peers().len(), 1);

        one.publish("a", "x".repeat(LARGE)).await;
        one.notes.until_any(protocol("silent")).await;
        assert!(one.transport.peers().is_empty());
        drop(events);
    })
    .await;
}
