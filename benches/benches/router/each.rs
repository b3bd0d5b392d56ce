//! A channel of its own for each subscriber: the publisher sends to all in turn.

use std::future::Future;
use std::marker::PhantomData;

use crate::fanout::{CAPACITY, Ends, Fanout, Payload, Publisher, Shape, Subscriber};

/// A bounded channel with many senders.
pub(crate) trait Channel: Send + 'static {
    type Sender: Clone + Send + 'static;
    type Receiver: Send + 'static;

    fn bounded(capacity: usize) -> (Self::Sender, Self::Receiver);
    fn send(sender: &mut Self::Sender, payload: Payload) -> impl Future<Output = ()> + Send;
    fn receive(receiver: &mut Self::Receiver) -> impl Future<Output = Payload> + Send;
}

pub(crate) struct Each<C>(PhantomData<C>);
pub(crate) struct Senders<C: Channel>(Vec<C::Sender>);
pub(crate) struct Receiver<C: Channel>(C::Receiver);

impl<C: Channel> Fanout for Each<C> {
    type Publisher = Senders<C>;
    type Subscriber = Receiver<C>;

    async fn open(shape: Shape) -> Ends<Self> {
        let channels = (0..shape.to).map(|_| C::bounded(CAPACITY));
        let (senders, receivers): (Vec<_>, Vec<_>) = channels.unzip();
        let publishers = (0..shape.from).map(|_| Senders(senders.clone())).collect();
        (publishers, receivers.into_iter().map(Receiver).collect())
    }
}

impl<C: Channel> Publisher for Senders<C> {
    async fn publish(&mut self, payload: Payload) {
        let Some((last, others)) = self.0.split_last_mut() else { return };
        for sender in others {
            C::send(sender, payload.clone()).await;
        }
        C::send(last, payload).await;
    }
}

impl<C: Channel> Subscriber for Receiver<C> {
    async fn next(&mut self) -> u64 {
        C::receive(&mut self.0).await[0]
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
}
