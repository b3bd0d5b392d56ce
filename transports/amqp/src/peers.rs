//! What is known of the other buses, and the task that hears of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use busway_transport::{
    GroupKey, Host, Name, Notice, Peer, PeerId, Topic, TopicFilter, TransportError,
};
use futures::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::{FieldTable, ShortString};
use lapin::{Connection, Consumer};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::connection::backoff;
use crate::error::{self, within};
use crate::presence::{Group, Hello, Kind};
use crate::properties;
use crate::rebind::Rebind;
use crate::shared::{Shared, lock};
use crate::tasks::Phase;
use crate::topology;

/// A peer of which nothing was heard for so long is gone.
const SILENCE: Duration = Duration::from_secs(10);

struct Known {
    hello: Hello,
    peer: Peer,
    interests: Vec<(TopicFilter, BTreeSet<Name>)>,
    heard: Instant,
    clock: Clock,
}

/// The table of the other buses.
pub(crate) struct Peers {
    own: PeerId,
    host: Arc<dyn Host>,
    rebind: Rebind,
    /// From when on the time is counted that the others' clocks are measured by.
    start: Instant,
    table: Mutex<HashMap<PeerId, Known>>,
}

impl Peers {
    pub(crate) fn new(own: PeerId, host: Arc<dyn Host>, rebind: Rebind) -> Self {
        Self { own, host, rebind, start: Instant::now(), table: Mutex::default() }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<PeerId, Known>> {
        lock(&self.table)
    }

    pub(crate) fn list(&self) -> Vec<Peer> {
        let mut peers: Vec<Peer> = self.table().values().map(|known| known.peer.clone()).collect();
        peers.sort_by_key(|peer| peer.id);
        peers
    }

    pub(crate) fn is_interested(&self, topic: &Topic, to: Option<&Name>) -> bool {
        self.table().values().any(|known| {
            let plain = known.interests.iter().any(|(filter, endpoints)| {
                filter.matches(topic) && to.is_none_or(|to| endpoints.contains(to))
            });
            let group = || {
                known.hello.groups.iter().any(|group| {
                    topic == group.topic.as_str()
                        && to.is_none_or(|to| to == group.endpoint.as_str())
                })
            };
            plain || group()
        })
    }

    /// The buses that have members of a group.
    pub(crate) fn members(&self, key: &GroupKey) -> Vec<PeerId> {
        let is_it = |group: &Group| {
            key.topic == group.topic.as_str()
                && key.endpoint == group.endpoint.as_str()
                && key.group == group.group.as_str()
        };
        let table = self.table();
        let members = table.iter().filter(|(_, known)| known.hello.groups.iter().any(is_it));
        members.map(|(id, _)| *id).collect()
    }

    pub(crate) fn has_responder(&self, topic: &Topic, to: Option<&Name>) -> bool {
        self.table().values().flat_map(|known| &known.hello.responders).any(|its| {
            topic == its.topic.as_str() && to.is_none_or(|to| to == its.endpoint.as_str())
        })
    }

    /// How long ago it was `then`, in milliseconds by a peer's clock. `None`: its clock is unknown.
    pub(crate) fn since(&self, peer: PeerId, then_ms: u64) -> Option<Duration> {
        let since = match peer == self.own {
            true => properties::now_ms().saturating_sub(then_ms),
            false => self.table().get(&peer)?.clock.since(then_ms, self.now_ms())?,
        };
        Some(Duration::from_millis(since))
    }

    /// What a peer's time is compared to.
    fn now_ms(&self) -> u64 {
        properties::millis(self.start.elapsed())
    }

    /// Takes in what a peer said. The notice goes out after the table has changed.
    fn hear(&self, hello: Hello) {
        let Ok(id) = hello.peer.parse::<PeerId>() else { return };
        if id == self.own {
            return;
        }
        let notice = {
            let mut table = self.table();
            if hello.kind == Kind::Bye {
                table.remove(&id).map(|known| Notice::PeerDown(known.peer))
            } else {
                let mut clock = table.get(&id).map(|known| known.clock).unwrap_or_default();
                if let Some(at_ms) = hello.at_ms {
                    clock.hear(at_ms, self.now_ms());
                }
                // Kind and time are no part of the state.
                let hello = Hello { kind: Kind::State, at_ms: None, ..hello };
                match table.get_mut(&id) {
                    Some(known) if known.hello == hello => {
                        (known.heard, known.clock) = (Instant::now(), clock);
                        None
                    }
                    Some(known) => {
                        if known.hello.rebinds < hello.rebinds {
                            self.rebind.heard();
                        }
                        *known = Known::new(id, hello, clock);
                        Some(Notice::PeerChanged(id))
                    }
                    None => {
                        let known = Known::new(id, hello, clock);
                        let peer = known.peer.clone();
                        table.insert(id, known);
                        Some(Notice::PeerUp(peer))
                    }
                }
            }
        };
        if let Some(notice) = notice {
            self.host.notice(notice);
        }
    }

    /// Drops those that were silent for too long.
    fn expire(&self) {
        let gone: Vec<Peer> = {
            let mut table = self.table();
            let silent: Vec<PeerId> = table
                .iter()
                .filter(|(_, known)| known.heard.elapsed() > SILENCE)
                .map(|(id, _)| *id)
                .collect();
            silent.iter().filter_map(|id| table.remove(id)).map(|known| known.peer).collect()
        };
        for peer in gone {
            self.host.notice(Notice::PeerDown(peer));
        }
    }

    /// We were deaf: the silence was ours.
    fn forgive(&self) {
        for known in self.table().values_mut() {
            known.heard = Instant::now();
        }
    }
}

impl Known {
    fn new(id: PeerId, hello: Hello, clock: Clock) -> Self {
        let names = |names: &BTreeSet<String>| -> BTreeSet<Name> {
            names.iter().filter_map(|name| Name::new(name).ok()).collect()
        };
        let mut peer = Peer::new(id, names(&hello.endpoints));
        peer.ready = hello.ready;
        peer.pid = hello.pid;
        peer.host.clone_from(&hello.host);
        let interests = hello.interests.iter().filter_map(|interested| {
            Some((TopicFilter::new(&interested.filter).ok()?, names(&interested.endpoints)))
        });
        Self { peer, interests: interests.collect(), heard: Instant::now(), clock, hello }
    }
}

/// Hears of the others, on every connection anew. `ready` once the first queue stands and the
/// others were greeted.
pub(crate) async fn listen(
    shared: Arc<Shared>,
    ready: oneshot::Sender<Result<(), TransportError>>,
) {
    let mut ready = Some(ready);
    let mut delays = backoff();
    let phase = shared.phase.clone();
    loop {
        let up = tokio::select! {
            () = phase.reached(Phase::Closed) => return,
            up = shared.consume.up() => up,
        };
        let Ok(connection) = up else { return };
        match open(&shared, &connection).await {
            Ok((_channel, mut consumer, queue)) => {
                delays = backoff();
                shared.presence.others.forgive();
                let greeted = greet(&shared, queue).await;
                if let Some(ready) = ready.take() {
                    let _ = ready.send(greeted);
                }
                hear(&shared, &connection, &mut consumer).await;
            }
            Err(error) if error::is_final(&error) && ready.is_some() => {
                if let Some(ready) = ready.take() {
                    let _ = ready.send(Err(error));
                }
                return;
            }
            Err(error) => tracing::debug!(%error, "not yet"),
        }
        tokio::select! {
            () = phase.reached(Phase::Closed) => return,
            () = tokio::time::sleep(delays.next().unwrap_or_default()) => {}
        }
    }
}

async fn open(
    shared: &Shared,
    connection: &Connection,
) -> Result<(lapin::Channel, Consumer, ShortString), TransportError> {
    let settings = &shared.settings;
    let stand = shared.topology.presence(shared.peer)?;
    let what = stand.queue.as_str();
    let channel = within(settings, "opening a channel", connection.create_channel()).await?;
    within(settings, what, topology::apply(&channel, &stand.declare)).await?;
    let consume = channel.basic_consume(
        stand.queue.clone(),
        "".into(),
        // Nothing is lost that the next heartbeat would not bring. lapin's buffer holds what the
        // peers say while this task, which never waits for anybody, takes it.
        BasicConsumeOptions { no_ack: true, exclusive: true, ..Default::default() },
        FieldTable::default(),
    );
    let consumer = within(settings, what, consume).await?;
    Ok((channel, consumer, stand.queue))
}

async fn greet(shared: &Shared, queue: ShortString) -> Result<(), TransportError> {
    let exchange = &shared.topology.presence;
    let hello =
        shared.presence.message(Kind::Hello, exchange, ShortString::default(), Some(queue))?;
    shared.back.send(hello).await.map(drop)
}

/// Hears until the connection is lost.
async fn hear(shared: &Arc<Shared>, connection: &Arc<Connection>, consumer: &mut Consumer) {
    let phase = shared.phase.clone();
    let gone = shared.consume.long_gone(connection);
    tokio::pin!(gone);
    let mut look = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = phase.reached(Phase::Closed) => return,
            () = &mut gone => return,
            _ = look.tick() => shared.presence.others.expire(),
            delivery = consumer.next() => {
                let Some(Ok(delivery)) = delivery else { return };
                let hello = match serde_json::from_slice::<Hello>(&delivery.data) {
                    Ok(hello) => hello,
                    Err(error) => {
                        shared.notice(Notice::Protocol {
                            peer: "unknown".into(),
                            reason: format!("a presence message: {error}"),
                        });
                        continue;
                    }
                };
                let stranger = hello.peer != shared.peer.to_string();
                let answer_to = delivery.properties.reply_to().clone();
                if let (Kind::Hello, true, Some(queue)) = (hello.kind, stranger, answer_to) {
                    answer(shared, queue);
                }
                shared.presence.others.hear(hello);
            }
        }
    }
}

/// Tells a newcomer who we are, on its own queue only. Not waited for: the next heartbeat says
/// the same.
fn answer(shared: &Arc<Shared>, queue: ShortString) {
    if shared.presence.is_gone() {
        return;
    }
    let default = ShortString::default();
    let message = shared.presence.message(Kind::State, &default, queue, None);
    if let (Ok(message), Ok(Some(slot))) = (message, shared.back.try_reserve()) {
        drop(slot.commit(message));
    }
}
