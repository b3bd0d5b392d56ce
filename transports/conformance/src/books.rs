//! The second ledger: by message id over all buses of a case (law 3).

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use busway::{Gap, Ledger, MessageId, Receipt, Subscription};

use crate::world::locked;

/// What was published, what was seen, and what was told to be lost. Clones are the same books.
#[derive(Clone, Default)]
pub(crate) struct Books(Arc<Mutex<Pages>>);

#[derive(Default)]
struct Pages {
    /// Confirmed, and taken by somebody.
    published: HashSet<MessageId>,
    seen: HashSet<MessageId>,
    /// How many copies subscribers were told they lost or did not want.
    told: u64,
    unknown: bool,
    violations: Vec<String>,
    subscriptions: Vec<(Arc<Subscription>, Alive)>,
}

/// Whether a participant has not been abandoned.
pub(crate) type Alive = Arc<AtomicBool>;

impl Books {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        locked(&self.0)
    }

    /// An event was published and confirmed.
    pub(crate) fn published(&self, receipt: &Receipt) {
        if receipt.reached() > 0
            && let Some(id) = receipt.id()
        {
            self.pages().published.insert(id);
        }
    }

    /// A subscriber, handler or list of dead letters has the event.
    pub(crate) fn seen(&self, id: MessageId) {
        self.pages().seen.insert(id);
    }

    /// A subscriber was told of a loss.
    pub(crate) fn gap(&self, gap: &Gap) {
        let mut pages = self.pages();
        match gap.missed {
            Some(missed) => pages.told += missed,
            None => pages.unknown = true,
        }
    }

    /// The case loses events on purpose, by killing who holds them.
    pub(crate) fn losses_are_meant(&self) {
        self.pages().unknown = true;
    }

    /// A subscription's account, to be looked at when all is over.
    pub(crate) fn watch(&self, subscription: Arc<Subscription>, alive: Alive) {
        self.pages().subscriptions.push((subscription, alive));
    }

    /// A subscription's account, at rest.
    pub(crate) fn at_rest(&self, what: &str, ledger: Ledger) {
        let mut pages = self.pages();
        if !ledger.is_balanced() || ledger.in_flight != 0 {
            pages.violations.push(format!("law 3: {what} is not balanced at rest: {ledger:?}"));
        }
        pages.told += ledger.filtered
            + ledger.dropped_overflow
            + ledger.dropped_undecodable
            + ledger.dropped_version
            + ledger.dropped_unsubscribed
            + ledger.dead_lettered;
    }

    /// Something that no case may do.
    pub(crate) fn violation(&self, what: String) {
        self.pages().violations.push(what);
    }

    /// Closes the books: everything that is wrong.
    pub(crate) fn audit(&self) -> Vec<String> {
        let subscriptions = std::mem::take(&mut self.pages().subscriptions);
        for (subscription, alive) in subscriptions {
            if alive.load(Ordering::Acquire) {
                let what = format!("the subscription to {}", subscription.topic());
                self.at_rest(&what, subscription.ledger());
            }
        }
        let mut pages = self.pages();
        let missing = pages.published.difference(&pages.seen).count();
        if !pages.unknown && missing as u64 > pages.told {
            let (all, told) = (pages.published.len(), pages.told);
            pages.violations.push(format!(
                "law 3: {missing} of {all} published and confirmed events are nowhere accounted \
                 for, and subscribers were told of {told}"
            ));
        }
        std::mem::take(&mut pages.violations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Counted;
    use busway::{Bus, GapReason};

    #[tokio::test]
    async fn an_event_is_seen_told_as_lost_or_missing() {
        let bus = Bus::private().await.unwrap();
        let endpoint = bus.endpoint("a").unwrap();
        let nobody = endpoint.publish(Counted { n: 0 }).await.unwrap();
        let mut stream = endpoint.stream::<Counted>().await.unwrap();
        let receipt = endpoint.publish(Counted { n: 1 }).await.unwrap();

        let books = Books::default();
        books.published(&nobody);
        assert!(books.audit().is_empty(), "nobody took it");
        books.published(&receipt);
        let violations = books.audit();
        assert!(violations[0].contains("1 of 1 published"), "{violations:?}");
        books.gap(&Gap::new(Some(1), GapReason::Overflow));
        assert!(books.audit().is_empty(), "told as lost");

        let books = Books::default();
        books.published(&receipt);
        books.seen(stream.next().await.unwrap().unwrap().id());
        assert!(books.audit().is_empty(), "seen");
        let mut held = stream.ledger();
        held.in_flight += 1;
        held.arrived += 1;
        books.at_rest("a stream", held);
        assert!(books.audit()[0].contains("not balanced"), "held at rest");
    }
}
