//! What stands on the broker: names, and declarations as data, so that each user of the broker
//! keeps its own list and replays it after a lost connection.
//!
//! No two names collide: the bus's name has no dot, the second word says the kind, endpoints,
//! groups and peers have no dots, and a topic, which has dots, always comes last.

use std::time::Duration;

use busway_transport::{
    GroupKey, GroupSpec, Name, PeerId, SubscriptionId, Topic, TopicFilter, TransportError,
};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ExchangeKind};

use crate::address::{QueueType, Settings};
use crate::error::short;

/// High, because every lost connection raises the count of all that was prefetched; our own
/// attempts are counted in a header. RabbitMQ 4 would take 20 when nothing is said.
const DELIVERY_LIMIT: i64 = 1000;
/// Listing dead letters takes and returns them: that must never use them up.
const DEAD_DELIVERY_LIMIT: i64 = 1_000_000;
/// How many dead letters a group keeps.
pub(crate) const DEAD_LETTERS: u32 = 10_000;
/// How long a responder's queue outlives a crash of the broker without its responder.
const RESPONDER_EXPIRES: Duration = Duration::from_secs(10);
/// The steps of retry delays in milliseconds; a delay is rounded up to the next.
const TIERS: [u64; 13] =
    [50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000];

/// One declaration.
#[derive(Debug, Clone)]
pub(crate) enum Declare {
    Exchange { name: ShortString, kind: ExchangeKind },
    Queue { name: ShortString, options: QueueDeclareOptions, arguments: FieldTable },
    Bind { queue: ShortString, exchange: ShortString, key: ShortString },
}

/// Replays declarations.
pub(crate) async fn apply(channel: &Channel, all: &[Declare]) -> Result<(), lapin::Error> {
    for declare in all.iter().cloned() {
        match declare {
            Declare::Exchange { name, kind } => {
                let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
                channel.exchange_declare(name, kind, options, FieldTable::default()).await?;
            }
            Declare::Queue { name, options, arguments } => {
                channel.queue_declare(name, options, arguments).await?;
            }
            Declare::Bind { queue, exchange, key } => {
                let options = QueueBindOptions::default();
                channel.queue_bind(queue, exchange, key, options, FieldTable::default()).await?;
            }
        }
    }
    Ok(())
}

const DURABLE: QueueDeclareOptions = QueueDeclareOptions {
    passive: false,
    durable: true,
    exclusive: false,
    auto_delete: false,
    nowait: false,
};
/// Gone with its connection, and with its last consumer.
const OWN: QueueDeclareOptions =
    QueueDeclareOptions { durable: false, exclusive: true, auto_delete: true, ..DURABLE };

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn millis(duration: Duration) -> AMQPValue {
    AMQPValue::LongLongInt(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

fn table<const N: usize>(pairs: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert(key.into(), value);
    }
    table
}

/// A queue and what has to be declared for it.
#[derive(Debug, Clone)]
pub(crate) struct Stand {
    pub(crate) queue: ShortString,
    pub(crate) declare: Vec<Declare>,
}

/// The names of one bus.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    bus: Name,
    queue_type: QueueType,
    pub(crate) events: ShortString,
    pub(crate) presence: ShortString,
}

impl Topology {
    pub(crate) fn new(settings: &Settings) -> Result<Self, TransportError> {
        let bus = settings.bus.clone();
        Ok(Self {
            events: short(format!("{bus}.events"))?,
            presence: short(format!("{bus}.presence"))?,
            queue_type: settings.queue_type,
            bus,
        })
    }

    /// The exchanges that every bus needs.
    pub(crate) fn exchanges(&self) -> Vec<Declare> {
        vec![
            Declare::Exchange { name: self.events.clone(), kind: ExchangeKind::Topic },
            Declare::Exchange { name: self.presence.clone(), kind: ExchangeKind::Fanout },
        ]
    }

    /// The routing key of an event.
    pub(crate) fn key(
        &self,
        topic: &Topic,
        to: Option<&Name>,
    ) -> Result<ShortString, TransportError> {
        self.pattern(topic.as_str(), to)
    }

    /// The binding key of a filter: its wildcards are AMQP's own.
    pub(crate) fn pattern(
        &self,
        filter: &str,
        to: Option<&Name>,
    ) -> Result<ShortString, TransportError> {
        match to {
            None => short(format!("all.{filter}")),
            Some(endpoint) => short(format!("to.{endpoint}.{filter}")),
        }
    }

    /// The topic and the addressee in a routing key of the events exchange.
    pub(crate) fn read_key(key: &str) -> Option<(Topic, Option<Name>)> {
        let (topic, to) = match key.split_once('.')? {
            ("all", topic) => (topic, None),
            ("to", rest) => {
                let (to, topic) = rest.split_once('.')?;
                (topic, Some(Name::new(to).ok()?))
            }
            _ => return None,
        };
        Some((Topic::new(topic).ok()?, to))
    }

    pub(crate) fn bind(&self, queue: &ShortString, key: ShortString) -> Declare {
        Declare::Bind { queue: queue.clone(), exchange: self.events.clone(), key }
    }

