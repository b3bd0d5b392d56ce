//! Groups: this bus drives an engine for the events that it publishes itself; the engine's members
//! are those of all buses that announced one, this one included.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use busway_groups::{Effect, Replay, Tag};
use busway_transport::{
    Capability, DeadLetter, Delivery, Envelope, GroupDeliveries, GroupKey, GroupSpec, Letters,
    Notice, Outcome, PeerId, Settlement, TransportError,
};
use futures::Stream;

use crate::link::Link;
use crate::mailbox::Mailbox;
use crate::mesh::{After, Mesh, State};
use crate::table::OwnMember;
use crate::wire::envelope::Encoded;
use crate::wire::{Change, Control, Out, Work};

/// A member of a group: a bus, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) peer: PeerId,
    pub(crate) number: u64,
}

/// What is delivered to one of this bus's members. Each publisher's engine keeps at most the
/// member's concurrency in it.
pub(crate) type MemberBox = Mailbox<Delivery>;

/// Why durable groups are refused, and all that is about them.
pub(crate) const NO_DURABLE_GROUPS: TransportError = TransportError::Unsupported {
    transport: "ipc",
    capability: Capability::DurableGroups,
    instead: "a publisher keeps a group's events only as long as it lives; use amqp://… for durable \
              groups",
};

/// The stream that the bus polls.
struct Share {
    mesh: Arc<Mesh>,
    number: u64,
    mailbox: Arc<MemberBox>,
}

impl Stream for Share {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.mailbox.poll(cx)
    }
}

impl Drop for Share {
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
            return Err(NO_DURABLE_GROUPS);
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
        let share = Share { mesh: self.clone(), number, mailbox };
        announced.all().await;
        Ok(Box::pin(share))
    }

    /// Does what the engine wants done. Called before the lock is released.
    pub(crate) fn drive(self: &Arc<Self>, state: &mut State, after: &mut After) {
        while let Some(effect) = state.engine.poll_effect() {
            match effect {
                Effect::Deliver { member, tag, envelope, attempt, key } => {
                    let work = Work { member: member.number, tag: tag.0, attempt, key };
                    self.deliver(state, after, member.peer, work, envelope);
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
        peer: PeerId,
        work: Work,
        envelope: Envelope,
    ) {
        if peer != self.me {
            let Some(remote) = state.peers.get(&peer) else { return };
            match Encoded::new(&envelope) {
                Ok(encoded) => {
                    remote.link.data(Out::deliver(&work, &encoded));
                }
                // Commit encoded the same envelope before it took it.
                Err(error) => tracing::error!(%error, "group work cannot be encoded"),
            }
            return;
        }
        let Some(own) = state.own.members.get(&work.member) else { return };
        let (mesh, member) = (self.clone(), Member { peer, number: work.member });
        let settlement =
            Settlement::new(move |outcome| mesh.settle(member, Tag(work.tag), outcome));
        let delivery = Delivery::new(envelope, work.attempt, settlement).with_key(work.key);
        if let Err(back) = own.mailbox.push(delivery) {
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
    pub(crate) fn work_arrived(self: &Arc<Self>, link: &Arc<Link>, work: Work, envelope: Envelope) {
        let Work { member: number, tag, attempt, key } = work;
        let settlement = Settlement::new({
            let (mesh, link) = (self.clone(), link.clone());
            move |outcome| {
                let settle = Control::Settle { member: number, tag, outcome: (&outcome).into() };
                // Goes nowhere when the link is gone: the publisher's engine gives the work to
                // another member then.
                link.control(Out::control(&settle));
                mesh.look(|state| state.unsettled -= 1);
                mesh.changed.notify_waiters();
            }
        });
        let delivery = Delivery::new(envelope, attempt, settlement).with_key(key);
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
        for oldest in state.dead.push(letter) {
            let (group, id, dropped) = (oldest.group, oldest.envelope.id, state.dead.dropped());
            self.notices.push(Notice::DeadLetterDropped { group, id, dropped });
        }
    }

    pub(crate) fn dead_letters(&self, group: &GroupKey) -> Vec<DeadLetter> {
        self.look(|state| state.dead.list(group).cloned().collect())
    }

    /// Gives dead letters back to their group: our own engine takes them.
    pub(crate) async fn replay(
        self: &Arc<Self>,
        group: &GroupKey,
        which: Letters,
    ) -> Result<usize, TransportError> {
        let mut replay = self.look(|state| Replay::new(&state.dead, group, which));
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let step = self.with(|state, _| {
                state.check_open()?;
                replay.go_on(&mut state.engine, &mut state.dead, Instant::now())
            })?;
            match step {
                Some(replayed) => return Ok(replayed),
                None => changed.await,
            }
        }
    }

    pub(crate) fn purge(&self, group: &GroupKey, which: Letters) -> Result<usize, TransportError> {
        self.look(|state| {
            state.check_open()?;
            Ok(state.dead.purge(group, which))
        })
    }
}
