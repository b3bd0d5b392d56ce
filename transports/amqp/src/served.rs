//! Deliveries that are answered one by one: the work of groups and the requests of responders.
//!
//! One task per member owns the channel: it takes deliveries, hands them out, and settles them.
//! It goes on settling after its stream was dropped, until the last delivery is settled. lapin
//! poisons the ackers of a lost channel, so a late verdict never touches a new channel's tags;
//! the broker hands that work out again by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use busway_transport::{BoxStream, TransportError};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, FuturesUnordered, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Acker, BasicProperties, Channel, Connection};
use tokio::sync::{mpsc, oneshot};

use crate::connection::backoff;
use crate::error::{self, OPERATION, timed_out, within};
use crate::presence::Registration;
use crate::shared::Shared;
use crate::tasks::{Counted, Phase};
use crate::topology::{self, Stand};

/// A delivery in our hands.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) acker: Acker,
    pub(crate) queue: ShortString,
    pub(crate) redelivered: bool,
    pub(crate) routing_key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
    /// When it came here: the time it then waits counts.
    pub(crate) arrived: Instant,
}

/// One kind of deliveries that are answered.
pub(crate) trait Work: Send + 'static {
    /// What the stream gives.
    type Item: Send + 'static;
    /// How one is answered.
    type Verdict: Send + 'static;

    /// What has to be declared; each of the queues is consumed.
    fn stands(&self) -> Vec<Stand>;
    /// Lets the peers know of it.
    fn register(&self) -> Registration;
    /// How many are held at once, per queue.
    fn prefetch(&self) -> u16;
    /// Makes the stream's item, or answers at once.
    fn take(
        &self,
        taken: &Taken,
        answer: Answer<Self::Verdict>,
    ) -> Result<Self::Item, Self::Verdict>;
    /// Carries out an answer.
    fn settle(&self, taken: Arc<Taken>, verdict: Self::Verdict) -> BoxFuture<'static, ()>;
    /// Gives one back that nobody saw.
    fn give_back(&self, taken: Arc<Taken>) -> BoxFuture<'static, ()>;
}

/// Sends the verdict on one delivery to its worker.
pub(crate) struct Answer<V>(mpsc::UnboundedSender<(Arc<Taken>, V, Counted)>, Arc<Taken>, Counted);

impl<V> Answer<V> {
    pub(crate) fn give(self, verdict: V) {
        // Closed only with the bus; then the broker has the delivery back.
        let _ = self.0.send((self.1, verdict, self.2));
    }
}

/// Starts a member. Ready when its queues stand and are consumed.
pub(crate) async fn serve<W: Work>(
    shared: &Arc<Shared>,
    work: W,
) -> Result<BoxStream<'static, W::Item>, TransportError> {
    let capacity = usize::from(work.prefetch()) * work.stands().len();
    let (out, mut items) = mpsc::channel::<(Acker, W::Item)>(capacity);
    // Unbounded, but for each delivery that was handed out at most one comes back, and the
    // prefetch bounds those. A bounded one would make a verdict wait.
    let (verdict_to, verdicts) = mpsc::unbounded_channel();
    let (ready, is_ready) = oneshot::channel();
    let worker = Served {
        shared: shared.clone(),
        work,
        place: Some(Place { out, _consumer: shared.consumers.count(), registration: None }),
        verdict_to,
        verdicts,
        ready: Some(ready),
        outstanding: 0,
        settling: FuturesUnordered::new(),
    };
    shared.tasks.spawn(worker.run());
    match tokio::time::timeout(OPERATION, is_ready).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => return Err(error),
        Ok(Err(_)) => return Err(TransportError::Closed),
        Err(_) => return Err(timed_out("declaring a queue", OPERATION)),
    }
    Ok(Box::pin(stream::poll_fn(move |context| {
        loop {
            match items.poll_recv(context) {
                // The broker has taken it back meanwhile and hands it out again.
                Poll::Ready(Some((acker, _))) if !acker.usable() => {}
                Poll::Ready(item) => return Poll::Ready(item.map(|(_, item)| item)),
                Poll::Pending => return Poll::Pending,
            }
        }
    })))
}

