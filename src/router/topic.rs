//! One topic: the subscriptions of this process that its events go to, and the order of its
//! publishers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use busway_transport::{Name, Topic};

use super::queue::Queue;
use crate::sync::Locked;

/// The queues of one topic as they stood at one time. A publish and its receipt share it.
pub(crate) type Snapshot = Arc<[Arc<Queue>]>;

/// One topic of one bus.
pub(crate) struct TopicNode {
    pub(crate) topic: Topic,
    /// Replaced as a whole, so that a publish takes one reference and holds no lock.
    queues: Mutex<Snapshot>,
    /// Whose turn it is to publish: a publisher that has to wait keeps the turn, and those behind
    /// it queue in the order of their first poll (law 2).
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// How many plain events with each address left this bus. Changed only by who has the turn.
    sequences: Mutex<HashMap<Option<Name>, u64>>,
}

impl TopicNode {
    pub(crate) fn new(topic: Topic, queues: Vec<Arc<Queue>>) -> Self {
        Self {
            topic,
            queues: Mutex::new(queues.into()),
            turn: tokio::sync::Mutex::new(()),
            sequences: Mutex::default(),
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

    /// The next sequence number of plain events with this address. Only for who has the turn, so
    /// that numbers leave in their order.
    pub(crate) fn next_sequence(&self, to: Option<&Name>) -> u64 {
        let mut sequences = self.sequences.locked();
        match sequences.get_mut(&to.cloned()) {
            Some(last) => {
                *last += 1;
                *last
            }
            None => {
                sequences.insert(to.cloned(), 1);
                1
            }
        }
    }
}
