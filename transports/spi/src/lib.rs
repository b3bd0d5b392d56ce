//! The transport contract of busway: what an adapter implements, and nothing else.
//!
//! An adapter is a [`Connector`] that builds a [`Transport`] from an [`Address`]. The verbs mirror
//! the public API (publish, subscribe, join a group, respond, request), so that each adapter maps
//! them to what its medium does natively. This crate knows no runtime: futures and streams in its
//! signatures are the standard ones.
//!
//! Reading order: [`name`] and [`id`] (what things are called), [`envelope`] (what is carried),
//! [`delivery`], [`group`] and [`request`] (how it arrives), [`presence`] and [`notice`] (who is
//! there and what happened to them), [`capability`] and [`error`] (what can be refused and how),
//! [`transport`] (the contract itself), [`connector`] (from an address to a transport),
//! [`erased`] (the one place where a transport becomes a `dyn` handle).
//!
//! Prove an adapter with the crate `busway-conformance`.

#![forbid(unsafe_code)]

pub mod address;
pub mod capability;
pub mod connector;
pub mod delivery;
pub mod envelope;
pub mod erased;
pub mod error;
pub mod express;
pub mod group;
pub mod id;
pub mod name;
pub mod notice;
pub mod presence;
pub mod request;
pub mod run;
pub mod transport;

pub use address::Address;
pub use capability::{Capabilities, Capability};
pub use connector::{ConnectOptions, Connector, Registry};
pub use delivery::{
    Arrival, Deliveries, Gap, GapReason, Missing, PlainInterest, Sink, SinkHandle, SubscriptionId,
};
pub use envelope::{ContentType, Envelope, Headers, LocalPayload, Payload, PayloadError, Source};
pub use erased::{PermitHandle, TransportHandle};
pub use error::{Party, TransportError};
pub use express::{Common, Confirms, Express, Plain, Stamp};
pub use group::{
    DeadLetter, DeadReason, Delivery, Failure, GroupDeliveries, GroupKey, GroupSpec, Letters,
    Outcome, Retry, Settlement,
};
pub use id::{MessageId, PeerId, since_1970};
pub use name::{Name, NameError, Topic, TopicFilter};
pub use notice::{Host, Notice};
pub use presence::{Changes, Interest, Peer, Status};
pub use request::{Ask, Asks, FailureKind, OutgoingRequest, Replier, Reply, ResponderSpec};
pub use run::{Lying, Run};
pub use transport::{Commit, Permit, Receipt, Route, Transport};

pub use futures_core::future::BoxFuture;
pub use futures_core::stream::BoxStream;
