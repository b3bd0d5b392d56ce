//! The laws, for `memory:NAME`.

use std::sync::atomic::{AtomicU64, Ordering};

use busway::Builder;
use busway_conformance::Harness;
use busway_memory::MemoryConnector;

struct Memory;

impl Harness for Memory {
    fn address(&self, case: &str) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let case: String = case.chars().take(32).collect();
        format!("memory:kit-{number}-{case}")
    }

    fn connector(&self, builder: Builder) -> Builder {
        builder.connector(MemoryConnector::new())
    }
}

busway_conformance::tests!(Memory);
