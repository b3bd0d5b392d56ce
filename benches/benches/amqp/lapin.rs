//! What people write with lapin.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use tokio::sync::{mpsc, oneshot};

use busway_benches::Sample;

use crate::broker::{self, KEY, Kind, Work, none};
use crate::busway::in_parallel;
use crate::typed::{Order, Question, bytes};
use crate::{SIZE, Span, WINDOW, WINDOW_16, one_by_one};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

fn properties() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2).with_content_type("application/x".into())
}

async fn confirming(connection: &Connection) -> Channel {
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    channel
}

/// Publishes to an exchange of a fresh name, with a queue behind it.
async fn publishing<Fut: Future<Output = ()>>(
    length: u64,
    publish: impl FnOnce(Channel, ShortString) -> Fut,
) -> Sample {
    let work = Work::of(&broker::fresh(), Kind::Plain).await;
    let connection = broker::connection().await;
    let channel = confirming(&connection).await;
    let start = Instant::now();
    publish(channel.clone(), work.exchange.clone()).await;
    let sample = Sample::rate(length, start.elapsed());
    connection.close(200, "done".into()).await.expect("closed");
    work.remove().await;
    sample
}

/// Awaits each publish, and the oldest confirm when the window is full.
pub(crate) async fn publish_loop(length: u64) -> Sample {
    publishing(length, |channel, exchange| async move {
        let bytes = bytes();
        let mut unconfirmed = VecDeque::with_capacity(WINDOW);
        for _ in 0..length {
            if unconfirmed.len() == WINDOW {
                let confirm: lapin::PublisherConfirm = unconfirmed.pop_front().expect("full");
                assert!(confirm.await.expect("confirmed").is_ack());
            }
            let options = BasicPublishOptions::default();
            let (exchange, key) = (exchange.clone(), KEY.into());
            let sent = channel.basic_publish(exchange, key, options, &bytes, properties());
            unconfirmed.push_back(sent.await.expect("sent"));
        }
        for confirm in unconfirmed {
            assert!(confirm.await.expect("confirmed").is_ack());
        }
    })
    .await
}

/// As many futures in flight as the window has room for, each of which publishes and waits for
/// its confirm.
pub(crate) async fn publish_in_flight(length: u64) -> Sample {
    publishing(length, |channel, exchange| async move {
        fill(&channel, &exchange, length, properties).await;
    })
    .await
}

/// As [`publish_in_flight`], and every message says what an event of busway says: which one it is, of
/// whom, when, and the number by which its publisher's order and losses are seen.
pub(crate) async fn publish_in_flight_told(length: u64) -> Sample {
    publishing(length, |channel, exchange| async move {
        fill(&channel, &exchange, length, told_properties).await;
    })
    .await
}

/// See `docs/wire-amqp.md`. (All have the same: to make them is not what is measured.)
fn told_properties() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("busway-peer".into(), AMQPValue::LongString("0123456789abcdef".into()));
    headers.insert("busway-seq".into(), AMQPValue::LongLongInt(1));
    headers.insert("busway-time-ms".into(), AMQPValue::LongLongInt(1_700_000_000_000));
    properties()
        .with_message_id("01890a5d-ac96-774b-bcce-b302099a8057".into())
        .with_type(KEY.into())
        .with_app_id("from".into())
        .with_timestamp(1_700_000_000)
        .with_headers(headers)
}

async fn fill(
    channel: &Channel,
    exchange: &ShortString,
    length: u64,
    properties: fn() -> BasicProperties,
) {
    let bytes = bytes();
    let one = || {
        let exchange = exchange.clone();
        async {
            let options = BasicPublishOptions::default();
            let sent = channel.basic_publish(exchange, KEY.into(), options, &bytes, properties());
            assert!(sent.await.expect("sent").await.expect("confirmed").is_ack());
        }
    };
    let mut flying = FuturesUnordered::new();
    for _ in 0..length {
        if flying.len() == WINDOW {
            flying.next().await;
        }
        flying.push(one());
    }
    while flying.next().await.is_some() {}
}

/// Takes each delivery, handles it and awaits its ack.
pub(crate) async fn consume_loop(length: u64) -> Sample {
    let work = Work::of(&broker::fresh(), Kind::Group).await;
    let connection = broker::connection().await;
    fill(&confirming(&connection).await, &work.exchange, length + 1, properties).await;
    let mut deliveries = consume(&connection, work.queue.clone(), WINDOW_16).await;
    let (mut seen, mut span) = (0, Span::of(length));
    let sample = loop {
        let delivery = deliveries.next().await.expect("open").expect("a delivery");
        assert_eq!(delivery.data.len(), SIZE);
        seen += 1;
        let sample = if seen == 1 || seen > length { span.one(seen) } else { None };
        delivery.ack(BasicAckOptions::default()).await.expect("acked");
        if let Some(sample) = sample {
            break sample;
        }
    };
    connection.close(200, "done".into()).await.expect("closed");
    work.remove().await;
    sample
}

async fn consume(connection: &Connection, queue: ShortString, prefetch: u16) -> Consumer {
    let channel = connection.create_channel().await.expect("a channel");
    channel.basic_qos(prefetch, BasicQosOptions::default()).await.expect("a prefetch");
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue, "".into(), options, none()).await.expect("consumes")
}

/// A queue that goes with its connection.
async fn own_queue(connection: &Connection) -> ShortString {
    let channel = connection.create_channel().await.expect("a channel");
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare(broker::fresh().into(), options, none()).await;
    queue.expect("a queue").name().clone()
}

/// One who asks and one who answers, with a connection each.
struct Service {
    connections: [Connection; 2],
    caller: Arc<Caller>,
}

