//! The store of dead letters.

use busway_transport::{ContentType, Payload};

use super::{event, key, letter, number};
use crate::DeadLetters;
use crate::group::MOST_BYTES;

fn listed(store: &DeadLetters, group: &str) -> Vec<u64> {
    store.list(&key(group)).map(|letter| number(letter.envelope.id)).collect()
}

#[test]
fn the_oldest_of_the_group_makes_room_and_is_counted() {
    let mut store = DeadLetters::new(2);
    store.push(letter("a/b@t", 1));
    store.push(letter("a/other@t", 1));
    assert!(store.push(letter("a/b@t", 2)).is_empty());
    let dropped = store.push(letter("a/b@t", 3));
    assert_eq!(dropped.iter().map(|it| number(it.envelope.id)).collect::<Vec<_>>(), [1]);
    assert_eq!(listed(&store, "a/b@t"), [2, 3]);
    assert_eq!(listed(&store, "a/other@t"), [1], "another group's letters stay");
    assert_eq!((store.len(), store.dropped()), (3, 1));
}

#[test]
fn large_letters_are_bounded_by_their_bytes() {
    let mut store = DeadLetters::new(100);
    let mut push = |number, size| {
        let mut large = letter("a/b@t", number);
        large.envelope.payload = Payload::encoded(ContentType::JSON, vec![b' '; size]);
        let dropped = store.push(large);
        dropped.iter().map(|it| super::number(it.envelope.id)).collect::<Vec<_>>()
    };
    assert_eq!(push(1, 1 << 20), []);
    assert_eq!(push(2, MOST_BYTES - (1 << 20)), []);
    assert_eq!(push(2, 1 << 10), [], "replaced, not added");
    assert_eq!(push(3, MOST_BYTES - (1 << 20)), [1]);
    assert_eq!(push(4, MOST_BYTES + 1), [2, 3], "the newest is kept whatever it weighs");
    assert_eq!(push(5, 1), [4]);
    assert_eq!(listed(&store, "a/b@t"), [5]);
}

#[test]
fn an_id_is_listed_once_per_group_as_its_newest_letter() {
    let mut store = DeadLetters::new(3);
    for number in [1, 2, 1] {
        let mut letter = letter("a/b@t", number);
        letter.attempts = 10 + u32::try_from(store.len()).unwrap();
        assert!(store.push(letter).is_empty());
    }
    assert_eq!(listed(&store, "a/b@t"), [2, 1]);
    assert_eq!(store.list(&key("a/b@t")).last().unwrap().attempts, 12);
    assert_eq!(store.dropped(), 0);
}

#[test]
fn letters_are_removed_by_id() {
    let mut store = DeadLetters::new(3);
    store.push(letter("a/b@t", 1));
    let id = event(1, &key("a/b@t").topic).id;
    assert!(store.remove(&key("a/c@t"), id).is_none());
    assert!(store.remove(&key("a/b@t"), id).is_some());
    assert!(store.remove(&key("a/b@t"), id).is_none());
    assert!(store.is_empty());
    assert_eq!(store.groups().count(), 0, "an empty group leaves nothing behind");
}

#[test]
fn a_store_without_room_keeps_none() {
    let mut store = DeadLetters::new(0);
    assert_eq!(store.push(letter("a/b@t", 1)).len(), 1);
    assert_eq!((store.len(), store.dropped()), (0, 1));
}
