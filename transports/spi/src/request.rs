//! How requests are asked and answered.

use std::fmt;
use std::time::Instant;

use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;

use crate::{Envelope, Name, Payload, Topic};

/// A request on its way out. Its addressee is the envelope's `to`.
#[derive(Debug)]
#[non_exhaustive]
pub struct OutgoingRequest {
    /// The request.
    pub envelope: Envelope,
    /// When it has to be answered; travels as remaining time.
    pub deadline: Instant,
}

impl OutgoingRequest {
    /// A request with its deadline.
    pub fn new(envelope: Envelope, deadline: Instant) -> Self {
        Self { envelope, deadline }
    }
}

/// What a responder asks for.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ResponderSpec {
    /// Which requests.
    pub topic: Topic,
    /// The endpoint that answers.
    pub endpoint: Name,
    /// How many requests it answers at once.
    pub concurrency: usize,
}

impl ResponderSpec {
    /// A responder of an endpoint.
    pub fn new(topic: Topic, endpoint: Name, concurrency: usize) -> Self {
        Self { topic, endpoint, concurrency }
    }
}

/// The requests of one responder. Dropping it withdraws the responder; what was taken stays to be
/// answered.
pub type Asks = BoxStream<'static, Ask>;

/// One request to answer.
#[non_exhaustive]
pub struct Ask {
    /// The request.
    pub envelope: Envelope,
    /// When the caller stops waiting. Expired requests are not run.
    pub deadline: Instant,
    /// Where to answer.
    pub replier: Replier,
    /// Resolves when the caller has gone or no longer wants the answer; pending for ever where
    /// the transport cannot tell.
    pub cancelled: BoxFuture<'static, ()>,
}

impl Ask {
    /// A request to answer.
    pub fn new(
        envelope: Envelope,
        deadline: Instant,
        replier: Replier,
        cancelled: BoxFuture<'static, ()>,
    ) -> Self {
        Self { envelope, deadline, replier, cancelled }
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("envelope", &self.envelope)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

/// The right to answer one request, once. Dropped without an answer it says so to the caller.
pub struct Replier(Option<Box<dyn FnOnce(Reply) + Send>>);

impl Replier {
    /// A replier that calls `reply` exactly once. The call must not block: adapters queue it.
    pub fn new(reply: impl FnOnce(Reply) + Send + 'static) -> Self {
        Self(Some(Box::new(reply)))
    }

    /// Answers.
    pub fn reply(mut self, reply: Reply) {
        if let Some(send) = self.0.take() {
            send(reply);
        }
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        if let Some(send) = self.0.take() {
            send(Reply::Failed {
                kind: FailureKind::Abandoned,
                text: "the responder stopped before it answered".into(),
            });
        }
    }
}

impl fmt::Debug for Replier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replier").field("open", &self.0.is_some()).finish()
    }
}

/// How a responder answered.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Reply {
    /// The response.
    Response(Payload),
    /// The responder's own typed error.
    Refused(Payload),
    /// There is neither.
    Failed {
        /// Why.
        kind: FailureKind,
        /// What happened, for people.
        text: String,
    },
}

/// Why a responder gave no answer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The handler panicked.
    Panicked,
    /// The responder stopped, or its process died, before it answered.
    Abandoned,
    /// The request could not be decoded.
    Undecodable,
    /// The request has another version of the contract.
    Version,
    /// The request's deadline passed before it was run.
    Expired,
}

impl FailureKind {
    /// The kind as one word, as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Panicked => "panicked",
            Self::Abandoned => "abandoned",
            Self::Undecodable => "undecodable",
            Self::Version => "version",
            Self::Expired => "expired",
        }
    }

    /// The kind from its word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Panicked, Self::Abandoned, Self::Undecodable, Self::Version, Self::Expired]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}
