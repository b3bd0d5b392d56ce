//! One socket to one peer: a reader task, a writer task, and two lanes between the bus and the
//! writer.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use busway_transport::PeerId;
use interprocess::local_socket::tokio::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, watch};

use crate::dispatch::Flow;
use crate::mailbox::lock;
use crate::mesh::Mesh;
use crate::wire::{Control, Decoder, Out};

/// How much the writer joins into one write.
const BATCH: usize = 256 << 10;
/// A payload from this size on is written as it is, not copied into the batch.
const LARGE: usize = 128 << 10;
/// How much the reader reads at once.
const READ: usize = 64 << 10;
/// Publishers and callers wait while a link's data lane holds so many bytes. (What found room
/// passes however large it is.)
const MAX_DATA: usize = 64 << 20;
/// More control frames than this wait only for a peer that does not read.
const MAX_CONTROL: usize = 1 << 16;

/// The bus's side of a link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    /// Which link it is: a peer that comes back has another.
    pub(crate) number: u64,
    lanes: Mutex<Lanes>,
    wake: Notify,
    stop: watch::Sender<bool>,
    heard: AtomicBool,
    /// How many bytes the data lane holds. Changed under its lock.
    waiting: AtomicUsize,
    /// Somebody found no room since the writer last made some.
    turned_away: AtomicBool,
    /// Told when the lanes ran empty and everything is written.
    written: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// Announcements, acks, credit, settlements, answers: always first.
    control: VecDeque<Out>,
    /// Events, work, requests, and what must not overtake them.
    data: VecDeque<Out>,
    /// The writer has frames in its hands.
    writing: bool,
    /// The goodbye is queued: nothing follows it.
    ending: bool,
    closed: bool,
    overrun: bool,
}

impl Link {
    pub(crate) fn new(peer: PeerId, number: u64, written: Arc<Notify>) -> Self {
        Self {
            peer,
            number,
            lanes: Mutex::default(),
            wake: Notify::new(),
            stop: watch::Sender::new(false),
            heard: AtomicBool::new(true),
            waiting: AtomicUsize::new(0),
            turned_away: AtomicBool::new(false),
            written,
        }
    }

    /// Queues a frame before all data.
    pub(crate) fn control(&self, out: Out) {
        let mut lanes = lock(&self.lanes);
        if lanes.closed || lanes.ending {
            return;
        }
        if lanes.control.len() >= MAX_CONTROL {
            lanes.overrun = true;
            return;
        }
        lanes.control.push_back(out);
        drop(lanes);
        self.wake.notify_one();
    }

    /// Queues a frame behind the data that is there.
    pub(crate) fn data(&self, out: Out) {
        let mut lanes = lock(&self.lanes);
        if lanes.closed || lanes.ending {
            return;
        }
        self.waiting.fetch_add(out.len(), Ordering::SeqCst);
        lanes.data.push_back(out);
        drop(lanes);
        self.wake.notify_one();
    }

    /// Whether the data lane holds all that it may. Then its writer tells everyone who waits when
    /// there is room.
    pub(crate) fn has_no_room(&self) -> bool {
        let full = || self.waiting.load(Ordering::SeqCst) >= MAX_DATA;
        // The second look is for room that was made before the flag was up.
        full() && {
            self.turned_away.store(true, Ordering::SeqCst);
            full()
        }
    }

    /// Whether somebody is to be told that there is room now.
    fn made_room(&self) -> bool {
        self.turned_away.load(Ordering::SeqCst)
            && self.waiting.load(Ordering::SeqCst) < MAX_DATA
            && self.turned_away.swap(false, Ordering::SeqCst)
    }

    /// Queues the last frame.
    pub(crate) fn goodbye(&self) {
        self.data(Out::control(&Control::Goodbye));
        lock(&self.lanes).ending = true;
    }

    /// Ends both tasks; what is queued is dropped.
    pub(crate) fn close(&self) {
        let mut lanes = lock(&self.lanes);
        lanes.closed = true;
        lanes.writing = false;
        lanes.control.clear();
        lanes.data.clear();
        drop(lanes);
        self.stop.send_replace(true);
        self.written.notify_waiters();
    }

