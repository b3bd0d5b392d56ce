//! The events and requests of these tests, and a watchdog.

use std::future::Future;
use std::time::Duration;

use busway::{Event, Request};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[event("test.numbered")]
pub(crate) struct Numbered(pub(crate) u32);

/// Another module's type of the same name.
#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[event("test.numbered")]
pub(crate) struct AlsoNumbered(pub(crate) u32);

/// A type of the same name that does not fit.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event("test.numbered")]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// Never leaves the process, and needs no serde.
#[derive(Event, Debug)]
#[event("test.redrawn", local)]
pub(crate) struct Redrawn(pub(crate) std::sync::mpsc::SyncSender<u32>);

#[derive(Request, Serialize, Deserialize, Debug)]
#[request("test.double", response = u32)]
pub(crate) struct Double(pub(crate) u32);

/// Ends a test that hangs. Long: it asserts no speed.
pub(crate) async fn watched<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), test).await.expect("the test hangs")
}
