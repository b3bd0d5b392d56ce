//! Requests: the call ([`RequestCall`]), the responder ([`Respond`], [`Ask`]), and how the two
//! meet in one process ([`local`]) or through the transport ([`remote`]).

mod ask;
mod call;
pub(crate) mod local;
pub(crate) mod remote;
mod respond;

pub use ask::Ask;
pub use call::RequestCall;
pub use respond::{Respond, Responder};
