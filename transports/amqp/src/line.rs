//! One queue of a group that is ordered by key, on a channel of its own.
//!
//! The queue has one active consumer at a time. For a key's order to hold when another takes over,
//! everything that is not done must go back at once and in order, and nothing of it may still be
//! in work. So a line never cancels its consumer: it hands out no more, waits for what is in
//! work, and closes its channel, which gives the rest back and lets the next consumer in, in one
//! step. It does that when its member leaves, and when the queue belongs to another member by now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use busway_transport::{GroupKey, PeerId, TransportError};
use bytes::Bytes;
use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Acker, BasicProperties, Channel, Connection, Consumer};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::connection::backoff;
use crate::error::{self, within};
use crate::shared::Shared;
use crate::tasks::{Counted, Gauge, Phase};
use crate::topology::{self, Stand};

/// How often it is looked who a queue belongs to.
const LOOK: Duration = Duration::from_millis(500);

/// A delivery of a line.
pub(crate) struct Arrived {
    /// Whether it comes from a partition, or from the queue whose events have no keys yet.
    pub(crate) has_key: bool,
    pub(crate) acker: Acker,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
    pub(crate) routing_key: String,
    pub(crate) turn: Arc<Turn>,
}

/// One time of being a queue's consumer.
pub(crate) struct Turn {
    over: AtomicBool,
    /// What is in work. The turn ends only without any.
    in_work: Gauge,
}

impl Turn {
    fn new() -> Arc<Self> {
        Arc::new(Self { over: AtomicBool::new(false), in_work: Gauge::new() })
    }

    /// Takes something of it into work, unless it is over: then that goes back to the broker.
    pub(crate) fn enter(&self) -> Option<Counted> {
        let counted = self.in_work.count();
        // With the one in `finish`: either this sees that it is over, or that sees the count.
        fence(Ordering::SeqCst);
        Some(counted).filter(|_| !self.is_over())
    }

    /// Nothing more of it may be handed out.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ends it.
    fn finish(&self) {
        self.over.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }
}

pub(crate) struct Line {
    pub(crate) shared: Arc<Shared>,
    pub(crate) group: GroupKey,
    pub(crate) stand: Stand,
    /// Which partition it is; `None` for the queue that all events come to.
    pub(crate) partition: Option<u16>,
    pub(crate) prefetch: u16,
    pub(crate) to: mpsc::Sender<Arrived>,
    /// Whether the member leaves.
    pub(crate) leaving: watch::Receiver<bool>,
}

pub(crate) type Ready = oneshot::Sender<Result<(), TransportError>>;

enum End {
    /// The member left, or the bus closed.
    Left,
    /// The channel or the queue is gone, or the queue is another's.
    Again,
}

impl Line {
    pub(crate) async fn run(mut self, ready: Ready) {
        let (mut ready, mut delays) = (Some(ready), backoff());
        let phase = self.shared.phase.clone();
        let mut rebind = self.shared.rebind.watch();
        loop {
            let connection = tokio::select! {
                () = phase.reached(Phase::Closed) => return,
                () = left(&mut self.leaving) => return,
                up = self.shared.consume.up() => match up {
                    Ok(connection) => connection,
                    Err(error) => {
                        if let Some(ready) = ready.take() {
                            let _ = ready.send(Err(error));
                        }
                        return;
                    }
                },
            };
            match self.open(&connection).await {
                Ok((channel, consumer)) => {
                    delays = backoff();
                    if let Some(ready) = ready.take() {
                        let _ = ready.send(Ok(()));
                    }
                    if matches!(
                        self.work(&connection, &channel, consumer, &mut rebind).await,
                        End::Left
                    ) {
                        return;
                    }
                }
                Err(error) => {
                    if error::is_final(&error)
                        && let Some(ready) = ready.take()
                    {
                        let _ = ready.send(Err(error));
                        return;
                    }
                    if matches!(error, TransportError::Denied { .. }) {
                        tracing::error!(%error, "a group's partition ended");
                        return;
                    }
                    tracing::warn!(%error, "a group's partition is not back yet");
                    tokio::time::sleep(delays.next().unwrap_or_default()).await;
                }
            }
        }
    }

