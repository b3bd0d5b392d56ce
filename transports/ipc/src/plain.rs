//! The receiving side of plain events: one bounded queue per interest, and the credit (in events and
//! in bytes) that its drained places give back to the peers that filled them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use busway_transport::{
    Arrival, Deliveries, Envelope, Gap, GapReason, Name, PlainInterest, SinkHandle, SubscriptionId,
    TransportError,
};
use futures::Stream;

use crate::link::Link;
use crate::mailbox::lock;
use crate::mesh::Mesh;
use crate::table::OwnInterest;
use crate::wire::envelope::Unread;
use crate::wire::origins::Origins;
use crate::wire::run::Frames;
use crate::wire::{Change, Control, Out, WINDOW, WireError, charge, control};

/// How many events of an interest may be under way over one link, of whose subscriptions so many may wait.
/// A peer whose process is not on a processor just now has many coming, and a publisher that waits for
/// it leaves its own processor to nobody. (ZeroMQ keeps as many: 1000 at each end, and what the system
/// takes.) Whoever asks for little means it, and gets that.
fn under_way(capacity: usize) -> usize {
    const FEW: usize = 64;
    capacity.saturating_add(capacity.saturating_sub(FEW).saturating_mul(3))
}

/// The queue of one interest. Each link may fill `capacity` places of it.
pub(crate) struct Inbox {
    id: u64,
    capacity: usize,
    /// So many drained places of one link are given back at once: a credit frame per event would
    /// cost as much as the event. But a slow reader's publisher should not wait for long.
    batch: usize,
    sink: Option<SinkHandle>,
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
    /// From the link with this number, with what it takes of its window.
    Event(u64, usize, Envelope),
    /// A link broke here that had brought events: nobody knows how many more were on their way.
    Cut,
}

/// What a link has to do with an inbox, from its first moment to its last.
struct Account {
    link: Arc<Link>,
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
    /// Whether the bus has taken and settled all that there was, and waits for more.
    fn is_awaited(&self) -> bool {
        self.items.is_empty() && self.waker.is_some()
    }

    /// One tells for all links that broke in the same place.
    fn cut(&mut self) {
        if !matches!(self.items.back(), Some(Item::Cut)) {
            self.items.push_back(Item::Cut);
        }
    }
}

impl Inbox {
    fn new(interest: &PlainInterest) -> Self {
        let (batch, sink) = ((interest.capacity / 4).max(1), interest.sink.clone());
        let capacity = under_way(interest.capacity.max(1));
        Self { id: interest.id.0, capacity, batch, sink, inner: Mutex::default() }
    }

    /// Gives events on that a link brought: to the bus at once, while its stream holds nothing and
    /// waits for more; else into the queue. With one that cannot be read it ends.
    pub(crate) fn push(
        &self,
        link: &Arc<Link>,
        events: impl ExactSizeIterator<Item = Unread>,
        origins: &mut Origins,
    ) -> Result<(), WireError> {
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
        let count = events.len();
        if count > self.capacity - account.used {
            return Err(WireError::Unexpected("an event without credit"));
        }
        account.fed = true;
        account.used += count;
        let mut failed = Ok(());
        // Each with what it takes of its window.
        let envelopes = events.map_while(|event| {
            let charge = charge(event.len());
            let envelope = event.read(origins).map_err(|error| failed = Err(error)).ok()?;
            Some((charge, envelope))
        });
        let mut envelopes = envelopes.fuse();
        let item = |(charge, envelope)| Item::Event(link.number, charge, envelope);
        let Some(sink) = self.sink.as_ref().filter(|_| inner.is_awaited()) else {
            inner.items.extend(envelopes.map(item));
            wake(inner);
            return failed;
        };
        drop(inner);
        // The next events of this link are in its reader's hands as well: nothing overtakes them
        // here.
        let mut drained = Drained { link: link.number, events: 0, bytes: 0 };
        let mut given = envelopes.by_ref().map(|(charge, envelope)| {
            drained.events += 1;
            drained.bytes += charge;
            envelope
        });
        sink.take(count, &mut given);
        let rest: Vec<_> = envelopes.map(item).collect();
        inner = lock(&self.inner);
        let give = self.note(&mut inner, drained);
        if !rest.is_empty() && !inner.ended {
            if inner.accounts.contains_key(&link.number) {
                inner.items.extend(rest);
            } else {
                inner.cut();
            }
            wake(inner);
        } else {
            drop(inner);
        }
        self.give(give);
        failed
    }

    /// Gives a run of events to the bus at once, as far as it takes them like that. Says whether the
    /// bus may take more when those have read who are to read it.
    pub(crate) fn push_run(&self, link: &Arc<Link>, run: &mut Frames<'_>) -> bool {
        let Some(sink) = &self.sink else { return false };
        {
            let mut inner = lock(&self.inner);
            if inner.ended || !inner.is_awaited() {
                return false;
            }
            let Some(account) = inner.accounts.get_mut(&link.number) else { return false };
            account.fed = true;
            // What comes without credit is for `push` to refuse.
            run.most = self.capacity - account.used;
        }
        // As there: nothing overtakes these.
        let is_full = sink.take_run(&run.alike.common, run);
        if run.taken > 0 {
            let mut inner = lock(&self.inner);
            if let Some(account) = inner.accounts.get_mut(&link.number) {
                account.used += run.taken;
            }
            // Small ones take nothing of the window.
            let drained = Drained { link: link.number, events: run.taken, bytes: 0 };
            let give = self.note(&mut inner, drained);
            drop(inner);
            self.give(give);
        }
        is_full
    }

