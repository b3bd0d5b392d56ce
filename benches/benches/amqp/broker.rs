//! The broker, and queues on it that a run uses alone.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use busway_test_broker::Broker;
use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};

fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(|| Broker::start().unwrap_or_else(|error| panic!("{error}")))
}

pub(crate) fn version() -> String {
    broker().ctl(&["version"]).unwrap_or_else(|error| panic!("{error}")).trim().to_owned()
}

/// A bus name that no other run has.
pub(crate) fn fresh() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("bench{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A bus on the broker.
pub(crate) fn url(bus: &str) -> String {
    format!("{}?bus={bus}&window={}", broker().url(), crate::WINDOW)
}

pub(crate) async fn connection() -> Connection {
    let properties = ConnectionProperties::default();
    Connection::connect(broker().url(), properties).await.expect("connects")
}

/// What a [`Work`] stands for on the broker.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// What a durable group has.
    Group,
    /// What a plain subscription has, with nobody who takes from it: in memory, and bounded.
    Plain,
}

impl Kind {
    fn declaration(self) -> (QueueDeclareOptions, FieldTable) {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let (durable, arguments) = match self {
            Self::Group => (
                true,
                vec![
                    ("x-queue-type", text("quorum")),
                    ("x-delivery-limit", AMQPValue::LongLongInt(1000)),
                    ("x-dead-letter-exchange", text("")),
                    ("x-dead-letter-routing-key", text("none")),
                ],
            ),
            Self::Plain => (
                false,
                vec![
                    ("x-queue-type", text("classic")),
                    ("x-max-length", AMQPValue::LongLongInt(1024)),
                    ("x-overflow", text("drop-head")),
                ],
            ),
        };
        let mut table = FieldTable::default();
        for (key, value) in arguments {
            table.insert(key.into(), value);
        }
        (QueueDeclareOptions { durable, ..Default::default() }, table)
    }
}

/// A queue with the arguments that busway's have, bound to a topic exchange.
pub(crate) struct Work {
    pub(crate) exchange: ShortString,
    pub(crate) queue: ShortString,
    connection: Connection,
    channel: Channel,
}

/// The key of everything that a [`Work`] holds.
pub(crate) const KEY: &str = "all.bench.blob";

impl Work {
    /// On an exchange of the name that the bus has.
    pub(crate) async fn of(bus: &str, kind: Kind) -> Self {
        let connection = connection().await;
        let channel = connection.create_channel().await.expect("a channel");
        let (exchange, queue) = (format!("{bus}.events"), format!("{bus}.work"));
        let (exchange, queue) = (ShortString::from(exchange), ShortString::from(queue));
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let topic = ExchangeKind::Topic;
        let declared = channel.exchange_declare(exchange.clone(), topic, durable, none()).await;
        declared.expect("an exchange");
        let (options, arguments) = kind.declaration();
        channel.queue_declare(queue.clone(), options, arguments).await.expect("a queue");
        let bind = QueueBindOptions::default();
        let bound = channel.queue_bind(queue.clone(), exchange.clone(), KEY.into(), bind, none());
        bound.await.expect("bound");
        Self { exchange, queue, connection, channel }
    }

    /// Removes it with all that is still in it.
    pub(crate) async fn remove(self) {
        self.delete(self.queue.clone()).await;
        self.connection.close(200, "done".into()).await.expect("closed");
    }

    pub(crate) async fn delete(&self, queue: ShortString) {
        let options = QueueDeleteOptions::default();
        self.channel.queue_delete(queue, options).await.expect("deleted");
    }
}

pub(crate) fn none() -> FieldTable {
    FieldTable::default()
}
