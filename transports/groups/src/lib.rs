//! The sans-io group engine of busway's brokerless transports: which member of a queue group gets
//! an event, what becomes of it when the attempt fails or the member dies, and when publishers
//! have to wait (law 7).
//!
//! The engine does no I/O, reads no clock, spawns nothing and never waits. Time comes in as `now`;
//! what has to be done comes out of [`Engine::poll_effect`]. Whoever owns one (a memory hub, a
//! publisher in a mesh) keeps it behind its own lock and does three things after every call:
//!
//! 1. polls effects until there are none, and carries them out;
//! 2. asks [`Engine::poll_timeout`] when to come back, at the latest, with
//!    [`Engine::handle_timeout`];
//! 3. when [`Effect::Room`] came, lets *every* publisher that was turned away try again.
//!
//! ```
//! use std::time::Instant;
//! use busway_groups::{Effect, Engine};
//! # use busway_transport::{
//! #     ContentType, Envelope, GroupKey, GroupSpec, MessageId, Outcome, Payload, PeerId, Route,
//! #     Source,
//! # };
//! # let topic: busway_transport::Topic = "shop.order".parse()?;
//! # let key = GroupKey {
//! #     endpoint: "billing".parse()?, group: "invoicing".parse()?, topic: topic.clone(),
//! # };
//! # let source = Source { endpoint: "shop".parse()?, peer: PeerId::from_u64(1) };
//! # let payload = Payload::encoded(ContentType::JSON, "{}");
//! # let envelope = Envelope::new(MessageId::new(), topic.clone(), source, payload);
//! let now = Instant::now();
//! let mut engine = Engine::new();
//! engine.join(1, &GroupSpec::new(key), now);
//!
//! let reservation = engine.try_reserve(&Route::new(topic, None)).expect("there is room");
//! assert_eq!(engine.commit(reservation, envelope, now).len(), 1);
//!
//! let Some(Effect::Deliver { member, tag, attempt, .. }) = engine.poll_effect() else { panic!() };
//! assert_eq!((member, attempt), (1, 1));
//! engine.settle(member, tag, Outcome::Done, now);
//! assert_eq!(engine.unsettled(), 0);
//! # Ok::<(), busway_transport::NameError>(())
//! ```
//!
//! # Where things are
//!
//! `engine` is the outside: it finds the groups of a route and keeps the timers. `group` holds the
//! rules of one group, `members` the choice of a member, `queue` the order of events, with the `lanes`
//! of groups that are ordered by key. The store for [`DeadLetters`] is separate: the engine only says
//! that there is one more, and takes back what is replayed.

#![forbid(unsafe_code)]

mod dead_letters;
mod effect;
mod engine;
mod group;
mod lanes;
mod members;
mod queue;
mod reservation;
#[cfg(test)]
mod tests;

pub use dead_letters::{DeadLetters, Replay, Unplaced};
pub use effect::{Effect, Tag};
pub use engine::Engine;
pub use lanes::Lanes;
pub use members::MemberKey;
pub use reservation::Reservation;
