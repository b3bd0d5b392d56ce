//! The task of one member: it owns the channel, takes deliveries, hands them out, and settles them.
//! It goes on settling after its stream was dropped, until the last delivery is settled. Each
//! delivery knows its channel, so a late verdict never touches a new channel's tags; the broker
//! hands that work out again by itself.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use busway_transport::TransportError;
use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use futures::stream::{self, FuturesUnordered, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Acker, Channel, Connection};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::acks::{Acks, LINGER};
use crate::connection::backoff;
use crate::error::{self, OPERATION, within};
use crate::presence::Registration;
use crate::served::{After, Answer, Settle, Taken, Verdict, Work};
use crate::shared::Shared;
use crate::tasks::{Counted, Phase, PhaseWatch};
use crate::topology::{self, Stand};

/// What a member has until it leaves.
struct Place<T> {
    /// To its stream.
    out: mpsc::Sender<(Acker, T)>,
    /// Among the open consumers.
    _consumer: Counted,
    /// With the peers, from when its queues stood for the first time: they count on it.
    registration: Option<Registration>,
}

pub(crate) struct Served<W: Work> {
    shared: Arc<Shared>,
    work: W,
    /// `None` once it has left.
    place: Option<Place<W::Item>>,
    verdict_to: mpsc::UnboundedSender<Verdict<W::Verdict>>,
    verdicts: mpsc::UnboundedReceiver<Verdict<W::Verdict>>,
    ready: Option<oneshot::Sender<Result<(), TransportError>>>,
    /// Deliveries taken and not settled, of this channel and of earlier ones.
    outstanding: usize,
    /// How many channels there were.
    channels: u64,
    /// Of the last channel, while it is there.
    acks: Option<Acks>,
    steps: FuturesUnordered<BoxFuture<'static, Step>>,
}

/// What has come of something under way.
enum Step {
    /// It is known what becomes of a delivery.
    Decided(Arc<Taken>, After, Option<Counted>),
    /// The broker was told of so many.
    Told(usize),
}

enum End {
    /// Left, and everything is settled; or the bus closed.
    Done,
    Lost,
}

type Deliveries = Pin<Box<dyn futures::Stream<Item = Option<Taken>> + Send>>;

impl<W: Work> Served<W> {
    /// Deliveries go to `out`; `ready` hears when the queues stand and are consumed.
    pub(crate) fn new(
        shared: Arc<Shared>,
        work: W,
        out: mpsc::Sender<(Acker, W::Item)>,
        ready: oneshot::Sender<Result<(), TransportError>>,
    ) -> Self {
        // Unbounded, but for each delivery that was handed out at most one comes back, and the
        // prefetch bounds those. A bounded one would make a verdict wait.
        let (verdict_to, verdicts) = mpsc::unbounded_channel();
        let place = Place { out, _consumer: shared.consumers.count(), registration: None };
        Self {
            shared,
            work,
            place: Some(place),
            verdict_to,
            verdicts,
            ready: Some(ready),
            outstanding: 0,
            channels: 0,
            acks: None,
            steps: FuturesUnordered::new(),
        }
    }

