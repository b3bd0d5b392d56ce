//! Requests whose responder lives on the same bus: the handler is called where the caller stands,
//! with the request as it is.

use std::any::{Any, TypeId};
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use dashmap::DashMap;
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use busway_transport::{BoxFuture, FailureKind, Name, PeerId};

use crate::bus::{IN_HANDLER, Running};
use crate::event::Request;
use crate::request::ask::Ask;
use crate::subscribe::panic_text;
use crate::sync::Locked;

/// How a handler answered.
pub(crate) enum Answer<R: Request> {
    Response(R::Response),
    Refused(R::Error),
    Failed(FailureKind, String),
}

type Outcome<R> = Result<<R as Request>::Response, <R as Request>::Error>;

/// One responder's handler, for calls from here and from elsewhere.
pub(crate) struct Handler<R: Request> {
    pub(crate) endpoint: Name,
    pub(crate) bus: PeerId,
    pub(crate) call: Box<dyn Fn(Ask<R>) -> BoxFuture<'static, Outcome<R>> + Send + Sync>,
    /// How many requests run at once, wherever they come from.
    pub(crate) running: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    /// What the bus waits for before it ends its queues: an answer may still publish.
    pub(crate) busy: TaskTracker,
    /// Cancelled when the bus is gone.
    pub(crate) gone: CancellationToken,
}

impl<R: Request> Handler<R> {
    /// The handler's future, isolated: a panic is an answer (law 11).
    pub(crate) fn answer(&self, ask: Ask<R>) -> BoxFuture<'static, Answer<R>> {
        let failed = |panic: Box<dyn Any + Send>| {
            let text = panic_text(&*panic);
            tracing::error!(topic = R::SCHEMA.topic, panic = text, "a responder panicked");
            Answer::Failed(FailureKind::Panicked, text)
        };
        let future = match std::panic::catch_unwind(AssertUnwindSafe(|| (self.call)(ask))) {
            Ok(future) => future,
            Err(panic) => return Box::pin(std::future::ready(failed(panic))),
        };
        Box::pin(IN_HANDLER.scope(self.running(), AssertUnwindSafe(future).catch_unwind()).map(
            move |outcome| match outcome {
                Ok(Ok(response)) => Answer::Response(response),
                Ok(Err(error)) => Answer::Refused(error),
                Err(panic) => failed(panic),
            },
        ))
    }

    fn running(&self) -> Running {
        // A call in place runs inside of its caller, which gates what it gates.
        let gates = IN_HANDLER.try_with(|running| running.gates).unwrap_or(0);
        Running { bus: self.bus, gates }
    }

    /// Answers a call from this process. The handler is polled once here, in the caller's task;
    /// if it suspends it moves at once to a task of its own, so that its progress never depends on
    /// the caller, and dropping the caller cuts nothing.
    pub(crate) fn call_here(self: &Arc<Self>, ask: Ask<R>) -> Started<R> {
        if ask.is_cancelled() {
            return Started::Done(expired());
        }
        let Ok(permit) = self.running.clone().try_acquire_owned() else {
            let handler = self.clone();
            return self.spawn(async move {
                // Fails only when the semaphore is closed, which nobody does.
                let _permit = handler.running.clone().acquire_owned().await;
                if ask.is_cancelled() {
                    return expired();
                }
                handler.answer(ask).await
            });
        };
        let depth = Depth::enter();
        if depth.is_too_deep() {
            let handler = self.clone();
            return self.spawn(async move {
                let _permit = permit;
                handler.answer(ask).await
            });
        }
        let mut answer = self.answer(ask);
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Started::Done(answer),
            Poll::Pending => self.spawn(async move {
                let _permit = permit;
                answer.await
            }),
        }
    }

    fn spawn(&self, answer: impl Future<Output = Answer<R>> + Send + 'static) -> Started<R> {
        let (send, receive) = tokio::sync::oneshot::channel();
        let gone = self.gone.clone();
        self.tasks.spawn(self.busy.track_future(async move {
            if let Some(answer) = gone.run_until_cancelled(answer).await {
                // The caller may have gone.
                let _ = send.send(answer);
            }
        }));
        Started::Running(receive)
    }
}

/// How many handlers deep one stack may go with calls that are answered in place: each costs the
/// stack of its handler.
const DEEPEST: u32 = 16;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// One call in place, while it lasts.
struct Depth(u32);

impl Depth {
    fn enter() -> Self {
        let depth = DEPTH.get() + 1;
        DEPTH.set(depth);
        Self(depth)
    }

    fn is_too_deep(&self) -> bool {
        self.0 > DEEPEST
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(self.0 - 1);
    }
}

fn expired<R: Request>() -> Answer<R> {
    Answer::Failed(FailureKind::Expired, "expired before it was run".into())
}

/// A call that was answered at once, or goes on in a task.
pub(crate) enum Started<R: Request> {
    Done(Answer<R>),
    Running(tokio::sync::oneshot::Receiver<Answer<R>>),
}

/// The responders of one bus, by the type they answer.
#[derive(Default)]
pub(crate) struct Responders {
    by_type: DashMap<TypeId, Arc<Line>>,
}

/// The responders of one request type, asked in turn.
#[derive(Default)]
struct Line {
    handlers: Mutex<Vec<Registered>>,
    turn: AtomicUsize,
}

/// One responder: its number, its endpoint, and its `Handler<R>`.
type Registered = (u64, Name, Arc<dyn Any + Send + Sync>);

impl Responders {
    pub(crate) fn add<R: Request>(&self, id: u64, handler: Arc<Handler<R>>) {
        let line = self.by_type.entry(TypeId::of::<R>()).or_default().clone();
        line.handlers.locked().push((id, handler.endpoint.clone(), handler));
    }

    pub(crate) fn remove<R: Request>(&self, id: u64) {
        let line = self.by_type.get(&TypeId::of::<R>()).map(|line| line.clone());
        let removed = line.and_then(|line| {
            let mut handlers = line.handlers.locked();
            let at = handlers.iter().position(|(other, ..)| *other == id)?;
            Some(handlers.remove(at))
        });
        // Outside of the locks: the handler's own `Drop` may do anything.
        drop(removed);
    }

    /// The next responder of that type, at that endpoint if one is named.
    pub(crate) fn find<R: Request>(&self, to: Option<&Name>) -> Option<Arc<Handler<R>>> {
        let line = self.by_type.get(&TypeId::of::<R>())?.clone();
        let handlers = line.handlers.locked();
        let count = handlers.len();
        let first = line.turn.fetch_add(1, Ordering::Relaxed);
        let found = (0..count)
            .map(|step| &handlers[(first.wrapping_add(step)) % count])
            .find(|(_, endpoint, _)| to.is_none_or(|to| to == endpoint))?;
        found.2.clone().downcast().ok()
    }
}
