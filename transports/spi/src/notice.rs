//! What a transport tells its bus unasked.

use crate::presence::{Peer, Status};
use crate::{Gap, GroupKey, MessageId, PeerId, Topic, TopicFilter};

/// The bus, as its transport sees it. Calls must not block.
pub trait Host: Send + Sync + 'static {
    /// Something happened that the bus's users may want to know, or wait for.
    fn notice(&self, notice: Notice);
}

/// Something that happened on a bus: rare and small, told to whoever watches.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Notice {
    /// A peer appeared.
    PeerUp(Peer),
    /// A peer's endpoints, subscriptions, groups or responders changed.
    PeerChanged(PeerId),
    /// A peer left or died.
    PeerDown(Peer),
    /// The connection's status changed.
    Status(Status),
    /// A subscription lost events, and has no handler of its own for that.
    Gap {
        /// Which events it is subscribed to.
        filter: TopicFilter,
        /// What was lost.
        gap: Gap,
    },
    /// An event of a group became a dead letter.
    DeadLettered(GroupKey),
    /// There were too many dead letters of a group: the oldest made room for a newer one, and is
    /// gone.
    DeadLetterDropped {
        /// Which group.
        group: GroupKey,
        /// Which event.
        id: MessageId,
        /// How many of this bus's dead letters went that way so far.
        dropped: u64,
    },
    /// Events were accepted for a group and are lost: held too long without a member, or with
    /// their publisher.
    GroupLost {
        /// Which group.
        group: GroupKey,
        /// How many events.
        missed: u64,
    },
    /// A published event could not be delivered after it was accepted.
    PublishFailed {
        /// Which event.
        topic: Topic,
        /// Why.
        reason: String,
    },
    /// A peer sent something that is not of the protocol, and was cut off.
    Protocol {
        /// Who, as far as known.
        peer: String,
        /// What was wrong.
        reason: String,
    },
}
