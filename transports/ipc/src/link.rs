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
    /// Whether the data lane is, for those who look without its lock.
    congested: AtomicBool,
    /// Set when its traffic begins.
    stream: OnceLock<Arc<Stream>>,
    heard: AtomicBool,
    /// Since the last beat: a whole frame came in; the socket took something.
    framed: AtomicBool,
    moved: AtomicBool,
    /// Told when the lanes ran empty and everything is written.
    written: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Lanes {
    /// Announcements, acks, credit, settlements, answers: always first.
    control: VecDeque<Out>,
    /// Events, work, requests, and what must not overtake them.
    data: Outbox,
    writer: Writer,
    /// Somebody has frames in hand.
    writing: bool,
    /// How often something was taken to be written; and how often by the last beat.
    pieces: u64,
    pieces_at_beat: u64,
    /// For how many beats the socket has taken nothing of the last one.
    still: u32,
    /// Somebody was told that it is congested.
    turned_away: bool,
    /// The goodbye is queued: nothing follows it.
    ending: bool,
    closed: bool,
    overrun: bool,
}

/// What the task is at that writes them. Unless it is at work it waits to be woken, and nobody has done
/// that yet. Whoever sets it to work either wakes it, once, or writes in its place until it may sleep.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Writer {
    /// It will look for frames.
    #[default]
    AtWork,
    /// It found none.
    Asleep,
    /// It found none, and the postman was called since then.
    Posted,
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
            congested: AtomicBool::new(false),
            stream: OnceLock::new(),
            heard: AtomicBool::new(true),
            framed: AtomicBool::new(true),
            moved: AtomicBool::new(false),
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
        if lanes.writer == Writer::Asleep
            && !lanes.closed
            && !lanes.ending
            && self.stream.get().is_some()
        {
            debug_assert!(out.shared.is_empty() && out.payload.is_empty());
            let count = self.write_now(&out.head);
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
        self.put(&mut lanes, put);
        self.wake_writer(lanes);
    }

    /// As [`put_data`](Self::put_data), where the [postman](crate::postman) will come by if he is
    /// called. Says whether he has to be.
    #[inline]
    pub(crate) fn put_for_postman(&self, put: impl FnOnce(&mut Outbox)) -> bool {
        let mut lanes = lock(&self.lanes);
        if lanes.closed || lanes.ending {
            return false;
        }
        self.put(&mut lanes, put);
        let is_first = lanes.writer == Writer::Asleep;
        if is_first {
            lanes.writer = Writer::Posted;
        }
        // Others will be turned away, and wait for it to be written.
        if lanes.data.is_congested() {
            self.wake_writer(lanes);
            return false;
        }
        is_first
    }

    #[inline]
    fn put(&self, lanes: &mut Lanes, put: impl FnOnce(&mut Outbox)) {
        put(&mut lanes.data);
        if lanes.data.is_congested() {
            self.congested.store(true, Ordering::Relaxed);
        }
    }

    /// Whether so much waits already that a publisher should not put more behind it. It is told by
    /// the mesh when there is room.
    #[inline]
    pub(crate) fn is_congested(&self) -> bool {
        self.congested.load(Ordering::Relaxed) && lock(&self.lanes).turns_away()
    }

    #[inline]
    fn wake_writer(&self, mut lanes: MutexGuard<'_, Lanes>) {
        if std::mem::take(&mut lanes.writer) != Writer::AtWork {
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

    /// Whether everything that was queued is with the system. (If not, somebody waits for it.)
    pub(crate) fn is_written(&self) -> bool {
        let lanes = lock(&self.lanes);
        let is_written = !lanes.writing && lanes.control.is_empty() && lanes.data.is_empty();
        drop(lanes);
        self.hurry();
        is_written
    }

    /// Waits for the postman no longer: whoever called him may keep his thread for long.
    pub(crate) fn hurry(&self) {
        let lanes = lock(&self.lanes);
        if lanes.writer == Writer::Posted {
            self.wake_writer(lanes);
        }
    }

    /// Lets go of memory that nothing was put into since the last call.
    pub(crate) fn air(&self) {
        lock(&self.lanes).data.air();
    }

    /// Whether the peer lets our control frames pile up.
    pub(crate) fn is_overrun(&self) -> bool {
        lock(&self.lanes).overrun
    }

    /// Something came in. Says whether it is the first since the last beat.
    pub(crate) fn hear(&self) -> bool {
        !self.heard.load(Ordering::Relaxed) && !self.heard.swap(true, Ordering::Relaxed)
    }

    /// Whether anything came in since the last call.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Whole frames came in.
    pub(crate) fn reads_on(&self) {
        self.framed.store(true, Ordering::Relaxed);
    }

    /// The socket took something of what is being written.
    pub(crate) fn writes_on(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }

    /// At each beat: whether nothing came or went since the last one but parts of one large frame. No
    /// answer can pass that, either way. One that is written goes on if the socket took some of it within
    /// so many beats: it takes more when most of what it keeps was read.
    pub(crate) fn is_amid_a_frame(&self, heard: bool, within: u32) -> bool {
        let is_amid_theirs = !self.framed.swap(false, Ordering::Relaxed) && heard;
        let moved = self.moved.swap(false, Ordering::Relaxed);
        let mut lanes = lock(&self.lanes);
        let pieces = lanes.pieces;
        let is_same = std::mem::replace(&mut lanes.pieces_at_beat, pieces) == pieces;
        lanes.still = if moved || !is_same { 0 } else { lanes.still + 1 };
        let is_amid_ours = lanes.writing && is_same && lanes.still < within;
        is_amid_theirs || is_amid_ours
    }

    /// Whether somebody was turned away for whom there is room now.
    pub(crate) fn has_room_again(&self) -> bool {
        let mut lanes = lock(&self.lanes);
        !lanes.data.is_congested() && std::mem::take(&mut lanes.turned_away)
    }

    /// Writes in the place of a writer that sleeps, if the postman is still to come by, and as much as one
    /// write takes; the rest is the writer's. `joined` is memory for it.
    pub(crate) fn write_posted(&self, joined: &mut Vec<u8>) {
        {
            let mut lanes = lock(&self.lanes);
            if lanes.writer != Writer::Posted {
                return;
            }
            lanes.writer = Writer::AtWork;
        }
        let Some(piece) = self.take(joined) else { return };
        let bytes = if piece.is_empty() { &joined[..] } else { &piece };
        let (written, all) = (self.write_now(bytes), bytes.len());
        let mut lanes = lock(&self.lanes);
        if written < all && !lanes.closed {
            let bytes = if piece.is_empty() { std::mem::take(joined).into() } else { piece };
            lanes.data.put_back(bytes.slice(written..));
        }
        if lanes.control.is_empty() && lanes.data.is_empty() {
            lanes.writer = Writer::Asleep;
            lanes.writing = false;
            drop(lanes);
            self.written.notify_waiters();
        } else {
            drop(lanes);
            self.wake.notify_one();
        }
    }

    /// Writes as much as the socket takes at once, for a writer that does not. It polls anew when it
    /// goes on, so that nobody has to be woken here; and an error is its to find.
    fn write_now(&self, bytes: &[u8]) -> usize {
        let Some(stream) = self.stream.get() else { return 0 };
        let mut context = Context::from_waker(Waker::noop());
        let mut written = 0;
        while written < bytes.len()
            && let Poll::Ready(Ok(count @ 1..)) =
                Pin::new(&mut &**stream).poll_write(&mut context, &bytes[written..])
        {
            written += count;
        }
        written
    }

    /// Takes what is to be written next into `joined`, which was written: control frames, all of
    /// them; else data. Says whether there is anything, in `joined` or else in a piece of its own.
    pub(crate) fn take(&self, joined: &mut Vec<u8>) -> Option<Bytes> {
        let mut lanes = lock(&self.lanes);
        let mut piece = None;
        lanes.pieces += 1;
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
        if !lanes.data.is_congested() {
            self.congested.store(false, Ordering::Relaxed);
        }
        lanes.writer = if any { Writer::AtWork } else { Writer::Asleep };
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
    use futures::FutureExt as _;

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

    #[test]
    fn what_the_postman_cannot_write_is_the_writers_and_stays_whole() {
        // It has no socket, so that nothing is taken.
        let link = Link::new(PeerId::from_u64(2), 1, Arc::default());
        let mut joined = Vec::new();
        assert!(!link.put_for_postman(frame(0)), "the writer is at work");
        while link.take(&mut joined).is_some() {}
        assert!(link.put_for_postman(frame(1)), "it sleeps");
        assert!(!link.put_for_postman(frame(2)), "he was called");
        assert!(!is_woken(&link));

        link.write_posted(&mut Vec::new());
        assert!(is_woken(&link));
        let ack = Out::control(&Control::Ack { serial: 7 });
        link.control(ack.clone());
        link.put_for_postman(frame(3));
        let mut pieces = Vec::new();
        while let Some(piece) = link.take(&mut joined) {
            pieces.push(if piece.is_empty() { joined.clone() } else { piece.to_vec() });
        }
        assert_eq!(pieces, [vec![1, 1, 1, 2, 2, 2], ack.head.to_vec(), vec![3; 3]]);
    }

    #[test]
    fn whoever_does_not_rely_on_the_postman_does_not_wait_for_him() {
        let others: [&dyn Fn(&Link); 5] = [
            &Link::hurry,
            &|link| link.put_data(frame(2)),
            &|link| link.control_at_once(Out::control(&Control::Goodbye)),
            &|link| assert!(!link.is_written()),
            &|link| {
                let much = |data: &mut Outbox| data.put(|joined, _| joined.resize(1 << 20, 7));
                assert!(!link.put_for_postman(much));
                assert!(link.is_congested());
            },
        ];
        for other in others {
            let link = Link::new(PeerId::from_u64(2), 1, Arc::default());
            assert!(link.take(&mut Vec::new()).is_none());
            assert!(link.put_for_postman(frame(1)));
            other(&link);
            assert!(is_woken(&link));
            // He comes too late.
            link.write_posted(&mut Vec::new());
            assert!(!is_woken(&link) && !link.is_written());
        }
    }

    fn frame(of: u8) -> impl Fn(&mut Outbox) {
        move |data| data.put(|joined, _| joined.extend([of; 3]))
    }

    fn is_woken(link: &Link) -> bool {
        link.wake.notified().now_or_never().is_some()
    }
}
