//! Deliveries that come again: somebody had them and did not settle them. A member that died had
//! them in work, so that was an attempt, and one that kills its process each time must not go on
//! for ever.
//!
//! Quorum queues count how often a message came back, which is also what happens to one that a
//! member handed back when it left: so the first time is free, and from the second on it was an
//! attempt. Classic queues only say that it came back: that is an attempt each time, and what is
//! handed back there goes as a new message. What this member had itself and lived to see again is
//! none: its connection was lost, or it gave it back. Nor is what it had settled: an ack that is on
//! its way is lost with the connection.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use busway_transport::MessageId;
use lapin::BasicProperties;

use crate::group;
use crate::properties;
use crate::shared::lock;

/// How often a message has come back to a quorum queue.
const COUNT: &str = "x-delivery-count";
/// How often that may happen before it counts.
const FREE: u64 = 1;
/// No more in work is remembered, nor settled beside it. What is forgotten counts when it comes
/// again.
const REMEMBERED: usize = 4096;

/// What a member has in work, or had when it lost its connection.
#[derive(Debug)]
pub(crate) struct Again {
    /// Whether the queue counts.
    counts: bool,
    seen: Mutex<HashMap<Attempt, Seen>>,
}

/// One attempt at a message. The next one is another message to the broker, and may be here before
/// this one is settled.
type Attempt = (MessageId, u32);

/// How often a message had come back when it was here last, and how often from us.
#[derive(Debug, Clone, Copy)]
struct Seen {
    count: u64,
    from_us: u64,
    settled: bool,
}

impl Again {
    pub(crate) fn new(counts: bool) -> Self {
        Self { counts, seen: Mutex::default() }
    }

    /// Whether the queue counts.
    pub(crate) fn counts(&self) -> bool {
        self.counts
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Attempt, Seen>> {
        lock(&self.seen)
    }

    /// A delivery is here. Says whether an attempt at it ended with its member.
    pub(crate) fn arrived(&self, properties: &BasicProperties, redelivered: bool) -> bool {
        // Whoever sent it may have left a count in it: the broker's own is there on what came back.
        let counted = || properties::number(properties, COUNT).filter(|_| redelivered);
        let free = if self.counts { FREE } else { 0 };
        let Some(attempt) = attempt(properties) else {
            // Without an id it cannot be known again.
            let count = if self.counts { counted() } else { Some(redelivered.into()) };
            return count.unwrap_or_default() > free;
        };
        let mut seen = self.seen();
        if seen.len() >= 2 * REMEMBERED {
            seen.retain(|_, seen| !seen.settled);
            if seen.len() >= REMEMBERED {
                seen.clear();
            }
        }
        // One that did not come back is a new one: sent again by hand, or as a copy.
        let before = seen.get(&attempt).copied().filter(|_| redelivered);
        // Without a count each time is one more.
        let count = match self.counts {
            true => counted().unwrap_or_default(),
            false => before.map_or(0, |before| before.count) + u64::from(redelivered),
        };
        let from_us =
            before.map_or(0, |before| before.from_us + count.saturating_sub(before.count));
        seen.insert(attempt, Seen { count, from_us, settled: false });
        count.saturating_sub(from_us) > free
    }

    /// It is settled, as far as this side goes.
    pub(crate) fn settled(&self, properties: &BasicProperties) {
        let Some(attempt) = attempt(properties) else { return };
        if let Some(seen) = self.seen().get_mut(&attempt) {
            seen.settled = true;
        }
    }
}

fn attempt(properties: &BasicProperties) -> Option<Attempt> {
    properties.message_id().as_ref().filter(|id| !id.as_str().is_empty())?;
    Some((properties::id_of(properties), group::attempt(properties)))
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

    fn attempt(number: i64) -> BasicProperties {
        let mut table = FieldTable::default();
        table.insert(properties::ATTEMPT.into(), AMQPValue::LongLongInt(number));
        message(None).with_headers(table)
    }

    #[test]
    fn a_quorum_queue_counts_from_the_second_time() {
        let ended = |count, redelivered| Again::new(true).arrived(&message(count), redelivered);
        assert!(!ended(None, false) && !ended(Some(0), false));
        assert!(!ended(Some(1), true), "perhaps only handed back");
        assert!(ended(Some(2), true) && ended(Some(9), true));
        // From 4.3 on what was handed back is not counted.
        assert!(!ended(None, true));
        assert!(!ended(Some(9), false), "another queue's count, left in it by who sent it on");
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
            assert!(!again.arrived(&count(20), true), "its ack was lost with the connection");
            let other = Again::new(counts);
            assert!(other.arrived(&count(20), true), "others had it");
        }
    }

    #[test]
    fn the_next_attempt_may_be_here_before_the_last_one_is_settled() {
        let again = Again::new(false);
        assert!(!again.arrived(&attempt(1), false));
        assert!(!again.arrived(&attempt(2), false));
        again.settled(&attempt(1));
        assert!(!again.arrived(&attempt(2), true), "we had it, and lost our connection");
        assert!(again.arrived(&attempt(3), true), "others had that one");
    }

    #[test]
    fn what_is_sent_again_begins_anew() {
        let again = Again::new(true);
        assert!(!again.arrived(&message(None), false));
        assert!(!again.arrived(&message(Some(3)), true), "we had it all three times");
        again.settled(&message(Some(3)));
        assert!(!again.arrived(&message(None), false), "replayed");
        assert!(!again.arrived(&message(Some(1)), true));
        assert_eq!(again.seen().values().map(|seen| seen.from_us).max(), Some(1));
    }

    #[test]
    fn what_came_back_from_us_does_not_hide_what_came_back_from_others() {
        let again = Again::new(true);
        assert!(again.arrived(&message(Some(2)), true), "others had it");
        assert!(again.arrived(&message(Some(3)), true), "and so did we, which changes nothing");
    }

    fn number(number: usize) -> BasicProperties {
        let id = MessageId::from_bytes((number as u128).to_be_bytes());
        BasicProperties::default().with_message_id(ShortString::from(id.to_string()))
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let again = Again::new(true);
        for it in 0..5 * REMEMBERED {
            again.arrived(&number(it), false);
        }
        assert!(again.seen().len() <= 2 * REMEMBERED);
    }

    #[test]
    fn what_is_in_work_is_remembered_longer_than_what_is_settled() {
        let again = Again::new(false);
        again.arrived(&number(0), false);
        for it in 1..5 * REMEMBERED {
            again.arrived(&number(it), false);
            again.settled(&number(it));
            // Of a stranger: it cannot be known again.
            again.arrived(&BasicProperties::default(), false);
        }
        assert!(!again.arrived(&number(0), true));
        assert!(again.seen().len() <= 2 * REMEMBERED);
    }
}
