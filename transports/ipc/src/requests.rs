//! Requests: one responder is chosen, asked and waited for; its death, the caller's loss of
//! interest and the deadline are all seen (law 8).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use busway_transport::{
    Ask, Asks, Envelope, FailureKind, Interest, Name, OutgoingRequest, Party, PeerId, Replier,
    Reply, ResponderSpec, Route, Topic, TransportError,
};
use futures::Stream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout_at;

use crate::link::Link;
use crate::mailbox::Mailbox;
use crate::mesh::{After, Mesh, State};
use crate::table::{MAX_ASKS, Own, OwnResponder};
use crate::wire::envelope::Encoded;
use crate::wire::{Answer, Change, Control, Out, WireError};

/// The requests that one responder was asked, with the keys by which they are cancelled.
pub(crate) type AskBox = Mailbox<(AskKey, Ask)>;

/// A request on the responder's side: who asked, and the caller's number for it.
type AskKey = (PeerId, u64);

/// Requests under way, in both directions.
#[derive(Default)]
pub(crate) struct Calls {
    last: u64,
    /// Ours: whom we asked and who waits.
    pending: HashMap<u64, Pending>,
    /// Those that our responders have not answered: how they learn that nobody waits any more.
    answering: HashMap<AskKey, oneshot::Sender<()>>,
    /// Whose turn it is among replicas.
    turn: usize,
}

struct Pending {
    peer: PeerId,
    waiting: oneshot::Sender<Result<Answer, TransportError>>,
}

impl Calls {
    /// Whether our responders owe nobody an answer.
    pub(crate) fn all_answered(&self) -> bool {
        self.answering.is_empty()
    }

    /// A peer is gone: nobody waits there, and nobody answers from there.
    pub(crate) fn gone(&mut self, peer: PeerId, reason: &str, after: &mut After, own: &Own) {
        for (_, lost) in self.pending.extract_if(|_, pending| pending.peer == peer) {
            let reason = format!("the responder's bus {peer} is gone: {reason}");
            let _ = lost.waiting.send(Err(TransportError::Disconnected { reason }));
        }
        for (key, cancel) in self.answering.extract_if(|key, _| key.0 == peer) {
            let _ = cancel.send(());
            drop_queued(own, key, after);
        }
    }

    /// Nobody will answer, and nobody is answered.
    pub(crate) fn close(&mut self, _: &mut After) {
        for (_, lost) in self.pending.drain() {
            let _ = lost.waiting.send(Err(TransportError::Closed));
        }
        for (_, cancel) in self.answering.drain() {
            let _ = cancel.send(());
        }
    }
}

/// A request that nobody waits for is not run, if it was not taken yet.
fn drop_queued(own: &Own, key: AskKey, after: &mut After) {
    for responder in own.responders.values() {
        if let Some(ask) = responder.mailbox.take(|(other, _)| *other == key) {
            after.drop_later(ask);
            return;
        }
    }
}

/// Who is to answer.
struct Choice {
    peer: PeerId,
    responder: u64,
    room: Arc<Semaphore>,
    party: Party,
}

/// Forgets a request whose caller waits no longer, and tells its responder.
struct Call<'a> {
    mesh: &'a Arc<Mesh>,
    request: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.mesh.with(|state, after| {
            // Answered requests are not there any more.
            let Some(pending) = state.calls.pending.remove(&self.request) else { return };
            if pending.peer == self.mesh.me {
                state.cancel((self.mesh.me, self.request), after);
            } else if let Some(remote) = state.peers.get(&pending.peer) {
                let cancel = Control::Cancel { request: self.request };
                // Behind the request, which goes with the data.
                remote.link.data(Out::control(&cancel));
            }
        });
    }
}

impl State {
    fn cancel(&mut self, key: AskKey, after: &mut After) {
        if let Some(cancel) = self.calls.answering.remove(&key) {
            let _ = cancel.send(());
            drop_queued(&self.own, key, after);
        }
    }

    /// Chooses a responder: one of this bus, else the replicas take turns.
    fn choose(&mut self, me: PeerId, route: &Route) -> Option<Choice> {
        let to = route.to.as_ref();
        let mut choices: Vec<Choice> = self
            .own
            .responders
            .iter()
            .filter(|(_, it)| it.spec.topic == route.topic)
            .filter(|(_, it)| to.is_none_or(|to| *to == it.spec.endpoint))
            .map(|(number, it)| Choice {
                peer: me,
                responder: *number,
                room: it.room.clone(),
                party: Party::endpoint(it.spec.endpoint.clone()),
            })
            .collect();
        if choices.is_empty() {
            choices.extend(self.peers.values().flat_map(|remote| {
                let peer = remote.link.peer;
                remote
                    .responders
                    .iter()
                    .filter(|(_, it)| it.topic == route.topic)
                    .filter(|(_, it)| to.is_none_or(|to| *to == it.endpoint))
                    .map(move |(number, it)| Choice {
                        peer,
                        responder: *number,
                        room: it.room.clone(),
                        party: Party::remote(it.endpoint.clone(), peer),
                    })
            }));
        }
        if choices.is_empty() {
            return None;
        }
        self.calls.turn = self.calls.turn.wrapping_add(1);
        let turn = self.calls.turn % choices.len();
        Some(choices.swap_remove(turn))
    }
}