    async fn open(&self, connection: &Connection) -> Result<(Channel, Consumer), TransportError> {
        let settings = &self.shared.settings;
        let what = self.stand.queue.as_str();
        let channel = within(settings, "opening a channel", connection.create_channel()).await?;
        let qos = channel.basic_qos(self.prefetch, BasicQosOptions::default());
        within(settings, "setting the prefetch", qos).await?;
        within(settings, what, topology::apply(&channel, &self.stand.declare)).await?;
        let consume = channel.basic_consume(
            self.stand.queue.clone(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = within(settings, what, consume).await?;
        Ok((channel, consumer))
    }

    async fn work(
        &mut self,
        connection: &Arc<Connection>,
        channel: &Channel,
        mut consumer: Consumer,
        rebind: &mut watch::Receiver<()>,
    ) -> End {
        let turn = Turn::new();
        let (phase, link) = (self.shared.phase.clone(), self.shared.consume.clone());
        let gone = link.long_gone(connection);
        tokio::pin!(gone);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut owner = self.owner();
        let end = loop {
            tokio::select! {
                () = phase.reached(Phase::Closed) => return End::Left,
                () = left(&mut self.leaving) => break End::Left,
                () = &mut gone => {
                    turn.finish();
                    return End::Again;
                }
                _ = look.tick() => {
                    let now = self.owner();
                    let mine = now == self.shared.peer;
                    if std::mem::replace(&mut owner, now) != now && !mine {
                        break End::Again;
                    }
                }
                // Nothing is bound to partitions.
                Ok(()) = rebind.changed(), if self.partition.is_none() => {
                    let declare = topology::apply(channel, &self.stand.declare);
                    let what = self.stand.queue.as_str();
                    if let Err(error) = within(&self.shared.settings, what, declare).await {
                        tracing::warn!(%error, "a queue is not bound again yet");
                        break End::Again;
                    }
                }
                next = consumer.next() => {
                    let Some(Ok(delivery)) = next else {
                        turn.finish();
                        // When only the queue went, the channel would keep what it holds.
                        self.close(channel).await;
                        return End::Again;
                    };
                    let arrived = Arrived {
                        has_key: self.partition.is_some(),
                        acker: delivery.acker,
                        properties: delivery.properties,
                        payload: delivery.data.into(),
                        routing_key: delivery.routing_key.to_string(),
                        turn: turn.clone(),
                    };
                    if self.to.send(arrived).await.is_err() {
                        break End::Left;
                    }
                }
            }
        };
        turn.finish();
        tokio::select! {
            () = phase.reached(Phase::Closed) => {}
            () = turn.in_work.zero() => {}
        }
        self.close(channel).await;
        end
    }

    async fn close(&self, channel: &Channel) {
        if channel.status().connected() {
            // Should that fail the connection is gone, and the broker has everything back.
            let closing = channel.close(200, "in order".into());
            let _ = within(&self.shared.settings, "closing a channel", closing).await;
        }
    }

    /// To which member's bus the queue belongs: of all that are known the same one in each, and
    /// another one for few queues only when a member comes or goes. (Should they disagree for a
    /// while, the broker still lets in one at a time.)
    fn owner(&self) -> PeerId {
        let (me, others) = (self.shared.peer, &self.shared.presence.others);
        let Some(partition) = self.partition else { return me };
        let others = others.members(&self.group).into_iter();
        let weight = |peer: &PeerId| (mix(peer.as_u64() ^ mix(u64::from(partition))), *peer);
        others.chain([me]).max_by_key(weight).unwrap_or(me)
    }
}

/// Spreads bits evenly (splitmix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

async fn left(leaving: &mut watch::Receiver<bool>) {
    // Without a sender the desk has ended.
    let _ = leaving.wait_for(|leaving| *leaving).await;
}
