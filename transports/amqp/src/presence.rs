//! Who is there: every bus tells all others its whole state, when it comes, when something
//! changes and every two seconds, and says goodbye when it goes.
//!
//! [`Presence`] holds what we are and what we know of the others. The announcer tells our state,
//! one message at a time, so that an older state never follows a newer one; the listener (in
//! [`crate::peers`]) hears theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway_transport::{
    GroupKey, MessageId, Name, PeerId, SubscriptionId, Topic, TopicFilter, TransportError,
};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::ShortString;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::error::{OPERATION, short, timed_out};
use crate::peers::Peers;
use crate::properties;
use crate::publish::{Outgoing, Publisher};
use crate::rebind::Rebind;
use crate::shared::lock;
use crate::tasks::{Phase, PhaseWatch};

/// How often a bus that has nothing new says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a bus tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) kind: Kind,
    /// The peer's id: 16 hexadecimal digits.
    pub(crate) peer: String,
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    #[serde(default)]
    pub(crate) host: Option<String>,
    /// Whether it has reached its start-up barrier.
    #[serde(default)]
    pub(crate) ready: bool,
    #[serde(default)]
    pub(crate) endpoints: BTreeSet<String>,
    #[serde(default)]
    pub(crate) interests: Vec<Interested>,
    #[serde(default)]
    pub(crate) groups: BTreeSet<Group>,
    #[serde(default)]
    pub(crate) responders: BTreeSet<Responder>,
    /// How often it found an exchange missing: then all bind again.
    #[serde(default)]
    pub(crate) rebinds: u64,
    /// When it said this, by its own clock, in milliseconds: so the others know how far that is
    /// from theirs.
    #[serde(default)]
    pub(crate) at_ms: Option<u64>,
}

/// Why it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// It came: everybody answers with their state.
    Hello,
    State,
    /// It goes.
    Bye,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interested {
    pub(crate) filter: String,
    pub(crate) endpoints: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) endpoint: String,
    pub(crate) group: String,
    pub(crate) topic: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Responder {
    pub(crate) endpoint: String,
    pub(crate) topic: String,
}

/// What this bus is. Counted where it may be there several times.
#[derive(Debug, Default)]
struct Own {
    /// It said goodbye.
    gone: bool,
    ready: bool,
    endpoints: BTreeSet<Name>,
    interests: BTreeMap<SubscriptionId, (TopicFilter, BTreeSet<Name>)>,
    groups: BTreeMap<GroupKey, usize>,
    responders: BTreeMap<(Topic, Name), usize>,
}

/// What this bus is, and who the others are.
pub(crate) struct Presence {
    peer: PeerId,
    own: Mutex<Own>,
    pub(crate) others: Peers,
    rebind: Rebind,
    tell: mpsc::Sender<Wish>,
}

/// What the announcer is asked for, and who waits until the broker has it.
pub(crate) struct Wish {
    kind: Kind,
    done: Option<oneshot::Sender<Result<(), TransportError>>>,
}

/// The announcer's end of a [`Presence`].
pub(crate) type Wishes = mpsc::Receiver<Wish>;

