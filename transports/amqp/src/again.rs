//! Deliveries that come again: somebody had them and did not settle them. A member that died had
//! them in work, so that was an attempt, and one that kills its process each time must not go on
//! for ever.
//!
//! Quorum queues count how often a message came back, which is also what happens to one that a
//! member handed back when it left: so the first time is free, and from the second on it was an
//! attempt. Classic queues only say that it came back: that is an attempt each time, and what is
//! handed back there goes as a new message. What this member had itself and lived to see again is
//! none: its connection was lost, or it gave it back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use busway_transport::MessageId;
use lapin::BasicProperties;

use crate::properties;

/// How often a message has come back to a quorum queue.
const COUNT: &str = "x-delivery-count";
/// How often that may happen before it counts.
const FREE: u64 = 1;
/// No more is remembered. What is forgotten counts when it comes again.
const REMEMBERED: usize = 4096;

/// What a member has in work, or had when it lost its connection.
#[derive(Debug)]
pub(crate) struct Again {
    /// Whether the queue counts.
    counts: bool,
    seen: Mutex<HashMap<MessageId, Seen>>,
}

/// How often a message had come back when it was here last, and how often from us.
#[derive(Debug, Clone, Copy)]
struct Seen {
    count: u64,
    from_us: u64,
}

impl Again {
    pub(crate) fn new(counts: bool) -> Self {
        Self { counts, seen: Mutex::default() }
    }

    /// Whether the queue counts.
    pub(crate) fn counts(&self) -> bool {
        self.counts
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<MessageId, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A delivery is here. Says whether an attempt at it ended with its member.
    pub(crate) fn arrived(&self, properties: &BasicProperties, redelivered: bool) -> bool {
        let id = properties::id_of(properties);
        let flagged = u64::from(redelivered);
        let mut seen = self.seen();
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        let before = seen.get(&id).copied();
        // Without a count each time is one more.
        let count = match self.counts {
            true => properties::number(properties, COUNT).unwrap_or_default(),
            false => before.map_or(0, |before| before.count) + flagged,
        };
        let from_us =
            before.map_or(0, |before| before.from_us + count.saturating_sub(before.count));
        seen.insert(id, Seen { count, from_us });
        let from_others = count.saturating_sub(from_us);
        from_others > if self.counts { FREE } else { 0 }
    }

    /// It is settled.
    pub(crate) fn settled(&self, properties: &BasicProperties) {
        self.seen().remove(&properties::id_of(properties));
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::{AMQPValue, FieldTable, ShortString};

    use super::*;

    fn message(count: Option<i64>) -> BasicProperties {
        let mut table = FieldTable::default();
        if let Some(count) = count {
            table.insert(COUNT.into(), AMQPValue::LongLongInt(count));
        }
        let id = ShortString::from(MessageId::from_bytes([7; 16]).to_string());
        BasicProperties::default().with_message_id(id).with_headers(table)
    }

    #[test]
    fn a_quorum_queue_counts_from_the_second_time() {
        let ended = |count, redelivered| Again::new(true).arrived(&message(count), redelivered);
        assert!(!ended(None, false) && !ended(Some(0), false));
        assert!(!ended(Some(1), true), "perhaps only handed back");
        assert!(ended(Some(2), true) && ended(Some(9), true));
        // From 4.3 on what was handed back is not counted.
        assert!(!ended(None, true));
    }

    #[test]
    fn a_classic_queue_only_says_that_it_came_back() {
        assert!(!Again::new(false).arrived(&message(None), false));
        assert!(Again::new(false).arrived(&message(None), true));
    }

    #[test]
    fn what_was_here_and_comes_again_is_no_attempt() {
        for counts in [true, false] {
            let again = Again::new(counts);
            let count = |count| message(counts.then_some(count));
            assert!(!again.arrived(&count(0), false));
            for times in 1..20 {
                assert!(!again.arrived(&count(times), true), "{counts} {times}");
            }
            again.settled(&count(19));
            assert!(again.arrived(&count(20), true), "others had it");
        }
    }

    #[test]
    fn what_came_back_from_us_does_not_hide_what_came_back_from_others() {
        let again = Again::new(true);
        assert!(!again.arrived(&message(Some(1)), true), "another had it");
        assert!(!again.arrived(&message(Some(2)), true), "we did");
        again.settled(&message(Some(2)));
        assert!(again.arrived(&message(Some(2)), true));
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let again = Again::new(true);
        for number in 0..2 * REMEMBERED as u128 {
            let id = MessageId::from_bytes(number.to_be_bytes());
            let id = ShortString::from(id.to_string());
            again.arrived(&BasicProperties::default().with_message_id(id), false);
        }
        assert!(again.seen().len() <= REMEMBERED);
    }
}
