//! What each frame that comes in does. Nothing here waits: a frame has its place already, or it
//! breaks the protocol.

use std::sync::Arc;
use std::time::Instant;

use busway_groups::Tag;
use busway_transport::{GroupSpec, Name, Notice, Outcome, Topic};
use tokio::sync::Semaphore;

use crate::groups::Member;
use crate::handful::Handful;
use crate::link::Link;
use crate::mesh::{Mesh, State};
use crate::table::{MAX_ASKS, Remote, RemoteInterest, RemoteResponder};
use crate::wire::{Change, Control, Frame, Out, WireError, control};

/// Whether a link goes on after a frame.
pub(crate) enum Flow {
    On,
    Goodbye,
}

impl Mesh {
    /// Does what a frame says. Events may stay in the reader's hand, for as long as nothing else
    /// comes behind them.
    pub(crate) fn dispatch(
        self: &Arc<Self>,
        link: &Arc<Link>,
        handful: &mut Handful,
        frame: Frame,
    ) -> Result<Flow, WireError> {
        if let Frame::Event { interests, envelope } = frame {
            handful.add(self, link, &interests, envelope)?;
            return Ok(Flow::On);
        }
        handful.deliver(self, link)?;
        match frame {
            Frame::Hello(_) | Frame::Welcome(_) => {
                return Err(WireError::Unexpected("a second hello"));
            }
            Frame::Control(control) => return self.control(link, *control),
            Frame::Event { .. } => {}
            Frame::Deliver { work, envelope } => self.work_arrived(link, work, *envelope),
            Frame::Ask { request, responder, remaining_ms, envelope } => {
                self.asked(link, request, responder, remaining_ms, *envelope)?;
            }
            Frame::Reply { request, answer } => self.answered(link.peer, request, *answer),
            Frame::DeadLetter(letter) => self.with(|state, _| self.keep_letter(state, *letter)),
        }
        Ok(Flow::On)
    }

    fn control(self: &Arc<Self>, link: &Arc<Link>, control: Control) -> Result<Flow, WireError> {
        match control {
            Control::Table { serial, table } => {
                self.with(|state, _| -> Result<(), WireError> {
                    if current(state, link)?.up {
                        return Err(WireError::Unexpected("a second table"));
                    }
                    for change in table.changes {
                        apply(state, link, change)?;
                    }
                    let remote = current(state, link)?;
                    remote.up = true;
                    let peer = remote.peer();
                    state.plans.changed();
                    state.wake_waiting();
                    link.control(Out::control(&Control::Ack { serial }));
                    self.notices.push(Notice::PeerUp(peer));
                    Ok(())
                })?;
                self.changed.notify_waiters();
            }
            Control::Change { serial, change } => {
                self.with(|state, _| -> Result<(), WireError> {
                    if !current(state, link)?.up {
                        return Err(WireError::Unexpected("a change before the table"));
                    }
                    let ack = Out::control(&Control::Ack { serial });
                    // Behind what is under way: the one who withdrew knows by the ack that nothing
                    // more will come.
                    let behind_data = change.withdraws();
                    apply(state, link, change)?;
                    self.peer_changed(state, link.peer);
                    if behind_data {
                        link.data(ack)
                    } else {
                        link.control(ack)
                    }
                    Ok(())
                })?
            }
            Control::Ack { serial } => self.acked(link, serial),
            Control::Ping { serial } => link.control(Out::control(&Control::Ack { serial })),
            Control::Credit { interest, events, bytes } => {
                self.credited(link, interest, events, bytes)?;
            }
            Control::Settle { member, tag, outcome } => {
                let member = Member { peer: link.peer, number: member };
                self.settle(member, Tag(tag), Outcome::try_from(outcome)?);
            }
            Control::Cancel { request } => self.cancelled(link.peer, request),
            Control::Goodbye => return Ok(Flow::Goodbye),
        }
        Ok(Flow::On)
    }
}

/// The peer of a link, if the link still counts.
fn current<'a>(state: &'a mut State, link: &Arc<Link>) -> Result<&'a mut Remote, WireError> {
    state
        .peers
        .get_mut(&link.peer)
        .filter(|remote| Arc::ptr_eq(&remote.link, link))
        .ok_or(WireError::Unexpected("a frame on a link that was cut off"))
}

/// Applies one change of what a peer wants.
fn apply(state: &mut State, link: &Arc<Link>, change: Change) -> Result<(), WireError> {
    let peer = link.peer;
    let now = Instant::now();
    state.interest_changes.add();
    let remote = current(state, link)?;
    match change {
        Change::Endpoint(name) => {
            remote.endpoints.insert(Name::new(&name)?);
        }
        Change::Interest { id, filter, endpoints, capacity } => {
            let wants = control::interest(id, &filter, &endpoints, capacity)?;
            remote.endpoints.extend(wants.endpoints.iter().cloned());
            remote.interests.insert(id, RemoteInterest::new(wants));
        }
        Change::Update { id, endpoints } => {
            let endpoints = control::names(&endpoints)?;
            remote.endpoints.extend(endpoints.iter().cloned());
            // One that was withdrawn meanwhile is no error.
            if let Some(interest) = remote.interests.get_mut(&id) {
                interest.wants.endpoints = endpoints;
            }
        }
        Change::Withdraw { id } => {
            remote.interests.remove(&id);
        }
        Change::Join { member, spec } => {
            let spec = GroupSpec::try_from(&spec)?;
            remote.endpoints.insert(spec.key.endpoint.clone());
            remote.members.insert(member);
            state.engine.join(Member { peer, number: member }, &spec, now);
        }
        Change::Leave { member } => {
            // It stays in `members`: the engine must hear of the peer's death, as long as the
            // member has something to settle.
            state.engine.leave(Member { peer, number: member }, now);
        }
        Change::Respond { responder, topic, endpoint } => {
            let (topic, endpoint) = (Topic::new(&topic)?, Name::new(&endpoint)?);
            remote.endpoints.insert(endpoint.clone());
            let room = Arc::new(Semaphore::new(MAX_ASKS));
            remote.responders.insert(responder, RemoteResponder { topic, endpoint, room });
        }
        Change::Ready => remote.ready = true,
        Change::Unrespond { responder } => {
            if let Some(responder) = remote.responders.remove(&responder) {
                responder.room.close();
            }
        }
    }
    Ok(())
}