/// Asks over direct reply-to: mandatory, so that it would hear that nobody is there.
struct Caller {
    channel: Channel,
    queue: ShortString,
    waiting: Mutex<HashMap<String, oneshot::Sender<u64>>>,
}

impl Service {
    async fn start() -> Self {
        let (asking, answering) = (broker::connection().await, broker::connection().await);
        let queue = own_queue(&answering).await;
        let questions = consume(&answering, queue.clone(), 32).await;
        let channel = answering.create_channel().await.expect("a channel");
        tokio::spawn(answer(questions, channel));
        let channel = asking.create_channel().await.expect("a channel");
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let replies = channel.basic_consume(REPLY_TO.into(), "".into(), options, none()).await;
        let caller = Arc::new(Caller { channel, queue, waiting: Mutex::default() });
        tokio::spawn(take(replies.expect("consumes"), caller.clone()));
        Self { connections: [asking, answering], caller }
    }

    async fn close(self) {
        for connection in self.connections {
            connection.close(200, "done".into()).await.expect("closed");
        }
    }
}

/// Answers one question after the other, awaits that each answer is sent, and acks.
async fn answer(mut questions: Consumer, channel: Channel) {
    while let Some(Ok(question)) = questions.next().await {
        let asked: Question = serde_json::from_slice(&question.data).expect("a question");
        let answer = serde_json::to_vec(&asked.number).expect("encoded");
        let of = &question.properties;
        let properties = BasicProperties::default()
            .with_delivery_mode(1)
            .with_content_type("application/json".into())
            .with_correlation_id(of.correlation_id().clone().expect("an id"));
        let (key, options) = (of.reply_to().clone().expect("an address"), Default::default());
        let sent = channel.basic_publish("".into(), key, options, &answer, properties).await;
        drop(sent.expect("sent"));
        question.ack(BasicAckOptions::default()).await.expect("acked");
    }
}

async fn take(mut replies: Consumer, caller: Arc<Caller>) {
    while let Some(Ok(reply)) = replies.next().await {
        let id = reply.properties.correlation_id().clone().expect("an id");
        let waiting = caller.waiting.lock().expect("not poisoned").remove(id.as_str());
        let answer = serde_json::from_slice(&reply.data).expect("an answer");
        waiting.expect("somebody waits").send(answer).expect("still");
    }
}

impl Caller {
    async fn ask(self: Arc<Self>, number: u64) -> Duration {
        let start = Instant::now();
        let (answer, is_answered) = oneshot::channel();
        let id = number.to_string();
        self.waiting.lock().expect("not poisoned").insert(id.clone(), answer);
        let properties = BasicProperties::default()
            .with_delivery_mode(1)
            .with_content_type("application/json".into())
            .with_expiration("30000".into())
            .with_reply_to(REPLY_TO.into())
            .with_correlation_id(id.into());
        let question = serde_json::to_vec(&Question { number }).expect("encoded");
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let (channel, queue) = (&self.channel, self.queue.clone());
        let sent = channel.basic_publish("".into(), queue, options, &question, properties).await;
        drop(sent.expect("sent"));
        assert_eq!(is_answered.await.expect("answered"), number);
        start.elapsed()
    }
}

pub(crate) async fn request(length: u64) -> Sample {
    let service = Service::start().await;
    let sample = one_by_one(length, |number| service.caller.clone().ask(number)).await;
    service.close().await;
    sample
}

pub(crate) async fn requests_loop(length: u64) -> Sample {
    let service = Service::start().await;
    let sample = in_parallel(length, |number| service.caller.clone().ask(number)).await;
    service.close().await;
    sample
}

pub(crate) async fn one_way(length: u64) -> Sample {
    one_way_by(length, "", properties).await
}

/// As [`one_way`], by an exchange that knows topics, and every message says what an event of busway
/// says.
pub(crate) async fn one_way_told(length: u64) -> Sample {
    one_way_by(length, "amq.topic", told_properties).await
}

async fn one_way_by(
    length: u64,
    exchange: &'static str,
    properties: fn() -> BasicProperties,
) -> Sample {
    let (here, there) = (broker::connection().await, broker::connection().await);
    let queue = own_queue(&there).await;
    if !exchange.is_empty() {
        let channel = there.create_channel().await.expect("a channel");
        let (queue, key, bind) = (queue.clone(), queue.clone(), QueueBindOptions::default());
        channel.queue_bind(queue, exchange.into(), key, bind, none()).await.expect("bound");
    }
    let mut deliveries = consume(&there, queue.clone(), WINDOW_16).await;
    let (arrived, arrivals) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = deliveries.next().await {
            let order: Order = serde_json::from_slice(&delivery.data).expect("an order");
            let _ = arrived.send((order.number, Instant::now()));
            if delivery.ack(BasicAckOptions::default()).await.is_err() {
                break;
            }
        }
    });
    let channel = confirming(&here).await;
    let arrivals = Arc::new(tokio::sync::Mutex::new(arrivals));
    let once = |number| {
        let (channel, queue, arrivals) = (channel.clone(), queue.clone(), arrivals.clone());
        async move {
            let mut arrivals = arrivals.lock().await;
            let start = Instant::now();
            let published = async {
                let order = serde_json::to_vec(&Order::new(number)).expect("encoded");
                let options = BasicPublishOptions::default();
                let (to, sent) = (exchange.into(), properties());
                let sent = channel.basic_publish(to, queue, options, &order, sent);
                assert!(sent.await.expect("sent").await.expect("confirmed").is_ack());
            };
            let ((), arrived) = tokio::join!(published, arrivals.recv());
            let (came, at) = arrived.expect("arrived");
            assert_eq!(came, number);
            at - start
        }
    };
    let sample = one_by_one(length, once).await;
    for connection in [here, there] {
        connection.close(200, "done".into()).await.expect("closed");
    }
    sample
}
