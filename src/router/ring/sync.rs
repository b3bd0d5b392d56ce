//! What the ring is built from: the standard library's parts, or loom's where loom checks it.

pub(super) use std::sync::Arc;

#[cfg(not(all(test, busway_loom)))]
pub(super) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
};

#[cfg(all(test, busway_loom))]
pub(super) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering},
};

/// Stores a value so that whoever does not see it is seen: of two threads that each `announce` one
/// thing and then `look` at the other's, at least one sees.
///
/// All of these accesses are sequentially consistent, which is enough by the language's rules, and
/// cheaper than a fence. Loom takes such accesses for acquire and release only, but knows fences:
/// see [`Fence`].
#[inline]
pub(super) fn announce(cell: &AtomicU64, value: u64) {
    cell.store(value, Ordering::SeqCst);
    #[cfg(all(test, busway_loom))]
    Fence::AfterAnnounce.if_chosen();
}

/// See [`announce`].
#[inline]
pub(super) fn look(cell: &AtomicU64) -> u64 {
    #[cfg(all(test, busway_loom))]
    Fence::BeforeLook.if_chosen();
    cell.load(Ordering::SeqCst)
}

/// Where loom is given the fence that stands for sequential consistency. Either place is enough
/// when both sides announce and look as they should; each of them notices only if the access
/// beside it does not. So a check runs with the one, and again with the other.
#[cfg(all(test, busway_loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fence {
    AfterAnnounce,
    BeforeLook,
}

#[cfg(all(test, busway_loom))]
impl Fence {
    pub(super) fn choose(self) {
        CHOSEN.set(self);
    }

    fn if_chosen(self) {
        if CHOSEN.get() == self {
            loom::sync::atomic::fence(Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, busway_loom))]
thread_local! {
    /// All threads of a model are coroutines of the one thread that runs it.
    static CHOSEN: std::cell::Cell<Fence> = const { std::cell::Cell::new(Fence::AfterAnnounce) };
}

/// Lets another thread take its next few steps.
pub(super) fn spin() {
    #[cfg(not(all(test, busway_loom)))]
    std::hint::spin_loop();
    #[cfg(all(test, busway_loom))]
    loom::thread::yield_now();
}

/// Locks a mutex whose data is whole at every step that can panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(not(all(test, busway_loom)))]
    return mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    #[cfg(all(test, busway_loom))]
    return mutex.lock().expect("loom's never is poisoned");
}

/// A value that its own protocol guards; loom watches how it is used.
pub(super) struct Cell<T>(
    #[cfg(not(all(test, busway_loom)))] std::cell::UnsafeCell<T>,
    #[cfg(all(test, busway_loom))] loom::cell::UnsafeCell<T>,
);

impl<T> Cell<T> {
    pub(super) fn new(value: T) -> Self {
        #[cfg(not(all(test, busway_loom)))]
        return Self(std::cell::UnsafeCell::new(value));
        #[cfg(all(test, busway_loom))]
        return Self(loom::cell::UnsafeCell::new(value));
    }

    /// The value, to look at.
    #[inline]
    pub(super) fn with<R>(&self, act: impl FnOnce(*const T) -> R) -> R {
        #[cfg(not(all(test, busway_loom)))]
        return act(self.0.get());
        #[cfg(all(test, busway_loom))]
        return self.0.with(act);
    }

    /// The value, to change.
    #[inline]
    pub(super) fn with_mut<R>(&self, act: impl FnOnce(*mut T) -> R) -> R {
        #[cfg(not(all(test, busway_loom)))]
        return act(self.0.get());
        #[cfg(all(test, busway_loom))]
        return self.0.with_mut(act);
    }
}

/// Keeps what different threads write on cache lines of their own.
#[repr(align(64))]
pub(super) struct Padded<T>(pub(super) T);

impl<T> std::ops::Deref for Padded<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
