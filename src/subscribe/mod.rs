//! Subscribing: the builder ([`builder`]), and the three ways to read what arrives: pushed to a
//! handler ([`handler`]), pulled from a stream ([`stream`]), shared in a group ([`group`]).

mod builder;
mod group;
mod handler;
mod kind;
mod reader;
mod stream;

pub use builder::{Starting, Subscribe};
pub use group::Grouped;
pub(crate) use handler::panic_text;
pub use handler::{HandlerError, Subscription};
pub use kind::{Any, Kind};
pub use stream::{EventStream, Pull};

/// A plain subscription is being built: every one gets every event.
#[derive(Debug, Default)]
pub struct Plain(());
