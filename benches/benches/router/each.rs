//! A channel of its own for each subscriber: the publisher sends to all in turn.

use std::future::Future;
use std::marker::PhantomData;

use crate::fanout::{
    CAPACITY, CHUNK, Chunk, Ends, Fanout, Payload, Payloads, Publisher, Shape, Subscriber,
};

/// A bounded channel with many senders.
pub(crate) trait Channel: Send + 'static {
    type Sender: Clone + Send + 'static;
    type Receiver: Send + 'static;

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver);
    fn send(sender: &mut Self::Sender, payload: Payload) -> impl Future<Output = ()> + Send;
    fn receive(receiver: &mut Self::Receiver) -> impl Future<Output = Payload> + Send;

    /// Sends several: item by item, unless the channel can do better.
    fn send_all(
        sender: &mut Self::Sender,
        payloads: impl Payloads,
    ) -> impl Future<Output = ()> + Send {
        async move {
            for payload in payloads {
                Self::send(sender, payload).await;
            }
        }
    }

    /// Receives at least one in the way that the channel has for several. The buffer is empty.
    fn receive_chunk(
        receiver: &mut Self::Receiver,
        buffer: &mut Vec<Payload>,
    ) -> impl Future<Output = ()> + Send;
}

pub(crate) struct Each<C>(PhantomData<C>);

pub(crate) struct Senders<C: Channel> {
    senders: Vec<C::Sender>,
    buffer: Vec<Payload>,
}

pub(crate) struct Receiver<C: Channel> {
    receiver: C::Receiver,
    buffer: Vec<Payload>,
}

impl<C: Channel> Fanout for Each<C> {
    type Publisher = Senders<C>;
    type Subscriber = Receiver<C>;

    async fn open(shape: Shape) -> Ends<Self> {
        let channels = (0..shape.to).map(|_| C::bounded(CAPACITY));
        let (senders, receivers): (Vec<_>, Vec<_>) = channels.unzip();
        let publisher = |_| Senders { senders: senders.clone(), buffer: Vec::new() };
        let subscriber = |receiver| Receiver { receiver, buffer: Vec::new() };
        ((0..shape.from).map(publisher).collect(), receivers.into_iter().map(subscriber).collect())
    }
}

impl<C: Channel> Publisher for Senders<C> {
    async fn publish(&mut self, payload: Payload) {
        let Some((last, others)) = self.senders.split_last_mut() else { return };
        for sender in others {
            C::send(sender, payload.clone()).await;
        }
        C::send(last, payload).await;
    }

    async fn publish_all(&mut self, payloads: impl Payloads) {
        let Some((last, others)) = self.senders.split_last_mut() else { return };
        if others.is_empty() {
            return C::send_all(last, payloads).await;
        }
        self.buffer.extend(payloads);
        for sender in others {
            C::send_all(sender, self.buffer.iter().cloned()).await;
        }
        C::send_all(last, self.buffer.drain(..)).await;
    }
}

impl<C: Channel> Subscriber for Receiver<C> {
    async fn next(&mut self) -> u64 {
        C::receive(&mut self.receiver).await[0]
    }

    async fn next_chunk(&mut self) -> Chunk {
        C::receive_chunk(&mut self.receiver, &mut self.buffer).await;
        self.buffer.drain(..).map(|payload| payload[0]).collect()
    }
}

pub(crate) struct TokioMpsc;

impl Channel for TokioMpsc {
    type Sender = tokio::sync::mpsc::Sender<Payload>;
    type Receiver = tokio::sync::mpsc::Receiver<Payload>;

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver) {
        tokio::sync::mpsc::channel(capacity)
    }

    async fn send(sender: &mut Self::Sender, payload: Payload) {
        sender.send(payload).await.expect("open");
    }

    async fn receive(receiver: &mut Self::Receiver) -> Payload {
        receiver.recv().await.expect("open")
    }

    async fn send_all(sender: &mut Self::Sender, payloads: impl Payloads) {
        let permits = sender.reserve_many(payloads.len()).await.expect("open");
        permits.zip(payloads).for_each(|(permit, payload)| permit.send(payload));
    }

    async fn receive_chunk(receiver: &mut Self::Receiver, buffer: &mut Vec<Payload>) {
        receiver.recv_many(buffer, CHUNK).await;
    }
}

pub(crate) struct Kanal;

impl Channel for Kanal {
    type Sender = kanal::AsyncSender<Payload>;
    type Receiver = kanal::AsyncReceiver<Payload>;

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver) {
        kanal::bounded_async(capacity)
    }

    async fn send(sender: &mut Self::Sender, payload: Payload) {
        sender.send(payload).await.expect("open");
    }

    async fn receive(receiver: &mut Self::Receiver) -> Payload {
        receiver.recv().await.expect("open")
    }

    // All that is there: it cannot be told how much.
    async fn receive_chunk(receiver: &mut Self::Receiver, buffer: &mut Vec<Payload>) {
        if receiver.drain_into(buffer).expect("open") == 0 {
            buffer.push(Self::receive(receiver).await);
        }
    }
}

pub(crate) struct Crossfire;

impl Channel for Crossfire {
    type Sender = crossfire::MAsyncTx<crossfire::mpsc::Array<Payload>>;
    type Receiver = crossfire::AsyncRx<crossfire::mpsc::Array<Payload>>;

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver) {
        crossfire::mpsc::bounded_async(capacity)
    }

    async fn send(sender: &mut Self::Sender, payload: Payload) {
        sender.send(payload).await.expect("open");
    }

    async fn receive(receiver: &mut Self::Receiver) -> Payload {
        receiver.recv().await.expect("open")
    }

    // It has nothing for several: what does not wait is the least work.
    async fn receive_chunk(receiver: &mut Self::Receiver, buffer: &mut Vec<Payload>) {
        buffer.push(Self::receive(receiver).await);
        buffer.extend(std::iter::from_fn(|| receiver.try_recv().ok()).take(CHUNK - 1));
    }
}

pub(crate) struct Flume;

impl Channel for Flume {
    type Sender = flume::Sender<Payload>;
    type Receiver = flume::Receiver<Payload>;

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver) {
        flume::bounded(capacity)
    }

    async fn send(sender: &mut Self::Sender, payload: Payload) {
        sender.send_async(payload).await.expect("open");
    }

    async fn receive(receiver: &mut Self::Receiver) -> Payload {
        receiver.recv_async().await.expect("open")
    }

    // As kanal.
    async fn receive_chunk(receiver: &mut Self::Receiver, buffer: &mut Vec<Payload>) {
        buffer.push(Self::receive(receiver).await);
        buffer.extend(receiver.drain());
    }
}
