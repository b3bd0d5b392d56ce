//! How many handlers of one responder run at once, counted without a place that all threads write.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

/// As many permits as handlers may run at once. Each permit is at any time in exactly one place:
/// with a handler that runs, in the pool, or on one of the shelves.
///
/// A handler that is called in place takes its permit from the shelf of its thread and puts it back
/// there, so that threads that ask at the same time do not contend for one count. Whoever finds
/// neither there nor in the pool a permit takes one from another shelf; whoever finds none at all
/// waits in line at the pool, and as long as somebody waits nothing is put on shelves.
pub(crate) struct Limit {
    pool: Semaphore,
    /// How many wait at the pool, or are about to.
    waiting: AtomicUsize,
    /// A power of two of them.
    shelves: Box<[Shelf]>,
}

/// Free permits that one thread, or a few, put where they find them at once. Two cache lines, which
/// some processors fetch as a pair.
#[derive(Default)]
#[repr(align(128))]
struct Shelf {
    free: AtomicUsize,
}

/// More shelves than this do not pay for their memory.
const SHELVES: usize = 64;

impl Limit {
    /// # Panics
    /// With more permits than [`Semaphore::MAX_PERMITS`].
    pub(crate) fn new(permits: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        // Some to spare: a runtime's threads are not numbered without holes.
        let shelves = (threads * 2).min(permits).clamp(1, SHELVES).next_power_of_two();
        Self {
            pool: Semaphore::new(permits),
            waiting: AtomicUsize::new(0),
            shelves: (0..shelves).map(|_| Shelf::default()).collect(),
        }
    }

    /// A permit, if there is one.
    #[inline]
    pub(crate) fn try_here(&self) -> Option<Here<'_>> {
        let shelf = &self.shelves[thread_number() & (self.shelves.len() - 1)];
        // Not `then_some`: a `Here` that is dropped puts a permit back.
        (shelf.take() || self.fetch()).then(|| Here { limit: self, shelf })
    }

    #[cold]
    fn fetch(&self) -> bool {
        match self.pool.try_acquire() {
            Ok(permit) => {
                permit.forget();
                true
            }
            Err(_) => self.shelves.iter().any(Shelf::take),
        }
    }

    /// A permit, as soon as there is one: in the order of the calls.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it has taken none.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Permit {
        if let Some(here) = self.try_here() {
            return here.keep(self);
        }
        let _waiting = Waiting::new(self);
        // Those that were put back before anybody saw that somebody waits.
        self.shelves.iter().for_each(|shelf| self.clear(shelf));
        if let Ok(permit) = self.pool.acquire().await {
            permit.forget();
        } else {
            unreachable!("nobody closes the pool");
        }
        Permit { limit: self.clone() }
    }

    #[cold]
    fn clear(&self, shelf: &Shelf) {
        match shelf.free.swap(0, Ordering::SeqCst) {
            0 => {}
            free => self.pool.add_permits(free),
        }
    }
}

impl Shelf {
    #[inline]
    fn take(&self) -> bool {
        let mut free = self.free.load(Ordering::Relaxed);
        while free != 0 {
            let taken = self.free.compare_exchange_weak(
                free,
                free - 1,
                Ordering::SeqCst,
                Ordering::Relaxed,
            );
            match taken {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
        false
    }
}

/// A permit that goes back to the shelf of the thread that took it.
pub(crate) struct Here<'a> {
    limit: &'a Limit,
    shelf: &'a Shelf,
}

impl Here<'_> {
    /// The same permit for a task. `limit` is the one it came from.
    pub(crate) fn keep(self, limit: &Arc<Limit>) -> Permit {
        debug_assert!(std::ptr::eq(self.limit, &raw const **limit));
        std::mem::forget(self);
        Permit { limit: limit.clone() }
    }
}

impl Drop for Here<'_> {
    #[inline]
    fn drop(&mut self) {
        // Either this sees the one who waits, or that one sees what was put back: both first tell
        // and then look, in the one order of all sequentially consistent operations.
        self.shelf.free.fetch_add(1, Ordering::SeqCst);
        if self.limit.waiting.load(Ordering::SeqCst) != 0 {
            self.limit.clear(self.shelf);
        }
    }
}

/// A permit that goes back to the pool.
pub(crate) struct Permit {
    limit: Arc<Limit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.pool.add_permits(1);
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(limit: &'a Limit) -> Self {
        limit.waiting.fetch_add(1, Ordering::SeqCst);
        Self(&limit.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

thread_local! {
    static THREAD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// A number for this thread; two threads may get the same one only after very many.
#[inline]
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    match THREAD.get() {
        usize::MAX => {
            let number = NEXT.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 1);
            THREAD.set(number);
            number
        }
        number => number,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(future)
    }

    /// All permits there are.
    fn count(limit: &Arc<Limit>) -> usize {
        let taken: Vec<_> = std::iter::from_fn(|| limit.acquire().now_or_never()).collect();
        taken.len()
    }

    #[test]
    fn permits_on_other_shelves_are_found() {
        let limit = Arc::new(Limit::new(4));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope
                    .spawn(|| drop(limit.try_here().expect("one at a time")))
                    .join()
                    .expect("no panic");
            }
        });
        assert_eq!(count(&limit), 4);
        let here: Vec<_> = std::iter::from_fn(|| limit.try_here()).collect();
        assert_eq!(here.len(), 4);
    }

    #[test]
    fn one_who_waits_gets_what_is_put_on_a_shelf_and_one_who_gave_up_takes_none() {
        let limit = Arc::new(Limit::new(2));
        let (first, second) = (limit.try_here(), limit.try_here());
        let mut waits = Box::pin(limit.acquire());
        let mut gives_up = Box::pin(limit.acquire());
        assert!(waits.as_mut().now_or_never().is_none());
        assert!(gives_up.as_mut().now_or_never().is_none());
        drop(first);
        let third = waits.as_mut().now_or_never().expect("its turn");
        assert!(limit.try_here().is_none());
        drop(second);
        drop(gives_up);
        drop(third);
        assert_eq!(count(&limit), 2);
    }

    #[test]
    fn no_permit_is_made_or_lost_between_threads() {
        const PERMITS: usize = 3;
        let limit = Arc::new(Limit::new(PERMITS));
        let taken = AtomicUsize::new(0);
        let hold = || {
            assert!(taken.fetch_add(1, Ordering::SeqCst) < PERMITS, "too many");
            std::thread::yield_now();
            taken.fetch_sub(1, Ordering::SeqCst);
        };
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (limit, hold) = (&limit, &hold);
                scope.spawn(move || {
                    for round in 0..500 {
                        match (number + round) % 4 {
                            0 => {
                                let permit = block_on(limit.acquire());
                                hold();
                                drop(permit);
                            }
                            _ => {
                                let here = limit.try_here();
                                here.iter().for_each(|_| hold());
                            }
                        }
                    }
                });
            }
        });
        assert_eq!(limit.waiting.load(Ordering::SeqCst), 0);
        assert_eq!(count(&limit), PERMITS);
    }
}
