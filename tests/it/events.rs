//! The events and requests of these tests, and a watchdog.

use std::future::Future;
use std::time::{Duration, Instant};

use busway::{Event, Request};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[event("test.numbered")]
pub(crate) struct Numbered(pub(crate) u32);

/// Another module's type of the same name.
#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[event("test.numbered")]
pub(crate) struct AlsoNumbered(pub(crate) u32);

/// Another topic.
#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[event("test.other")]
pub(crate) struct Other(pub(crate) u32);

/// A type of the same name that does not fit.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event("test.numbered")]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// A type of the same name whose decoder panics at 13.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event("test.numbered")]
#[serde(from = "u32")]
pub(crate) struct Superstitious(pub(crate) u32);

impl From<u32> for Superstitious {
    fn from(n: u32) -> Self {
        assert_ne!(n, 13, "the decoder panics");
        Self(n)
    }
}

/// Never leaves the process, and needs no serde.
#[derive(Event, Debug)]
#[event("test.redrawn", local)]
pub(crate) struct Redrawn(pub(crate) std::sync::mpsc::SyncSender<u32>);

#[derive(Request, Serialize, Deserialize, Debug)]
#[request("test.double", response = u32)]
pub(crate) struct Double(pub(crate) u32);

#[derive(Request, Serialize, Deserialize, Debug)]
#[request("test.halve", response = u32)]
pub(crate) struct Halve(pub(crate) u32);

/// Ends a test that hangs. Long: it asserts no speed.
pub(crate) async fn watched<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
}

/// Lets the other tasks run until something holds. Its watchdog goes by the system's clock, for
/// tests that stop tokio's.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "the test hangs");
        tokio::task::yield_now().await;
    }
}
