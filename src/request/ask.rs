//! What a responder's handler is given.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use busway_transport::{Headers, MessageId, Source};

use crate::bus::now;
use crate::event::Request;

/// A request to answer: derefs to `R`, and carries its metadata.
pub struct Ask<R> {
    request: R,
    about: Arc<About>,
}

/// What is known of a request besides its value.
pub(crate) struct About {
    pub(crate) id: std::sync::OnceLock<MessageId>,
    pub(crate) source: Source,
    pub(crate) headers: Headers,
    pub(crate) deadline: Instant,
    pub(crate) cancelled: CancellationToken,
}

impl<R: Request> Ask<R> {
    pub(crate) fn new(request: R, about: Arc<About>) -> Self {
        Self { request, about }
    }

    /// The request itself.
    pub fn into_inner(self) -> R {
        self.request
    }

    /// The request's id.
    pub fn id(&self) -> MessageId {
        *self.about.id.get_or_init(MessageId::new)
    }

    /// Who asks.
    pub fn source(&self) -> &Source {
        &self.about.source
    }

    /// What the caller attached.
    pub fn headers(&self) -> &Headers {
        &self.about.headers
    }

    /// How long the caller goes on waiting.
    pub fn remaining(&self) -> Duration {
        self.about.deadline.saturating_duration_since(now())
    }

    /// Resolves when the caller no longer waits: its future was dropped, its deadline passed or,
    /// where the transport sees it, its process died. The handler is not cut off; it may stop by
    /// itself.
    pub async fn cancelled(&self) {
        let deadline = tokio::time::Instant::from_std(self.about.deadline);
        tokio::select! {
            () = self.about.cancelled.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }

    /// Whether the caller no longer waits.
    pub fn is_cancelled(&self) -> bool {
        self.about.cancelled.is_cancelled() || now() >= self.about.deadline
    }
}

impl<R> Deref for Ask<R> {
    type Target = R;
    fn deref(&self) -> &R {
        &self.request
    }
}

impl<R: Request + std::fmt::Debug> std::fmt::Debug for Ask<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask")
            .field("request", &self.request)
            .field("source", &self.about.source)
            .finish_non_exhaustive()
    }
}
