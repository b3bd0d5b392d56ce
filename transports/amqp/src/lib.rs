//! RabbitMQ for busway, through lapin.
//!
//! [`AmqpConnector`] connects, [`AmqpTransport`] is a bus's place on the broker. What stands on
//! the broker and how messages look is described in `docs/wire-amqp.md`, for programs in other
//! languages.
//!
//! Reading order, for those who want to follow an event through it: `address` and `connector`
//! (from a URL to two connections), `dial`, `connection` and `status` (how a connection comes back),
//! `topology` (names and declarations) and `properties` (envelopes on the wire); then `publish`,
//! `express`, `outbox`, `confirms`, `flight` and `sender` (confirms, order, what happens to the
//! unconfirmed), `plain` and `way_in` (subscriptions), `served` and `member` with `acks`, `group`
//! with `again`, and `respond` (deliveries that are answered), `keyed` and `line` (groups that are
//! ordered by key), `forward`, `dead` and `remove` (retries, dead letters, and the end of a group),
//! `request`, `desk` and `answers` (the asking side, and answers on their way), `presence`, `peers` and
//! `clock` (who is there), `transport` (the contract's verbs), `rebind` (an exchange that went),
//! `shared` and `tasks` (what holds it together), `error`.
//!
//! Three rules run through all of it. lapin's recovery is off: each part keeps its own list of
//! declarations and replays it on every new connection. Nothing waits for the broker without a
//! limit. Whatever the broker has not confirmed is kept here, whatever we have not settled is
//! kept there.

#![forbid(unsafe_code)]

mod acks;
mod address;
mod again;
mod answers;
mod clock;
mod confirms;
mod connection;
mod connector;
mod dead;
mod desk;
mod dial;
mod error;
mod express;
mod flight;
mod forward;
mod group;
mod keyed;
mod line;
mod member;
mod outbox;
mod peers;
mod plain;
mod presence;
mod properties;
mod publish;
mod rebind;
mod remove;
mod request;
mod respond;
mod sender;
mod served;
mod shared;
mod status;
mod tasks;
mod topology;
mod transport;
mod way_in;

pub use connector::AmqpConnector;
pub use transport::{AmqpPermit, AmqpTransport};