impl Mesh {
    pub(crate) fn responders(&self, route: &Route) -> Interest {
        let fits = |topic: &Topic, endpoint: &Name| {
            *topic == route.topic && route.to.as_ref().is_none_or(|to| to == endpoint)
        };
        let any = self.look(|state| {
            let mut own = state.own.responders.values();
            let mut others = state.peers.values().flat_map(|remote| remote.responders.values());
            own.any(|it| fits(&it.spec.topic, &it.spec.endpoint))
                || others.any(|it| fits(&it.topic, &it.endpoint))
        });
        if any { Interest::Yes } else { Interest::No }
    }

    pub(crate) async fn request(
        self: &Arc<Self>,
        request: OutgoingRequest,
    ) -> Result<Reply, TransportError> {
        let OutgoingRequest { envelope, deadline, .. } = request;
        let started = Instant::now();
        let topic = envelope.topic.to_string();
        let timed_out = |by| TransportError::TimedOut {
            what: format!("the request {topic}"),
            after: deadline.saturating_duration_since(started),
            by,
        };
        let route = Route::new(envelope.topic.clone(), envelope.to.clone());
        let encoded = Encoded::new(&envelope).map_err(|error| TransportError::Rejected {
            what: topic.clone(),
            reason: error.to_string(),
        })?;
        if Out::ask(0, 0, 0, &encoded).is_too_long(self.limit) {
            let (size, limit) = (encoded.len(), self.limit);
            return Err(TransportError::TooLarge { topic: topic.clone(), size, limit });
        }
        let until = tokio::time::Instant::from_std(deadline);
        loop {
            let choice = self.with(|state, _| {
                state.check_open()?;
                state
                    .choose(self.me, &route)
                    .ok_or_else(|| TransportError::NoResponder { topic: topic.clone() })
            })?;
            // Closed when the responder goes: then another one is chosen.
            let _room = match timeout_at(until, choice.room.clone().acquire_owned()).await {
                Ok(Ok(room)) => room,
                Ok(Err(_)) => continue,
                Err(_) => return Err(timed_out(Some(choice.party))),
            };
            let lane_has_room = self.until(|state| {
                state.peers.get(&choice.peer).is_none_or(|remote| !remote.link.is_congested())
            });
            if timeout_at(until, lane_has_room).await.is_err() {
                return Err(timed_out(Some(choice.party)));
            }
            let Some((call, answer)) = self.ask(&choice, &envelope, &encoded, deadline) else {
                continue;
            };
            let answer = timeout_at(until, answer).await;
            drop(call);
            match answer {
                Ok(Ok(Ok(Answer::Reply(reply)))) => return Ok(reply),
                // It had gone before it was asked, and ran nothing.
                Ok(Ok(Ok(Answer::Gone))) => {}
                Ok(Ok(Err(error))) => return Err(error),
                Ok(Err(_)) => return Err(TransportError::Closed),
                Err(_) => return Err(timed_out(Some(choice.party))),
            }
        }
    }

    /// Asks, if the responder is still there.
    fn ask(
        self: &Arc<Self>,
        choice: &Choice,
        envelope: &Envelope,
        encoded: &Encoded,
        deadline: Instant,
    ) -> Option<(Call<'_>, oneshot::Receiver<Result<Answer, TransportError>>)> {
        self.with(|state, after| {
            let request = state.calls.last + 1;
            if choice.peer == self.me {
                let key = (self.me, request);
                let responder = state.own.responders.get(&choice.responder)?;
                let mailbox = responder.mailbox.clone();
                let ask = self.make_ask(state, key, None, envelope.clone(), deadline);
                if let Err(ask) = mailbox.push((key, ask)) {
                    state.calls.answering.remove(&key);
                    after.drop_later(ask);
                    return None;
                }
            } else {
                let remote = state.peers.get(&choice.peer)?;
                remote.responders.get(&choice.responder)?;
                let left = deadline.saturating_duration_since(Instant::now());
                let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
                remote.link.data(Out::ask(request, choice.responder, left, encoded));
            }
            state.calls.last = request;
            let (waiting, answer) = oneshot::channel();
            state.calls.pending.insert(request, Pending { peer: choice.peer, waiting });
            Some((Call { mesh: self, request }, answer))
        })
    }