    /// Whether everything that was queued is with the system.
    pub(crate) fn is_written(&self) -> bool {
        let lanes = lock(&self.lanes);
        !lanes.writing && lanes.control.is_empty() && lanes.data.is_empty()
    }

    /// Whether the peer lets our control frames pile up.
    pub(crate) fn is_overrun(&self) -> bool {
        lock(&self.lanes).overrun
    }

    /// Whether anything came in since the last call.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Takes the next frames to write, at most about a batch. False when there are none.
    fn take(&self, batch: &mut Vec<Out>) -> bool {
        let mut lanes = lock(&self.lanes);
        let mut size = 0;
        while size < BATCH {
            let out = match lanes.control.pop_front() {
                Some(out) => out,
                None => {
                    let Some(out) = lanes.data.pop_front() else { break };
                    self.waiting.fetch_sub(out.len(), Ordering::SeqCst);
                    out
                }
            };
            size += out.len();
            batch.push(out);
        }
        let was = std::mem::replace(&mut lanes.writing, !batch.is_empty());
        drop(lanes);
        if was && batch.is_empty() {
            self.written.notify_waiters();
        }
        !batch.is_empty()
    }
}

/// Starts the two tasks of a link. They end with the link.
pub(crate) fn run(mesh: &Arc<Mesh>, link: &Arc<Link>, stream: Stream, decoder: Decoder) {
    let stream = Arc::new(stream);
    tokio::spawn(read_task(mesh.clone(), link.clone(), stream.clone(), decoder));
    tokio::spawn(write_task(mesh.clone(), link.clone(), stream));
}

async fn write_task(mesh: Arc<Mesh>, link: Arc<Link>, stream: Arc<Stream>) {
    let mut stop = link.stop.subscribe();
    let ended = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => return,
        ended = write(&mesh, &link, &stream) => ended,
    };
    if let Err(error) = ended {
        mesh.link_ended(&link, &format!("writing failed: {error}"));
    }
}

async fn write(mesh: &Mesh, link: &Link, mut stream: &Stream) -> io::Result<()> {
    let mut batch = Vec::new();
    let mut buffer = Vec::with_capacity(READ);
    loop {
        if !link.take(&mut batch) {
            link.wake.notified().await;
            continue;
        }
        if link.made_room() {
            mesh.look(|state| state.wake_waiting());
            mesh.changed.notify_waiters();
        }
        for out in batch.drain(..) {
            buffer.extend_from_slice(&out.head);
            buffer.extend_from_slice(&out.shared);
            if out.payload.len() < LARGE {
                buffer.extend_from_slice(&out.payload);
            } else {
                stream.write_all(&buffer).await?;
                buffer.clear();
                stream.write_all(&out.payload).await?;
            }
        }
        stream.write_all(&buffer).await?;
        buffer.clear();
        // A burst must not keep its memory for ever.
        if buffer.capacity() > 2 * BATCH {
            buffer.shrink_to(READ);
        }
        tokio::task::coop::consume_budget().await;
    }
}

async fn read_task(mesh: Arc<Mesh>, link: Arc<Link>, stream: Arc<Stream>, decoder: Decoder) {
    let mut stop = link.stop.subscribe();
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        () = read(&mesh, &link, &stream, decoder) => {}
    }
}

async fn read(mesh: &Arc<Mesh>, link: &Arc<Link>, mut stream: &Stream, mut decoder: Decoder) {
    loop {
        loop {
            let flow = match decoder.next() {
                Ok(Some(frame)) => mesh.dispatch(link, frame),
                Ok(None) => break,
                Err(error) => Err(error),
            };
            match flow {
                Ok(Flow::On) => {}
                Ok(Flow::Goodbye) => return mesh.link_said_goodbye(link),
                Err(error) => return mesh.link_broke_protocol(link, &error.to_string()),
            }
        }
        decoder.buffer.reserve(READ);
        match stream.read_buf(&mut decoder.buffer).await {
            Ok(0) => return mesh.link_ended(link, "it hung up"),
            Ok(_) => link.heard.store(true, Ordering::Relaxed),
            Err(error) => return mesh.link_ended(link, &format!("reading failed: {error}")),
        }
        // The socket's readiness is no part of tokio's budget: without this a busy link would
        // keep its worker for itself.
        tokio::task::coop::consume_budget().await;
    }
}
