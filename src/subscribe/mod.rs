//! Subscribing: one builder, and three ways to read what arrives. [`Plain`] is pushed to a handler,
//! [`Pull`] is pulled from a stream, [`Grouped`] shares the work with others.
//!
//! These names are needed only to write the builder's type down; see
//! [`Endpoint::subscribe`](crate::Endpoint::subscribe) for its use.

mod builder;
mod chunk;
mod group;
mod handler;
mod key;
mod kind;
mod reader;
mod seen;
mod stream;

pub use builder::{Starting, Subscribe};
pub use chunk::{Chunk, Lent};
pub use group::Grouped;
pub(crate) use handler::panic_text;
pub use handler::{HandlerError, Subscription};
pub use kind::{Any, Kind};
pub(crate) use seen::AllSeen;
pub use stream::{EventStream, Pull};

/// A plain subscription is being built: every one gets every event.
#[derive(Debug, Default)]
pub struct Plain(());
