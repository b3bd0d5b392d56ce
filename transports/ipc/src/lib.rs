//! Local sockets for busway: a mesh of processes of one user on one machine, with no broker.
//!
//! `ipc:shop` names a folder. Every bus binds a socket of its own in it and then looks round: it
//! dials every other socket that it finds, so that all are linked with all. A link first
//! exchanges what each side wants; from then on nothing is sent that nobody asked for.
//!
//! # Reading order
//!
//! * Finding each other: `address` (what `ipc:NAME` means), `folder` (where the sockets are, and
//!   that nobody else gets at them), `hello` (who is there), `connector` (bind, look round, dial).
//! * On the wire: `wire` (sans-io; see also `docs/wire-ipc.md`), `link` (two lanes), `outbox` (what waits in
//!   one of them), `traffic` (from the lanes to the socket, and from there to `dispatch`: what each frame that
//!   comes in does), `postman` (who writes for several links at once), `bell` (how tasks wake each other), `pulse` (who is
//!   silent).
//! * What is known: `mesh` (the one lock and what is behind it), `table` (what this bus and each
//!   peer wants), `announce` (telling the peers and waiting for their acks), `notices`.
//! * The verbs: `publish` (room and permits), `credit` (what room is made of), `express` (the short way),
//!   `plain`, `handful` and `patience` (the receiving side of it), `groups`, `requests`, `transport` (all of them as the contract has them).
//!
//! # What is bounded by what
//!
//! A receiver grants every peer `capacity` events (up to four times as many, if that is more than 64)
//! and a window of bytes per plain interest, and gives both back as its bus takes the events; a publisher's permit holds one credit of every interest it
//! is for. So the data lane of a link holds at most the sum of the peer's credits, its members'
//! concurrency and 1024 requests per responder, and a reader never has to wait: what it reads has its
//! place already. A data lane that holds 1 MiB lets publishers and callers wait: more makes nothing faster. The control lane is
//! bounded by what is unacknowledged; a peer that lets it grow is cut off.

#![forbid(unsafe_code)]

mod address;
mod announce;
mod bell;
mod connector;
mod credit;
mod dispatch;
mod express;
mod folder;
mod groups;
mod handful;
mod hello;
mod link;
mod mailbox;
mod mesh;
mod notices;
mod outbox;
mod patience;
mod plain;
mod postman;
mod publish;
mod pulse;
mod requests;
mod table;
mod traffic;
mod transport;
mod wire;

pub use connector::IpcConnector;
pub use publish::IpcPermit;
pub use transport::IpcTransport;
