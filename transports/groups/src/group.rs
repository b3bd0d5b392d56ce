//! The rules of one group: what becomes of its events.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use busway_transport::{
    DeadLetter, DeadReason, Failure, GroupKey, GroupSpec, Outcome, Party, Retry,
};

use crate::effect::{Effect, Tag};
use crate::members::{MemberKey, Members};
use crate::queue::{Event, Queue};

/// While a group owes more bytes than this, nobody gets room in it: its capacity alone would bound
/// large events only to capacity times their size.
pub(crate) const MOST_BYTES: usize = 64 << 20;

/// The number of one group in its engine, never used again: a group that vanished and came back
/// is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct GroupId(pub(crate) u64);

/// One group. Every event it owes is in exactly one of `queue` and `delivered`.
#[derive(Debug)]
pub(crate) struct Group<M> {
    pub(crate) key: GroupKey,
    retry: Retry,
    capacity: usize,
    hold: Duration,
    pub(crate) members: Members<M>,
    pub(crate) queue: Queue<M>,
    delivered: HashMap<Tag, Delivered<M>>,
    /// Promised to publishers who have not committed yet.
    pub(crate) reserved: usize,
    /// Whether a publisher was refused since room was last told.
    pub(crate) turned_away: bool,
    /// When it is forgotten. Set exactly while it has no member.
    expires: Option<Instant>,
    /// The engine's: its entry in the timers.
    pub(crate) timer: Option<Instant>,
    /// The engine's: whether it is in the list of groups that may have something to hand out.
    pub(crate) listed: bool,
}

#[derive(Debug)]
struct Delivered<M> {
    member: M,
    event: Event<M>,
}

impl<M: MemberKey> Group<M> {
    pub(crate) fn new(spec: &GroupSpec) -> Self {
        Self {
            key: spec.key.clone(),
            retry: spec.retry,
            capacity: spec.capacity.max(1),
            hold: spec.hold,
            members: Members::new(),
            queue: Queue::new(),
            delivered: HashMap::new(),
            reserved: 0,
            turned_away: false,
            expires: None,
            timer: None,
            listed: false,
        }
    }

    /// Adds a member. What it asks for holds for the whole group from now on: of members that
    /// disagree (a roll-out of a changed program) the newest is right.
    pub(crate) fn join(&mut self, member: M, spec: &GroupSpec) {
        self.retry = spec.retry;
        self.capacity = spec.capacity.max(1);
        self.hold = spec.hold;
        self.members.add(member, spec.concurrency);
        if spec.keyed.is_some() {
            self.queue.use_keys();
        }
        self.expires = None;
    }

    /// All events it owes.
    pub(crate) fn len(&self) -> usize {
        self.queue.len() + self.delivered.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.len() + self.reserved < self.capacity && self.queue.bytes() <= MOST_BYTES
    }

    /// Whether there is news for publishers that were turned away. Asking takes it as told.
    pub(crate) fn tell_room(&mut self) -> bool {
        let news = self.turned_away && self.has_room();
        self.turned_away &= !news;
        news
    }

    /// Whether an event could be handed out now.
    pub(crate) fn can_deliver(&self) -> bool {
        self.queue.is_ready() && self.members.any_free()
    }

    /// Owed events that somebody is there to work on.
    pub(crate) fn unsettled(&self) -> usize {
        if self.members.any_active() { self.len() } else { self.delivered.len() }
    }

    /// Owed events that wait for somebody to come.
    pub(crate) fn held(&self) -> usize {
        self.len() - self.unsettled()
    }

    pub(crate) fn party(&self) -> Party {
        Party::group(&self.key)
    }

    /// Hands out the next event.
    pub(crate) fn deliver(&mut self, tag: Tag, now: Instant) -> Option<Effect<M>> {
        if !self.can_deliver() {
            return None;
        }
        let mut event = self.queue.pop()?;
        let member = self.members.choose(event.avoid.take())?;
        let first = event.attempted.map_or(now, |(first, _)| first);
        event.attempted = Some((first, now));
        let (envelope, attempt, key) = (event.envelope.clone(), event.attempt, event.key);
        self.delivered.insert(tag, Delivered { member, event });
        Some(Effect::Deliver { member, tag, envelope, attempt, key })
    }