/// What a member has until it leaves.
struct Place<T> {
    /// To its stream.
    out: mpsc::Sender<(Acker, T)>,
    /// Among the open consumers.
    _consumer: Counted,
    /// With the peers, from when its queues stood for the first time: they count on it.
    registration: Option<Registration>,
}

struct Served<W: Work> {
    shared: Arc<Shared>,
    work: W,
    /// `None` once it has left.
    place: Option<Place<W::Item>>,
    verdict_to: mpsc::UnboundedSender<(Arc<Taken>, W::Verdict, Counted)>,
    verdicts: mpsc::UnboundedReceiver<(Arc<Taken>, W::Verdict, Counted)>,
    ready: Option<oneshot::Sender<Result<(), TransportError>>>,
    /// Deliveries taken and not settled, of this connection and of earlier ones.
    outstanding: usize,
    settling: FuturesUnordered<BoxFuture<'static, ()>>,
}

enum End {
    /// Left, and everything is settled; or the bus closed.
    Done,
    Lost,
}

type Deliveries = Pin<Box<dyn futures::Stream<Item = Option<Taken>> + Send>>;

impl<W: Work> Served<W> {
    async fn run(mut self) {
        let mut delays = backoff();
        loop {
            let connection = match self.connected().await {
                Some(connection) => connection,
                None => return,
            };
            match self.open(&connection).await {
                Ok((channel, tags, deliveries)) => {
                    delays = backoff();
                    if let Some(Place { registration: registration @ None, .. }) = &mut self.place {
                        *registration = Some(self.work.register());
                    }
                    if let Some(ready) = self.ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                    if matches!(self.work_on(&channel, tags, deliveries).await, End::Done) {
                        return;
                    }
                }
                Err(error) => {
                    if error::is_final(&error)
                        && let Some(ready) = self.ready.take()
                    {
                        let _ = ready.send(Err(error));
                        return;
                    }
                    if matches!(error, TransportError::Denied { .. }) {
                        tracing::error!(%error, "a group or responder ended");
                        return;
                    }
                    // It stood before: a broker that is coming up says NOT_FOUND of queues that
                    // it is about to have.
                    tracing::warn!(%error, "a group or responder is not back yet");
                    tokio::time::sleep(delays.next().unwrap_or_default()).await;
                }
            }
        }
    }

    /// Waits for a connection. `None`: there is nothing more to do.
    async fn connected(&mut self) -> Option<Arc<Connection>> {
        let phase = self.shared.phase.clone();
        loop {
            if self.place.is_none() && self.outstanding == 0 {
                return None;
            }
            tokio::select! {
                () = phase.reached(Phase::Closed) => return None,
                () = leaving(&self.shared, self.place.as_ref()) => self.place = None,
                up = self.shared.consume.up(), if self.place.is_some() => match up {
                    Ok(connection) => return Some(connection),
                    Err(error) => {
                        if let Some(ready) = self.ready.take() {
                            let _ = ready.send(Err(error));
                        }
                        return None;
                    }
                },
                Some((taken, verdict, counted)) = self.verdicts.recv() => {
                    self.settle(taken, verdict, counted);
                }
                Some(()) = self.settling.next(), if !self.settling.is_empty() => {
                    self.outstanding -= 1;
                }
            }
        }
    }

