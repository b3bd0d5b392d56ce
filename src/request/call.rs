//! `endpoint.request(request)`: a builder that is its own future.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use busway_transport::{
    BoxFuture, Envelope, FailureKind, Headers, MessageId, Name, NameError, OutgoingRequest,
    TransportError,
};

use crate::bus::{Core, deadline_after};
use crate::endpoint::Endpoint;
use crate::error::RequestError;
use crate::event::Request;
use crate::request::ask::About;
use crate::request::local::{Answer, Failed, Receiver, Started};
use crate::request::remote::{self, PackError};

type Outcome<R> = Result<<R as Request>::Response, RequestError<<R as Request>::Error>>;

/// A request about to be asked; awaiting it asks, and gives its one outcome.
///
/// A responder on the same bus is preferred; else one of those that peers registered is asked.
///
/// # Errors
/// [`RequestError`]; [`NoResponder`](RequestError::NoResponder) at once when none is registered.
///
/// # Cancel safety
/// Dropping it frees everything and tells the responder where the transport can; the handler is
/// not cut off.
#[must_use = "a request is asked when this is awaited"]
pub struct RequestCall<'a, R: Request> {
    endpoint: &'a Endpoint,
    request: Option<R>,
    timeout: Option<Duration>,
    /// What few ask for.
    wishes: Option<Box<Wishes>>,
    slow: Option<BoxFuture<'a, Outcome<R>>>,
}

#[derive(Default)]
struct Wishes {
    to: Option<Name>,
    wrong: Option<NameError>,
    headers: Headers,
}

// No field is ever pinned in place.
impl<R: Request> Unpin for RequestCall<'_, R> {}

impl<'a, R: Request> RequestCall<'a, R> {
    #[inline]
    pub(crate) fn new(endpoint: &'a Endpoint, request: R) -> Self {
        Self { endpoint, request: Some(request), timeout: None, wishes: None, slow: None }
    }

    /// Asks a responder of that endpoint.
    pub fn to(mut self, endpoint: &str) -> Self {
        match Name::new(endpoint) {
            Ok(name) => self.wishes().to = Some(name),
            Err(error) => self.wishes().wrong = Some(error),
        }
        self
    }

    /// How long to wait for the answer (30 s unless set here or in the configuration), from the
    /// first poll on. What a handler on the same bus does in this task before it first waits is
    /// not interrupted, and does not count.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Attaches a header.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.wishes().headers.insert(key, value);
        self
    }

    fn wishes(&mut self) -> &mut Wishes {
        self.wishes.get_or_insert_default()
    }

    /// The first poll.
    #[inline]
    fn start(&mut self, request: R, context: &mut Context<'_>) -> Poll<Outcome<R>> {
        let endpoint = self.endpoint;
        let bus = &endpoint.bus;
        let wishes = self.wishes.take();
        if let Some(Wishes { wrong: Some(error), .. }) = wishes.as_deref() {
            let (topic, error) = (topic::<R>(), error.clone());
            return Poll::Ready(Err(RequestError::Addressee { topic, error }));
        }
        if let Err(error) = bus.check_open(|| RequestError::Cancelled { topic: topic::<R>() }) {
            return Poll::Ready(Err(error));
        }
        let after = self.timeout.unwrap_or(bus.settings.request_timeout);
        let responders = bus.responders.now();
        let to = wishes.as_deref().and_then(|wishes| wishes.to.as_ref());
        let Some(handler) = responders.next::<R>(to) else {
            let Wishes { to, headers, .. } = *wishes.unwrap_or_default();
            let deadline = deadline_after(after);
            return self.wait(ask_peers(endpoint, request, to, headers, after, deadline), context);
        };
        let headers = wishes.map(|wishes| wishes.headers);
        let about = About::from_here(&endpoint.name, bus.peer, after, headers);
        match handler.call_here(request, about) {
            Started::Done(outcome) => Poll::Ready(outcome.map_err(RequestError::Refused)),
            Started::Failed(failed) => Poll::Ready(Err(without(topic::<R>(), failed, after))),
            Started::Running(about, answer) => {
                self.wait(await_here::<R>(bus, about, after, answer), context)
            }
        }
    }

    #[cold]
    fn wait(
        &mut self,
        outcome: impl Future<Output = Outcome<R>> + Send + 'a,
        context: &mut Context<'_>,
    ) -> Poll<Outcome<R>> {
        self.slow.insert(Box::pin(outcome)).as_mut().poll(context)
    }
}

impl<R: Request> Future for RequestCall<'_, R> {
    type Output = Outcome<R>;

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(request) = this.request.take() {
            return this.start(request, context);
        }
        match &mut this.slow {
            Some(slow) => slow.as_mut().poll(context),
            None => panic!("a request was polled after it was ready"),
        }
    }
}

