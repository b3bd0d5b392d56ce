//! The router: who in this process receives what.
//!
//! A [`topic::TopicNode`] per topic delivers what is published here; an [`intake::Intake`] per
//! topic filter delivers what comes from the transport. Both end in a [`queue::Queue`] per
//! subscription, which is read by a handler's task or by a stream.

pub(crate) mod intake;
pub(crate) mod multicast;
pub(crate) mod queue;
pub(crate) mod sequence;
pub(crate) mod topic;

use std::sync::{Arc, Mutex};

use dashmap::DashMap;
use tokio_util::task::TaskTracker;

use busway_transport::{Topic, TopicFilter};

use self::queue::Queue;
use self::topic::TopicNode;
use crate::sync::Locked;

/// The topics of one bus and the subscriptions to them.
#[derive(Default)]
pub(crate) struct Router {
    nodes: DashMap<Topic, Arc<TopicNode>>,
    /// Every subscription by its filter, for topics that appear later. Lock order: this before a
    /// node's own lock.
    subscriptions: Mutex<Vec<(TopicFilter, Arc<Queue>)>>,
}

impl Router {
    /// The node of a topic, made on first use with all subscriptions whose filters match it.
    pub(crate) fn node(&self, topic: &Topic) -> Arc<TopicNode> {
        if let Some(node) = self.nodes.get(topic) {
            return node.clone();
        }
        let subscriptions = self.subscriptions.locked();
        let node = self.nodes.entry(topic.clone()).or_insert_with(|| {
            let matching = subscriptions
                .iter()
                .filter(|(filter, _)| filter.matches(topic))
                .map(|(_, queue)| queue.clone());
            Arc::new(TopicNode::new(topic.clone(), matching.collect()))
        });
        node.clone()
    }

    /// Lets a subscription receive what is published here from now on.
    pub(crate) fn add(&self, filter: &TopicFilter, queue: &Arc<Queue>) {
        let mut subscriptions = self.subscriptions.locked();
        subscriptions.push((filter.clone(), queue.clone()));
        for node in self.nodes.iter().filter(|node| filter.matches(node.key())) {
            node.add(queue.clone());
        }
    }

    /// Takes a subscription out, and wakes the publishers that waited for it.
    pub(crate) fn remove(&self, filter: &TopicFilter, queue: &Arc<Queue>) {
        let mut subscriptions = self.subscriptions.locked();
        subscriptions.retain(|(_, other)| !Arc::ptr_eq(other, queue));
        for node in self.nodes.iter().filter(|node| filter.matches(node.key())) {
            node.remove(queue);
        }
    }

    /// Whether a subscription of this bus receives the topic.
    pub(crate) fn is_subscribed(&self, topic: &Topic) -> bool {
        self.subscriptions.locked().iter().any(|(filter, _)| filter.matches(topic))
    }

    /// Lets every queue take what was accepted, past its bound.
    pub(crate) fn drain_all(&self) {
        self.each(Queue::drain);
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
        self.subscriptions.locked().iter().map(|(_, queue)| queue.clone()).collect()
    }
}
