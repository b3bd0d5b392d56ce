//! The receiving side of plain events: one bounded queue per interest, and the credit (in events and
//! in bytes) that its drained places give back to the peers that filled them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use busway_transport::{
    Arrival, Deliveries, Envelope, Gap, GapReason, Name, PlainInterest, SubscriptionId,
    TransportError,
};
use futures::Stream;

use crate::link::Link;
use crate::mailbox::lock;
use crate::mesh::Mesh;
use crate::table::OwnInterest;
use crate::wire::{Change, Control, Out, WINDOW, WireError, charge, control};

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
    items: VecDeque<Item>,
    /// By the number of the link. What a dead link left in the queue gives credit to nobody.
    accounts: HashMap<u64, Account>,
    ended: bool,
    waker: Option<Waker>,
}

#[allow(clippy::large_enum_variant, reason = "nearly all are events")]
enum Item {
    /// With what it takes of the link's window.
    Event(Arc<Link>, usize, Envelope),
    /// A link broke here that had brought events: nobody knows how many more were on their way.
    Cut,
}

/// What a link has to do with an inbox, from its first moment to its last.
#[derive(Default)]
struct Account {
    /// It has brought something.
    fed: bool,
    /// Places that are taken, or drained and not given back yet.
    used: usize,
    /// Of these, the drained ones.
    drained: usize,
    /// What those took of the window.
    bytes: usize,
}

/// Wakes the reader, with the lock released.
fn wake(mut inner: MutexGuard<'_, Inner>) {
    let waker = inner.waker.take();
    drop(inner);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Inner {
    /// One tells for all links that broke in the same place.
    fn cut(&mut self) {
        if !matches!(self.items.back(), Some(Item::Cut)) {
            self.items.push_back(Item::Cut);
        }
    }
}

impl Inbox {
    fn new(interest: &PlainInterest) -> Self {
        let capacity = interest.capacity.max(1);
        Self { id: interest.id.0, capacity, batch: (capacity / 4).max(1), inner: Mutex::default() }
    }

    fn push(&self, link: &Arc<Link>, charge: usize, envelope: Envelope) -> Result<(), WireError> {
        let mut inner = lock(&self.inner);
        if inner.ended {
            return Ok(());
        }
        let Some(account) = inner.accounts.get_mut(&link.number) else {
            // Cut off while its reader had this in its hands.
            inner.cut();
            wake(inner);
            return Ok(());
        };
        if account.used >= self.capacity {
            return Err(WireError::Unexpected("an event without credit"));
        }
        account.fed = true;
        account.used += 1;
        inner.items.push_back(Item::Event(link.clone(), charge, envelope));
        wake(inner);
        Ok(())
    }

    /// There is a link that may bring events.
    pub(crate) fn expect(&self, link: u64) {
        lock(&self.inner).accounts.insert(link, Account::default());
    }

    /// A link is gone, and its account with it. If it brought events and did not end in order, it
    /// may have had more on their way (law 4).
    pub(crate) fn forget(&self, link: u64, in_order: bool) {
        let mut inner = lock(&self.inner);
        let fed = inner.accounts.remove(&link).is_some_and(|account| account.fed);
        if fed && !in_order && !inner.ended {
            inner.cut();
            wake(inner);
        }
    }

    /// The stream ends after what is there.
    pub(crate) fn end(&self) {
        let mut inner = lock(&self.inner);
        inner.ended = true;
        wake(inner);
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Arrival>> {
        let mut inner = lock(&self.inner);
        let (link, charge, envelope) = match inner.items.pop_front() {
            Some(Item::Event(link, charge, envelope)) => (link, charge, envelope),
            Some(Item::Cut) => {
                let gap = Gap::new(None, GapReason::Disconnected);
                return Poll::Ready(Some(Arrival::Gap(gap)));
            }
            None if inner.ended => return Poll::Ready(None),
            None => {
                inner.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        let mut credit = None;
        if let Some(account) = inner.accounts.get_mut(&link.number) {
            account.drained += 1;
            account.bytes += charge;
            if account.drained >= self.batch || account.bytes >= WINDOW / 4 {
                let events = std::mem::take(&mut account.drained);
                let bytes = std::mem::take(&mut account.bytes) as u64;
                account.used -= events;
                credit = Some(Control::Credit { interest: self.id, events: events as u64, bytes });
            }
        }
        drop(inner);
        if let Some(credit) = credit {
            link.control(Out::control(&credit));
        }
        Poll::Ready(Some(Arrival::Event(envelope)))
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
        self.inbox.poll(cx)
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
            state.peers.values().for_each(|remote| inbox.expect(remote.link.number));
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
        size: usize,
        envelope: Envelope,
    ) -> Result<(), WireError> {
        // One that was withdrawn meanwhile is not there: its events go nowhere.
        let inboxes: Vec<Arc<Inbox>> = self.look(|state| {
            let own = &state.own.interests;
            interests.iter().filter_map(|id| Some(own.get(id)?.inbox.clone())).collect()
        });
        for inbox in inboxes {
            inbox.push(link, charge(size), envelope.clone())?;
        }
        Ok(())
    }

    /// A peer has room for more events of one of its interests.
    pub(crate) fn credited(
        self: &Arc<Self>,
        link: &Arc<Link>,
        interest: u64,
        events: u64,
        bytes: u64,
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
            let bytes = i64::try_from(bytes)
                .ok()
                .and_then(|bytes| interest.bytes.checked_add(bytes))
                .filter(|bytes| *bytes <= WINDOW as i64)
                .ok_or(WireError::Unexpected("more credit than the window"))?;
            interest.credit = credit;
            interest.bytes = bytes;
            state.wake_waiting();
            Ok(())
        })
    }
}
