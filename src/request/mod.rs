//! Requests: the call ([`RequestCall`]), the responder ([`Respond`], [`Ask`]), and how the two
//! meet in one process ([`local`], with [`responders`], [`limit`] and [`room`]) or through the
//! transport ([`remote`]).

mod ask;
mod call;
mod limit;
mod local;
pub(crate) mod remote;
mod respond;
pub(crate) mod responders;
mod room;

pub use ask::Ask;
pub use call::RequestCall;
pub use respond::{Respond, Responder};