    /// A request for one of our responders, from a peer's link or from this bus itself.
    fn make_ask(
        self: &Arc<Self>,
        state: &mut State,
        key: AskKey,
        link: Option<&Arc<Link>>,
        envelope: Envelope,
        deadline: Instant,
    ) -> Ask {
        let (cancel, cancelled) = oneshot::channel::<()>();
        state.calls.answering.insert(key, cancel);
        let (mesh, link) = (self.clone(), link.cloned());
        let replier = Replier::new(move |reply| {
            // Only if somebody still waits.
            if mesh.look(|state| state.calls.answering.remove(&key)).is_some() {
                match link {
                    Some(link) => mesh.send_answer(&link, key.1, Answer::Reply(reply)),
                    None => mesh.answered(mesh.me, key.1, Answer::Reply(reply)),
                }
            }
            mesh.changed.notify_waiters();
        });
        let cancelled = async move {
            // Dropped unsent when it was answered: then nobody cancels any more.
            if cancelled.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        Ask::new(envelope, deadline, replier, Box::pin(cancelled))
    }

    /// A peer asks one of our responders.
    pub(crate) fn asked(
        self: &Arc<Self>,
        link: &Arc<Link>,
        request: u64,
        responder: u64,
        remaining_ms: u64,
        envelope: Envelope,
    ) -> Result<(), WireError> {
        // A deadline further away than a day is as good as a day.
        let left = Duration::from_millis(remaining_ms.min(86_400_000));
        let deadline = Instant::now() + left;
        self.with(|state, after| {
            let key = (link.peer, request);
            let open = state.calls.answering.keys().filter(|(peer, _)| *peer == link.peer);
            // Per responder the caller keeps to `MAX_ASKS`; counted only when it may matter.
            if state.calls.answering.len() >= MAX_ASKS
                && open.count() >= MAX_ASKS * state.own.responders.len().max(1)
            {
                return Err(WireError::Unexpected("one more open request"));
            }
            if state.calls.answering.contains_key(&key) {
                return Err(WireError::Unexpected("a request with a number that is in use"));
            }
            let Some(own) = state.own.responders.get(&responder) else {
                self.send_answer(link, request, Answer::Gone);
                return Ok(());
            };
            let mailbox = own.mailbox.clone();
            let ask = self.make_ask(state, key, Some(link), envelope, deadline);
            if let Err(ask) = mailbox.push((key, ask)) {
                state.calls.answering.remove(&key);
                after.drop_later(ask);
                self.send_answer(link, request, Answer::Gone);
            }
            Ok(())
        })
    }

    /// Somebody answered a request of ours. A late answer harms nothing.
    pub(crate) fn answered(self: &Arc<Self>, peer: PeerId, request: u64, answer: Answer) {
        let pending = self.look(|state| {
            let ours = state.calls.pending.get(&request).is_some_and(|it| it.peer == peer);
            if ours { state.calls.pending.remove(&request) } else { None }
        });
        if let Some(pending) = pending {
            let _ = pending.waiting.send(Ok(answer));
        }
    }

    /// A peer no longer wants an answer.
    pub(crate) fn cancelled(self: &Arc<Self>, peer: PeerId, request: u64) {
        self.with(|state, after| state.cancel((peer, request), after));
    }

    pub(crate) async fn respond(
        self: &Arc<Self>,
        spec: ResponderSpec,
    ) -> Result<Asks, TransportError> {
        let mailbox = Arc::new(Mailbox::new());
        let (number, announced) = self.with(|state, _| {
            state.check_here()?;
            let number = state.own.number();
            let change = Change::respond(number, &spec);
            let room = Arc::new(Semaphore::new(MAX_ASKS));
            let own = OwnResponder { spec, mailbox: mailbox.clone(), room };
            state.own.responders.insert(number, own);
            Ok::<_, TransportError>((number, state.announce(change)))
        })?;
        // Made before the wait: dropping this future withdraws the responder.
        let asked = Asked { mesh: self.clone(), number, mailbox };
        announced.all().await;
        Ok(Box::pin(asked))
    }
}

impl State {
    /// Takes a responder of ours out of the table. What it was asked stays in its stream.
    pub(crate) fn stop_responding(&mut self, number: u64) -> Option<Change> {
        let own = self.own.responders.remove(&number)?;
        own.room.close();
        own.mailbox.end();
        Some(Change::Unrespond { responder: number })
    }
}

impl Mesh {
    fn send_answer(&self, link: &Link, request: u64, answer: Answer) {
        let failed =
            |text: String| Answer::Reply(Reply::Failed { kind: FailureKind::Abandoned, text });
        let limit = self.limit;
        let out = match Out::reply(request, &answer) {
            Ok(out) if out.is_too_long(limit) => {
                let size = out.payload.len();
                let text = format!("its answer of {size} bytes is over the limit of {limit}");
                Out::reply(request, &failed(text))
            }
            Err(error) => Out::reply(request, &failed(error.to_string())),
            out => out,
        };
        if let Ok(out) = out {
            link.control(out);
        }
    }
}

/// The stream that the bus polls.
struct Asked {
    mesh: Arc<Mesh>,
    number: u64,
    mailbox: Arc<AskBox>,
}

impl Stream for Asked {
    type Item = Ask;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Ask>> {
        self.mailbox.poll(cx).map(|item| item.map(|(_, ask)| ask))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.mesh.withdraw(|state, after| {
            self.mailbox.end();
            // Their callers are told that the responder stopped.
            after.drop_later(self.mailbox.drain());
            state.stop_responding(self.number)
        });
    }
}
