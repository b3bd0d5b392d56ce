//! What the engine wants done.

use busway_transport::{DeadLetter, Envelope, GroupKey};

/// The number of one delivery: unique in its engine and never used again, so that a late
/// settlement cannot meet another delivery. Another attempt at the same event has another tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub u64);

/// Something that the owner of an engine has to do. Exhaustive on purpose: an owner that left one
/// of these out would lose events.
#[derive(Debug)]
pub enum Effect<M> {
    /// Hand the event to the member, who settles it under the tag.
    Deliver {
        /// Who gets it. Known to the engine at the moment of the poll.
        member: M,
        /// Under which number it is settled.
        tag: Tag,
        /// The event.
        envelope: Envelope,
        /// Which attempt this is, from 1.
        attempt: u32,
        /// Its key, in whose turn it comes; `None` in a group with keys asks for it, see
        /// [`Delivery::key`](busway_transport::Delivery::key).
        key: Option<u64>,
    },
    /// Keep the event as a dead letter: the engine has let go of it.
    DeadLetter {
        /// The event, its group and why it failed.
        letter: DeadLetter,
        /// Where to keep it: with the member whose attempt was the last if the engine still knows
        /// it (also one that is leaving), else with another member, else (`None`) here.
        member: Option<M>,
    },
    /// The group had no member for longer than it is held: its events are lost and the group is
    /// forgotten. Not told for a group that held none.
    Lost {
        /// Which group.
        group: GroupKey,
        /// How many events.
        missed: u64,
    },
    /// A group that turned a publisher away has room now (or has vanished). It comes once, however
    /// many were turned away and however much room there is: let all who wait try again, in their
    /// order; those who are turned away again will cause another one.
    Room,
}
