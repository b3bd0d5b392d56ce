//! The laws, for `ipc:NAME`.

use std::sync::atomic::{AtomicU64, Ordering};

use busway::Builder;
use busway_conformance::Harness;
use busway_ipc::IpcConnector;

struct Ipc {
    /// Where the sockets are; goes with the case.
    folder: tempfile::TempDir,
}

impl Ipc {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }
}

impl Harness for Ipc {
    fn address(&self, case: &str) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let case: String = case.chars().take(16).collect();
        format!("ipc:kit-{number}-{case}?dir={}", self.folder.path().display())
    }

    fn connector(&self, builder: Builder) -> Builder {
        builder.connector(IpcConnector::new())
    }
}

busway_conformance::tests!(Ipc::new());
