//! The receiving side of plain events: one bounded queue per interest, and the credit that its
//! drained places give back to the peers that filled them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use busway_transport::{
    Arrival, Deliveries, Envelope, Name, PlainInterest, SubscriptionId, TransportError,
};
use futures::Stream;

use crate::link::Link;
use crate::mailbox::lock;
use crate::mesh::Mesh;
use crate::table::OwnInterest;
use crate::wire::{Change, Control, Out, WireError, control};

/// The queue of one interest. Each link may fill `capacity` places of it.
pub(crate) struct Inbox {
    id: u64,
    capacity: usize,
    /// So many drained places of one link are given back at once: a credit frame per event would
    /// cost as much as the event.
    batch: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<(Arc<Link>, Envelope)>,
    /// By the number of the link. What a dead link left in the queue gives credit to nobody.
    accounts: HashMap<u64, Account>,
    ended: bool,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Account {
    /// Places that are taken, or drained and not given back yet.
    used: usize,
    /// Of these, the drained ones.
    drained: usize,
}

impl Inbox {
    fn new(interest: &PlainInterest) -> Self {
        let capacity = interest.capacity.max(1);
        Self { id: interest.id.0, capacity, batch: (capacity / 4).max(1), inner: Mutex::default() }
    }

    fn push(&self, link: &Arc<Link>, envelope: Envelope) -> Result<(), WireError> {
        let mut inner = lock(&self.inner);
        if inner.ended {
            return Ok(());
        }
        let account = inner.accounts.entry(link.number).or_default();
        if account.used >= self.capacity {
            return Err(WireError::Unexpected("an event without credit"));
        }
        account.used += 1;
        inner.events.push_back((link.clone(), envelope));
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// A link is gone, and its account with it.
    pub(crate) fn forget(&self, link: u64) {
        lock(&self.inner).accounts.remove(&link);
    }

    /// The stream ends after what is there.
    pub(crate) fn end(&self) {
        let mut inner = lock(&self.inner);
        inner.ended = true;
        if let Some(waker) = inner.waker.take() {
            drop(inner);
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Envelope>> {
        let mut inner = lock(&self.inner);
        let Some((link, envelope)) = inner.events.pop_front() else {
            if inner.ended {
                return Poll::Ready(None);
            }
            inner.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let mut give = 0;
        if let Some(account) = inner.accounts.get_mut(&link.number) {
            account.drained += 1;
            if account.drained >= self.batch {
                give = std::mem::take(&mut account.drained);
                account.used -= give;
            }
        }
        drop(inner);
        if give > 0 {
            let credit = Control::Credit { interest: self.id, events: give as u64 };
            link.control(Out::control(&credit));
        }
        Poll::Ready(Some(envelope))
    }
}

/// The stream that the bus polls.
struct Arrivals {
    mesh: Arc<Mesh>,
    inbox: Arc<Inbox>,
}

impl Stream for Arrivals {
    type Item = Arrival;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Arrival>> {
        self.inbox.poll(cx).map(|event| event.map(Arrival::Event))
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        let inbox = self.inbox.clone();
        self.mesh.withdraw(|state, after| {
            // A later interest may have the number of one that has ended.
            let ours = |it: &OwnInterest| Arc::ptr_eq(&it.inbox, &inbox);
            if !state.own.interests.get(&inbox.id).is_some_and(ours) {
                return None;
            }
            let gone = state.own.interests.remove(&inbox.id)?;
            inbox.end();
            after.drop_later(gone.inbox);
            (!gone.leaving).then_some(Change::Withdraw { id: inbox.id })
        });
    }
}

impl Mesh {
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        interest: PlainInterest,
    ) -> Result<Deliveries, TransportError> {
        let inbox = Arc::new(Inbox::new(&interest));
        let announced = self.with(|state, _| {
            state.check_here()?;
            if state.own.interests.contains_key(&inbox.id) {
                return Err(TransportError::Rejected {
                    what: format!("the interest {}", inbox.id),
                    reason: "there is one with this number".into(),
                });
            }
            let change = Change::interest(&interest);
            let own = OwnInterest { wants: interest, inbox: inbox.clone(), leaving: false };
            state.own.interests.insert(inbox.id, own);
            Ok(state.announce(change))
        })?;
        // Made before the wait: dropping this future withdraws the interest.
        let arrivals = Arrivals { mesh: self.clone(), inbox };
        announced.all().await;
        Ok(Box::pin(arrivals))
    }

    pub(crate) async fn update(
        self: &Arc<Self>,
        id: SubscriptionId,
        endpoints: BTreeSet<Name>,
    ) -> Result<(), TransportError> {
        let announced = self.with(|state, _| {
            state.check_here()?;
            let Some(interest) = state.own.interests.get_mut(&id.0) else {
                return Err(TransportError::Rejected {
                    what: format!("the interest {}", id.0),
                    reason: "it is not open".into(),
                });
            };
            let change = Change::Update { id: id.0, endpoints: control::texts(&endpoints) };
            interest.wants.endpoints = endpoints;
            Ok(state.announce(change))
        })?;
        announced.all().await;
        Ok(())
    }

    /// An event came in, for these interests of ours.
    pub(crate) fn arrived(
        &self,
        link: &Arc<Link>,
        interests: &[u64],
        envelope: Envelope,
    ) -> Result<(), WireError> {
        // One that was withdrawn meanwhile is not there: its events go nowhere.
        let inboxes: Vec<Arc<Inbox>> = self.look(|state| {
            let own = &state.own.interests;
            interests.iter().filter_map(|id| Some(own.get(id)?.inbox.clone())).collect()
        });
        for inbox in inboxes {
            inbox.push(link, envelope.clone())?;
        }
        Ok(())
    }

    /// A peer has room for more events of one of its interests.
    pub(crate) fn credited(
        self: &Arc<Self>,
        link: &Arc<Link>,
        interest: u64,
        events: u64,
    ) -> Result<(), WireError> {
        self.look(|state| {
            let remote = state.peers.get_mut(&link.peer).filter(|it| Arc::ptr_eq(&it.link, link));
            let Some(interest) = remote.and_then(|it| it.interests.get_mut(&interest)) else {
                return Ok(());
            };
            let credit = usize::try_from(events)
                .ok()
                .and_then(|events| interest.credit.checked_add(events))
                .filter(|credit| *credit <= interest.wants.capacity.max(1))
                .ok_or(WireError::Unexpected("more credit than capacity"))?;
            interest.credit = credit;
            state.wake_waiting();
            Ok(())
        })
    }
}
