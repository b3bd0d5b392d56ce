//! What a responder's handler is given.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use busway_transport::{Headers, MessageId, Name, PeerId, Source};

use crate::bus::{deadline_after, now};
use crate::event::Request;

/// A request to answer: derefs to `R`, and carries its metadata.
pub struct Ask<R> {
    request: R,
    about: Handed,
}

impl<R: Request> Ask<R> {
    #[inline]
    pub(crate) fn new(request: R, about: Handed) -> Self {
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

    /// How long the caller goes on waiting at most.
    pub fn remaining(&self) -> Duration {
        self.about.deadline().saturating_duration_since(now())
    }

    /// Resolves when the caller no longer waits: its future was dropped, it has its outcome, its
    /// deadline passed or, where the transport sees it, its process died. The handler is not cut
    /// off; it may stop by itself.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn cancelled(&self) {
        let Over::Watched(over) = self.about.watch() else { return };
        let deadline = tokio::time::Instant::from_std(self.about.deadline());
        tokio::select! {
            () = over.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    }

    /// Whether the caller no longer waits.
    pub fn is_cancelled(&self) -> bool {
        self.about.is_over()
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

/// What is known of a request besides its value. The clock is read, and what else costs is made,
/// when it is first asked for: most handlers that answer at once ask for none of it.
pub(crate) struct About {
    source: Source,
    headers: Headers,
    timeout: Duration,
    id: OnceLock<MessageId>,
    deadline: OnceLock<Instant>,
    over: OnceLock<Over>,
}

/// Whether the caller still waits, as far as anybody cares.
enum Over {
    /// It does not, and nobody had asked.
    Ended,
    /// Somebody asked: cancelled when it does not.
    Watched(CancellationToken),
}

/// What a handler holds of it. Dropped while the handler is polled in place it goes back to the
/// call, which uses it again.
pub(crate) struct Handed(Option<Arc<About>>);

/// What the call holds of it, until the handler has been polled in place.
pub(crate) struct Lent {
    about: Arc<About>,
    /// What a call around this one has lent, and may have back already.
    around: (*const About, Option<Handed>),
}

/// Where calls of one thread keep and exchange what they are about. Both ends go from hand to hand:
/// to count references took a fifth of the time of a request in place.
struct Desk {
    /// What the last call was about, if nobody had asked for anything of it: as good as a new one
    /// for a call from the same endpoint. Both ends of it.
    spare: Cell<Option<(Arc<About>, Handed)>>,
    /// What is lent to the handler that is being polled in place; only ever compared.
    lent: Cell<*const About>,
    /// The same, as soon as it was given back.
    back: Cell<Option<Handed>>,
}

thread_local! {
    static DESK: Desk = const {
        Desk { spare: Cell::new(None), lent: Cell::new(std::ptr::null()), back: Cell::new(None) }
    };
}

impl Deref for Handed {
    type Target = About;

    #[inline]
    fn deref(&self) -> &About {
        self.0.as_ref().expect("it is taken only when it is dropped")
    }
}

impl Drop for Handed {
    #[inline]
    fn drop(&mut self) {
        let Some(about) = self.0.take() else { return };
        // Fails only while the thread ends.
        let _ = DESK.try_with(|desk| {
            if std::ptr::eq(desk.lent.get(), Arc::as_ptr(&about)) {
                desk.back.set(Some(Self(Some(about))));
            }
        });
    }
}

impl Lent {
    /// The handler is going to be polled in place.
    #[inline]
    pub(crate) fn new(about: Arc<About>) -> Self {
        let around =
            DESK.try_with(|desk| (desk.lent.replace(Arc::as_ptr(&about)), desk.back.take()));
        // Fails only while the thread ends.
        Self { about, around: around.unwrap_or((std::ptr::null(), None)) }
    }

    /// What was lent, if the handler has dropped it.
    #[inline]
    fn end(self) -> (Arc<About>, Option<Handed>) {
        let (lent, back) = self.around;
        let back = DESK.try_with(|desk| {
            desk.lent.set(lent);
            desk.back.replace(back)
        });
        (self.about, back.ok().flatten())
    }

    /// The handler goes on.
    pub(crate) fn into_about(self) -> Arc<About> {
        self.end().0
    }

    /// The handler is done, and so is the call.
    #[inline]
    pub(crate) fn done(self) {
        match self.end() {
            (about, Some(handed)) if about.is_as_new() => {
                // Fails only while the thread ends.
                let _ = DESK.try_with(|desk| desk.spare.set(Some((about, handed))));
            }
            (_, Some(_)) => {}
            (about, None) => {
                // The handler gave the request away: what it said of its caller stays as it was.
                about.deadline();
                about.end();
            }
        }
    }
}

impl About {
    /// Of a call from here that begins now.
    #[inline]
    pub(crate) fn from_here(
        endpoint: &Name,
        bus: PeerId,
        timeout: Duration,
        headers: Option<Headers>,
    ) -> (Arc<Self>, Handed) {
        // Fails only while the thread ends.
        let spare = DESK.try_with(|desk| desk.spare.take()).ok().flatten();
        match spare {
            Some(spare) if headers.is_none() && spare.0.fits(endpoint, bus, timeout) => spare,
            _ => {
                let source = Source { endpoint: endpoint.clone(), peer: bus };
                Self::new(source, headers.unwrap_or_default(), timeout).hand_out()
            }
        }
    }

    /// Of a request that another bus sent.
    pub(crate) fn from_peer(
        id: MessageId,
        source: Source,
        headers: Headers,
        deadline: Instant,
    ) -> (Arc<Self>, Handed) {
        let mut about = Self::new(source, headers, Duration::ZERO);
        about.id = OnceLock::from(id);
        about.deadline = OnceLock::from(deadline);
        about.hand_out()
    }

    fn hand_out(self) -> (Arc<Self>, Handed) {
        let about = Arc::new(self);
        let handed = Handed(Some(about.clone()));
        (about, handed)
    }

    fn new(source: Source, headers: Headers, timeout: Duration) -> Self {
        let (id, deadline, over) = Default::default();
        Self { source, headers, timeout, id, deadline, over }
    }

    #[inline]
    fn fits(&self, endpoint: &Name, bus: PeerId, timeout: Duration) -> bool {
        // The same text in the same place: that it holds the name keeps its place from others.
        std::ptr::eq(self.source.endpoint.as_str(), endpoint.as_str())
            && self.source.peer == bus
            && self.timeout == timeout
    }

    #[inline]
    fn is_as_new(&self) -> bool {
        self.headers.is_empty()
            && self.id.get().is_none()
            && self.deadline.get().is_none()
            && self.over.get().is_none()
    }

    /// When the caller gives up. Counts from when it is first asked for: a call that does not end
    /// at its first poll must ask then.
    pub(crate) fn deadline(&self) -> Instant {
        *self.deadline.get_or_init(|| deadline_after(self.timeout))
    }

    /// The caller no longer waits.
    pub(crate) fn end(&self) {
        if let Over::Watched(over) = self.over.get_or_init(|| Over::Ended) {
            over.cancel();
        }
    }

    fn watch(&self) -> &Over {
        self.over.get_or_init(|| Over::Watched(CancellationToken::new()))
    }

    pub(crate) fn is_over(&self) -> bool {
        let ended = self.over.get().is_some_and(|over| match over {
            Over::Ended => true,
            Over::Watched(over) => over.is_cancelled(),
        });
        ended || now() >= self.deadline()
    }

    /// Whether the caller gave it no time at all.
    #[inline]
    pub(crate) fn is_stillborn(&self) -> bool {
        self.timeout.is_zero()
    }
}
