//! Group work: drives the engines, each for the events of one bus.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_core::Stream;
use tokio::sync::mpsc;

use busway_groups::{Effect, Tag};
use busway_transport::{DeadLetter, Delivery, GroupSpec, Notice, Outcome, PeerId, Settlement};

use crate::hub::{Hub, Member, MemberId, State};

/// The time, by tokio's clock, which tests can stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl State {
    /// Makes a member known to the engines of all buses.
    pub(crate) fn join_group(&mut self, id: MemberId, member: Member) {
        for bus in self.buses.values_mut() {
            bus.engine.join(id, &member.spec, now());
        }
        let peer = member.peer;
        self.members.insert(id, member);
        self.changed(peer);
    }

    /// Takes a member out; what it holds stays its to settle.
    pub(crate) fn leave_group(&mut self, id: MemberId) {
        for bus in self.buses.values_mut() {
            bus.engine.leave(id, now());
        }
        if let Some(member) = self.members.remove(&id) {
            self.changed(member.peer);
        }
    }

    /// Keeps a dead letter with the bus whose member had it last, else with its publisher.
    fn bury(&mut self, publisher: PeerId, letter: DeadLetter, member: Option<MemberId>) {
        let member = member.and_then(|member| self.members.get(&member));
        let keeper = member.map_or(publisher, |member| member.peer);
        if let Some(bus) = self.buses.get_mut(&keeper) {
            let notice = Notice::DeadLettered(letter.group.clone());
            self.notices.push((bus.host.clone(), notice));
            for oldest in bus.dead_letters.push(letter) {
                let (group, id) = (oldest.group, oldest.envelope.id);
                let dropped = bus.dead_letters.dropped();
                let notice = Notice::DeadLetterDropped { group, id, dropped };
                self.notices.push((bus.host.clone(), notice));
            }
        }
    }
}

/// Carries out what the engine of a bus has decided.
pub(crate) fn drive(hub: &Arc<Hub>, state: &mut State, publisher: PeerId) {
    while let Some(effect) =
        state.buses.get_mut(&publisher).and_then(|bus| bus.engine.poll_effect())
    {
        match effect {
            Effect::Deliver { member, tag, envelope, attempt, key } => {
                let settlement = settlement(hub, publisher, member, tag);
                let delivery = Delivery::new(envelope, attempt, settlement).with_key(key);
                let sent = match state.members.get(&member) {
                    Some(member) => member.deliveries.send(delivery).map_err(|unsent| unsent.0),
                    None => Err(delivery),
                };
                if let Err(delivery) = sent {
                    // The member's reader has gone. It leaves here and now, or it would be given
                    // the same again for ever.
                    state.leave_group(member);
                    state.stranded.push(delivery);
                }
            }
            Effect::DeadLetter { letter, member } => state.bury(publisher, letter, member),
            Effect::Lost { group, missed } => {
                if let Some(bus) = state.buses.get(&publisher) {
                    state.notices.push((bus.host.clone(), Notice::GroupLost { group, missed }));
                }
            }
            Effect::Room => hub.room.notify_waiters(),
        }
    }
    hub.turned.notify_waiters();
}

/// Carries out what all engines have decided.
pub(crate) fn drive_all(hub: &Arc<Hub>, state: &mut State) {
    let buses: Vec<_> = state.buses.keys().copied().collect();
    for bus in buses {
        drive(hub, state, bus);
    }
}

fn settlement(hub: &Arc<Hub>, publisher: PeerId, member: MemberId, tag: Tag) -> Settlement {
    let hub = Arc::downgrade(hub);
    Settlement::new(move |outcome: Outcome| {
        let Some(hub) = Weak::upgrade(&hub) else { return };
        hub.with(|state| {
            if let Some(bus) = state.buses.get_mut(&publisher) {
                bus.engine.settle(member, tag, outcome, now());
            }
            drive(&hub, state, publisher);
        });
    })
}

/// The work of one member; dropping it leaves the group.
pub(crate) struct Work {
    hub: Arc<Hub>,
    id: MemberId,
    queue: mpsc::UnboundedReceiver<Delivery>,
}

impl Work {
    /// Joins a group.
    pub(crate) fn join(hub: &Arc<Hub>, peer: PeerId, spec: GroupSpec) -> Self {
        let (deliveries, queue) = mpsc::unbounded_channel();
        let id = hub.next_number();
        hub.with(|state| {
            state.join_group(id, Member { peer, spec, deliveries });
            drive_all(hub, state);
        });
        Self { hub: hub.clone(), id, queue }
    }
}

impl Stream for Work {
    type Item = Delivery;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.queue.poll_recv(context)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // First out of the group, so that what the queue hands back as it is dropped goes to
        // others.
        self.hub.with(|state| {
            state.leave_group(self.id);
            drive_all(&self.hub, state);
        });
    }
}

/// Lets the time pass for the engine of one bus.
pub(crate) async fn keep_time(hub: Weak<Hub>, peer: PeerId) {
    loop {
        // Holds the hub only while it works, so that the hub goes with its last bus.
        let Some(here) = hub.upgrade() else { return };
        let turned = here.turned.notified();
        tokio::pin!(turned);
        turned.as_mut().enable();
        let next = here.with(|state| {
            let bus = state.buses.get_mut(&peer)?;
            let next = bus.engine.poll_timeout();
            if next.is_some_and(|next| next <= now()) {
                bus.engine.handle_timeout(now());
                drive(&here, state, peer);
                return state.buses.get(&peer).map(|bus| bus.engine.poll_timeout());
            }
            Some(next)
        });
        match next {
            None => return,
            Some(None) => turned.await,
            Some(Some(next)) => {
                tokio::select! {
                    () = turned => {}
                    () = tokio::time::sleep_until(next.into()) => {}
                }
            }
        }
    }
}
