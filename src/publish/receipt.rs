//! What a publish reached.

use std::sync::Arc;

use busway_transport::{MessageId, Name, Party};

use crate::parcel::Parcel;
use crate::router::topic::Snapshot;

/// What a publish reached, as far as the transport can know.
#[derive(Clone, Default)]
pub struct Receipt {
    /// How many subscriptions of this bus.
    pub(crate) here: usize,
    /// Who they are, for [`parties`](Self::parties).
    pub(crate) queues: Option<(Snapshot, Option<Name>)>,
    pub(crate) parcel: Option<Arc<dyn Parcel>>,
    /// Of one that went out of the process the short way, of which no parcel was kept.
    pub(crate) id: Option<MessageId>,
    pub(crate) elsewhere: Option<busway_transport::Receipt>,
}

impl Receipt {
    /// How many subscriptions and groups it reached, at least.
    ///
    /// Whether that is the exact number, [`is_exact`](Self::is_exact) says: RabbitMQ tells at most
    /// that there was somebody.
    pub fn reached(&self) -> usize {
        self.here + self.elsewhere.as_ref().map_or(0, |receipt| receipt.reached)
    }

    /// Whether [`reached`](Self::reached) is the exact number.
    pub fn is_exact(&self) -> bool {
        self.elsewhere.as_ref().is_none_or(|receipt| receipt.exact)
    }

    /// Whom it reached, as far as that is known.
    pub fn parties(&self) -> Vec<Party> {
        let here = self.queues.iter().flat_map(|(queues, to)| {
            queues.iter().filter(|queue| queue.is_addressed(to.as_ref())).map(|q| q.party())
        });
        let elsewhere = self.elsewhere.iter().flat_map(|receipt| receipt.parties.iter().cloned());
        here.chain(elsewhere).collect()
    }

    /// The event's id; `None` when nobody was there to give it to.
    pub fn id(&self) -> Option<MessageId> {
        self.parcel.as_ref().map(|parcel| parcel.meta().id()).or(self.id)
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receipt")
            .field("reached", &self.reached())
            .field("exact", &self.is_exact())
            .finish_non_exhaustive()
    }
}
