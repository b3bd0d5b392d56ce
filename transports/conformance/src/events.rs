//! What the cases publish and ask. The names are fixed; the addresses are fresh, so that nothing
//! of one case meets another.

use busway::{Codec, CodecError, Event, Request, Schema};
use serde::{Deserialize, Serialize};

/// The event of most cases.
#[derive(Event, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[event("kit.counted")]
pub(crate) struct Counted {
    pub(crate) n: u64,
}

/// Another event, between the same participants.
#[derive(Event, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[event("kit.other.counted")]
pub(crate) struct Other {
    pub(crate) n: u64,
}

/// An event with a payload of any size.
#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[event("kit.letter")]
pub(crate) struct Letter {
    pub(crate) text: String,
}

/// An event that never leaves its process, and could not.
#[derive(Event, Debug)]
#[event("kit.here", local)]
pub(crate) struct Here {
    pub(crate) n: std::sync::Arc<u64>,
}

/// Rust types that bear one name: modules that do not share code.
pub(crate) mod twin {
    /// Carries a number.
    pub(crate) mod number {
        use busway::{Event, Request};
        use serde::{Deserialize, Serialize};

        #[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
        #[event("kit.twin")]
        pub(crate) struct Twin {
            pub(crate) value: u64,
        }

        #[derive(Request, Serialize, Deserialize, Debug)]
        #[request("kit.twin_asked", response = u64)]
        pub(crate) struct Asked {
            pub(crate) value: u64,
        }
    }

    /// Carries a number, and a note that came later: compatible with `number`.
    pub(crate) mod grown {
        use busway::Event;
        use serde::{Deserialize, Serialize};

        #[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
        #[event("kit.twin")]
        pub(crate) struct Twin {
            pub(crate) value: u64,
            #[serde(default)]
            pub(crate) note: Option<String>,
        }
    }

    /// Carries a text: compatible with neither.
    pub(crate) mod text {
        use busway::{Event, Request};
        use serde::{Deserialize, Serialize};

        #[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
        #[event("kit.twin")]
        pub(crate) struct Twin {
            pub(crate) value: String,
        }

        #[derive(Request, Serialize, Deserialize, Debug)]
        #[request("kit.twin_asked", response = u64)]
        pub(crate) struct Asked {
            pub(crate) value: String,
        }
    }
}

/// What [`Superstitious`] is decoded from.
#[derive(Event, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[event("kit.superstitious")]
pub(crate) struct Plain(pub(crate) u64);

/// Cannot be decoded when it is 13: its decoder panics.
#[derive(Event, Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[event("kit.superstitious")]
#[serde(from = "u64")]
pub(crate) struct Superstitious(pub(crate) u64);

impl From<u64> for Superstitious {
    fn from(n: u64) -> Self {
        assert_ne!(n, 13, "a panic in a decoder, on purpose");
        Self(n)
    }
}

/// Version 1 of a contract.
#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[event("kit.contract")]
pub(crate) struct Contract {
    pub(crate) n: u64,
}

/// Version 2 of it, which is a topic of its own.
#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[event("kit.contract", version = 2)]
pub(crate) struct NewContract {
    pub(crate) n: u64,
    pub(crate) more: String,
}

/// What a foreign program may send: another version on the topic of version 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ForeignContract;

impl Event for ForeignContract {
    const SCHEMA: Schema = Schema::new("kit.contract").version(7, "kit.contract");

    fn encode(&self, codec: Codec, buffer: &mut Vec<u8>) -> Result<(), CodecError> {
        codec.encode(&7_u64, buffer)
    }

    fn decode(codec: Codec, payload: &[u8]) -> Result<Self, CodecError> {
        codec.decode::<u64>(payload).map(|_| Self)
    }
}

/// The request of most cases.
#[derive(Request, Serialize, Deserialize, Debug)]
#[request("kit.double", response = u64)]
pub(crate) struct Double {
    pub(crate) n: u64,
}

/// A request with an error type of its own.
#[derive(Request, Serialize, Deserialize, Debug)]
#[request("kit.divide", response = u64, error = DivideError)]
pub(crate) struct Divide {
    pub(crate) by: u64,
}

/// Why a division was refused.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DivideError {
    /// Nobody can.
    #[error("{dividend} divided by zero")]
    ByZero {
        /// What was to be divided.
        dividend: u64,
    },
}