    pub(crate) async fn run(mut self) {
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
                    if matches!(
                        self.work_on(&connection, &channel, tags, deliveries).await,
                        End::Done
                    ) {
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
                () = leaving(phase.clone(), self.place.as_ref()) => self.place = None,
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
                    self.settle(taken, verdict, Some(counted));
                }
                Some(step) = self.steps.next(), if !self.steps.is_empty() => self.step(step),
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
        self.channels += 1;
        let number = self.channels;
        let mut consumers: Vec<Deliveries> = Vec::new();
        let mut tags = Vec::new();
        let stands = self.work.stands();
        declare(&self.shared, &channel, &stands).await?;
        for stand in stands {
            let consume = channel.basic_consume(
                stand.queue.clone(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            );
            let consumer = within(settings, stand.queue.as_str(), consume).await?;
            tags.push(consumer.tag());
            let deliveries =
                consumer.map(move |delivery| Some(taken(delivery.ok()?, &stand.queue, number)));
            // One that ends must be seen: select_all alone would go on with the others.
            consumers.push(Box::pin(deliveries.chain(stream::once(async { None }))));
        }
        Ok((channel, tags, Box::pin(stream::select_all(consumers))))
    }

    async fn work_on(
        &mut self,
        connection: &Arc<Connection>,
        channel: &Channel,
        tags: Vec<ShortString>,
        deliveries: Deliveries,
    ) -> End {
        self.acks = Some(Acks::new(channel.clone(), self.work.prefetch()));
        let end = self.pass_on(connection, channel, tags, deliveries).await;
        if let Some(acks) = self.acks.take() {
            self.outstanding -= acks.waiting();
        }
        // When only a queue went, the channel would keep what it holds of another.
        if matches!(end, End::Lost) && channel.status().connected() {
            let closing = channel.close(200, "a queue went".into());
            let _ = within(&self.shared.settings, "closing a channel", closing).await;
        }
        end
    }

    async fn pass_on(
        &mut self,
        connection: &Arc<Connection>,
        channel: &Channel,
        tags: Vec<ShortString>,
        mut deliveries: Deliveries,
    ) -> End {
        let phase = self.shared.phase.clone();
        let mut rebind = self.shared.rebind.watch();
        let link = self.shared.consume.clone();
        let (linger, gone) = (tokio::time::sleep(LINGER), link.long_gone(connection));
        // Made once: each takes a place among those who wait for the same.
        let (closed, leaving) = (phase.reached(Phase::Closed), Fuse::terminated());
        tokio::pin!(linger, gone, closed, leaving);
        if let Some(place) = &self.place {
            leaving.set(leaves(phase.clone(), place.out.clone()).fuse());
        }
        let mut lingering = false;
        // Taken, but the stream still holds stale ones of an earlier channel.
        let mut pending = None;
        loop {
            while let Ok((taken, verdict, counted)) = self.verdicts.try_recv() {
                self.settle(taken, verdict, Some(counted));
            }
            while let Some(Some(step)) = self.steps.next().now_or_never() {
                self.step(step);
            }
            while pending.is_none() && self.place.is_some() {
                match deliveries.next().now_or_never() {
                    Some(Some(Some(taken))) => pending = self.take(taken),
                    Some(_) => return End::Lost,
                    None => break,
                }
            }
            if self.place.is_none() && self.outstanding == 0 {
                return End::Done;
            }
            let waiting = self.acks.as_ref().map_or(0, Acks::waiting);
            let is_full = self.acks.as_ref().is_some_and(Acks::is_full);
            if waiting > 0 && (is_full || self.place.is_none()) {
                self.tell();
                lingering = false;
            } else if waiting > 0 && !lingering {
                linger.as_mut().reset(tokio::time::Instant::now() + LINGER);
                lingering = true;
            }
            tokio::select! {
                () = &mut closed => return End::Done,
                () = &mut gone => return End::Lost,
                Ok(()) = rebind.changed(), if self.place.is_some() => {
                    let stands = self.work.stands();
                    if let Err(error) = declare(&self.shared, channel, &stands).await {
                        tracing::warn!(%error, "a queue is not bound again yet");
                        return End::Lost;
                    }
                }
                () = &mut leaving, if !leaving.is_terminated() => {
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
                    self.settle(taken, verdict, Some(counted));
                }
                Some(step) = self.steps.next(), if !self.steps.is_empty() => self.step(step),
                () = &mut linger, if lingering => {
                    self.tell();
                    lingering = false;
                }
            }
        }
    }

    /// Hands a delivery out, or gives it when there is no room.
    fn take(&mut self, taken: Taken) -> Option<(Acker, W::Item)> {
        let taken = Arc::new(taken);
        self.outstanding += 1;
        let counted = self.shared.work.count();
        let answer = Answer::new(self.verdict_to.clone(), taken.clone(), counted);
        match self.work.take(&taken, answer) {
            Ok(item) => {
                let item = (taken.acker.clone(), item);
                let Some(place) = &self.place else { return Some(item) };
                match place.out.try_send(item) {
                    Ok(()) => None,
                    // The next turn sees that it was closed.
                    Err(TrySendError::Full(item) | TrySendError::Closed(item)) => Some(item),
                }
            }
            Err(verdict) => {
                let counted = self.shared.work.count();
                self.settle(taken, verdict, Some(counted));
                None
            }
        }
    }

    fn settle(&mut self, taken: Arc<Taken>, verdict: W::Verdict, counted: Option<Counted>) {
        // Else the broker has it back.
        if taken.channel == self.channels && taken.acker.usable() && self.acks.is_some() {
            let settle = self.work.settle(taken.clone(), verdict);
            self.carry_out(taken, settle, counted);
        } else {
            self.outstanding -= 1;
        }
    }

    fn carry_out(&mut self, taken: Arc<Taken>, settle: Settle, counted: Option<Counted>) {
        match settle {
            Settle::Now(after) => self.decided(&taken, after, counted),
            Settle::Later(later) => {
                self.steps.push(Box::pin(async move {
                    let after = later.await;
                    Step::Decided(taken, after, counted)
                }));
            }
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Decided(taken, after, counted) => self.decided(&taken, after, counted),
            Step::Told(count) => self.outstanding -= count,
        }
    }

    fn decided(&mut self, taken: &Arc<Taken>, after: After, counted: Option<Counted>) {
        let Some(acks) = self.acks.as_mut().filter(|_| taken.channel == self.channels) else {
            self.outstanding -= 1;
            return;
        };
        match after {
            After::Ack => acks.done(taken.tag, counted),
            After::HandBack => {
                acks.given_back(taken.tag);
                let taken = taken.clone();
                self.steps.push(Box::pin(async move {
                    let requeue = BasicNackOptions { requeue: true, multiple: false };
                    // An error means that the channel is gone, and the broker has it back.
                    let _ = taken.acker.nack(requeue).await;
                    drop(counted);
                    Step::Told(1)
                }));
            }
        }
    }

    fn tell(&mut self) {
        if let Some(acks) = &mut self.acks {
            let telling = acks.tell();
            self.steps.push(Box::pin(telling.map(Step::Told)));
        }
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
                // The broker has it back already.
                Ok(Some(Some(taken))) if !taken.acker.usable() => {}
                Ok(Some(Some(taken))) => {
                    self.outstanding += 1;
                    let taken = Arc::new(taken);
                    let settle = self.work.give_back(taken.clone());
                    // The bus waits for it as well: one whose copy is on its way comes twice else.
                    let counted = self.shared.work.count();
                    self.carry_out(taken, settle, Some(counted));
                }
                Ok(Some(None)) => open -= 1,
                Ok(None) | Err(_) => break,
            }
        }
        self.place = None;
    }
}

