//! What a subscriber receives.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use busway_transport::{ContentType, GapReason, Headers, MessageId, Name, Source, Topic};

use crate::codec::CodecError;
use crate::event::Event;
use crate::parcel::{self, Meta, Parcel, Typed};

macro_rules! metadata {
    () => {
        /// Its id, the same for everyone who receives it and on every redelivery.
        pub fn id(&self) -> MessageId {
            self.meta().id()
        }

        /// Its topic: the event's name, with `.vN` behind it from version 2 on.
        pub fn topic(&self) -> &Topic {
            self.meta().topic()
        }

        /// Who published it: an endpoint, and the bus it lives on.
        pub fn source(&self) -> &Source {
            self.meta().source()
        }

        /// The endpoint it was addressed to, if it was.
        pub fn to(&self) -> Option<&Name> {
            self.meta().to()
        }

        /// When it was published. Reading a clock costs more than a publish inside the process:
        /// it is done only when the event leaves the process, carries headers, goes to a group or
        /// [was asked to](crate::Publish::timestamped).
        pub fn time(&self) -> Option<SystemTime> {
            self.meta().time()
        }

        /// What the publisher attached.
        pub fn headers(&self) -> &Headers {
            self.meta().headers()
        }
    };
}

/// A received event: derefs to `E`, and carries its metadata. Clones share it.
pub struct Message<E> {
    parcel: Arc<Typed<E>>,
    // As wide as the pointer beside it: processors cannot read two words at once that were written
    // as one and a half, and wait. Streams move their items several times.
    attempt: u64,
}

impl<E: Event> Message<E> {
    #[inline]
    pub(crate) fn open(parcel: &Arc<dyn Parcel>, attempt: u32) -> Result<Self, GapReason> {
        Ok(Self { parcel: parcel::open(parcel)?, attempt: attempt.into() })
    }

    /// The message of a parcel that holds this very type.
    #[inline]
    pub(crate) fn take(parcel: &Arc<dyn Parcel>) -> Option<Self> {
        parcel::take(parcel).map(|parcel| Self { parcel, attempt: 1 })
    }

    fn meta(&self) -> &Meta {
        self.parcel.meta()
    }

    metadata!();

    /// Which attempt to handle it this is, from 1; always 1 outside of groups.
    pub fn attempt(&self) -> u32 {
        u32::try_from(self.attempt).unwrap_or(u32::MAX)
    }
}

impl<E> Deref for Message<E> {
    type Target = E;
    fn deref(&self) -> &E {
        self.parcel.event()
    }
}

impl<E> Clone for Message<E> {
    fn clone(&self) -> Self {
        Self { parcel: self.parcel.clone(), attempt: self.attempt }
    }
}

impl<E: Event + fmt::Debug> fmt::Debug for Message<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("event", &**self)
            .field("source", self.source())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// A received event of any type, as an untyped subscription gets it.
#[derive(Clone)]
pub struct RawMessage {
    parcel: Arc<dyn Parcel>,
}

impl RawMessage {
    pub(crate) fn new(parcel: Arc<dyn Parcel>) -> Self {
        Self { parcel }
    }

    fn meta(&self) -> &Meta {
        self.parcel.meta()
    }

    metadata!();

    /// The version of the event's contract.
    pub fn version(&self) -> u32 {
        self.meta().version()
    }

    /// The event's bytes and what they are. An event of this process is encoded on the first
    /// call.
    ///
    /// # Errors
    /// [`CodecError`] when it cannot be encoded, for instance because it is local.
    pub fn payload(&self) -> Result<(ContentType, Bytes), CodecError> {
        self.parcel.bytes()
    }

    /// The event as a type, whatever its topic.
    ///
    /// # Errors
    /// [`GapReason::Undecodable`] or [`GapReason::Version`].
    pub fn decode<E: Event>(&self) -> Result<Message<E>, GapReason> {
        Message::open(&self.parcel, 1)
    }
}

impl fmt::Debug for RawMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawMessage")
            .field("topic", self.topic())
            .field("source", self.source())
            .finish_non_exhaustive()
    }
}
