//! The account of one subscription: what arrived, and what became of it (law 3).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! ledger {
    ($( $(#[$doc:meta])* $field:ident, )*) => {
        /// What became of the events of one subscription, in its process. At rest,
        /// `arrived` is the sum of all others, as [`is_balanced`](Self::is_balanced) checks.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Ledger {
            /// Events that reached the subscription.
            pub arrived: u64,
            $( $(#[$doc])* pub $field: u64, )*
            /// Events in its queue or in a handler now.
            pub in_flight: u64,
            /// Events that never arrived, as gaps from outside told: lost with a connection, at a
            /// broker, or unreadable as a whole. Not part of the balance. (A gap of an unknown
            /// number counts as one.)
            pub missed: u64,
        }

        impl Ledger {
            /// Whether every event that arrived is accounted for.
            pub fn is_balanced(&self) -> bool {
                self.arrived == self.in_flight $( + self.$field )*
            }
        }

        /// The counters behind a [`Ledger`].
        #[derive(Default)]
        pub(crate) struct Counters {
            arrived: AtomicU64,
            missed: AtomicU64,
            $( $field: AtomicU64, )*
        }

        /// One way for an event to be done with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(non_camel_case_types, reason = "the counters' own names")]
        pub(crate) enum Fate { $( $field, )* }

        impl Counters {
            /// Counts what became of one event that had arrived.
            pub(crate) fn settled(&self, fate: Fate) {
                self.settled_many(fate, 1);
            }

            pub(crate) fn settled_many(&self, fate: Fate, count: u64) {
                let counter = match fate { $( Fate::$field => &self.$field, )* };
                // With `read`: who sees the fate sees the arrival before it.
                counter.fetch_add(count, Ordering::Release);
            }

            /// As [`settled_many`](Self::settled_many), where only one task ever counts this fate:
            /// cheaper, as nobody's count can get lost in between.
            #[inline]
            pub(crate) fn settled_by_reader(&self, fate: Fate, count: u64) {
                let counter = match fate { $( Fate::$field => &self.$field, )* };
                counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Release);
            }

            /// Reads all. `elsewhere` says how many arrived that are not counted here.
            pub(crate) fn read(&self, elsewhere: impl FnOnce() -> u64) -> Ledger {
                // The fates first: what is settled while this reads is then still in flight,
                // and the difference cannot be negative.
                $( let $field = self.$field.load(Ordering::Acquire); )*
                let arrived = self.arrived.load(Ordering::Acquire) + elsewhere();
                let in_flight = arrived.saturating_sub(0 $( + $field )*);
                let missed = self.missed.load(Ordering::Relaxed);
                Ledger { arrived, $( $field, )* in_flight, missed }
            }
        }
    };
}

ledger! {
    /// Handled: the handler returned `Ok`, or the stream's owner took it.
    handled,
    /// The handler returned an error or panicked. A group's event is attempted again after that.
    failed,
    /// Passed over by `filter`, `from` or `not_own`.
    filtered,
    /// Dropped because the subscription's queue was full (told as a gap, but for `Latest`).
    dropped_overflow,
    /// Dropped because the payload could not be decoded (told as a gap).
    dropped_undecodable,
    /// Dropped because it has another version of the contract (told as a gap).
    dropped_version,
    /// Dropped because this process had handled it before (`deduplicate`).
    dropped_duplicate,
    /// In the queue when the subscription ended by its owner's wish.
    dropped_unsubscribed,
    /// Handed back to the group unattempted.
    handed_back,
    /// Failed for the last time, and now a dead letter.
    dead_lettered,
}

impl Counters {
    pub(crate) fn arrived(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn missed(&self, count: u64) {
        self.missed.fetch_add(count, Ordering::Relaxed);
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read(|| 0).fmt(f)
    }
}
