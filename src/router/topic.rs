//! One topic: the subscriptions of this process that its events go to, and the order of its
//! publishers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use busway_transport::{Name, Party, Topic};

use super::queue::Queue;
use crate::sync::Locked;

/// The queues of one topic as they stood at one time. A publish and its receipt share it.
pub(crate) type Snapshot = Arc<[Arc<Queue>]>;

/// One topic of one bus.
pub(crate) struct TopicNode {
    pub(crate) topic: Topic,
    /// Replaced as a whole, so that a publish takes one reference and holds no lock.
    queues: Mutex<Snapshot>,
    /// Held for the moment of one attempt to publish, so that events reach every queue and the
    /// transport in one order. No user code runs under it.
    attempt: Mutex<Line>,
    /// Whose turn it is among the publishers that have to wait: they queue in the order of their
    /// first poll, and newcomers go behind them (law 2).
    turn: tokio::sync::Mutex<()>,
}

/// The line of publishers of one topic.
#[derive(Default)]
pub(crate) struct Line {
    /// How many publishers wait.
    waiting: usize,
    /// Whom the first of them waits for.
    pub(crate) by: Option<Party>,
    /// How many plain events with each address left this bus.
    sequences: HashMap<Option<Name>, u64>,
}

/// A place in the line of publishers that wait; newcomers see it and go behind.
pub(crate) struct Place(Arc<TopicNode>);

impl Place {
    /// Goes to the end of the line, for want of room with somebody.
    pub(crate) fn take(
        node: &Arc<TopicNode>,
        mut line: MutexGuard<'_, Line>,
        by: Option<Party>,
    ) -> Self {
        line.waiting += 1;
        line.by = by;
        Self(node.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut line = self.0.attempt.locked();
        line.waiting -= 1;
        if line.waiting == 0 {
            line.by = None;
        }
    }
}

impl TopicNode {
    pub(crate) fn new(topic: Topic, queues: Vec<Arc<Queue>>) -> Self {
        Self {
            topic,
            queues: Mutex::new(queues.into()),
            attempt: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn queues(&self) -> Snapshot {
        self.queues.locked().clone()
    }

    pub(crate) fn add(&self, queue: Arc<Queue>) {
        let mut queues = self.queues.locked();
        *queues = queues.iter().cloned().chain([queue]).collect();
    }

    pub(crate) fn remove(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues.locked();
        *queues = queues.iter().filter(|other| !Arc::ptr_eq(other, queue)).cloned().collect();
    }

    /// The right to one attempt for a newcomer; the line itself when others wait already.
    pub(crate) fn attempt(&self) -> Result<MutexGuard<'_, Line>, MutexGuard<'_, Line>> {
        let line = self.attempt.locked();
        if line.waiting == 0 { Ok(line) } else { Err(line) }
    }

    /// The right to one attempt for who has the turn.
    pub(crate) fn attempt_in_turn(&self) -> MutexGuard<'_, Line> {
        self.attempt.locked()
    }

    /// Waits for the turn.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Line {
    /// The next sequence number of plain events with this address.
    pub(crate) fn next_sequence(&mut self, to: Option<&Name>) -> u64 {
        let last = self.sequences.entry(to.cloned()).or_default();
        *last += 1;
        *last
    }
}
