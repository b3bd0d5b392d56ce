#![doc = include_str!("../README.md")]

mod bus;
mod by_type;
mod codec;
mod config;
mod dead_letters;
mod endpoint;
mod error;
mod event;
mod ledger;
mod message;
mod notice;
mod parcel;
mod publish;
mod request;
mod router;
mod running;
pub mod subscribe;
mod sync;
mod transports;
pub mod zero_copy;

pub use bus::{Builder, Bus};
pub use codec::{Codec, CodecError};
pub use config::ConfigError;
pub use dead_letters::{DeadLetter, DeadLetters, RemoveGroup};
pub use endpoint::Endpoint;
pub use error::{
    CloseError, FlushError, GroupError, OpenError, PublishAllError, PublishError, ReadyError,
    RequestError, SubscribeError, TryPublishError, WaitError,
};
pub use event::{Event, Refused, Request, Schema};
pub use ledger::Ledger;
pub use message::{Message, RawMessage};
pub use notice::Notices;
pub use publish::{Accepted, AcceptedAll, Publish, Publisher, Publishing, Receipt};
pub use request::{Ask, RequestCall, Respond, Responder};
pub use router::queue::Overflow;
pub use subscribe::{Chunk, EventStream, HandlerError, Lent, Starting, Subscribe, Subscription};

pub use busway_macros::{Event, Request};
pub use busway_transport::{
    Address, Capabilities, Capability, Connector, ContentType, DeadReason, Gap, GapReason,
    GroupKey, Headers, MessageId, Missing, Name, NameError, Notice, Party, Peer, PeerId, Retry,
    Source, Status, Topic, TopicFilter, TransportError,
};
pub use bytes::Bytes;
