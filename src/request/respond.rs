//! `endpoint.respond::<R>()`: registering a responder.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use busway_transport::ResponderSpec;

use crate::endpoint::Endpoint;
use crate::error::SubscribeError;
use crate::event::Request;
use crate::request::ask::Ask;
use crate::request::limit::Limit;
use crate::request::local::Handler;
use crate::request::remote;
use crate::subscribe::Starting;

/// How many requests one responder answers at once unless set.
const CONCURRENCY: usize = 256;

/// A responder that is not registered yet: it ends with [`with`](Self::with).
#[must_use = "a responder is registered only after `with` was awaited"]
pub struct Respond<'a, R> {
    endpoint: &'a Endpoint,
    concurrency: usize,
    spawned: bool,
    request: PhantomData<fn(R)>,
}

impl<'a, R: Request> Respond<'a, R> {
    pub(crate) fn new(endpoint: &'a Endpoint) -> Self {
        Self { endpoint, concurrency: CONCURRENCY, spawned: false, request: PhantomData }
    }

    /// How many requests it answers at once, wherever they come from and however they run (256
    /// unless set); more wait, up to their deadlines.
    pub fn concurrency(mut self, requests: usize) -> Self {
        self.concurrency = requests.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// Handles each request in a spawned task from its start, also those from the same process,
    /// which else begin in the task of their caller.
    ///
    /// For handlers that compute for long before they first wait, which in the caller's task would
    /// hold up everything else that it does, past the request's deadline too, and for handlers that
    /// need a deep stack. It costs more than ten times what a request in place does: a spawned
    /// task, and waking the caller. Deadlines, the limit, panics and cancellation are the same.
    /// Requests from elsewhere are always handled in tasks of their own.
    pub fn spawned(mut self) -> Self {
        self.spawned = true;
        self
    }

    /// Answers each request with what `handler` returns.
    ///
    /// A request from the same process is handled in the caller's own task as far as it goes
    /// without waiting, and then in a task of its own; or always there, see
    /// [`spawned`](Self::spawned). A panic ends the request in
    /// [`Disconnected`](crate::RequestError::Disconnected), and nothing else.
    ///
    /// Each call runs in a [`tracing`] span `respond` of level debug, with the fields `topic` and
    /// `endpoint`. Its parent is the span of the caller, when that is in the same process.
    ///
    /// # Errors
    /// [`SubscribeError`]. When this returns `Ok`, every connected peer can ask.
    pub fn with<F, Fut>(self, handler: F) -> Starting<'a, Responder>
    where
        F: Fn(Ask<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Response, R::Error>> + Send + 'static,
    {
        Starting::new(self.start(handler))
    }

    async fn start<F, Fut>(self, handler: F) -> Result<Responder, SubscribeError>
    where
        F: Fn(Ask<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Response, R::Error>> + Send + 'static,
    {
        let bus = &self.endpoint.bus;
        let text = R::SCHEMA.topic.to_owned();
        let topic = remote::topic::<R>()
            .map_err(|error| SubscribeError::Name { topic: text.clone(), error })?;
        bus.check_not_closing(|| SubscribeError::Closed { topic: text.clone() })?;
        let endpoint = self.endpoint.name.clone();
        let tasks = TaskTracker::new();
        let handler = Arc::new(Handler::<R> {
            endpoint: endpoint.clone(),
            bus: bus.peer,
            call: Box::new(handler),
            limit: Arc::new(Limit::new(self.concurrency)),
            spawned: self.spawned,
            tasks: tasks.clone(),
            busy: bus.busy.clone(),
            gone: bus.gone.clone(),
        });
        let spec = ResponderSpec::new(topic, endpoint, self.concurrency);
        let asks = bus.within(&text, bus.transport.respond(spec)).await?;

        // A bus that closed meanwhile has drained without this responder.
        bus.check_not_closing(|| SubscribeError::Closed { topic: text.clone() })?;

        let id = bus.next_number();
        bus.responders.add(id, handler.clone());
        bus.board.touch();
        let stop = bus.gone.child_token();
        // Those who ask from here find it until it is unregistered: handlers that drain may ask.
        let here = Arc::downgrade(bus);
        let remove = Box::new(move || {
            if let Some(bus) = here.upgrade() {
                bus.responders.remove::<R>(id);
                bus.board.touch();
            }
        });
        let serving = remote::serve(asks, handler, bus.packing(), stop.clone());
        bus.spawn(bus.busy.track_future(tasks.track_future(serving)));
        // What runs in tasks of the responder's own is waited for by the bus too.
        tasks.close();
        let all = tasks.clone();
        bus.spawn(async move { all.wait().await });
        Ok(Responder { topic: R::SCHEMA.topic, remove, stop, tasks })
    }
}

impl<R: Request> std::fmt::Debug for Respond<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Respond").field("topic", &R::SCHEMA.topic).finish_non_exhaustive()
    }
}

/// A registered responder. Dropping it leaves it registered as long as its bus.
pub struct Responder {
    topic: &'static str,
    remove: Box<dyn FnOnce() + Send + Sync>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Responder {
    /// Withdraws the responder, and waits for the requests that it is answering.
    ///
    /// # Cancel safety
    /// Once polled, no call from this process finds the responder any more, and peers are told
    /// soon after, also when this is dropped.
    pub async fn unregister(self) {
        (self.remove)();
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").field("topic", &self.topic).finish_non_exhaustive()
    }
}
