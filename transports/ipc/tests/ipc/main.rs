//! Several buses over real sockets, each with a host that only takes notes.

#![cfg(unix)] // folders, owners, modes and signals are what most of it is about
#![allow(clippy::unwrap_used, reason = "in helpers as in tests: a failure is a failed test")]

mod backpressure;
mod bounds;
mod child;
mod folder;
mod groups;
mod mesh;
mod mob;
mod plain;
mod requests;
mod strangers;
mod support;