impl<R: Request> std::fmt::Debug for RequestCall<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestCall").field("topic", &R::SCHEMA.topic).finish_non_exhaustive()
    }
}

fn topic<R: Request>() -> String {
    R::SCHEMA.topic.to_owned()
}

/// Waits for a handler of the same bus that has a task of its own.
fn await_here<'a, R: Request>(
    bus: &'a Core,
    about: Arc<About>,
    after: Duration,
    answer: Receiver<R>,
) -> impl Future<Output = Outcome<R>> + Send + 'a {
    // By now at the latest: it counts from the first poll.
    let deadline = about.deadline();
    let gone = Gone(about);
    async move {
        let _gone = gone;
        match until_over::<R, _>(bus, after, deadline, answer).await? {
            Ok(answer) => outcome::<R>(answer, after),
            Err(_) if bus.gone.is_cancelled() => {
                Err(RequestError::Cancelled { topic: topic::<R>() })
            }
            Err(_) => {
                let reason = "the responder's task was cut off".into();
                Err(RequestError::Disconnected { topic: topic::<R>(), reason })
            }
        }
    }
}

/// Tells the handler when the call is over: answered, given up, or dropped.
struct Gone(Arc<About>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Asks through the transport.
async fn ask_peers<R: Request>(
    endpoint: &Endpoint,
    request: R,
    to: Option<Name>,
    headers: Headers,
    after: Duration,
    deadline: Instant,
) -> Outcome<R> {
    let bus = &endpoint.bus;
    let topic = topic::<R>;
    let name =
        remote::topic::<R>().map_err(|error| RequestError::Addressee { topic: topic(), error })?;
    let payload =
        bus.packing().of::<R>().pack(R::SCHEMA.topic, request).map_err(|error| match error {
            PackError::TooLarge(error) => RequestError::Transport { topic: topic(), error },
            PackError::Codec(error) => {
                RequestError::Undecodable { topic: topic(), reason: error.to_string() }
            }
        })?;
    let mut envelope = Envelope::new(MessageId::new(), name, bus.source(&endpoint.name), payload);
    envelope.version = R::SCHEMA.version;
    envelope.to = to;
    envelope.headers = headers;
    let call = bus.transport.request(OutgoingRequest::new(envelope, deadline));
    let reply = until_over::<R, _>(bus, after, deadline, call).await?;
    let reply = reply.map_err(|error| match error {
        // Whatever it looked like from below: it was our own end.
        _ if bus.gone.is_cancelled() => RequestError::Cancelled { topic: topic() },
        error => transport_error(topic(), after, error),
    })?;
    match remote::read::<R>(reply) {
        Ok(answer) => outcome::<R>(answer, after),
        Err(reason) => Err(RequestError::Undecodable {
            topic: topic(),
            reason: format!("the answer: {reason}"),
        }),
    }
}

/// Waits for an answer until the deadline, or until the bus is closed.
async fn until_over<R: Request, T>(
    bus: &Core,
    after: Duration,
    deadline: Instant,
    answer: impl Future<Output = T>,
) -> Result<T, RequestError<R::Error>> {
    let topic = topic::<R>;
    tokio::select! {
        biased;
        answer = answer => Ok(answer),
        () = bus.gone.cancelled() => Err(RequestError::Cancelled { topic: topic() }),
        () = tokio::time::sleep_until(deadline.into()) => {
            Err(RequestError::TimedOut { topic: topic(), after })
        }
    }
}

fn transport_error<E>(topic: String, after: Duration, error: TransportError) -> RequestError<E> {
    match error {
        TransportError::NoResponder { .. } => RequestError::NoResponder { topic },
        TransportError::TimedOut { .. } => RequestError::TimedOut { topic, after },
        TransportError::Disconnected { reason } => RequestError::Disconnected { topic, reason },
        TransportError::Closed => RequestError::Cancelled { topic },
        error => RequestError::Transport { topic, error },
    }
}

fn outcome<R: Request>(answer: Answer<R>, after: Duration) -> Outcome<R> {
    match answer {
        Ok(outcome) => outcome.map_err(RequestError::Refused),
        Err(failed) => Err(without(topic::<R>(), failed, after)),
    }
}

/// What a request without an answer of its handler ends in.
#[cold]
fn without<E>(topic: String, failed: Failed, after: Duration) -> RequestError<E> {
    let Failed { kind, text } = failed;
    match kind {
        FailureKind::Undecodable | FailureKind::Version => {
            RequestError::Undecodable { topic, reason: format!("the responder: {text}") }
        }
        FailureKind::Expired => RequestError::TimedOut { topic, after },
        kind => {
            let reason = format!("{}: {text}", kind.as_str());
            RequestError::Disconnected { topic, reason }
        }
    }
}