    async fn open(
        &mut self,
        connection: &Connection,
    ) -> Result<(Channel, Vec<ShortString>, Deliveries), TransportError> {
        let settings = &self.shared.settings;
        let channel = within(settings, "opening a channel", connection.create_channel()).await?;
        let qos = channel.basic_qos(self.work.prefetch(), BasicQosOptions::default());
        within(settings, "setting the prefetch", qos).await?;
        let mut consumers: Vec<Deliveries> = Vec::new();
        let mut tags = Vec::new();
        for stand in self.work.stands() {
            let declare = topology::apply(&channel, &stand.declare);
            within(settings, stand.queue.as_str(), declare).await?;
            let consume = channel.basic_consume(
                stand.queue.clone(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let consumer = within(settings, stand.queue.as_str(), consume).await?;
            tags.push(consumer.tag());
            let deliveries =
                consumer.map(move |delivery| Some(taken(delivery.ok()?, &stand.queue)));
            // One that ends must be seen: select_all alone would go on with the others.
            consumers.push(Box::pin(deliveries.chain(stream::once(async { None }))));
        }
        Ok((channel, tags, Box::pin(stream::select_all(consumers))))
    }

    async fn work_on(
        &mut self,
        channel: &Channel,
        tags: Vec<ShortString>,
        mut deliveries: Deliveries,
    ) -> End {
        let phase = self.shared.phase.clone();
        // Taken, but the stream still holds stale ones of an earlier connection.
        let mut pending = None;
        loop {
            if self.place.is_none() && self.outstanding == 0 {
                return End::Done;
            }
            tokio::select! {
                () = phase.reached(Phase::Closed) => return End::Done,
                () = leaving(&self.shared, self.place.as_ref()) => {
                    // Its drop hands it back; the verdict comes to us.
                    pending = None;
                    self.leave(channel, &tags, &mut deliveries).await;
                }
                () = room(self.place.as_ref()), if pending.is_some() => {
                    if let (Some(place), Some(item)) = (&self.place, pending.take()) {
                        let _ = place.out.try_send(item);
                    }
                }
                delivery = deliveries.next(), if pending.is_none() && self.place.is_some() => {
                    match delivery {
                        Some(Some(taken)) => pending = self.take(taken),
                        Some(None) | None => return End::Lost,
                    }
                }
                Some((taken, verdict, counted)) = self.verdicts.recv() => {
                    self.settle(taken, verdict, counted);
                }
                Some(()) = self.settling.next(), if !self.settling.is_empty() => {
                    self.outstanding -= 1;
                }
            }
        }
    }

    fn take(&mut self, taken: Taken) -> Option<(Acker, W::Item)> {
        let taken = Arc::new(taken);
        self.outstanding += 1;
        let counted = self.shared.work.count();
        let answer = Answer(self.verdict_to.clone(), taken.clone(), counted);
        match self.work.take(&taken, answer) {
            Ok(item) => Some((taken.acker.clone(), item)),
            Err(verdict) => {
                let counted = self.shared.work.count();
                self.settle(taken, verdict, counted);
                None
            }
        }
    }

    fn settle(&mut self, taken: Arc<Taken>, verdict: W::Verdict, counted: Counted) {
        let settled = self.work.settle(taken, verdict);
        self.settling.push(Box::pin(async move {
            settled.await;
            drop(counted);
        }));
    }

    /// Cancels the consumers; what they had buffered goes back.
    async fn leave(
        &mut self,
        channel: &Channel,
        tags: &[ShortString],
        deliveries: &mut Deliveries,
    ) {
        for tag in tags {
            let cancel = channel.basic_cancel(tag.clone(), BasicCancelOptions::default());
            // Should that fail the channel is gone, and the consumer with it.
            let _ = within(&self.shared.settings, "leaving", cancel).await;
        }
        let mut open = tags.len();
        while open > 0 {
            match tokio::time::timeout(OPERATION, deliveries.next()).await {
                Ok(Some(Some(taken))) => {
                    self.outstanding += 1;
                    let back = self.work.give_back(Arc::new(taken));
                    self.settling.push(back);
                }
                Ok(Some(None)) => open -= 1,
                Ok(None) | Err(_) => break,
            }
        }
        self.place = None;
    }
}

/// Resolves when the stream was dropped or the bus leaves; never after that.
async fn leaving<T>(shared: &Shared, place: Option<&Place<T>>) {
    let phase = shared.phase.clone();
    match place {
        Some(place) => tokio::select! {
            () = place.out.closed() => {}
            () = phase.reached(Phase::Leaving) => {}
        },
        None => std::future::pending().await,
    }
}

async fn room<T>(place: Option<&Place<T>>) {
    match place {
        // Dropped at once: this task is the only sender, so the room stays.
        Some(place) => drop(place.out.reserve().await),
        None => std::future::pending().await,
    }
}

fn taken(delivery: lapin::message::Delivery, queue: &ShortString) -> Taken {
    Taken {
        acker: delivery.acker,
        queue: queue.clone(),
        redelivered: delivery.redelivered,
        routing_key: delivery.routing_key,
        properties: delivery.properties,
        payload: delivery.data.into(),
        arrived: Instant::now(),
    }
}