impl Presence {
    pub(crate) fn new(peer: PeerId, others: Peers, rebind: Rebind) -> (Arc<Self>, Wishes) {
        // Several wishes are answered by one message, so few need to wait.
        let (tell, wishes) = mpsc::channel(64);
        (Arc::new(Self { peer, own: Mutex::default(), others, rebind, tell }), wishes)
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Own> {
        lock(&self.own)
    }

    /// Tells the state soon. Without room somebody else's wish is still to be answered, with the
    /// state of then.
    pub(crate) fn touch(&self) {
        let _ = self.tell.try_send(Wish { kind: Kind::State, done: None });
    }

    /// Tells the state and waits until the broker has it.
    pub(crate) async fn published(&self) -> Result<(), TransportError> {
        self.told(Kind::State).await
    }

    /// Says goodbye. Nothing is told after it, or the peers would take us for a newcomer.
    pub(crate) async fn goodbye(&self) -> Result<(), TransportError> {
        self.own().gone = true;
        self.told(Kind::Bye).await
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.own().gone
    }

    async fn told(&self, kind: Kind) -> Result<(), TransportError> {
        let (done, is_done) = oneshot::channel();
        let told = async {
            let wish = Wish { kind, done: Some(done) };
            self.tell.send(wish).await.map_err(|_| TransportError::Closed)?;
            is_done.await.map_err(|_| TransportError::Closed)?
        };
        tokio::time::timeout(OPERATION, told)
            .await
            .map_err(|_| timed_out("telling the other buses", OPERATION))?
    }

    pub(crate) fn announce(&self, endpoint: Name) {
        if self.own().endpoints.insert(endpoint) {
            self.touch();
        }
    }

    pub(crate) fn set_ready(&self) {
        if !std::mem::replace(&mut self.own().ready, true) {
            self.touch();
        }
    }

    pub(crate) fn set_endpoints(&self, id: SubscriptionId, endpoints: BTreeSet<Name>) {
        if let Some((_, old)) = self.own().interests.get_mut(&id) {
            *old = endpoints;
        }
    }

    /// Whether this bus has a member of a group that takes such an event.
    pub(crate) fn has_group(&self, topic: &Topic, to: Option<&Name>) -> bool {
        let takes = |key: &GroupKey| &key.topic == topic && to.is_none_or(|to| *to == key.endpoint);
        self.own().groups.keys().any(takes)
    }

    /// Whether somebody responds, here or elsewhere.
    pub(crate) fn knows_responder(&self, topic: &Topic, to: Option<&Name>) -> bool {
        self.others.has_responder(topic, to) || self.has_responder(topic, to)
    }

    fn has_responder(&self, topic: &Topic, to: Option<&Name>) -> bool {
        let own = self.own();
        own.responders.keys().any(|(its, at)| its == topic && to.is_none_or(|to| to == at))
    }

    pub(crate) fn state(&self, kind: Kind) -> Hello {
        let own = self.own();
        let names = |names: &BTreeSet<Name>| names.iter().map(ToString::to_string).collect();
        let interests = own.interests.values().map(|(filter, endpoints)| Interested {
            filter: filter.to_string(),
            endpoints: names(endpoints),
        });
        let groups = own.groups.keys().map(|key| Group {
            endpoint: key.endpoint.to_string(),
            group: key.group.to_string(),
            topic: key.topic.to_string(),
        });
        let responders = own.responders.keys().map(|(topic, endpoint)| Responder {
            endpoint: endpoint.to_string(),
            topic: topic.to_string(),
        });
        Hello {
            kind,
            peer: self.peer.to_string(),
            pid: Some(std::process::id()),
            host: host_name(),
            ready: own.ready,
            endpoints: names(&own.endpoints),
            interests: interests.collect(),
            groups: groups.collect(),
            responders: responders.collect(),
            rebinds: self.rebind.times(),
            at_ms: Some(properties::now_ms()),
        }
    }

    /// Our state as a message to everybody, or to the one who asked.
    pub(crate) fn message(
        &self,
        kind: Kind,
        exchange: &ShortString,
        key: ShortString,
        reply_to: Option<ShortString>,
    ) -> Result<Outgoing, TransportError> {
        let id = MessageId::new();
        let payload = serde_json::to_vec(&self.state(kind)).map_err(|error| {
            TransportError::Rejected { what: "our state".into(), reason: error.to_string() }
        })?;
        let mut properties = BasicProperties::default()
            .with_message_id(short(id.to_string())?)
            .with_type("busway.presence".into())
            .with_content_type("application/json".into())
            .with_delivery_mode(1);
        if let Some(reply_to) = reply_to {
            properties = properties.with_reply_to(reply_to);
        }
        Ok(Outgoing {
            id,
            what: "our state".into(),
            exchange: exchange.clone(),
            key,
            mandatory: false,
            properties,
            payload: Bytes::from(payload),
            needs: None,
            replaces: None,
        })
    }

    /// Tells our state whenever somebody wishes, and every now and then.
    pub(crate) async fn announcer(
        self: Arc<Self>,
        publisher: Publisher,
        exchange: ShortString,
        mut wishes: Wishes,
        phase: PhaseWatch,
    ) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        // While the connection is lost one message waits, not one for each beat.
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (mut kind, mut waiting) = (Kind::State, Vec::new());
            let mut take = |wish: Wish| {
                waiting.extend(wish.done);
                if wish.kind == Kind::Bye {
                    kind = Kind::Bye;
                }
            };
            tokio::select! {
                () = phase.reached(Phase::Closed) => return,
                _ = heartbeat.tick() => {}
                wish = wishes.recv() => match wish {
                    Some(wish) => take(wish),
                    None => return,
                }
            }
            while let Ok(wish) = wishes.try_recv() {
                take(wish);
            }
            let told = match self.message(kind, &exchange, ShortString::default(), None) {
                Ok(message) => tokio::select! {
                    () = phase.reached(Phase::Closed) => return,
                    told = publisher.send(message) => told.map(drop),
                },
                Err(error) => Err(error),
            };
            for wish in waiting {
                let _ = wish.send(told.clone());
            }
            if kind == Kind::Bye {
                return;
            }
        }
    }
}

fn host_name() -> Option<String> {
    let name = std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// Something that this bus is, for as long as this lives.
pub(crate) struct Registration {
    presence: Arc<Presence>,
    what: What,
}

enum What {
    Interest(SubscriptionId),
    Group(GroupKey),
    Responder((Topic, Name)),
}

impl Registration {
    pub(crate) fn interest(
        presence: &Arc<Presence>,
        id: SubscriptionId,
        filter: TopicFilter,
        endpoints: BTreeSet<Name>,
    ) -> Self {
        presence.own().interests.insert(id, (filter, endpoints));
        Self { presence: presence.clone(), what: What::Interest(id) }
    }

    pub(crate) fn group(presence: &Arc<Presence>, key: GroupKey) -> Self {
        *presence.own().groups.entry(key.clone()).or_default() += 1;
        Self { presence: presence.clone(), what: What::Group(key) }
    }

    pub(crate) fn responder(presence: &Arc<Presence>, topic: Topic, endpoint: Name) -> Self {
        let key = (topic, endpoint);
        *presence.own().responders.entry(key.clone()).or_default() += 1;
        Self { presence: presence.clone(), what: What::Responder(key) }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        {
            let own = &mut *self.presence.own();
            match &self.what {
                What::Interest(id) => drop(own.interests.remove(id)),
                What::Group(key) => take_one(&mut own.groups, key),
                What::Responder(key) => take_one(&mut own.responders, key),
            }
        }
        self.presence.touch();
    }
}

fn take_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
