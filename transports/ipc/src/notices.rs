//! Telling the bus what happened, in the order it happened and with no lock held: the bus may
//! look at the transport from inside the call.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use busway_transport::{Host, Notice};

use crate::mailbox::lock;

/// The notices that are still to be told. Filled under the mesh's lock, which makes their order;
/// told after it was released.
pub(crate) struct Notices {
    host: Arc<dyn Host>,
    queue: Mutex<VecDeque<Notice>>,
    telling: AtomicBool,
}

impl Notices {
    pub(crate) fn new(host: Arc<dyn Host>) -> Self {
        Self { host, queue: Mutex::default(), telling: AtomicBool::new(false) }
    }

    pub(crate) fn push(&self, notice: Notice) {
        lock(&self.queue).push_back(notice);
    }

    /// Tells what is there. If somebody else is telling, they tell ours too.
    pub(crate) fn tell(&self) {
        while !lock(&self.queue).is_empty() {
            if self.telling.swap(true, Ordering::AcqRel) {
                return;
            }
            loop {
                // Not `while let`: the lock must not be held in the call.
                let next = lock(&self.queue).pop_front();
                match next {
                    Some(notice) => self.host.notice(notice),
                    None => break,
                }
            }
            self.telling.store(false, Ordering::Release);
        }
    }
}
