//! The store of dead letters.

use super::{event, key, letter, number};
use crate::DeadLetters;

fn listed(store: &DeadLetters, group: &str) -> Vec<u64> {
    store.list(&key(group)).map(|letter| number(letter.envelope.id)).collect()
}

#[test]
fn the_oldest_of_the_group_makes_room_and_is_counted() {
    let mut store = DeadLetters::new(2);
    store.push(letter("a/b@t", 1));
    store.push(letter("a/other@t", 1));
    assert!(store.push(letter("a/b@t", 2)).is_none());
    let dropped = store.push(letter("a/b@t", 3)).unwrap();
    assert_eq!(number(dropped.envelope.id), 1);
    assert_eq!(listed(&store, "a/b@t"), [2, 3]);
    assert_eq!(listed(&store, "a/other@t"), [1], "another group's letters stay");
    assert_eq!((store.len(), store.dropped()), (3, 1));
}

#[test]
fn an_id_is_listed_once_per_group_as_its_newest_letter() {
    let mut store = DeadLetters::new(3);
    for number in [1, 2, 1] {
        let mut letter = letter("a/b@t", number);
        letter.attempts = 10 + u32::try_from(store.len()).unwrap();
        assert!(store.push(letter).is_none());
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
    assert!(store.push(letter("a/b@t", 1)).is_some());
    assert_eq!((store.len(), store.dropped()), (0, 1));
}
