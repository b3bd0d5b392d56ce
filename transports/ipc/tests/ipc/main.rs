//! Several buses over real sockets, each with a host that only takes notes.

#![allow(clippy::unwrap_used, reason = "in helpers as in tests: a failure is a failed test")]

mod backpressure;
mod bounds;
mod child;
#[cfg(unix)]
mod folder;
mod groups;
mod keeps;
mod mesh;
#[cfg(unix)]
mod mob;
#[cfg(windows)]
mod pipes;
mod plain;
mod requests;
#[cfg(unix)]
mod stopped;
#[cfg(unix)]
mod strangers;
mod support;