    /// A plain interest's queue. Its name is new on every connection: one of a half-dead
    /// connection stays locked for a while.
    pub(crate) fn plain<'a>(
        &self,
        peer: PeerId,
        id: SubscriptionId,
        filter: &TopicFilter,
        endpoints: impl IntoIterator<Item = &'a Name>,
        capacity: usize,
    ) -> Result<Stand, TransportError> {
        let fresh = PeerId::random();
        let queue = short(format!("{}.sub.{peer}.{}.{fresh}", self.bus, id.0))?;
        let length = i64::try_from(capacity.max(1)).unwrap_or(i64::MAX);
        let arguments = table([
            ("x-queue-type", text("classic")),
            ("x-max-length", AMQPValue::LongLongInt(length)),
            ("x-overflow", text("drop-head")),
        ]);
        let mut declare = self.exchanges();
        declare.push(Declare::Queue { name: queue.clone(), options: OWN, arguments });
        declare.push(self.bind(&queue, self.pattern(filter.as_str(), None)?));
        for endpoint in endpoints {
            declare.push(self.bind(&queue, self.pattern(filter.as_str(), Some(endpoint))?));
        }
        Ok(Stand { queue, declare })
    }

    pub(crate) fn group_queue(
        &self,
        key: &GroupKey,
        durable: bool,
    ) -> Result<ShortString, TransportError> {
        // Two kinds of name: the same name with other arguments would be a 406.
        let kind = if durable { "dgroup" } else { "group" };
        short(format!("{}.{kind}.{}.{}.{}", self.bus, key.endpoint, key.group, key.topic))
    }

    pub(crate) fn dead_queue(&self, key: &GroupKey) -> Result<ShortString, TransportError> {
        short(format!("{}.dead.{}.{}.{}", self.bus, key.endpoint, key.group, key.topic))
    }

    /// Held by whoever reads a group's dead letters.
    pub(crate) fn lock_queue(&self, key: &GroupKey) -> Result<ShortString, TransportError> {
        short(format!("{}.lock.{}.{}.{}", self.bus, key.endpoint, key.group, key.topic))
    }

    /// One of the queues over which the events of a group that is ordered by key are spread.
    pub(crate) fn partition_queue(
        &self,
        key: &GroupKey,
        durable: bool,
        number: u16,
    ) -> Result<ShortString, TransportError> {
        let kind = if durable { "dpart" } else { "part" };
        let GroupKey { endpoint, group, topic } = key;
        short(format!("{}.{kind}.{number}.{endpoint}.{group}.{topic}", self.bus))
    }

    /// A group's dead letters. Bounded: the oldest makes room.
    pub(crate) fn dead(&self, key: &GroupKey) -> Result<Stand, TransportError> {
        let queue = self.dead_queue(key)?;
        let mut arguments = table([
            ("x-queue-type", text(self.queue_type.as_str())),
            ("x-max-length", AMQPValue::LongLongInt(DEAD_LETTERS.into())),
            ("x-overflow", text("drop-head")),
        ]);
        if self.queue_type == QueueType::Quorum {
            arguments
                .insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DEAD_DELIVERY_LIMIT));
        }
        let declare = vec![Declare::Queue { name: queue.clone(), options: DURABLE, arguments }];
        Ok(Stand { queue, declare })
    }

    /// A group's work, with its dead letters as the broker's own last resort.
    pub(crate) fn group(&self, spec: &GroupSpec) -> Result<Stand, TransportError> {
        let key = &spec.key;
        let mut stand = self.work(spec, self.group_queue(key, spec.durable)?)?;
        let queue = &stand.queue;
        stand.declare.push(self.bind(queue, self.pattern(key.topic.as_str(), None)?));
        let addressed = self.pattern(key.topic.as_str(), Some(&key.endpoint))?;
        stand.declare.push(self.bind(queue, addressed));
        Ok(stand)
    }

    /// One partition of a group that is ordered by key. Nothing is bound to it: who takes events
    /// from the group's queue reads their keys and sends them here.
    pub(crate) fn partition(&self, spec: &GroupSpec, number: u16) -> Result<Stand, TransportError> {
        self.work(spec, self.partition_queue(&spec.key, spec.durable, number)?)
    }

    /// A queue of a group's work. Bounded: what is over the bound is refused, and its publisher
    /// told. That is for quorum queues only: what a retry tier gives to a full classic queue the
    /// broker would drop.
    fn work(&self, spec: &GroupSpec, queue: ShortString) -> Result<Stand, TransportError> {
        let dead = self.dead(&spec.key)?;
        let mut arguments = table([
            ("x-queue-type", text(self.queue_type.as_str())),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(dead.queue.as_str())),
        ]);
        if self.queue_type == QueueType::Quorum {
            let backlog = i64::try_from(spec.backlog.max(1)).unwrap_or(i64::MAX);
            arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
            arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(backlog));
            arguments.insert("x-overflow".into(), text("reject-publish"));
        }
        if spec.keyed.is_some() {
            // Two consumers at a time would mix up a key's order.
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        if !spec.durable {
            arguments.insert("x-expires".into(), millis(spec.hold.max(Duration::from_secs(1))));
        }
        let mut declare = self.exchanges();
        declare.extend(dead.declare);
        declare.push(Declare::Queue { name: queue.clone(), options: DURABLE, arguments });
        Ok(Stand { queue, declare })
    }

    /// The tier of a delay: a fanout exchange and a queue of one fixed delay behind it, whose
    /// expired messages go to the queue that was their routing key. (One queue for all delays
    /// would not do: messages expire only at its head.) `queue` is the exchange's name as well.
    pub(crate) fn tier(&self, delay: Duration) -> Result<Stand, TransportError> {
        let delay = tier_of(delay);
        let queue = short(format!("{}.retry.{}", self.bus, delay.as_millis()))?;
        let arguments = table([
            ("x-queue-type", text("classic")),
            ("x-message-ttl", millis(delay)),
            ("x-dead-letter-exchange", text("")),
        ]);
        let declare = vec![
            Declare::Exchange { name: queue.clone(), kind: ExchangeKind::Fanout },
            Declare::Queue { name: queue.clone(), options: DURABLE, arguments },
            Declare::Bind { queue: queue.clone(), exchange: queue.clone(), key: short("")? },
        ];
        Ok(Stand { queue, declare })
    }

    pub(crate) fn request_key(
        &self,
        topic: &Topic,
        to: Option<&Name>,
    ) -> Result<ShortString, TransportError> {
        match to {
            None => short(format!("{}.rpc.{topic}", self.bus)),
            Some(endpoint) => short(format!("{}.rpc-to.{endpoint}.{topic}", self.bus)),
        }
    }

    /// A responder's queue. It goes with its last consumer, so that a request is returned at once
    /// when nobody is there; after a crash of the broker, when nobody comes back to it.
    pub(crate) fn responder(
        &self,
        topic: &Topic,
        to: Option<&Name>,
    ) -> Result<Stand, TransportError> {
        let queue = self.request_key(topic, to)?;
        let arguments =
            table([("x-queue-type", text("classic")), ("x-expires", millis(RESPONDER_EXPIRES))]);
        let options = QueueDeclareOptions { auto_delete: true, ..DURABLE };
        Ok(Stand {
            declare: vec![Declare::Queue { name: queue.clone(), options, arguments }],
            queue,
        })
    }

    /// The queue on which a bus hears of the others.
    pub(crate) fn presence(&self, peer: PeerId) -> Result<Stand, TransportError> {
        let fresh = PeerId::random();
        let queue = short(format!("{}.peer.{peer}.{fresh}", self.bus))?;
        let arguments = table([("x-queue-type", text("classic"))]);
        let mut declare = self.exchanges();
        declare.push(Declare::Queue { name: queue.clone(), options: OWN, arguments });
        declare.push(Declare::Bind {
            queue: queue.clone(),
            exchange: self.presence.clone(),
            key: short("")?,
        });
        Ok(Stand { queue, declare })
    }
}

