//! What is small and rare: who is there and what they want, credit, acks, settlements. In bincode,
//! which only equal builds may speak with each other: the hello's version sees to that.

use std::collections::BTreeSet;
use std::num::NonZeroU16;
use std::time::Duration;

use busway_transport::{
    DeadReason, Failure, GroupKey, GroupSpec, Name, Outcome, PlainInterest, ResponderSpec, Retry,
    SubscriptionId, Topic, TopicFilter,
};
use serde::{Deserialize, Serialize};

use super::WireError;

/// Announcements are bounded as frames are; the limit keeps bincode from reserving more.
const LIMIT: usize = super::max_frame(super::MAX_PAYLOAD);

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<LIMIT>()
}

pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    // The types below have nothing that bincode refuses, and a table over the limit would need
    // some hundred thousand subscriptions.
    bincode::serde::encode_to_vec(value, config()).unwrap_or_default()
}

/// Decodes; the whole input must be consumed.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, WireError> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, config())
        .map_err(|error| WireError::Control(error.to_string()))?;
    if read == bytes.len() { Ok(value) } else { Err(WireError::Trailing(bytes.len() - read)) }
}

/// Who is speaking, behind magic and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Introduction {
    pub(crate) bus: String,
    pub(crate) peer: u64,
    pub(crate) pid: u32,
    /// The largest payload that it sends.
    pub(crate) payload: u64,
}

/// What the accepting side says to an introduction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Welcome {
    /// Welcome, and this is me.
    Come(Introduction),
    /// There is, or is about to be, another link between us, and that one stays.
    Duplicate,
    /// We are closing.
    Closing,
    /// Another bus, or something that we do not understand.
    Refused(String),
}

/// A control frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Control {
    /// All that the sender wants at present: the first frame after the hello.
    Table { serial: u64, table: Table },
    /// One change of it.
    Change { serial: u64, change: Change },
    /// That number was received and applied.
    Ack { serial: u64 },
    /// Are you there? Answered by an ack.
    Ping { serial: u64 },
    /// The receiver has room for so much more of one interest.
    Credit { interest: u64, events: u64, bytes: u64 },
    /// How a delivery to one of the sender's members ended.
    Settle { member: u64, tag: u64, outcome: WireOutcome },
    /// The caller no longer wants an answer.
    Cancel { request: u64 },
    /// Nothing follows: the sender leaves.
    Goodbye,
}

/// All that a peer wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) changes: Vec<Change>,
}

/// One thing that a peer wants, or wants no longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    Endpoint(String),
    Interest {
        id: u64,
        filter: String,
        endpoints: Vec<String>,
        capacity: u64,
    },
    Update {
        id: u64,
        endpoints: Vec<String>,
    },
    Withdraw {
        id: u64,
    },
    Join {
        member: u64,
        spec: WireGroup,
    },
    Leave {
        member: u64,
    },
    Respond {
        responder: u64,
        topic: String,
        endpoint: String,
    },
    Unrespond {
        responder: u64,
    },
    /// The peer has reached its start-up barrier.
    Ready,
}

impl Change {
    /// Whether the peer takes something back: it is acknowledged behind the data that was already
    /// under way, so that the one who withdrew knows that nothing more will come.
    pub(crate) fn withdraws(&self) -> bool {
        matches!(self, Self::Withdraw { .. } | Self::Leave { .. } | Self::Unrespond { .. })
    }

    pub(crate) fn interest(interest: &PlainInterest) -> Self {
        Self::Interest {
            id: interest.id.0,
            filter: interest.filter.to_string(),
            endpoints: texts(&interest.endpoints),
            capacity: interest.capacity as u64,
        }
    }

    pub(crate) fn respond(responder: u64, spec: &ResponderSpec) -> Self {
        Self::Respond {
            responder,
            topic: spec.topic.to_string(),
            endpoint: spec.endpoint.to_string(),
        }
    }
}

/// Names as they travel.
pub(crate) fn texts(names: &BTreeSet<Name>) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Names as they came.
pub(crate) fn names(texts: &[String]) -> Result<BTreeSet<Name>, WireError> {
    texts.iter().map(|text| Ok(Name::new(text)?)).collect()
}

