//! The router: who in this process receives what.
//!
//! What is published here goes, by its [`topic::TopicNode`], into the topic's [`ring`], where every
//! subscription that waits for all of it has a cursor. What cannot go that way has a
//! [`queue::Queue`] per subscription: subscriptions that lose what they have no room for or take
//! several topics, events with an address, gaps, and what an [`inlet::Inlet`] brings from the
//! transport, unless that can go onto the ring as well ([`landing`], which
//! may wait for what is [`drained`]). A handler's task or a stream reads both, in order.

mod drained;
mod inlet;
pub(crate) mod intake;
mod landing;
#[cfg(all(test, target_os = "linux"))]
mod memory;
pub(crate) mod multicast;
pub(crate) mod queue;
#[allow(unsafe_code, reason = "the ring, checked with loom")]
pub(crate) mod ring;
pub(crate) mod sequence;
pub(crate) mod topic;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use dashmap::DashMap;
use tokio_util::task::TaskTracker;

use busway_transport::{Topic, TopicFilter};

use self::queue::Queue;
use self::topic::{Busy, RingReader, TopicNode};
use crate::sync::Locked;

/// The topics of one bus and the subscriptions to them.
pub(crate) struct Router {
    /// How long a topic's ring is at least.
    length: usize,
    nodes: DashMap<Topic, Arc<TopicNode>>,
    subscriptions: Mutex<Subscriptions>,
}

#[derive(Default)]
struct Subscriptions {
    /// By address.
    all: HashMap<usize, Arc<Queue>>,
    /// Those whose filters match several topics, for topics that appear later.
    wild: Vec<(TopicFilter, Arc<Queue>)>,
    /// What all topics are, and those that appear later will be.
    busy: Vec<Busy>,
}

impl Router {
    /// `capacity` is that of subscriptions that name none.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { length: capacity, nodes: DashMap::new(), subscriptions: Mutex::default() }
    }

    /// The node of a topic, made on first use with all subscriptions whose filters match it.
    pub(crate) fn node(&self, topic: &Topic) -> Arc<TopicNode> {
        if let Some(node) = self.nodes.get(topic) {
            return node.clone();
        }
        let subscriptions = self.subscriptions.locked();
        let node = self.nodes.entry(topic.clone()).or_insert_with(|| {
            let matching = subscriptions.wild.iter().filter(|(filter, _)| filter.matches(topic));
            let queues = matching.map(|(_, queue)| queue.clone()).collect();
            let node = TopicNode::new(topic.clone(), self.length, queues);
            subscriptions.busy.iter().for_each(|busy| node.set(*busy));
            Arc::new(node)
        });
        node.clone()
    }

    /// Lets a subscription receive what is published here from now on: by its topic's ring if it
    /// can have a place there.
    pub(crate) fn add(&self, filter: &TopicFilter, queue: &Arc<Queue>) -> Option<RingReader> {
        let node = filter.as_topic().map(|topic| self.node(&topic));
        let mut subscriptions = self.subscriptions.locked();
        subscriptions.all.insert(Arc::as_ptr(queue).addr(), queue.clone());
        if let Some(node) = node {
            let reader = node.ride(queue);
            node.add(queue.clone());
            return reader;
        }
        subscriptions.wild.push((filter.clone(), queue.clone()));
        for node in self.nodes.iter().filter(|node| filter.matches(node.key())) {
            node.add(queue.clone());
        }
        None
    }

    /// Takes a subscription out.
    pub(crate) fn remove(&self, filter: &TopicFilter, queue: &Arc<Queue>) {
        let mut subscriptions = self.subscriptions.locked();
        subscriptions.all.remove(&Arc::as_ptr(queue).addr());
        if let Some(topic) = filter.as_topic() {
            if let Some(node) = self.nodes.get(&topic) {
                node.remove(queue);
            }
            return;
        }
        subscriptions.wild.retain(|(_, other)| !Arc::ptr_eq(other, queue));
        for node in self.nodes.iter().filter(|node| filter.matches(node.key())) {
            node.remove(queue);
        }
    }

    /// Lets every publish ask whether it still may.
    pub(crate) fn closing(&self) {
        self.all_are(Busy::Closing);
    }

    /// Lets every queue take what was accepted, past its bound.
    pub(crate) fn drain_all(&self) {
        self.all_are(Busy::Draining);
        self.each(Queue::drain);
        self.nodes.iter().for_each(|node| node.wake_publishers());
    }

    fn all_are(&self, busy: Busy) {
        let mut subscriptions = self.subscriptions.locked();
        subscriptions.busy.push(busy);
        self.nodes.iter().for_each(|node| node.set(busy));
    }

    /// Waits until every handler rests, and nothing that could give it more work is busy.
    pub(crate) async fn come_to_rest(&self, busy: &TaskTracker) {
        busy.close();
        loop {
            let handled: Vec<_> = self.queues().into_iter().filter(|queue| queue.handled).collect();
            let arrived = || handled.iter().map(|queue| queue.ledger().arrived).sum::<u64>();
            let before = arrived();
            for queue in &handled {
                let mut turned = std::pin::pin!(queue.room.notified());
                turned.as_mut().enable();
                while !queue.is_at_rest() {
                    turned.as_mut().await;
                    turned.set(queue.room.notified());
                    turned.as_mut().enable();
                }
            }
            busy.wait().await;
            // One after the other they rested; all at once they do if nothing came meanwhile.
            if arrived() == before && handled.iter().all(|queue| queue.is_at_rest()) {
                return;
            }
        }
    }

    /// Ends every queue after what it holds.
    pub(crate) fn close_all(&self) {
        self.each(Queue::close);
    }

    /// Ends every queue at once.
    pub(crate) fn end_all(&self) {
        self.each(Queue::end);
    }

    fn each(&self, act: impl Fn(&Queue)) {
        self.queues().iter().for_each(|queue| act(queue));
    }

    fn queues(&self) -> Vec<Arc<Queue>> {
        self.subscriptions.locked().all.values().cloned().collect()
    }
}