    /// See [`Sink::room`](busway_transport::Sink::room).
    pub(crate) fn room(&self) -> impl Future<Output = ()> + use<> {
        let room = self.sink.as_ref().map(|sink| sink.room());
        async {
            if let Some(room) = room {
                room.await;
            }
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.inner).ended
    }

    /// How many events and cuts wait here.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        lock(&self.inner).items.len()
    }

    /// There is a link that may bring events.
    pub(crate) fn expect(&self, link: &Arc<Link>) {
        let account = Account { link: link.clone(), fed: false, used: 0, drained: 0, bytes: 0 };
        lock(&self.inner).accounts.insert(link.number, account);
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

    /// Takes all that is there, which goes into `items`, and notes what was drained before. Ready
    /// without items at the end.
    fn poll_take(
        &self,
        cx: &mut Context<'_>,
        items: &mut VecDeque<Item>,
        drained: Option<Drained>,
    ) -> Poll<()> {
        let mut inner = lock(&self.inner);
        let give = drained.and_then(|drained| self.note(&mut inner, drained));
        std::mem::swap(&mut inner.items, items);
        let is_ready = !items.is_empty() || inner.ended;
        if !is_ready {
            inner.waker = Some(cx.waker().clone());
        }
        drop(inner);
        self.give(give);
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Notes what was drained, and gives it back when it is enough.
    fn drain(&self, drained: Drained) {
        let give = self.note(&mut lock(&self.inner), drained);
        self.give(give);
    }

    fn note(&self, inner: &mut Inner, drained: Drained) -> Option<(Arc<Link>, Control)> {
        let account = inner.accounts.get_mut(&drained.link)?;
        account.drained += drained.events;
        account.bytes += drained.bytes;
        if !self.is_enough(account.drained, account.bytes) {
            return None;
        }
        let events = std::mem::take(&mut account.drained);
        let bytes = std::mem::take(&mut account.bytes) as u64;
        account.used -= events;
        let credit = Control::Credit { interest: self.id, events: events as u64, bytes };
        Some((account.link.clone(), credit))
    }

    /// Whether so much is worth a frame.
    fn is_enough(&self, events: usize, bytes: usize) -> bool {
        events >= self.batch || bytes >= WINDOW / 4
    }

    fn give(&self, give: Option<(Arc<Link>, Control)>) {
        if let Some((link, credit)) = give {
            link.control_at_once(Out::control(&credit));
        }
    }
}

/// Events of one link that the bus took.
#[derive(Clone, Copy)]
struct Drained {
    link: u64,
    events: usize,
    /// Of the window.
    bytes: usize,
}

/// The stream that the bus polls.
struct Arrivals {
    mesh: Arc<Mesh>,
    inbox: Arc<Inbox>,
    /// Taken out of the inbox, all at once; their places count as taken until they are drained.
    items: VecDeque<Item>,
    /// Drained, and not noted yet.
    drained: Option<Drained>,
}

impl Arrivals {
    /// Counts a drained event.
    fn count(&mut self, link: u64, charge: usize) {
        let before = self.drained.take();
        let same = before.filter(|drained| drained.link == link);
        let mut drained = same.unwrap_or(Drained { link, events: 0, bytes: 0 });
        drained.events += 1;
        drained.bytes += charge;
        if let Some(other) = before.filter(|drained| drained.link != link) {
            self.inbox.drain(other);
        }
        if self.inbox.is_enough(drained.events, drained.bytes) {
            self.inbox.drain(drained);
        } else {
            self.drained = Some(drained);
        }
    }
}

impl Stream for Arrivals {
    type Item = Arrival;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Arrival>> {
        let this = self.get_mut();
        if this.items.is_empty() {
            let drained = this.drained.take();
            ready!(this.inbox.poll_take(cx, &mut this.items, drained));
        }
        Poll::Ready(match this.items.pop_front() {
            None => None,
            Some(Item::Event(link, charge, envelope)) => {
                this.count(link, charge);
                Some(Arrival::Event(envelope))
            }
            Some(Item::Cut) => Some(Arrival::Gap(Gap::new(None, GapReason::Disconnected))),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.items.len(), None)
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
        mut interest: PlainInterest,
    ) -> Result<Deliveries, TransportError> {
        let inbox = Arc::new(Inbox::new(&interest));
        interest.capacity = inbox.capacity;
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
            state.peers.values().for_each(|remote| inbox.expect(&remote.link));
            Ok(state.announce(change))
        })?;
        // Made before the wait: dropping this future withdraws the interest.
        let arrivals =
            Arrivals { mesh: self.clone(), inbox, items: VecDeque::new(), drained: None };
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

    /// Those that are there.
    pub(crate) fn inboxes(&self, interests: &[u64]) -> Vec<Arc<Inbox>> {
        self.look(|state| {
            let own = &state.own.interests;
            interests.iter().filter_map(|id| Some(own.get(id)?.inbox.clone())).collect()
        })
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
            let had_room = interest.credit.has_room();
            interest.credit.grant(events, bytes)?;
            // Who waits does so for somebody else, if there was room.
            if !had_room {
                state.wake_waiting();
            }
            Ok(())
        })
    }
}
