//! The order of publishes that have to wait.
//!
//! What one publisher (a [`Publisher`](crate::Publisher) with its clones, or an endpoint) publishes
//! on one topic goes out in the order of its first polls (law 2): whoever finds others of the same
//! publisher waiting goes behind them. Different publishers have no order among each other, and
//! take the room that they find; but one that was outrun several times closes the topic's door
//! behind itself, so that nobody waits for ever.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::MutexGuard;

use busway_transport::Party;

use super::outlet::Outlet;
use crate::router::topic::{Busy, TopicNode};
use crate::sync::Locked;

/// Those of one publisher that wait.
#[derive(Default)]
pub(crate) struct Line {
    waiting: AtomicUsize,
    /// Whom the first of them waits for.
    by: Mutex<Option<Party>>,
    /// Whose turn it is, in the order of first polls.
    turn: tokio::sync::Mutex<()>,
}

impl Line {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn by(&self) -> Option<Party> {
        self.by.locked().clone()
    }

    pub(crate) fn wait_for(&self, by: Option<Party>) {
        *self.by.locked() = by;
    }

    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

/// A place in the line; newcomers see it and go behind.
pub(crate) struct Place(Arc<Outlet>);

impl Place {
    pub(crate) fn take(outlet: &Arc<Outlet>) -> Self {
        outlet.line.waiting.fetch_add(1, Ordering::Relaxed);
        Self(outlet.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let line = &self.0.line;
        if line.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
            line.wait_for(None);
        }
    }
}

/// How often a publish is outrun before it closes the door.
const PATIENCE: u32 = 8;

/// How a publish that waits stands to those of other publishers.
pub(crate) struct Among<'a> {
    node: &'a TopicNode,
    outrun: u32,
    door: Option<Door<'a>>,
}

/// The right to the next room, before all who come later.
struct Door<'a> {
    node: &'a TopicNode,
    closed: bool,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Door<'_> {
    fn drop(&mut self) {
        if self.closed {
            self.node.unset(Busy::Waiting);
        }
    }
}

impl<'a> Among<'a> {
    pub(crate) fn new(node: &'a TopicNode) -> Self {
        Self { node, outrun: 0, door: None }
    }

    /// Waits while another publisher has closed the door.
    pub(crate) async fn find_open(&mut self) {
        if self.door.is_none() && self.node.is(Busy::Waiting) {
            let turn = self.node.turn().await;
            self.door = Some(Door { node: self.node, closed: false, _turn: turn });
        }
    }

    /// There was no room. Closes the door when that was so too often.
    pub(crate) async fn is_outrun(&mut self) {
        self.outrun += 1;
        if self.outrun < PATIENCE {
            return;
        }
        if self.door.is_none() {
            let turn = self.node.turn().await;
            self.door = Some(Door { node: self.node, closed: false, _turn: turn });
        }
        if let Some(door) = &mut self.door
            && !std::mem::replace(&mut door.closed, true)
        {
            self.node.set(Busy::Waiting);
        }
    }
}
