//! What a full queue does, and where its losses are told.

use busway::{Bus, EventStream, GapReason, Overflow};

use crate::events::Numbered;

/// What a stream holds, gaps as negative counts.
async fn drain(bus: &Bus, mut stream: EventStream<Numbered>) -> Vec<i64> {
    bus.close().await.unwrap();
    let mut seen = Vec::new();
    while let Some(next) = stream.next().await {
        seen.push(match next {
            Ok(message) => i64::from(message.0),
            Err(gap) => {
                assert_eq!(gap.reason, GapReason::Overflow);
                -i64::try_from(gap.missed.unwrap()).unwrap()
            }
        });
    }
    assert!(stream.ledger().is_balanced() && stream.ledger().in_flight == 0);
    seen
}

async fn overflown(overflow: Overflow) -> Vec<i64> {
    let bus = Bus::private().await.unwrap();
    let a = bus.endpoint("a").unwrap();
    let mut stream = a.stream::<Numbered>().capacity(3).overflow(overflow).await.unwrap();
    for n in 1..=5 {
        a.publish(Numbered(n)).await.unwrap();
    }
    let first = stream.next().await.unwrap();
    for n in 6..=9 {
        a.publish(Numbered(n)).await.unwrap();
    }
    let mut seen = vec![first.map_or_else(
        |gap| -i64::try_from(gap.missed.unwrap()).unwrap(),
        |message| i64::from(message.0),
    )];
    seen.extend(drain(&bus, stream).await);
    seen
}

#[tokio::test]
async fn the_oldest_make_room_and_a_gap_stands_in_their_place() {
    // 1 and 2 went before the first read; 3, 4, 5 and 6 after it.
    assert_eq!(overflown(Overflow::DropOldest).await, [-2, -4, 7, 8, 9]);
}

#[tokio::test]
async fn the_newest_are_dropped_and_a_gap_stands_in_their_place() {
    assert_eq!(overflown(Overflow::DropNewest).await, [1, 2, 3, -2, 6, -3]);
}

#[tokio::test]
async fn only_the_newest_is_kept_and_no_gap_is_told() {
    assert_eq!(overflown(Overflow::Latest).await, [5, 9]);
}