async fn declare(
    shared: &Shared,
    channel: &Channel,
    stands: &[Stand],
) -> Result<(), TransportError> {
    for stand in stands {
        let declare = topology::apply(channel, &stand.declare);
        within(&shared.settings, stand.queue.as_str(), declare).await?;
    }
    Ok(())
}

/// Resolves when the stream was dropped or the bus leaves; never after that.
async fn leaving<T>(phase: PhaseWatch, place: Option<&Place<T>>) {
    match place {
        Some(place) => leaves(phase, place.out.clone()).await,
        None => std::future::pending().await,
    }
}

/// The same, of a place that is there.
async fn leaves<T>(phase: PhaseWatch, out: mpsc::Sender<T>) {
    tokio::select! {
        () = out.closed() => {}
        () = phase.reached(Phase::Leaving) => {}
    }
}

async fn room<T>(place: Option<&Place<T>>) {
    match place {
        // Dropped at once: this task is the only sender, so the room stays.
        Some(place) => drop(place.out.reserve().await),
        None => std::future::pending().await,
    }
}

fn taken(delivery: lapin::message::Delivery, queue: &ShortString, channel: u64) -> Taken {
    Taken {
        acker: delivery.acker,
        tag: delivery.delivery_tag,
        channel,
        queue: queue.clone(),
        redelivered: delivery.redelivered,
        routing_key: delivery.routing_key,
        properties: delivery.properties,
        payload: delivery.data.into(),
        arrived: Instant::now(),
    }
}
