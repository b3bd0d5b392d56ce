//! Publishing: the builder that is its own future ([`Publish`]), the handle for hot loops
//! ([`Publisher`]), the short ways for what nothing special was asked for ([`outlet`]), and the long
//! one for everything else ([`job`]).

mod all;
mod future;
pub(crate) mod job;
pub(crate) mod line;
pub(crate) mod outlet;
mod publisher;
mod receipt;

pub use all::AcceptedAll;
pub use future::Publish;
pub use publisher::{Accepted, Publisher, Publishing};
pub use receipt::Receipt;

use std::cell::Cell;
use std::task::{Context, Poll};

/// Whether the task that publishes may go on, or has kept its thread from others for long enough:
/// then it has been told to run again. The runtime's own count costs as much as a publish does,
/// and is asked only now and then.
#[inline]
fn may_go_on(context: &mut Context<'_>) -> bool {
    thread_local! {
        static PUBLISHED: Cell<u8> = const { Cell::new(0) };
    }
    let count = PUBLISHED.get();
    PUBLISHED.set(count.wrapping_add(1));
    !count.is_multiple_of(16) || has_budget(context)
}

#[cold]
fn has_budget(context: &mut Context<'_>) -> bool {
    match tokio::task::coop::poll_proceed(context) {
        Poll::Ready(budget) => {
            budget.made_progress();
            true
        }
        Poll::Pending => false,
    }
}
