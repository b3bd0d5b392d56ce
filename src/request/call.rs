//! `endpoint.request(request)`: a builder that is its own future.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use busway_transport::{
    BoxFuture, Envelope, FailureKind, Headers, MessageId, Name, NameError, OutgoingRequest,
    TransportError,
};

use crate::bus::{Core, deadline_after};
use crate::endpoint::Endpoint;
use crate::error::RequestError;
use crate::event::Request;
use crate::request::ask::{About, Ask};
use crate::request::local::{Answer, Started};
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
    to: Option<Name>,
    wrong: Option<NameError>,
    timeout: Option<Duration>,
    headers: Headers,
    slow: Option<BoxFuture<'a, Outcome<R>>>,
}

// No field is ever pinned in place.
impl<R: Request> Unpin for RequestCall<'_, R> {}

impl<'a, R: Request> RequestCall<'a, R> {
    pub(crate) fn new(endpoint: &'a Endpoint, request: R) -> Self {
        Self {
            endpoint,
            request: Some(request),
            to: None,
            wrong: None,
            timeout: None,
            headers: Headers::new(),
            slow: None,
        }
    }

    /// Asks a responder of that endpoint.
    pub fn to(mut self, endpoint: &str) -> Self {
        match Name::new(endpoint) {
            Ok(name) => self.to = Some(name),
            Err(error) => self.wrong = Some(error),
        }
        self
    }

    /// How long to wait for the answer (30 s unless set here or in the configuration).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Attaches a header.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(key, value);
        self
    }

    fn start(&mut self, request: R) -> Result<BoxFuture<'a, Outcome<R>>, Outcome<R>> {
        let endpoint = self.endpoint;
        let bus = &endpoint.bus;
        let topic = || R::SCHEMA.topic.to_owned();
        if let Some(error) = self.wrong.take() {
            return Err(Err(RequestError::Addressee { topic: topic(), error }));
        }
        bus.check_open(|| RequestError::Cancelled { topic: topic() }).map_err(Err)?;
        let after = self.timeout.unwrap_or(bus.settings.request_timeout);
        let deadline = deadline_after(after);
        let Some(handler) = bus.responders.find::<R>(self.to.as_ref()) else {
            let (to, headers) = (self.to.take(), std::mem::take(&mut self.headers));
            return Ok(Box::pin(ask_peers(endpoint, request, to, headers, after, deadline)));
        };
        let gone = CancellationToken::new();
        let about = About {
            id: OnceLock::new(),
            source: bus.source(&endpoint.name),
            headers: std::mem::take(&mut self.headers),
            deadline,
            cancelled: gone.clone(),
        };
        match handler.call_here(Ask::new(request, Arc::new(about))) {
            Started::Done(answer) => Err(outcome::<R>(answer, after)),
            Started::Running(answer) => Ok(Box::pin(async move {
                // Tells the responder when this is dropped.
                let _gone = gone.drop_guard();
                match until_over::<R, _>(bus, after, deadline, answer).await? {
                    Ok(answer) => outcome::<R>(answer, after),
                    Err(_) if bus.gone.is_cancelled() => {
                        Err(RequestError::Cancelled { topic: topic() })
                    }
                    Err(_) => {
                        let reason = "the responder's task was cut off".into();
                        Err(RequestError::Disconnected { topic: topic(), reason })
                    }
                }
            })),
        }
    }
}

impl<R: Request> Future for RequestCall<'_, R> {
    type Output = Outcome<R>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Some(request) = this.request.take() {
            match this.start(request) {
                Err(outcome) => return Poll::Ready(outcome),
                Ok(slow) => this.slow = Some(slow),
            }
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
    let topic = || R::SCHEMA.topic.to_owned();
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
    let topic = || R::SCHEMA.topic.to_owned();
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
    let topic = R::SCHEMA.topic.to_owned();
    match answer {
        Answer::Response(response) => Ok(response),
        Answer::Refused(error) => Err(RequestError::Refused(error)),
        Answer::Failed(FailureKind::Undecodable | FailureKind::Version, text) => {
            Err(RequestError::Undecodable { topic, reason: format!("the responder: {text}") })
        }
        Answer::Failed(FailureKind::Expired, _) => Err(RequestError::TimedOut { topic, after }),
        Answer::Failed(kind, text) => {
            let reason = format!("{}: {text}", kind.as_str());
            Err(RequestError::Disconnected { topic, reason })
        }
    }
}
