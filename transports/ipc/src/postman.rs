//! Writing for several links at once.
//!
//! An event that goes to several peers would wake as many tasks, and with them another thread, which takes
//! some of them to another processor, and the memory of what they write. The postman wakes alone, as
//! soon as the publisher gives way, and writes for those of the links whose own task sleeps.
//!
//! He waits for no socket: what one does not take at once is its link's own again. And nobody waits for
//! him but on the thread where he was called. A task that is woken on one of tokio's threads is the next
//! one there, and no other thread's to take, as long as the task that woke it keeps that thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;
use tokio::task::coop::consume_budget;

use crate::link::Link;
use crate::mailbox::lock;
use crate::mesh::Mesh;
use crate::outbox::{LARGE, Outbox};
use crate::table::{Plan, Target};

#[derive(Default)]
pub(crate) struct Postman {
    /// Where he has to go next.
    round: Mutex<Vec<Arc<Link>>>,
    /// The [thread](here) on which he was called, or is at work; 0 while he waits to be called. Changed
    /// under the round's lock only.
    thread: AtomicUsize,
    called: Notify,
}

/// What is this thread's alone, as long as it lives.
#[inline]
fn here() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

impl Postman {
    /// Puts something of so many bytes into the data lane of each of a plan's links, with what belongs to
    /// the link. (Under the mesh's lock: who puts something in where he was called by another knows it.)
    #[inline]
    pub(crate) fn put_to_each<W>(
        &self,
        plan: &Plan,
        bytes: usize,
        with: impl IntoIterator<Item = W>,
        mut put: impl FnMut(W, &mut Outbox),
    ) {
        // Several that write at once are quicker with what is large.
        let by_post = plan.targets.len() > 1 && bytes < LARGE && self.is_near();
        for (Target { link, .. }, with) in plan.targets.iter().zip(with) {
            if !by_post {
                link.put_data(|data| put(with, data));
            } else if link.put_for_postman(|data| put(with, data)) && !self.call(link) {
                link.put_data(|_| {});
            }
        }
    }

    /// Whether nobody else has called him.
    #[inline]
    fn is_near(&self) -> bool {
        let thread = self.thread.load(Relaxed);
        thread == 0 || thread == here()
    }

    /// Asks him to come by; no if he is on another thread by now.
    fn call(&self, link: &Arc<Link>) -> bool {
        let mut round = lock(&self.round);
        if !self.is_near() {
            return false;
        }
        round.push(link.clone());
        if self.thread.swap(here(), Relaxed) == 0 {
            drop(round);
            self.called.notify_one();
        }
        true
    }

    /// A link has gone.
    pub(crate) fn forget(&self, link: &Arc<Link>) {
        lock(&self.round).retain(|other| !Arc::ptr_eq(other, link));
    }

    /// Takes the next round, into `links`, which is empty. If there is none, he has to be called.
    fn go(&self, links: &mut Vec<Arc<Link>>) -> bool {
        let mut round = lock(&self.round);
        std::mem::swap(&mut *round, links);
        self.thread.store(if links.is_empty() { 0 } else { here() }, Relaxed);
        !links.is_empty()
    }
}

/// His work.
pub(crate) async fn deliver(mesh: Arc<Mesh>) {
    let (mut links, mut joined) = (Vec::new(), Vec::new());
    loop {
        mesh.postman.called.notified().await;
        while mesh.postman.go(&mut links) {
            // All of it before he gives way: there he may have to wait for another task of this thread.
            for link in links.drain(..) {
                contain(&mesh, &link, || {
                    link.write_posted(&mut joined);
                    if link.has_room_again() {
                        mesh.look(|state| state.wake_waiting());
                        mesh.changed.notify_waiters();
                    }
                });
            }
            consume_budget().await;
        }
    }
}

/// What panics takes its link with it, and nobody else's.
fn contain(mesh: &Arc<Mesh>, link: &Arc<Link>, write: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(write)).is_err() {
        let _ = catch_unwind(AssertUnwindSafe(|| mesh.link_panicked(link)));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use busway_transport::PeerId;
    use futures::FutureExt as _;

    use super::*;

    /// A plan for two links whose writers sleep.
    fn plan() -> Plan {
        let link = || {
            let link = Arc::new(Link::new(PeerId::from_u64(2), 1, Arc::default()));
            assert!(sleeps(&link));
            link
        };
        let target = |link| Target { link, interests: Vec::new(), credits: Vec::new() };
        Plan { targets: vec![target(link()), target(link())], parties: Arc::default() }
    }

    /// Lets the writer of a link write all there is, in thought.
    fn sleeps(link: &Link) -> bool {
        let mut joined = Vec::new();
        while link.take(&mut joined).is_some() {}
        link.wake.notified().now_or_never().is_none()
    }

    fn put(postman: &Postman, plan: &Plan, bytes: usize) {
        postman
            .put_to_each(plan, bytes, [7; 2], |what, data| data.put(|joined, _| joined.push(what)));
    }

    fn are_woken(plan: &Plan) -> bool {
        let mut woken = plan.targets.iter().map(|it| it.link.wake.notified().now_or_never());
        let first = woken.next().flatten().is_some();
        assert!(woken.all(|other| other.is_some() == first));
        first
    }

    #[test]
    fn those_who_did_not_call_him_wake_the_writers() {
        let (postman, [ours, others]) = (Postman::default(), [plan(), plan()]);
        // A task that goes on without giving way, on another thread; here it is over at once.
        thread::scope(|scope| scope.spawn(|| put(&postman, &ours, 1)).join().unwrap());
        assert!(!are_woken(&ours));
        for _ in 0..2 {
            put(&postman, &ours, 1);
            assert!(are_woken(&ours));
            ours.targets.iter().for_each(|it| assert!(sleeps(&it.link)));
        }
        put(&postman, &others, 1);
        assert!(are_woken(&others));

        // He sets out here, and nothing that is put in here is forgotten.
        let mut round = Vec::new();
        assert!(postman.go(&mut round));
        assert_eq!(round.drain(..).count(), 2);
        put(&postman, &ours, 1);
        assert!(!are_woken(&ours));
        assert!(postman.go(&mut round));
        assert_eq!(round.drain(..).count(), 2);
        assert!(!postman.go(&mut round));
    }

    #[test]
    fn what_is_large_is_not_his() {
        let (postman, plan) = (Postman::default(), plan());
        put(&postman, &plan, LARGE);
        assert!(are_woken(&plan));
    }
}
