//! The events of one group that no member has at present, in the order they are handed out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use busway_transport::Envelope;

/// One event that a group owes.
#[derive(Debug)]
pub(crate) struct Event<M> {
    /// Its place in the order of commits to this group.
    pub(crate) order: u64,
    /// The number of the attempt that is running or comes next, from 1.
    pub(crate) attempt: u32,
    /// Who handed it back and should rather not get it again.
    pub(crate) avoid: Option<M>,
    /// The event itself.
    pub(crate) envelope: Envelope,
}

/// The events that wait: for a member, or for their retry.
#[derive(Debug)]
pub(crate) struct Queue<M> {
    /// Never handed out, in commit order.
    first: VecDeque<Event<M>>,
    /// Was handed out and may be again at once: failed ones (whose attempt is above 1) before those
    /// that were handed back on their first attempt, each kind in commit order.
    ///
    /// All of it goes before `first`: for failed ones that is the rule, and the others are older
    /// than anything in `first`, which is handed out from its front.
    again: BTreeMap<(bool, u64), Event<M>>,
    /// Waits for its retry. The order makes the key unique and ties fair.
    later: BTreeMap<(Instant, u64), Event<M>>,
    next_order: u64,
}

impl<M> Queue<M> {
    pub(crate) fn new() -> Self {
        Self {
            first: VecDeque::new(),
            again: BTreeMap::new(),
            later: BTreeMap::new(),
            next_order: 0,
        }
    }

    /// All events in it.
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.again.len() + self.later.len()
    }

    /// Whether one could be handed out now.
    pub(crate) fn is_ready(&self) -> bool {
        !self.again.is_empty() || !self.first.is_empty()
    }

    /// Adds a new event.
    pub(crate) fn push(&mut self, envelope: Envelope) {
        let order = self.next_order;
        self.next_order += 1;
        self.first.push_back(Event { order, attempt: 1, avoid: None, envelope });
    }

    /// Puts an event back that may be handed out again at once.
    pub(crate) fn put_back(&mut self, event: Event<M>) {
        self.again.insert((event.attempt == 1, event.order), event);
    }

    /// Puts an event back that may be handed out again from `at` on.
    pub(crate) fn put_back_at(&mut self, event: Event<M>, at: Instant) {
        self.later.insert((at, event.order), event);
    }

    /// The next event to hand out.
    pub(crate) fn pop(&mut self) -> Option<Event<M>> {
        match self.again.pop_first() {
            Some((_, event)) => Some(event),
            None => self.first.pop_front(),
        }
    }

    /// Makes the events ready whose time has come.
    pub(crate) fn wake(&mut self, now: Instant) {
        while let Some(next) = self.later.first_entry()
            && next.key().0 <= now
        {
            let event = next.remove();
            self.put_back(event);
        }
    }

    /// When the next retry is due.
    pub(crate) fn next_wake(&self) -> Option<Instant> {
        self.later.first_key_value().map(|((at, _), _)| *at)
    }
}
