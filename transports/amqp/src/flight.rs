//! One publish under way: first until it is written, then until it is confirmed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};

/// A message as lapin takes it.
#[derive(Clone)]
pub(crate) struct Cargo {
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    pub(crate) mandatory: bool,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
}

/// A message under way, by what its owner knows it by. Its frames are queued at the first poll,
/// in the order of first polls.
pub(crate) struct Flight<K> {
    name: K,
    stage: Stage,
}

enum Stage {
    Writing(BoxFuture<'static, Result<PublisherConfirm, lapin::Error>>),
    // A stage of its own: what was needed for writing goes early.
    Written(PublisherConfirm),
}

/// What came of a [`Flight`].
pub(crate) type Flown<K> = (K, Result<Confirmation, lapin::Error>);

impl<K> Flight<K> {
    pub(crate) fn new(name: K, channel: Arc<Channel>, cargo: Cargo) -> Self {
        let writing = async move {
            let Cargo { exchange, key, mandatory, properties, payload } = cargo;
            let options = BasicPublishOptions { mandatory, immediate: false };
            channel.basic_publish(exchange, key, options, &payload, properties).await
        };
        Self { name, stage: Stage::Writing(Box::pin(writing)) }
    }
}

impl<K: Copy + Unpin> Future for Flight<K> {
    type Output = Flown<K>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Flown<K>> {
        let name = self.name;
        loop {
            match &mut self.stage {
                Stage::Writing(writing) => match ready!(writing.as_mut().poll(context)) {
                    Ok(confirm) => self.stage = Stage::Written(confirm),
                    Err(error) => return Poll::Ready((name, Err(error))),
                },
                Stage::Written(confirm) => {
                    return Pin::new(confirm).poll(context).map(|outcome| (name, outcome));
                }
            }
        }
    }
}
