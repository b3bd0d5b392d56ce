//! How a case ends.

use std::fmt;
use std::panic::Location;

use busway::Capability;

/// How a case ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// What the case shows was seen.
    Passed,
    /// The transport does not claim the capability that the case needs, and behaved as declared.
    Refused {
        /// What it lacks.
        capability: Capability,
        /// What was seen instead.
        seen: String,
    },
}

impl Verdict {
    pub(crate) fn refused(capability: Capability, seen: impl fmt::Display) -> Self {
        Self::Refused { capability, seen: seen.to_string() }
    }
}

/// Why a case failed: made from any error by `?`.
pub struct Failed {
    what: String,
    at: &'static Location<'static>,
}

impl Failed {
    pub(crate) fn because(mut self, what: impl Into<String>) -> Self {
        self.what = what.into();
        self
    }

    /// A failure that is no error.
    #[track_caller]
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), at: Location::caller() }
    }
}

// Not itself an `Error`: that would collide with this.
impl<E: std::error::Error> From<E> for Failed {
    #[track_caller]
    fn from(error: E) -> Self {
        Self::new(format!("unexpected error: {error} ({error:?})"))
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}:{})", self.what, self.at.file(), self.at.line())
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a case gives.
pub(crate) type Done = Result<Verdict, Failed>;