fn tier_of(delay: Duration) -> Duration {
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    let hour = 3_600_000;
    let tier = TIERS.into_iter().find(|tier| *tier >= millis);
    // x-message-ttl is bounded by 2^32 ms.
    Duration::from_millis(tier.unwrap_or_else(|| millis.min(1_000 * hour).next_multiple_of(hour)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_rounded_up() {
        for (delay, tier) in
            [(0, 50), (50, 50), (51, 100), (400, 500), (800, 1_000), (3_600_001, 7_200_000)]
        {
            assert_eq!(tier_of(Duration::from_millis(delay)), Duration::from_millis(tier));
        }
        assert!(tier_of(Duration::MAX).as_millis() < 1 << 32);
    }

    #[test]
    fn a_topic_comes_back_from_its_routing_key() {
        let settings = Settings::parse(&"amqp://h?bus=b".parse().unwrap()).unwrap();
        let topology = Topology::new(&settings).unwrap();
        let topic = Topic::new("to.all.x").unwrap();
        let endpoint = Name::new("mail").unwrap();
        for to in [None, Some(&endpoint)] {
            let key = topology.key(&topic, to).unwrap();
            assert_eq!(Topology::read_key(key.as_str()), Some((topic.clone(), to.cloned())));
        }
        assert_eq!(Topology::read_key("b.group.mail.g.x"), None);
    }

    #[test]
    fn long_names_are_refused_and_not_a_panic() {
        let settings = Settings::parse(&"amqp://h?bus=b".parse().unwrap()).unwrap();
        let topology = Topology::new(&settings).unwrap();
        let topic = Topic::new(&["x"; 100].join(".")).unwrap();
        let long = Name::new(&"e".repeat(64)).unwrap();
        let error = topology.key(&topic, Some(&long)).unwrap_err();
        assert!(matches!(error, TransportError::Rejected { .. }), "{error}");
    }
}