/// An interest as it came.
pub(crate) fn interest(
    id: u64,
    filter: &str,
    endpoints: &[String],
    capacity: u64,
) -> Result<PlainInterest, WireError> {
    Ok(PlainInterest::new(
        SubscriptionId(id),
        TopicFilter::new(filter)?,
        names(endpoints)?,
        usize::try_from(capacity).map_err(|_| WireError::Bad("capacity"))?,
    ))
}

/// A group's key as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireKey {
    endpoint: String,
    group: String,
    topic: String,
}

impl From<&GroupKey> for WireKey {
    fn from(key: &GroupKey) -> Self {
        Self {
            endpoint: key.endpoint.to_string(),
            group: key.group.to_string(),
            topic: key.topic.to_string(),
        }
    }
}

impl TryFrom<&WireKey> for GroupKey {
    type Error = WireError;

    fn try_from(key: &WireKey) -> Result<Self, WireError> {
        Ok(Self {
            endpoint: Name::new(&key.endpoint)?,
            group: Name::new(&key.group)?,
            topic: Topic::new(&key.topic)?,
        })
    }
}

/// A group's options as they travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WireGroup {
    key: WireKey,
    concurrency: u64,
    capacity: u64,
    hold: Duration,
    attempts: u32,
    first: Duration,
    max: Duration,
    doubling: bool,
    keyed: Option<NonZeroU16>,
}

impl From<&GroupSpec> for WireGroup {
    fn from(spec: &GroupSpec) -> Self {
        // The contract shows a retry only by what it does: its delays are read off it.
        let attempts = spec.retry.max_attempts();
        let endless = spec.retry.attempts(u32::MAX);
        let delay = |attempt| endless.after(attempt).unwrap_or_default();
        Self {
            key: (&spec.key).into(),
            concurrency: spec.concurrency as u64,
            capacity: spec.capacity as u64,
            hold: spec.hold,
            attempts,
            first: delay(1),
            max: delay(u32::MAX - 1),
            doubling: delay(2) != delay(1),
            keyed: spec.keyed,
        }
    }
}

impl TryFrom<&WireGroup> for GroupSpec {
    type Error = WireError;

    fn try_from(group: &WireGroup) -> Result<Self, WireError> {
        let size = |number| usize::try_from(number).map_err(|_| WireError::Bad("size"));
        let mut spec = Self::new((&group.key).try_into()?);
        spec.concurrency = size(group.concurrency)?;
        spec.capacity = size(group.capacity)?;
        spec.hold = group.hold;
        spec.keyed = group.keyed;
        spec.retry = if group.doubling {
            Retry::exponential(group.first, group.max)
        } else {
            Retry::fixed(group.first)
        }
        .attempts(group.attempts);
        Ok(spec)
    }
}

/// How a delivery ended, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WireOutcome {
    Done,
    Failed { reason: String, text: String },
    Refused { reason: String, text: String },
    HandBack,
    Keyed(u64),
}

/// A failure's text may be anything long; what travels is enough to see what happened.
const MAX_TEXT: usize = 4096;

/// The beginning of a text.
pub(crate) fn shorten(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

impl From<&Outcome> for WireOutcome {
    fn from(outcome: &Outcome) -> Self {
        let parts =
            |failure: &Failure| (failure.reason.as_str().to_owned(), shorten(&failure.text));
        match outcome {
            Outcome::Done => Self::Done,
            Outcome::Failed(failure) => {
                let (reason, text) = parts(failure);
                Self::Failed { reason, text }
            }
            Outcome::Refused(failure) => {
                let (reason, text) = parts(failure);
                Self::Refused { reason, text }
            }
            Outcome::Keyed(key) => Self::Keyed(*key),
            // A kind that this build does not know counts as not attempted.
            _ => Self::HandBack,
        }
    }
}

impl TryFrom<WireOutcome> for Outcome {
    type Error = WireError;

    fn try_from(outcome: WireOutcome) -> Result<Self, WireError> {
        Ok(match outcome {
            WireOutcome::Done => Self::Done,
            WireOutcome::Failed { reason, text } => Self::Failed(failure(&reason, text)?),
            WireOutcome::Refused { reason, text } => Self::Refused(failure(&reason, text)?),
            WireOutcome::HandBack => Self::HandBack,
            WireOutcome::Keyed(key) => Self::Keyed(key),
        })
    }
}

pub(super) fn failure(reason: &str, text: String) -> Result<Failure, WireError> {
    let reason = DeadReason::parse(reason).ok_or(WireError::Bad("reason"))?;
    Ok(Failure::new(reason, text))
}
