//! The events of one group that no member has at present, in the order they are handed out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use busway_transport::{Envelope, Payload};

use crate::lanes::Lanes;

/// One event that a group owes.
#[derive(Debug)]
pub(crate) struct Event<M> {
    /// Its place in the order of commits to this group.
    pub(crate) order: u64,
    /// The number of the attempt that is running or comes next, from 1.
    pub(crate) attempt: u32,
    /// When the first attempt began, and the last one.
    pub(crate) attempted: Option<(Instant, Instant)>,
    /// Its key, once a member has told it: only in groups that have keys.
    pub(crate) key: Option<u64>,
    /// Who handed it back and should rather not get it again.
    pub(crate) avoid: Option<M>,
    /// The event itself.
    pub(crate) envelope: Envelope,
}

/// The events that wait: for a member, or for their retry.
///
/// In a group with keys an event is handed out twice: first for a member to tell its key, then in
/// the line of that key. Keys may be told in any order; an event joins its line only when all that
/// were committed before it have theirs, so the lines are in commit order.
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
    /// How many bytes the payloads have of all events that were added and have not ended.
    bytes: usize,
    /// Whether the group has keys.
    has_keys: bool,
    /// The orders of events whose key is not known, wherever they are. Empty without keys.
    unkeyed: BTreeSet<u64>,
    /// Have their key, and wait for older ones to have theirs.
    keyed: BTreeMap<u64, Event<M>>,
    /// In the lines of their keys.
    lanes: Lanes<Event<M>>,
}

impl<M> Queue<M> {
    pub(crate) fn new() -> Self {
        Self {
            first: VecDeque::new(),
            again: BTreeMap::new(),
            later: BTreeMap::new(),
            next_order: 0,
            bytes: 0,
            has_keys: false,
            unkeyed: BTreeSet::new(),
            keyed: BTreeMap::new(),
            lanes: Lanes::new(),
        }
    }

    /// From now on events are ordered by key. Those that a member has already are not.
    pub(crate) fn use_keys(&mut self) {
        if !self.has_keys {
            self.has_keys = true;
            let waiting = self.first.iter().chain(self.again.values()).chain(self.later.values());
            self.unkeyed = waiting.map(|event| event.order).collect();
        }
    }

    /// All events in it.
    pub(crate) fn len(&self) -> usize {
        let unordered = self.first.len() + self.again.len() + self.later.len();
        unordered + self.keyed.len() + self.lanes.len()
    }

    /// How many bytes the group keeps, including those of events that a member has.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one could be handed out now.
    pub(crate) fn is_ready(&self) -> bool {
        self.lanes.is_ready() || !self.again.is_empty() || !self.first.is_empty()
    }

    /// Adds a new event.
    pub(crate) fn push(&mut self, envelope: Envelope) {
        let order = self.next_order;
        self.next_order += 1;
        self.bytes += bytes(&envelope);
        if self.has_keys {
            self.unkeyed.insert(order);
        }
        let (attempt, attempted, key, avoid) = (1, None, None, None);
        self.first.push_back(Event { order, attempt, attempted, key, avoid, envelope });
    }

    /// Puts an event back that may be handed out again at once.
    pub(crate) fn put_back(&mut self, event: Event<M>) {
        match event.key {
            Some(key) => self.lanes.put_back(key, event),
            None => {
                self.again.insert((event.attempt == 1, event.order), event);
            }
        }
    }

    /// Puts an event back that may be handed out again from `at` on. Its key waits with it.
    pub(crate) fn put_back_at(&mut self, event: Event<M>, at: Instant) {
        self.later.insert((at, event.order), event);
    }

    /// Puts an event back whose key was told.
    pub(crate) fn put_back_keyed(&mut self, mut event: Event<M>, key: u64) {
        if event.key.is_some() {
            // Told once more: it has its place already.
            return self.put_back(event);
        }
        event.key = Some(key);
        self.unkeyed.remove(&event.order);
        self.keyed.insert(event.order, event);
        self.line_up();
    }

    /// An event is done with, or dead.
    pub(crate) fn ended(&mut self, event: &Event<M>) {
        self.bytes -= bytes(&event.envelope);
        match event.key {
            Some(key) => self.lanes.done(key),
            None => {
                if self.unkeyed.remove(&event.order) {
                    self.line_up();
                }
            }
        }
    }

    /// Lets events join their lines that wait for no older one.
    fn line_up(&mut self) {
        while let Some(next) = self.keyed.first_entry()
            && self.unkeyed.first().is_none_or(|oldest| next.key() < oldest)
        {
            let event = next.remove();
            if let Some(key) = event.key {
                self.lanes.push(key, event);
            }
        }
    }

    /// The next event to hand out: one whose key's turn it is before one whose key is to be told.
    pub(crate) fn pop(&mut self) -> Option<Event<M>> {
        let in_turn = self.lanes.pop().map(|(_, event)| event);
        let again = || self.again.pop_first().map(|(_, event)| event);
        in_turn.or_else(again).or_else(|| self.first.pop_front())
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

/// What a payload keeps in memory besides its envelope. One that stays in the process is shared with
/// whoever published it, and its size not known.
pub(crate) fn bytes(envelope: &Envelope) -> usize {
    match &envelope.payload {
        Payload::Encoded { bytes, .. } => bytes.len(),
        _ => 0,
    }
}
