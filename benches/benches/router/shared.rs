//! One channel that every subscriber reads in full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use tokio::sync::{Notify, broadcast};

use crate::fanout::{CAPACITY, Ends, Fanout, Payload, Publisher, Shape, Subscriber};

pub(crate) struct AsyncBroadcast;

impl Fanout for AsyncBroadcast {
    type Publisher = async_broadcast::Sender<Payload>;
    type Subscriber = async_broadcast::Receiver<Payload>;

    async fn open(shape: Shape) -> Ends<Self> {
        let (sender, receiver) = async_broadcast::broadcast(CAPACITY);
        let subscribers = (1..shape.to).map(|_| receiver.new_receiver()).collect::<Vec<_>>();
        let subscribers = subscribers.into_iter().chain([receiver]).collect();
        ((0..shape.from).map(|_| sender.clone()).collect(), subscribers)
    }
}

// The variants without a box: the faster ones.
impl Publisher for async_broadcast::Sender<Payload> {
    async fn publish(&mut self, payload: Payload) {
        self.broadcast_direct(payload).await.expect("open");
    }
}

impl Subscriber for async_broadcast::Receiver<Payload> {
    async fn next(&mut self) -> u64 {
        self.recv_direct().await.expect("open, and no gap")[0]
    }
}

/// tokio's broadcast overwrites what is not read in time: a gate keeps publishers from that.
pub(crate) struct TokioBroadcast;

/// Lets nobody claim an event for which some subscriber has no room yet.
struct Gate {
    claimed: AtomicU64,
    /// What may be claimed by what is known.
    limit: AtomicU64,
    /// How far each subscriber has read, or a little less.
    read: Vec<Cursor>,
    somebody_waits: AtomicBool,
    moved: Notify,
}

/// On a cache line of its own, and away from the line that is fetched along with it.
#[repr(align(128))]
struct Cursor(AtomicU64);

/// How often a subscriber says how far it is.
const STEP: u64 = CAPACITY as u64 / 16;

impl Gate {
    async fn claim(&self) {
        loop {
            if self.try_claim() {
                return;
            }
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            self.somebody_waits.store(true, Ordering::Relaxed);
            // With the one in `has_read`: either we see the cursor, or it sees us.
            fence(Ordering::SeqCst);
            if self.try_claim() {
                return;
            }
            moved.await;
        }
    }

    fn try_claim(&self) -> bool {
        let mut claimed = self.claimed.load(Ordering::Relaxed);
        loop {
            if claimed >= self.limit.load(Ordering::Acquire) {
                let slowest = self.read.iter().map(|cursor| cursor.0.load(Ordering::Acquire)).min();
                let limit = slowest.map_or(u64::MAX, |slowest| slowest + CAPACITY as u64);
                self.limit.fetch_max(limit, Ordering::AcqRel);
                if claimed >= limit {
                    return false;
                }
            }
            let next = claimed + 1;
            match self.claimed.compare_exchange_weak(
                claimed,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => claimed = now,
            }
        }
    }

    fn has_read(&self, index: usize, count: u64) {
        if !count.is_multiple_of(STEP) {
            return;
        }
        self.read[index].0.store(count, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.somebody_waits.load(Ordering::Relaxed)
            && self.somebody_waits.swap(false, Ordering::AcqRel)
        {
            self.moved.notify_waiters();
        }
    }
}

pub(crate) struct Gated {
    sender: broadcast::Sender<Payload>,
    gate: Arc<Gate>,
}

pub(crate) struct Reader {
    receiver: broadcast::Receiver<Payload>,
    gate: Arc<Gate>,
    index: usize,
    count: u64,
}

impl Fanout for TokioBroadcast {
    type Publisher = Gated;
    type Subscriber = Reader;

    async fn open(shape: Shape) -> Ends<Self> {
        let (sender, _) = broadcast::channel(CAPACITY);
        let gate = Arc::new(Gate {
            claimed: AtomicU64::new(0),
            limit: AtomicU64::new(CAPACITY as u64),
            read: (0..shape.to).map(|_| Cursor(AtomicU64::new(0))).collect(),
            somebody_waits: AtomicBool::new(false),
            moved: Notify::new(),
        });
        let publisher = |_| Gated { sender: sender.clone(), gate: gate.clone() };
        let subscriber = |index| {
            let (receiver, gate) = (sender.subscribe(), gate.clone());
            Reader { receiver, gate, index, count: 0 }
        };
        ((0..shape.from).map(publisher).collect(), (0..shape.to).map(subscriber).collect())
    }
}

impl Publisher for Gated {
    async fn publish(&mut self, payload: Payload) {
        self.gate.claim().await;
        self.sender.send(payload).expect("open");
    }
}

impl Subscriber for Reader {
    async fn next(&mut self) -> u64 {
        let number = self.receiver.recv().await.expect("open, and nothing overwritten")[0];
        self.count += 1;
        self.gate.has_read(self.index, self.count);
        number
    }
}
