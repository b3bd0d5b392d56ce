//! One link to one peer, as the bus has it: two lanes, between the bus and what writes them to the
//! socket.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};

use busway_transport::PeerId;
use bytes::Bytes;
use interprocess::local_socket::tokio::Stream;
use tokio::io::AsyncWrite as _;
use tokio::sync::{Notify, watch};

use crate::mailbox::lock;
use crate::outbox::Outbox;
use crate::wire::{Control, Out};

/// More control frames than this wait only for a peer that does not read.
const MAX_CONTROL: usize = 1 << 16;

/// The bus's side of a link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) peer: PeerId,
    /// Which link it is: a peer that comes back has another.
    pub(crate) number: u64,
    lanes: Mutex<Lanes>,
    pub(crate) wake: Notify,
    pub(crate) stop: watch::Sender<bool>,
    /// Set when its traffic begins.
    stream: OnceLock<Arc<Stream>>,
    heard: AtomicBool,
    /// Told when the lanes ran empty and everything is written.
    written: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// Announcements, acks, credit, settlements, answers: always first.
    control: VecDeque<Out>,
    /// Events, work, requests, and what must not overtake them.
    data: Outbox,
    /// The writer has frames in its hands.
    writing: bool,
    /// Somebody was told that it is congested.
    turned_away: bool,
    /// The writer found nothing to write, and has to be woken.
    sleeping: bool,
    /// The goodbye is queued: nothing follows it.
    ending: bool,
    closed: bool,
    overrun: bool,
}

impl Lanes {
    #[inline]
    fn turns_away(&mut self) -> bool {
        let is_congested = !self.closed && self.data.is_congested();
        self.turned_away |= is_congested;
        is_congested
    }
}

impl Link {
    pub(crate) fn new(peer: PeerId, number: u64, written: Arc<Notify>) -> Self {
        Self {
            peer,
            number,
            lanes: Mutex::default(),
            wake: Notify::new(),
            stop: watch::Sender::new(false),
            stream: OnceLock::new(),
            heard: AtomicBool::new(true),
            written,
        }
    }

    /// The socket is ready for its traffic.
    pub(crate) fn open(&self, stream: Stream) -> Arc<Stream> {
        self.stream.get_or_init(|| Arc::new(stream)).clone()
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
        self.wake_writer(lanes);
    }

    /// As [`control`](Self::control), for a frame that somebody waits for and that is seldom sent:
    /// it is written here and now where that is possible. The writer's task may have to wait for
    /// the very task that calls this.
    pub(crate) fn control_at_once(&self, out: Out) {
        let mut lanes = lock(&self.lanes);
        // When the writer sleeps, nothing is queued, and nobody else writes.
        if lanes.sleeping
            && !lanes.closed
            && !lanes.ending
            && let Some(stream) = self.stream.get()
        {
            debug_assert!(out.shared.is_empty() && out.payload.is_empty());
            let mut context = Context::from_waker(Waker::noop());
            let wrote = Pin::new(&mut &**stream).poll_write(&mut context, &out.head);
            // An error is the writer's to find.
            let count = if let Poll::Ready(Ok(count)) = wrote { count } else { 0 };
            if count < out.head.len() {
                lanes.control.push_back(Out { head: out.head.slice(count..), ..out });
                self.wake_writer(lanes);
            }
            return;
        }
        drop(lanes);
        self.control(out);
    }

    /// Queues a frame behind the data that is there.
    pub(crate) fn data(&self, out: Out) {
        self.put_data(|data| data.push(&out));
    }

    /// Puts frames behind the data that is there.
    #[inline]
    pub(crate) fn put_data(&self, put: impl FnOnce(&mut Outbox)) {
        let mut lanes = lock(&self.lanes);
        if lanes.closed || lanes.ending {
            return;
        }
        put(&mut lanes.data);
        self.wake_writer(lanes);
    }

    /// As [`put_data`](Self::put_data), unless it [is congested](Self::is_congested). Says whether it
    /// was not.
    #[inline]
    pub(crate) fn put_if_free(&self, put: impl FnOnce(&mut Outbox)) -> bool {
        let mut lanes = lock(&self.lanes);
        if lanes.turns_away() {
            return false;
        }
        if !lanes.closed && !lanes.ending {
            put(&mut lanes.data);
            self.wake_writer(lanes);
        }
        true
    }

