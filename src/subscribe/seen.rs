//! What a group has handled already, as far as this process knows: for `deduplicate`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use busway_transport::{GroupKey, MessageId};
use tokio::time::Instant;

use crate::sync::Locked;

/// How many ids are remembered, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) count: usize,
    pub(crate) age: Duration,
}

/// The ids that a group's members in this process have handled, oldest first.
#[derive(Debug)]
pub(crate) struct Seen(Mutex<Ids>);

#[derive(Debug)]
struct Ids {
    limits: Limits,
    order: VecDeque<(Instant, MessageId)>,
    all: HashSet<MessageId>,
}

impl Seen {
    fn new(limits: Limits) -> Self {
        Self(Mutex::new(Ids { limits, order: VecDeque::new(), all: HashSet::new() }))
    }

    fn ids(&self) -> MutexGuard<'_, Ids> {
        self.0.locked()
    }

    /// Whether it was handled.
    pub(crate) fn contains(&self, id: MessageId) -> bool {
        let mut ids = self.ids();
        ids.forget(Instant::now());
        ids.all.contains(&id)
    }

    /// It was handled.
    pub(crate) fn insert(&self, id: MessageId) {
        let mut ids = self.ids();
        if ids.all.insert(id) {
            let now = Instant::now();
            ids.order.push_back((now, id));
            ids.forget(now);
        }
    }
}

impl Ids {
    /// Keeps the limits.
    fn forget(&mut self, now: Instant) {
        while let Some((since, id)) = self.order.front()
            && (self.order.len() > self.limits.count
                || now.duration_since(*since) > self.limits.age)
        {
            self.all.remove(id);
            self.order.pop_front();
        }
    }
}

/// The filters of all groups of a bus that have one: members of one group share it.
#[derive(Debug, Default)]
pub(crate) struct AllSeen(Mutex<HashMap<GroupKey, Weak<Seen>>>);

impl AllSeen {
    /// The filter of a group. As for a group's other settings, the newest member's limits hold.
    pub(crate) fn of(&self, group: &GroupKey, limits: Limits) -> Arc<Seen> {
        let mut all = self.0.locked();
        all.retain(|_, seen| seen.strong_count() > 0);
        if let Some(seen) = all.get(group).and_then(Weak::upgrade) {
            seen.ids().limits = limits;
            return seen;
        }
        let seen = Arc::new(Seen::new(limits));
        all.insert(group.clone(), Arc::downgrade(&seen));
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ids_go_by_count_and_by_age() {
        let limits = Limits { count: 2, age: Duration::from_secs(10) };
        let seen = Seen::new(limits);
        let [one, two, three] = [MessageId::new(), MessageId::new(), MessageId::new()];
        assert!(!seen.contains(one));
        seen.insert(one);
        seen.insert(two);
        seen.insert(two);
        assert!(seen.contains(one) && seen.contains(two), "known twice is kept once");
        seen.insert(three);
        assert!(!seen.contains(one) && seen.contains(two) && seen.contains(three));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(!seen.contains(two) && !seen.contains(three));
        assert!(seen.ids().order.is_empty() && seen.ids().all.is_empty());
    }

    #[tokio::test]
    async fn members_of_a_group_share_it_and_the_last_takes_it_along() {
        let key = |group: &str| GroupKey {
            endpoint: "a".parse().unwrap(),
            group: group.parse().unwrap(),
            topic: "t".parse().unwrap(),
        };
        let limits = Limits { count: 2, age: Duration::from_secs(10) };
        let all = AllSeen::default();
        let (one, two) = (all.of(&key("g"), limits), all.of(&key("g"), limits));
        let id = MessageId::new();
        one.insert(id);
        assert!(two.contains(id) && !all.of(&key("h"), limits).contains(id));
        drop((one, two));
        assert!(!all.of(&key("g"), limits).contains(id));
    }
}