    /// Ends a delivery. `None` when there is none of that tag with that member.
    pub(crate) fn settle(
        &mut self,
        member: M,
        tag: Tag,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Settled> {
        if self.delivered.get(&tag)?.member != member {
            return None;
        }
        let mut event = self.delivered.remove(&tag)?.event;
        let member_known = self.members.unload(member);
        let letter = match outcome {
            Outcome::Done => {
                self.queue.ended(&event);
                None
            }
            Outcome::HandBack => {
                event.avoid = Some(member);
                self.queue.put_back(event);
                None
            }
            Outcome::Keyed(key) => {
                self.queue.put_back_keyed(event, key);
                None
            }
            Outcome::Failed(failure) => match self.retry.after(event.attempt) {
                Some(delay) => {
                    event.attempt += 1;
                    if delay.is_zero() {
                        self.queue.put_back(event);
                    } else {
                        self.queue.put_back_at(event, later(now, delay));
                    }
                    None
                }
                None => Some(self.bury(event, failure, now)),
            },
            Outcome::Refused(failure) => Some(self.bury(event, failure, now)),
            // A word that this engine does not know yet: no attempt can be counted on.
            _ => {
                let failure = Failure::new(DeadReason::Error, "settled in an unknown way");
                Some(self.bury(event, failure, now))
            }
        };
        Some(Settled { member_known, letter })
    }

    /// Forgets a dead member. What it held failed with it, and is for the others at once: the
    /// member is to blame until shown otherwise, so there is nothing to wait for. Those whose last
    /// attempt this was are given back as letters.
    pub(crate) fn lose(&mut self, member: M, now: Instant) -> Vec<DeadLetter> {
        self.members.remove(member);
        let mut tags: Vec<_> = self
            .delivered
            .iter()
            .filter(|(_, held)| held.member == member)
            .map(|(tag, _)| *tag)
            .collect();
        // In the order they were delivered, so that the letters are too.
        tags.sort_unstable();
        let mut letters = Vec::new();
        for tag in tags {
            let Some(Delivered { mut event, .. }) = self.delivered.remove(&tag) else { continue };
            if event.attempt < self.retry.max_attempts() {
                event.attempt += 1;
                self.queue.put_back(event);
            } else {
                let failure = Failure::new(DeadReason::Lost, "the member died during the attempt");
                letters.push(self.bury(event, failure, now));
            }
        }
        letters
    }

    fn bury(&mut self, event: Event<M>, failure: Failure, now: Instant) -> DeadLetter {
        self.queue.ended(&event);
        let mut letter = DeadLetter::new(self.key.clone(), event.envelope, event.attempt, failure);
        if let Some((first, last)) = event.attempted {
            let ago = |then: Instant| letter.at.checked_sub(now.saturating_duration_since(then));
            (letter.first_attempt, letter.last_attempt) = (ago(first), ago(last));
        }
        letter
    }

    /// Notes that a member has gone. Gives whether the group goes with it: when it was the last,
    /// left in order, and nothing is owed. Otherwise a group without members is held.
    pub(crate) fn member_gone(&mut self, orderly: bool, now: Instant) -> bool {
        if !self.members.is_empty() {
            return false;
        }
        if orderly && self.len() == 0 {
            return true;
        }
        self.expires = Some(later(now, self.hold));
        false
    }

    pub(crate) fn is_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }

    /// When something happens here without anybody doing anything.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.queue.next_wake().into_iter().chain(self.expires).min()
    }
}

/// What a settlement came to.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Whether the member is still known: not when it was leaving and this was its last delivery.
    pub(crate) member_known: bool,
    /// The event, if this was its end and it was not done.
    pub(crate) letter: Option<DeadLetter>,
}

/// `now + delay`, or for delays that are meant as "never", some decades on.
fn later(now: Instant, delay: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    now.checked_add(delay).unwrap_or_else(|| now + FAR)
}
