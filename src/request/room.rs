//! Handlers of whatever type, and the room on the heap that their futures run in.

use std::any::{Any, TypeId};
use std::cell::Cell;
use std::hash::{BuildHasher, BuildHasherDefault};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use pin_project::pin_project;

use busway_transport::BoxFuture;

use crate::by_type::Identity;
use crate::event::Request;
use crate::request::ask::Ask;

/// What a handler returns.
pub(crate) type Outcome<R> = Result<<R as Request>::Response, <R as Request>::Error>;

/// A call of a handler, which goes on.
pub(crate) type Working<R> = BoxFuture<'static, Outcome<R>>;

/// A handler.
pub(crate) trait Call<R: Request>: Send + Sync {
    /// Calls it.
    fn call(&self, ask: Ask<R>) -> Working<R>;

    /// Calls it and polls its future once, for nobody to wake: whoever gets the future polls it
    /// again. One that is ready leaves its room to the next call.
    fn begin(&self, ask: Ask<R>) -> Result<Outcome<R>, Working<R>>;
}

impl<R, F, Fut> Call<R> for F
where
    R: Request,
    F: Fn(Ask<R>) -> Fut + Send + Sync,
    Fut: Future<Output = Outcome<R>> + Send + 'static,
{
    fn call(&self, ask: Ask<R>) -> Working<R> {
        Box::pin(self(ask))
    }

    fn begin(&self, ask: Ask<R>) -> Result<Outcome<R>, Working<R>> {
        let future = self(ask);
        let mut room = Kept::<Fut>::take();
        room.0.as_mut().set(Room(Some(future)));
        match room.0.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(outcome) => {
                room.0.as_mut().set(Room(None));
                room.keep();
                Ok(outcome)
            }
            Poll::Pending => Err(room.0),
        }
    }
}

/// Room for one future, which may be elsewhere.
#[pin_project]
struct Room<Fut>(#[pin] Option<Fut>);

impl<Fut: Future> Future for Room<Fut> {
    type Output = Fut::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Fut::Output> {
        self.project().0.as_pin_mut().expect("a future is in its room").poll(context)
    }
}

/// Room that a thread keeps for later calls. Boxed once more, for a pinned box of one type cannot
/// be had back from one of any type.
struct Kept<Fut>(Pin<Box<Room<Fut>>>);

/// In how many places a thread keeps room. Two types of futures may share one, and lose by it what
/// keeping saves.
const PLACES: usize = 16;

/// Larger room is not kept.
const LARGEST: usize = 2048;

thread_local! {
    static KEPT: [Cell<Option<Box<dyn Any>>>; PLACES] = const { [const { Cell::new(None) }; PLACES] };
}

impl<Fut: 'static> Kept<Fut> {
    #[inline]
    fn place() -> usize {
        let hash = BuildHasherDefault::<Identity>::default().hash_one(TypeId::of::<Fut>());
        hash as usize % PLACES
    }

    #[inline]
    fn take() -> Box<Self> {
        // Fails only while the thread ends.
        let kept = KEPT.try_with(|kept| kept[Self::place()].take()).ok().flatten();
        match kept.map(<Box<dyn Any>>::downcast) {
            Some(Ok(kept)) => kept,
            _ => Box::new(Self(Box::pin(Room(None)))),
        }
    }

    #[inline]
    fn keep(self: Box<Self>) {
        if size_of::<Fut>() <= LARGEST {
            // Fails only while the thread ends.
            let _ = KEPT.try_with(|kept| kept[Self::place()].set(Some(self)));
        }
    }
}
