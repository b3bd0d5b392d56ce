//! What can travel on a bus: events and requests.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::{Codec, CodecError};

/// The contract of an event or request: what its name on the wire is, and how it is encoded.
///
/// Made by the derives; by hand it is built in the same way:
///
/// ```
/// use busway::{Codec, Schema};
/// const SCHEMA: Schema = Schema::new("shop.order_placed").version(2, "shop.order_placed.v2");
/// assert_eq!(SCHEMA.topic, "shop.order_placed.v2");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Schema {
    /// The stable dotted name.
    pub name: &'static str,
    /// The topic on the wire: the name, and `.vN` behind it from version 2 on.
    pub topic: &'static str,
    /// The version of the contract.
    pub version: u32,
    /// Whether the event never leaves its process.
    pub local: bool,
    /// The codec it asks for; `None` for the transport's own choice.
    pub codec: Option<Codec>,
}

impl Schema {
    /// Version 1 of a name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, topic: name, version: 1, local: false, codec: None }
    }

    /// A later version, which is a topic of its own: `NAME.vN`, so that old and new run side by
    /// side.
    pub const fn version(mut self, version: u32, topic: &'static str) -> Self {
        self.version = version;
        self.topic = topic;
        self
    }

    /// Never leaves the process.
    pub const fn local(mut self) -> Self {
        self.local = true;
        self
    }

    /// Always encoded like this.
    pub const fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }
}

/// A typed fact with a stable dotted name. Derive it: [`macro@crate::Event`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    note = "write `#[derive(Event, Serialize, Deserialize)]` and `#[event(\"area.thing_happened\")]` above it"
)]
pub trait Event: Sized + Send + Sync + 'static {
    /// Its contract.
    const SCHEMA: Schema;

    /// Encodes the event to the end of a buffer.
    ///
    /// # Errors
    /// [`CodecError`] when the codec cannot represent it, or the event is local. The buffer is then
    /// as it was.
    fn encode(&self, codec: Codec, buffer: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Decodes an event.
    ///
    /// # Errors
    /// [`CodecError`] when the payload is not one, or the event is local.
    fn decode(codec: Codec, payload: &[u8]) -> Result<Self, CodecError>;
}

/// A typed question with exactly one outcome. Derive it: [`macro@crate::Request`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a request",
    note = "write `#[derive(Request, Serialize, Deserialize)]` and `#[request(\"area.question\", response = Answer)]` above it"
)]
pub trait Request: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Its contract.
    const SCHEMA: Schema;
    /// What the responder answers.
    type Response: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// How the responder refuses: its own typed error, which crosses transports.
    type Error: std::error::Error + Serialize + DeserializeOwned + Send + Sync + 'static;
}

/// How a responder refuses when its request names no error type of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Refused {
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

impl Refused {
    /// A refusal.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}
