//! What a subscription receives: events of one type, or of any.

use std::sync::Arc;

use busway_transport::{GapReason, Name, TopicFilter};

use crate::event::Event;
use crate::message::{Message, RawMessage};
use crate::parcel::{self, Parcel};

/// An event on its way to a subscriber. Public in name only: nobody outside can make or open one.
#[derive(Clone, Copy)]
pub struct Carried<'a>(pub(crate) &'a Arc<dyn Parcel>);

/// Opens events where they arrive, before they wait for their subscriber. Public in name only.
#[derive(Debug, Clone, Copy)]
pub struct Early(pub(crate) parcel::Early);

/// What a subscription can receive: an [`Event`] type, or [`Any`]. Sealed.
pub trait Kind: Send + Sync + 'static {
    /// What a handler is given.
    type Message: Send + 'static;
    /// What a filter looks at.
    type View: ?Sized;
    #[doc(hidden)]
    fn open(event: Carried<'_>, attempt: u32) -> Result<Self::Message, GapReason>;
    /// Without the codec, where that is possible.
    #[doc(hidden)]
    fn take(event: Carried<'_>) -> Option<Self::Message>;
    #[doc(hidden)]
    fn early() -> Option<Early>;
    #[doc(hidden)]
    fn view(message: &Self::Message) -> &Self::View;
}

impl<E: Event> Kind for E {
    type Message = Message<E>;
    type View = E;

    fn open(event: Carried<'_>, attempt: u32) -> Result<Message<E>, GapReason> {
        Message::open(event.0, attempt)
    }

    #[inline]
    fn take(event: Carried<'_>) -> Option<Message<E>> {
        Message::take(event.0)
    }

    fn early() -> Option<Early> {
        Some(Early(parcel::Early::of::<E>()))
    }

    fn view(message: &Message<E>) -> &E {
        message
    }
}

/// Events of any type, by topic filter: see [`Endpoint::subscribe_any`](crate::Endpoint::subscribe_any).
#[derive(Debug)]
pub struct Any(());

impl Kind for Any {
    type Message = RawMessage;
    type View = RawMessage;

    fn open(event: Carried<'_>, _: u32) -> Result<RawMessage, GapReason> {
        Ok(RawMessage::new(event.0.clone()))
    }

    fn take(event: Carried<'_>) -> Option<RawMessage> {
        Some(RawMessage::new(event.0.clone()))
    }

    fn early() -> Option<Early> {
        None
    }

    fn view(message: &RawMessage) -> &RawMessage {
        message
    }
}

/// Which part of the topics a subscription is about; wrong names are kept until it is started.
pub(crate) struct Scope {
    pub(crate) filter: TopicFilter,
    pub(crate) from: Option<Name>,
}

impl std::fmt::Debug for Carried<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Carried").field(self.0.meta()).finish()
    }
}
