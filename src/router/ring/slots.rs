//! Where the values are: a circle of slots, in segments that are made when first written to.
//!
//! Positions count up for ever; position `p` lives in slot `p % length`. A slot says which position
//! was written to it last. Who may touch a slot when is the ring's protocol, not known here.

use std::ptr;

use super::sync::{AtomicPtr, AtomicU64, Cell, Ordering};

/// Slots are made so many at a time: a topic that saw one event costs one segment.
#[cfg(not(all(test, busway_loom)))]
const SEGMENT: usize = 16;
#[cfg(all(test, busway_loom))]
const SEGMENT: usize = 2;

struct Slot<T> {
    /// The position after the one that was written last. Before the first lap: one lap less.
    written: AtomicU64,
    value: Cell<Option<T>>,
}

type Segment<T> = [Slot<T>; SEGMENT];

pub(super) struct Slots<T> {
    /// Null until first used; never taken back.
    segments: Box<[AtomicPtr<Segment<T>>]>,
    length: u64,
}

// SAFETY: values are moved in by one thread, and looked at (`&T`) and taken out by others; the
// callers of the unsafe functions below see to it that only one does so when it changes.
unsafe impl<T: Send + Sync> Send for Slots<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Slots<T> {}

impl<T> Slots<T> {
    /// `length` slots: a power of two.
    pub(super) fn new(length: usize) -> Self {
        assert!(length.is_power_of_two());
        let segments = length.div_ceil(SEGMENT);
        let segments = (0..segments).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Self { segments, length: length as u64 }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether the position may be written: what stood there a lap ago is complete. (It is not
    /// when its publisher was held up in the middle, and its readers left meanwhile.)
    #[inline]
    pub(super) fn is_free(&self, position: u64) -> bool {
        let slot = self.slot(position).unwrap_or_else(|| self.make(position));
        slot.written.load(Ordering::Acquire) == self.a_lap_before(position + 1)
    }

    /// Whether the position has been written.
    #[inline]
    pub(super) fn is_written(&self, position: u64) -> bool {
        let slot = self.slot(position);
        slot.is_some_and(|slot| slot.written.load(Ordering::Acquire) == position + 1)
    }

    /// Puts what `make` makes of the slot's old content there, and lets readers see it. If `make`
    /// panics the slot is empty, and they do not.
    ///
    /// # Safety
    /// The caller has claimed the position after `is_free` held for it, has not written it, and
    /// nobody looks at the position one lap before any more.
    #[inline]
    pub(super) unsafe fn write(&self, position: u64, make: impl FnOnce(Option<T>) -> Option<T>) {
        let slot = self.slot(position).expect("made before the claim");
        slot.value.with_mut(|value| {
            // SAFETY: by the contract above the slot is the caller's alone.
            let value = unsafe { &mut *value };
            let old = value.take();
            *value = make(old);
        });
        slot.written.store(position + 1, Ordering::Release);
    }

    /// What stands at a position, once it is written; `Some(None)` when its publisher gave up.
    ///
    /// # Safety
    /// Nobody writes to the slot again, or changes its content, while the returned reference lives.
    #[inline]
    pub(super) unsafe fn look(&self, position: u64) -> Option<Option<&T>> {
        let slot = self.slot(position)?;
        let is_written = slot.written.load(Ordering::Acquire) == position + 1;
        // SAFETY: by the contract above there is no other but shared access.
        is_written.then(|| slot.value.with(|value| unsafe { (*value).as_ref() }))
    }

    /// What stands at a position that is known to be written.
    ///
    /// # Safety
    /// `is_written` held; otherwise as for [`look`](Self::look).
    #[inline]
    pub(super) unsafe fn get(&self, position: u64) -> Option<&T> {
        let slot = self.slot(position)?;
        // SAFETY: as above.
        slot.value.with(|value| unsafe { (*value).as_ref() })
    }

    /// Lets `change` change what stands at a written position.
    ///
    /// # Safety
    /// `is_written` held, and nobody else looks at the position or writes to its slot meanwhile.
    pub(super) unsafe fn change(&self, position: u64, change: impl FnOnce(&mut Option<T>)) {
        let Some(slot) = self.slot(position) else { return };
        // SAFETY: by the contract above the slot is the caller's alone.
        slot.value.with_mut(|value| change(unsafe { &mut *value }));
    }

    #[inline]
    fn slot(&self, position: u64) -> Option<&Slot<T>> {
        let index = self.index(position);
        let segment = self.segments[index / SEGMENT].load(Ordering::Acquire);
        // SAFETY: a segment that is not null is whole, and lives as long as this.
        unsafe { segment.as_ref() }.map(|segment| &segment[index % SEGMENT])
    }

    #[inline]
    fn index(&self, position: u64) -> usize {
        (position & (self.length - 1)) as usize
    }

    fn a_lap_before(&self, position: u64) -> u64 {
        position.wrapping_sub(self.length)
    }

    #[cold]
    fn make(&self, position: u64) -> &Slot<T> {
        let index = self.index(position);
        let first = index - index % SEGMENT;
        let segment: Segment<T> = std::array::from_fn(|at| Slot {
            written: AtomicU64::new(self.a_lap_before((first + at) as u64 + 1)),
            value: Cell::new(None),
        });
        let made = Box::into_raw(Box::new(segment));
        let place = &self.segments[index / SEGMENT];
        let (null, done) = (ptr::null_mut(), Ordering::AcqRel);
        let segment = match place.compare_exchange(null, made, done, Ordering::Acquire) {
            Ok(_) => made,
            Err(others) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(made) });
                others
            }
        };
        // SAFETY: as in `slot`.
        unsafe { &(&*segment)[index % SEGMENT] }
    }
}

impl<T> Drop for Slots<T> {
    fn drop(&mut self) {
        for segment in &self.segments {
            let segment = segment.load(Ordering::Acquire);
            if !segment.is_null() {
                // SAFETY: made by `Box::into_raw`, and nobody is left who could look.
                drop(unsafe { Box::from_raw(segment) });
            }
        }
    }
}
