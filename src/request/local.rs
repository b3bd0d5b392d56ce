//! Requests whose responder lives on the same bus: the handler is called where the caller stands,
//! with the request as it is.

use std::any::Any;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use busway_transport::{FailureKind, Name, PeerId};

use crate::bus::{IN_HANDLER, Running};
use crate::event::Request;
use crate::request::ask::{About, Ask, Handed, Lent};
use crate::request::limit::{Limit, Permit};
use crate::request::room::{Call, Outcome, Working};
use crate::subscribe::panic_text;

/// How a request was answered: by its handler, or without it.
pub(crate) type Answer<R> = Result<Outcome<R>, Failed>;

pub(crate) type Receiver<R> = oneshot::Receiver<Answer<R>>;

/// Why there is no answer of a handler.
pub(crate) struct Failed {
    pub(crate) kind: FailureKind,
    pub(crate) text: String,
}

/// One responder's handler, for calls from here and from elsewhere.
pub(crate) struct Handler<R: Request> {
    pub(crate) endpoint: Name,
    pub(crate) bus: PeerId,
    pub(crate) call: Box<dyn Call<R>>,
    /// How many requests run at once, wherever they come from.
    pub(crate) limit: Arc<Limit>,
    /// Whether each request has a task of its own from the start.
    pub(crate) spawned: bool,
    pub(crate) tasks: TaskTracker,
    /// What the bus waits for before it ends its queues: an answer may still publish.
    pub(crate) busy: TaskTracker,
    /// Cancelled when the bus is gone.
    pub(crate) gone: CancellationToken,
}

impl<R: Request> Handler<R> {
    /// What goes with a call of the handler, wherever it runs; made where the caller is.
    #[inline]
    pub(crate) fn about_to_run(&self) -> Scope {
        // A call from a handler gates what that handler gates, which waits for it.
        let gates = IN_HANDLER.try_with(|running| running.gates).unwrap_or(0);
        let span = tracing::debug_span!(
            "respond",
            topic = R::SCHEMA.topic,
            endpoint = self.endpoint.as_str()
        );
        Scope { running: Running { bus: self.bus, gates }, span }
    }

    /// Answers a request, isolated: a panic is an answer (law 11).
    pub(crate) fn answer(
        &self,
        ask: Ask<R>,
        scope: Scope,
    ) -> impl Future<Output = Answer<R>> + Send + use<R> {
        let called = scope.isolated(|| self.call.call(ask));
        async move {
            match called {
                Ok(working) => go_on::<R>(working, scope).await,
                Err(panic) => Err(panicked::<R>(&*panic)),
            }
        }
    }

    /// Answers a call from this process. The handler is polled once here, in the caller's task;
    /// if it suspends it moves at once to a task of its own, so that its progress never depends on
    /// the caller, and dropping the caller cuts nothing.
    #[inline]
    pub(crate) fn call_here(
        self: &Arc<Self>,
        request: R,
        (about, handed): (Arc<About>, Handed),
    ) -> Started<R> {
        if about.is_stillborn() {
            return Started::Failed(expired());
        }
        let ask = Ask::new(request, handed);
        let scope = self.about_to_run();
        let Some(permit) = self.limit.try_here() else {
            return Started::Running(about, self.spawn_when_permitted(ask, scope));
        };
        let depth = Depth::enter();
        if self.spawned || depth.is_too_deep() {
            let permit = permit.keep(&self.limit);
            return Started::Running(about, self.spawn_afresh(ask, scope, permit));
        }
        let lent = Lent::new(about);
        match scope.isolated(|| self.call.begin(ask)) {
            Ok(Ok(outcome)) => {
                lent.done();
                Started::Done(outcome)
            }
            Ok(Err(working)) => {
                let permit = permit.keep(&self.limit);
                Started::Running(lent.into_about(), self.spawn_on(working, scope, permit))
            }
            Err(panic) => {
                lent.done();
                Started::Failed(panicked::<R>(&*panic))
            }
        }
    }

    #[cold]
    fn spawn_when_permitted(self: &Arc<Self>, ask: Ask<R>, scope: Scope) -> Receiver<R> {
        let handler = self.clone();
        self.spawn(async move {
            let _permit = handler.limit.acquire().await;
            if ask.is_cancelled() {
                return Err(expired());
            }
            handler.answer(ask, scope).await
        })
    }

    #[cold]
    fn spawn_afresh(self: &Arc<Self>, ask: Ask<R>, scope: Scope, permit: Permit) -> Receiver<R> {
        let handler = self.clone();
        self.spawn(async move {
            let _permit = permit;
            handler.answer(ask, scope).await
        })
    }

    #[cold]
    fn spawn_on(&self, working: Working<R>, scope: Scope, permit: Permit) -> Receiver<R> {
        self.spawn(async move {
            let _permit = permit;
            go_on::<R>(working, scope).await
        })
    }

    fn spawn(&self, answer: impl Future<Output = Answer<R>> + Send + 'static) -> Receiver<R> {
        let (send, receive) = oneshot::channel();
        let gone = self.gone.clone();
        self.tasks.spawn(self.busy.track_future(async move {
            if let Some(answer) = gone.run_until_cancelled(answer).await {
                // The caller may have gone.
                let _ = send.send(answer);
            }
        }));
        receive
    }
}

/// What a call of a handler runs in: the knowledge that it is a handler, and a span.
pub(crate) struct Scope {
    running: Running,
    span: Span,
}

impl Scope {
    /// Runs a part of a handler here.
    #[inline]
    fn isolated<T>(&self, part: impl FnOnce() -> T) -> std::thread::Result<T> {
        // Written from the inside: each layer that returned it would move it.
        let mut value = None;
        let part = || {
            let _entered = self.span.enter();
            IN_HANDLER.sync_scope(self.running, || value = Some(part()));
        };
        std::panic::catch_unwind(AssertUnwindSafe(part))?;
        Ok(value.expect("it has run"))
    }
}

/// Runs a handler to its end.
fn go_on<R: Request>(
    working: Working<R>,
    scope: Scope,
) -> impl Future<Output = Answer<R>> + Send + use<R> {
    let working = IN_HANDLER.scope(scope.running, working);
    let answer = AssertUnwindSafe(working).catch_unwind();
    answer.map(|outcome| outcome.map_err(|panic| panicked::<R>(&*panic))).instrument(scope.span)
}

#[cold]
fn panicked<R: Request>(panic: &(dyn Any + Send)) -> Failed {
    let text = panic_text(panic);
    tracing::error!(topic = R::SCHEMA.topic, panic = text, "a responder panicked");
    Failed { kind: FailureKind::Panicked, text }
}

#[cold]
fn expired() -> Failed {
    Failed { kind: FailureKind::Expired, text: "expired before it was run".into() }
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
    #[inline]
    fn enter() -> Self {
        let depth = DEPTH.get() + 1;
        DEPTH.set(depth);
        Self(depth)
    }

    #[inline]
    fn is_too_deep(&self) -> bool {
        self.0 > DEEPEST
    }
}

impl Drop for Depth {
    #[inline]
    fn drop(&mut self) {
        DEPTH.set(self.0 - 1);
    }
}

/// How far a call from here came at its first poll.
pub(crate) enum Started<R: Request> {
    /// The handler has returned.
    Done(Outcome<R>),
    /// It was not run, or panicked.
    Failed(Failed),
    /// It has a task, which sends the answer.
    Running(Arc<About>, Receiver<R>),
}
