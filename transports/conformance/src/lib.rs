//! The laws of `busway` as a test kit: any transport runs it through the public API.
//!
//! A transport's author writes a [`Harness`] and one line more; each case is then a test of its
//! own:
//!
//! ```no_run
//! // tests/conformance.rs
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use busway::Builder;
//! use busway_conformance::Harness;
//! use busway_memory::MemoryConnector; // here: your own connector
//!
//! struct Memory;
//!
//! impl Harness for Memory {
//!     fn address(&self, case: &str) -> String {
//!         static NUMBER: AtomicU64 = AtomicU64::new(0);
//!         let number = NUMBER.fetch_add(1, Ordering::Relaxed);
//!         // A bus's name has at most 64 characters.
//!         let case: String = case.chars().take(32).collect();
//!         format!("memory:kit-{}-{number}-{case}", std::process::id())
//!     }
//!
//!     fn connector(&self, builder: Builder) -> Builder {
//!         builder.connector(MemoryConnector::new())
//!     }
//! }
//!
//! busway_conformance::tests!(Memory);
//! # fn main() {}
//! ```
//!
//! [`run`] runs all of them in one go and gives a [`Report`], from which [`capability_table`]
//! writes the documentation's table.
//!
//! # What a case is
//! Each case opens buses of its own at a fresh address, as processes of their own would, and
//! asserts kinds of outcomes under a [`WATCHDOG`]: never how long something took. It waits by
//! `ready`, by receipts and by what arrives; nothing sleeps.
//!
//! A case that [needs](Case::needs) a capability which the transport does not claim asserts the
//! refusal, or the declared difference, and says what it saw
//! ([`Verdict::Refused`]). No case is skipped.
//!
//! After each case its buses are closed, which must succeed, every subscription's ledger must be
//! balanced and at rest, and over all buses no event may be missing that was published, confirmed,
//! seen by nobody and not told as lost (law 3).
//!
//! # What the kit cannot show
//! It kills a bus by dropping it, and cuts no connection: what `kill -9` (law 13) and a lost
//! connection (law 14) do, each transport tests with real processes and real faults.

#![forbid(unsafe_code)]

mod books;
mod cases;
mod events;
mod harness;
mod inbox;
mod report;
mod run;
mod verdict;
mod world;

pub use cases::cases;
pub use harness::Harness;
pub use report::{CaseReport, Report, capability_table};
pub use run::{Case, WATCHDOG, check, run, run_case, run_case_within};
pub use verdict::{Failed, Verdict};

/// Makes a `#[test]` of every case of the kit, in a module for each law. Takes an expression that
/// gives a [`Harness`]; it is evaluated for each test.
///
/// See the [crate] for an example.
#[macro_export]
macro_rules! tests {
    ($harness:expr) => {
        $crate::__cases! { __tests ($harness) }
    };
}
