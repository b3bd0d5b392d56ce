//! What a transport carries.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::{MessageId, Name, PeerId, Topic};

/// Metadata and payload of one event or request. The names follow CloudEvents 1.0, with `topic`
/// for its `type`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Envelope {
    /// CloudEvents `id`: the same on every redelivery.
    pub id: MessageId,
    /// CloudEvents `type`.
    pub topic: Topic,
    /// The version of the event's contract (1 unless raised).
    pub version: u32,
    /// CloudEvents `source`: who published it.
    pub source: Source,
    /// The publisher's count of plain events with this topic and address: receivers drop repeats
    /// and see holes by it. `None` where nothing can be lost or repeated, and for group work.
    pub sequence: Option<u64>,
    /// The endpoint it is addressed to; `None` for everyone interested.
    pub to: Option<Name>,
    /// CloudEvents `time`: when it was published.
    pub time: Option<SystemTime>,
    /// What the publisher attached.
    pub headers: Headers,
    /// The event itself.
    pub payload: Payload,
}

impl Envelope {
    /// An envelope with the given identity and payload and nothing else.
    pub fn new(id: MessageId, topic: Topic, source: Source, payload: Payload) -> Self {
        Self {
            id,
            topic,
            version: 1,
            source,
            sequence: None,
            to: None,
            time: None,
            headers: Headers::new(),
            payload,
        }
    }
}

/// Who published an event: an endpoint, and the bus it lives on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// The endpoint's name.
    pub endpoint: Name,
    /// The bus (and so the process) it published from.
    pub peer: PeerId,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.endpoint, self.peer)
    }
}

/// Text headers, ordered by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Sets a header, replacing an earlier one of that key.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.insert(key.into(), value.into());
    }

    /// The value of a header.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All headers in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut headers = Self::new();
        for (key, value) in pairs {
            headers.insert(key, value);
        }
        headers
    }
}

/// A media type; receivers choose the codec by it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ContentType(Cow<'static, str>);

impl ContentType {
    /// JSON.
    pub const JSON: Self = Self(Cow::Borrowed("application/json"));
    /// MessagePack with field names.
    pub const MESSAGE_PACK: Self = Self(Cow::Borrowed("application/msgpack"));
    /// bincode 2, standard configuration: between equal builds only.
    pub const BINCODE: Self = Self(Cow::Borrowed("application/x-bincode"));

    /// Any other media type.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Cow::Owned(text.into()))
    }

    /// The media type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The event itself, encoded or, inside a process, as it is.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Payload {
    /// Bytes and their media type.
    Encoded {
        /// What the bytes are.
        content_type: ContentType,
        /// The bytes.
        bytes: Bytes,
    },
    /// A value of this process, for transports that claim [`Capability::InProcess`].
    ///
    /// [`Capability::InProcess`]: crate::Capability::InProcess
    Local(Arc<dyn LocalPayload>),
}

impl Payload {
    /// Bytes of a media type.
    pub fn encoded(content_type: ContentType, bytes: impl Into<Bytes>) -> Self {
        Self::Encoded { content_type, bytes: bytes.into() }
    }
}

/// A value that stays in its process, and can be encoded on demand.
pub trait LocalPayload: Any + fmt::Debug + Send + Sync {
    /// Encodes the value.
    ///
    /// # Errors
    /// [`PayloadError`] when it cannot be encoded, for instance because its type is local.
    fn encode(&self) -> Result<(ContentType, Bytes), PayloadError>;
}

/// Why a local payload could not be encoded.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the payload of {topic} cannot be encoded: {reason}")]
pub struct PayloadError {
    /// Which event.
    pub topic: String,
    /// What the codec said.
    pub reason: String,
}
