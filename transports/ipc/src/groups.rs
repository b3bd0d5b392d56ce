//! Groups: this bus drives an engine for the events that it publishes itself; the engine's members
//! are those of all buses that announced one, this one included.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use busway_groups::{Effect, Tag};
use busway_transport::{
    Capability, DeadLetter, Delivery, Envelope, GroupDeliveries, GroupKey, GroupSpec, Notice,
    Outcome, PeerId, Settlement, TransportError,
};
use futures::Stream;

use crate::link::Link;
use crate::mailbox::Mailbox;
use crate::mesh::{After, Mesh, State};
use crate::table::OwnMember;
use crate::wire::envelope::Encoded;
use crate::wire::{Change, Control, Out};

/// A member of a group: a bus, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) peer: PeerId,
    pub(crate) number: u64,
}

/// What is delivered to one of this bus's members. Each publisher's engine keeps at most the
/// member's concurrency in it.
pub(crate) type MemberBox = Mailbox<Delivery>;

/// The stream that the bus polls.
struct Work {
    mesh: Arc<Mesh>,
    number: u64,
    mailbox: Arc<MemberBox>,
}

impl Stream for Work {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.mailbox.poll(cx)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let number = self.number;
        self.mesh.withdraw(|state, after| {
            self.mailbox.end();
            // After the engine knows that the member leaves, what it did not take is handed back.
            let change = state.leave_group(self.mesh.me, number);
            after.drop_later(self.mailbox.drain());
            change
        });
    }
}

impl State {
    /// Takes a member of ours out of its group.
    pub(crate) fn leave_group(&mut self, me: PeerId, number: u64) -> Option<Change> {
        self.own.members.remove(&number)?;
        self.engine.leave(Member { peer: me, number }, Instant::now());
        Some(Change::Leave { member: number })
    }
}

impl Mesh {
    pub(crate) async fn join(
        self: &Arc<Self>,
        spec: GroupSpec,
    ) -> Result<GroupDeliveries, TransportError> {
        if spec.durable {
            return Err(TransportError::Unsupported {
                transport: "ipc",
                capability: Capability::DurableGroups,
                instead: "a publisher keeps a group's events only as long as it lives; use \
                          amqp://… for durable groups",
            });
        }
        let mailbox = Arc::new(Mailbox::new());
        let (number, announced) = self.with(|state, _| {
            state.check_here()?;
            let number = state.own.number();
            state.interest_changes.add();
            state.engine.join(Member { peer: self.me, number }, &spec, Instant::now());
            let change = Change::Join { member: number, spec: (&spec).into() };
            state.own.members.insert(number, OwnMember { spec, mailbox: mailbox.clone() });
            Ok::<_, TransportError>((number, state.announce(change)))
        })?;
        // Made before the wait: dropping this future leaves the group.
        let work = Work { mesh: self.clone(), number, mailbox };
        announced.all().await;
        Ok(Box::pin(work))
    }

    /// Does what the engine wants done. Called before the lock is released.
    pub(crate) fn drive(self: &Arc<Self>, state: &mut State, after: &mut After) {
        while let Some(effect) = state.engine.poll_effect() {
            match effect {
                Effect::Deliver { member, tag, envelope, attempt } => {
                    self.deliver(state, after, member, tag, envelope, attempt);
                }
                Effect::DeadLetter { letter, member } => {
                    let elsewhere = member.filter(|member| member.peer != self.me);
                    let remote = elsewhere.and_then(|member| state.peers.get_mut(&member.peer));
                    match (remote, Out::dead_letter(&letter)) {
                        (Some(remote), Ok(out)) => {
                            remote.link.control(out);
                            let behind = remote.ping(&mut state.acks);
                            remote.letters.push_back((behind, letter));
                        }
                        _ => self.keep_letter(state, letter),
                    }
                }
                Effect::Lost { group, missed } => {
                    self.notices.push(Notice::GroupLost { group, missed });
                }
                Effect::Room => state.wake_waiting(),
            }
            self.changed.notify_waiters();
        }
        let at = state.engine.poll_timeout();
        if at != state.timer_at {
            state.timer_at = at;
            self.timer.notify_one();
        }
    }

    fn deliver(
        self: &Arc<Self>,
        state: &mut State,
        after: &mut After,
        member: Member,
        tag: Tag,
        envelope: Envelope,
        attempt: u32,
    ) {
        if member.peer != self.me {
            let Some(remote) = state.peers.get(&member.peer) else { return };
            match Encoded::new(&envelope) {
                Ok(encoded) => {
                    remote.link.data(Out::deliver(member.number, tag.0, attempt, &encoded));
                }
                // Commit encoded the same envelope before it took it.
                Err(error) => tracing::error!(%error, "group work cannot be encoded"),
            }
            return;
        }
        let Some(own) = state.own.members.get(&member.number) else { return };
        let mesh = self.clone();
        let settlement = Settlement::new(move |outcome| mesh.settle(member, tag, outcome));
        if let Err(back) = own.mailbox.push(Delivery::new(envelope, attempt, settlement)) {
            // Its stream is being dropped. Handed back where no lock is held.
            after.drop_later(back);
        }
    }

    /// A member settled a delivery of one of our events.
    pub(crate) fn settle(self: &Arc<Self>, member: Member, tag: Tag, outcome: Outcome) {
        self.with(|state, _| state.engine.settle(member, tag, outcome, Instant::now()));
        self.changed.notify_waiters();
    }

    /// A peer's engine gives work to one of our members.
    pub(crate) fn work_arrived(
        self: &Arc<Self>,
        link: &Arc<Link>,
        number: u64,
        tag: Tag,
        attempt: u32,
        envelope: Envelope,
    ) {
        let settlement = Settlement::new({
            let (mesh, link) = (self.clone(), link.clone());
            move |outcome| {
                let settle =
                    Control::Settle { member: number, tag: tag.0, outcome: (&outcome).into() };
                // Goes nowhere when the link is gone: the publisher's engine gives the work to
                // another member then.
                link.control(Out::control(&settle));
                mesh.look(|state| state.unsettled -= 1);
                mesh.changed.notify_waiters();
            }
        });
        let delivery = Delivery::new(envelope, attempt, settlement);
        let mailbox = self.look(|state| {
            state.unsettled += 1;
            state.own.members.get(&number).map(|own| own.mailbox.clone())
        });
        // Dropping it hands it back: the member left while this was under way.
        match mailbox {
            Some(mailbox) => drop(mailbox.push(delivery)),
            None => drop(delivery),
        }
    }

    /// Keeps a dead letter in this process.
    pub(crate) fn keep_letter(&self, state: &mut State, letter: DeadLetter) {
        self.notices.push(Notice::DeadLettered(letter.group.clone()));
        if let Some(oldest) = state.dead.push(letter) {
            tracing::warn!(group = %oldest.group, id = %oldest.envelope.id, "too many dead letters: the oldest is dropped");
        }
    }

    pub(crate) fn dead_letters(&self, group: &GroupKey) -> Vec<DeadLetter> {
        self.look(|state| state.dead.list(group).cloned().collect())
    }
}
