//! In-process channels between several buses of one process, for busway: `memory:NAME`.
//!
//! Buses of one name meet in a `hub`. Nothing is serialised: payloads cross as they are. It
//! behaves as local sockets do, so that it can stand in for them: each bus runs a group engine for
//! its own events, and they are lost with it.
//!
//! `memory:` without a name is a hub of its own: the embedded default.
//!
//! Reading order: `connector` (from the address to a transport), `hub` (who is there),
//! `plain`, `groups` and `requests` (how events, work and questions cross), `transport`
//! (the contract).

#![forbid(unsafe_code)]

mod connector;
mod groups;
mod hub;
mod plain;
mod requests;
mod transport;

pub use connector::MemoryConnector;
pub use transport::MemoryTransport;
