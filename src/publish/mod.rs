//! Publishing: the builder that is its own future ([`Publish`]), the handle for hot loops
//! ([`Publisher`]), and the one path that both take ([`job`]).

mod future;
pub(crate) mod job;
mod publisher;
mod receipt;

pub use future::Publish;
pub use publisher::{Accepted, Publisher};
pub use receipt::Receipt;