    /// Whether so much waits already that a publisher should not put more behind it. It is told by
    /// the mesh when there is room.
    #[inline]
    pub(crate) fn is_congested(&self) -> bool {
        lock(&self.lanes).turns_away()
    }

    #[inline]
    fn wake_writer(&self, mut lanes: MutexGuard<'_, Lanes>) {
        if std::mem::take(&mut lanes.sleeping) {
            drop(lanes);
            self.wake.notify_one();
        }
    }

    /// Queues the last frame.
    pub(crate) fn goodbye(&self) {
        self.data(Out::control(&Control::Goodbye));
        lock(&self.lanes).ending = true;
    }

    /// Ends its traffic; what is queued is dropped.
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

    /// Lets go of memory that nothing was put into since the last call.
    pub(crate) fn air(&self) {
        lock(&self.lanes).data.air();
    }

    /// Whether the peer lets our control frames pile up.
    pub(crate) fn is_overrun(&self) -> bool {
        lock(&self.lanes).overrun
    }

    /// Something came in.
    pub(crate) fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    /// Whether anything came in since the last call.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Whether somebody was turned away for whom there is room now.
    pub(crate) fn has_room_again(&self) -> bool {
        let mut lanes = lock(&self.lanes);
        !lanes.data.is_congested() && std::mem::take(&mut lanes.turned_away)
    }

    /// Takes what is to be written next into `joined`, which was written: control frames, all of
    /// them; else data. Says whether there is anything, in `joined` or else in a piece of its own.
    pub(crate) fn take(&self, joined: &mut Vec<u8>) -> Option<Bytes> {
        let mut lanes = lock(&self.lanes);
        let mut piece = None;
        joined.clear();
        if lanes.control.is_empty() || lanes.data.is_within_a_frame() {
            piece = lanes.data.take(joined);
        } else {
            for out in lanes.control.drain(..) {
                for part in [&out.head, &out.shared, &out.payload] {
                    joined.extend_from_slice(part);
                }
            }
        }
        let any = piece.is_some() || !joined.is_empty();
        lanes.sleeping = !any;
        let was = std::mem::replace(&mut lanes.writing, any);
        drop(lanes);
        if was && !any {
            self.written.notify_waiters();
        }
        any.then(|| piece.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::LARGE;
    use crate::wire::{Decoder, Frame, MAX_PAYLOAD, Work};
    use busway_transport::{ContentType, Envelope, MessageId, Payload, Source};

    #[test]
    fn control_frames_go_before_data_and_never_into_a_frame() {
        let source = Source { endpoint: "a".parse().unwrap(), peer: PeerId::from_u64(1) };
        let payload = Payload::encoded(ContentType::JSON, vec![7; LARGE]);
        let envelope = Envelope::new(MessageId::new(), "t".parse().unwrap(), source, payload);
        let envelope = crate::wire::envelope::Encoded::new(&envelope).unwrap();
        let work = |tag| Work { member: 1, tag, attempt: 1, key: None };

        let link = Link::new(PeerId::from_u64(2), 1, Arc::default());
        (1..=2).for_each(|tag| link.data(Out::deliver(&work(tag), &envelope)));
        let mut decoder = Decoder::new();
        decoder.trust(MAX_PAYLOAD);
        let (mut joined, mut serial) = (Vec::new(), 0);
        while let Some(piece) = link.take(&mut joined) {
            decoder.buffer.extend_from_slice(if piece.is_empty() { &joined } else { &piece });
            if serial < 3 {
                serial += 1;
                link.control(Out::control(&Control::Ack { serial }));
            }
        }
        let mut order = String::new();
        while let Some(frame) = decoder.next().unwrap() {
            match frame {
                Frame::Deliver { work, .. } => order.push_str(&format!("work {} ", work.tag)),
                Frame::Control(control) => match *control {
                    Control::Ack { serial } => order.push_str(&format!("ack {serial} ")),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(order.trim(), "work 1 ack 1 ack 2 ack 3 work 2");
    }
}
