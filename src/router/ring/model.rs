//! The ring against a plain model of it, step by step; and against itself, under load.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof};
use proptest::{prop_assert, prop_assert_eq, proptest};

use super::bell::Bell;
use super::room::Room;
use super::{Claim, Content, Head, Reader, Refused, Ring};

/// A value that notes its death.
struct Value {
    number: usize,
    deaths: Arc<Vec<AtomicUsize>>,
}

impl Drop for Value {
    fn drop(&mut self) {
        self.deaths[self.number].fetch_add(1, Ordering::Relaxed);
    }
}

impl Content for Value {
    fn vacate(this: &mut Option<Self>) {
        *this = None;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe {
        capacity: usize,
    },
    /// Claims so many, writes some of them, and gives up the rest or holds the claim.
    Claim {
        most: u64,
        write: usize,
        hold: bool,
    },
    /// Writes and gives up what is held.
    Complete {
        write: usize,
    },
    /// Reads up to so many at once.
    Read {
        reader: usize,
        most: u64,
    },
    Park {
        reader: usize,
    },
    Close {
        reader: usize,
    },
    Leave {
        reader: usize,
    },
    Room,
    Cancel,
    /// Everyone reads all there is and parks.
    Rest,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reader = || any::<usize>();
    let step = prop_oneof![
        2 => (1..20usize).prop_map(|capacity| Step::Subscribe { capacity }),
        8 => (1..6u64, 0..6usize, prop::bool::weighted(0.2))
            .prop_map(|(most, write, hold)| Step::Claim { most, write, hold }),
        8 => (1..3u64).prop_map(|most| Step::Claim { most, write: 9, hold: false }),
        3 => (0..6usize).prop_map(|write| Step::Complete { write }),
        9 => (reader(), 1..6u64).prop_map(|(reader, most)| Step::Read { reader, most }),
        4 => reader().prop_map(|reader| Step::Park { reader }),
        1 => reader().prop_map(|reader| Step::Close { reader }),
        1 => reader().prop_map(|reader| Step::Leave { reader }),
        2 => Just(Step::Room),
        1 => Just(Step::Cancel),
        2 => Just(Step::Rest),
    ];
    prop::collection::vec(step, 1..120)
}

/// What stands at a position.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Claimed,
    Empty,
    Value(usize),
}

/// What the model knows of a reader, beside the reader itself.
struct Seen {
    reader: Reader<Value, usize>,
    bell: Arc<Bell>,
    asleep: bool,
    start: u64,
    cursor: u64,
    end: u64,
    capacity: u64,
    empty: u64,
}

type Waiting<'a> = (Pin<Box<Room<'a, Value, usize>>>, Arc<Bell>);

struct Model<'a> {
    ring: &'a Arc<Ring<Value, usize>>,
    length: u64,
    places: Vec<Place>,
    readers: Vec<Seen>,
    deaths: Arc<Vec<AtomicUsize>>,
    values: usize,
    keys: usize,
    held: Option<Claim<'a, Value, usize>>,
    room: Option<Waiting<'a>>,
}

impl<'a> Model<'a> {
    fn position(&self) -> u64 {
        self.places.len() as u64
    }

    fn open(&self) -> usize {
        self.readers.iter().filter(|seen| seen.end == u64::MAX).count()
    }

    /// How far claims can go, and by whom. (The first of those who are the slowest.)
    fn limit(&self) -> (u64, usize) {
        let reading = self.readers.iter().filter(|seen| seen.cursor < seen.end);
        let limits = reading.map(|seen| (seen.cursor + seen.capacity, seen.reader.desk().key));
        limits.reduce(|least, next| if next.0 < least.0 { next } else { least }).unwrap()
    }

    /// Whether the position's slot is still being written a lap ago.
    fn is_late(&self, position: u64) -> bool {
        let last = position.checked_sub(self.length);
        last.is_some_and(|last| self.places[last as usize] == Place::Claimed)
    }

    fn has_room(&self) -> bool {
        self.open() == 0 || self.position() < self.limit().0
    }

    fn claim(&mut self, most: u64, write: usize, hold: bool) {
        if self.held.is_some() {
            return;
        }
        let position = self.position();
        match self.ring.try_claim(most) {
            Ok(claim) => {
                let count = claim.left() as u64;
                let word = self.ring.head.load(Ordering::Relaxed);
                assert!(!Head::unpack(word).asleep, "the mark is the claim's now");
                assert!((1..=most).contains(&count));
                assert!(self.open() > 0 && position + count <= self.limit().0);
                assert!(!(position..position + count).any(|position| self.is_late(position)));
                self.places.extend((0..count).map(|_| Place::Claimed));
                self.held = Some(claim);
                self.write(write);
                if !hold {
                    self.give_up();
                }
            }
            Err(Refused::Nobody) => assert_eq!(self.open(), 0),
            Err(Refused::Full(by)) => assert_eq!((position, by), self.limit()),
            Err(Refused::Busy) => assert!(self.is_late(position)),
        }
    }

    fn write(&mut self, most: usize) {
        let Some(claim) = &mut self.held else { return };
        for _ in 0..most.min(claim.left()) {
            let at = self.places.len() - claim.left();
            let number = self.values;
            self.values += 1;
            claim.write(|_last| Value { number, deaths: self.deaths.clone() });
            self.places[at] = Place::Value(number);
        }
    }

    fn give_up(&mut self) {
        self.held = None;
        // Only the last claim can be held, so all others are complete.
        for place in &mut self.places {
            if *place == Place::Claimed {
                *place = Place::Empty;
            }
        }
    }

    /// What the next `most` positions hold that this reader can read.
    fn readable(&self, reader: usize, most: u64) -> Vec<Place> {
        let Seen { cursor, end, .. } = self.readers[reader];
        let end = end.min(self.position()).min(cursor.saturating_add(most));
        let places = self.places[cursor as usize..end as usize].iter();
        places.copied().take_while(|place| *place != Place::Claimed).collect()
    }

    fn read(&mut self, reader: usize, most: u64) {
        let expected = self.readable(reader, most);
        let count = expected.len() as u64;
        let seen = &mut self.readers[reader];
        assert_eq!(seen.reader.ready(most), count);
        // What it knows to be there does not count for who asks for less.
        assert_eq!(seen.reader.ready(1), count.min(1));
        let mut empty = 0;
        for (ahead, place) in (0..).zip(&expected) {
            let value = seen.reader.get(ahead).map(|value| value.number);
            match place {
                Place::Value(number) => assert_eq!(value, Some(*number)),
                _ => {
                    assert_eq!(value, None);
                    empty += 1;
                }
            }
        }
        seen.reader.count_empty(empty);
        seen.empty += empty;
        seen.reader.advance(count);
        seen.cursor += count;
        assert_eq!(seen.reader.cursor(), seen.cursor);
        seen.asleep &= count == 0;
    }

    fn park(&mut self, reader: usize) {
        // Not while its next position is claimed either.
        let position = self.position();
        let seen = &mut self.readers[reader];
        let waker = Waker::from(seen.bell.clone());
        seen.asleep = seen.reader.park(&waker);
        seen.bell.rang();
        assert_eq!(seen.asleep, seen.cursor == position && seen.cursor < seen.end);
    }

    fn subscribe(&mut self, capacity: usize) {
        let key = self.keys;
        self.keys += 1;
        self.readers.push(Seen {
            reader: self.ring.subscribe(capacity, key),
            bell: Arc::default(),
            asleep: false,
            start: self.position(),
            cursor: self.position(),
            end: u64::MAX,
            capacity: (capacity as u64).min(self.length),
            empty: 0,
        });
    }

    fn leave(&mut self, reader: usize) {
        let position = self.position();
        let mut seen = self.readers.remove(reader);
        assert_eq!(seen.reader.leave(), seen.end.min(position) - seen.cursor);
        assert_eq!(seen.reader.leave(), 0);
        assert!(seen.reader.ready(u64::MAX) == 0 && seen.reader.is_over());
        assert!(!seen.reader.park(Waker::noop()));
        let number = seen.reader.desk().number;
        assert!(self.ring.parking.remove(number).is_none(), "who has left stays on the list");
    }

    fn wait(&mut self) {
        let expected = self.has_room();
        let (mut room, bell) = match self.room.take() {
            Some(waiting) => waiting,
            None => (Box::pin(self.ring.room()), Arc::default()),
        };
        bell.rang();
        match room.as_mut().poll(&mut Context::from_waker(&Waker::from(bell.clone()))) {
            // Maybe it was woken for others who have taken the room since.
            Poll::Ready(()) => {}
            Poll::Pending => {
                assert!(!expected);
                self.room = Some((room, bell));
            }
        }
    }

    fn step(&mut self, step: Step) {
        let pick = |reader: usize| reader.checked_rem(self.readers.len());
        match step {
            Step::Subscribe { capacity } if self.readers.len() < 12 => self.subscribe(capacity),
            Step::Subscribe { .. } => {}
            Step::Claim { most, write, hold } => self.claim(most, write, hold),
            Step::Complete { write } => {
                self.write(write);
                self.give_up();
            }
            Step::Room => self.wait(),
            Step::Cancel => {
                self.room = None;
                assert!(self.ring.state().waiting.is_empty());
            }
            Step::Rest => self.rest(),
            Step::Read { reader, .. }
            | Step::Park { reader }
            | Step::Close { reader }
            | Step::Leave { reader } => {
                let Some(reader) = pick(reader) else { return };
                match step {
                    Step::Read { most, .. } => self.read(reader, most),
                    Step::Park { .. } => self.park(reader),
                    Step::Leave { .. } => self.leave(reader),
                    _ => {
                        let position = self.position();
                        let seen = &mut self.readers[reader];
                        self.ring.close(seen.reader.desk());
                        seen.end = seen.end.min(position);
                    }
                }
            }
        }
    }

    fn rest(&mut self) {
        for reader in 0..self.readers.len() {
            self.read(reader, u64::MAX);
            self.park(reader);
        }
        let all_sleep = !self.readers.is_empty() && self.readers.iter().all(|seen| seen.asleep);
        if all_sleep && self.held.is_none() {
            assert_eq!(self.alive(), 0, "values are kept at rest");
        }
    }

    fn alive(&self) -> usize {
        let deaths = self.deaths[..self.values].iter();
        deaths.filter(|deaths| deaths.load(Ordering::Relaxed) == 0).count()
    }

    /// What holds after every step.
    fn check(&mut self) {
        let position = self.position();
        assert_eq!(self.ring.position(), position);
        assert_eq!(self.ring.readers(), self.open());
        for reader in 0..self.readers.len() {
            let ready = !self.readable(reader, 1).is_empty();
            let seen = &mut self.readers[reader];
            let end = seen.end.min(position);
            let desk = seen.reader.desk();
            assert_eq!(self.ring.arrived(desk), end - seen.start - seen.empty);
            assert_eq!(self.ring.waiting_for(desk), end - seen.cursor);
            assert_eq!(self.ring.is_full_for(desk), end - seen.cursor >= seen.capacity);
            assert_eq!(seen.reader.ready(1) > 0, ready);
            assert_eq!(seen.reader.is_over(), seen.cursor >= seen.end);
            // A held claim has not woken anybody yet.
            let due = seen.asleep && (ready && self.held.is_none() || seen.reader.is_over());
            if due {
                assert!(seen.bell.rang(), "a reader sleeps on");
                seen.asleep = false;
            }
            for place in &self.places[seen.cursor as usize..end as usize] {
                if let Place::Value(number) = place {
                    let deaths = self.deaths[*number].load(Ordering::Relaxed);
                    assert_eq!(deaths, 0, "dropped before it was read");
                }
            }
        }
        if self.has_room()
            && let Some((mut room, bell)) = self.room.take()
        {
            assert!(bell.rang(), "a publisher sleeps on");
            let waker = Waker::from(bell);
            assert!(room.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
        }
        for deaths in &self.deaths[..self.values] {
            assert!(deaths.load(Ordering::Relaxed) <= 1, "dropped twice");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn it_does_as_the_model(length in 0..6u32, steps in steps()) {
        let length = 1 << length;
        let ring = Arc::new(Ring::new(length));
        prop_assert_eq!(ring.length(), length);
        let most = 6 * steps.len();
        let deaths: Arc<Vec<_>> = Arc::new((0..most).map(|_| AtomicUsize::new(0)).collect());
        let mut model = Model {
            ring: &ring,
            length: length as u64,
            places: Vec::new(),
            readers: Vec::new(),
            deaths: deaths.clone(),
            values: 0,
            keys: 0,
            held: None,
            room: None,
        };
        for step in steps {
            model.step(step);
            model.check();
        }
        model.step(Step::Complete { write: 0 });
        model.step(Step::Rest);
        while !model.readers.is_empty() {
            model.leave(0);
        }
        prop_assert_eq!(model.alive(), 0);
        prop_assert!(ring.state().seats.is_empty() && ring.state().waiting.is_empty());
        prop_assert!(deaths[..model.values].iter().all(|deaths| deaths.load(Ordering::Relaxed) == 1));
    }
}

/// A waker that makes somebody leave.
struct Leaves(std::sync::Mutex<Vec<Reader<Plain, ()>>>);

impl Wake for Leaves {
    fn wake(self: Arc<Self>) {
        let readers = std::mem::take(&mut *self.0.lock().unwrap());
        drop(readers);
    }
}

struct Plain(u64);

impl Content for Plain {
    fn vacate(this: &mut Option<Self>) {
        *this = None;
    }
}

fn publish(ring: &Ring<Plain, ()>, number: u64) {
    ring.try_claim(1).unwrap().write(|_last| Plain(number));
}

/// Many are woken in rounds; those who leave between two rounds hide nobody.
#[test]
fn all_wake_while_some_leave() {
    let ring = Arc::new(Ring::new(4));
    let leave = Arc::new(Leaves(std::sync::Mutex::default()));
    let mut readers: Vec<_> =
        (0..30).map(|_| (ring.subscribe(4, ()), Arc::new(Bell::default()))).collect();
    let leaving = [0, 1, 2, 13, 14, 15, 27, 28, 29];
    for (index, (reader, bell)) in readers.iter_mut().enumerate() {
        // One in the middle and those at both ends make others leave, when they wake.
        let leaves = [5, 12, 20, 26].contains(&index);
        let waker = if leaves { leave.clone().into() } else { Waker::from(bell.clone()) };
        assert!(reader.park(&waker));
    }
    for index in leaving.into_iter().rev() {
        leave.0.lock().unwrap().push(readers.remove(index).0);
    }
    publish(&ring, 1);
    assert!(leave.0.lock().unwrap().is_empty());
    let quiet = readers.iter().filter(|(_, bell)| !bell.rang()).count();
    assert_eq!(quiet, 4, "some sleep on, beside those who made others leave");
    assert!(readers.iter().all(|(reader, _)| ring.parking.remove(reader.desk().number).is_none()));
}

/// Goes back to sleep as soon as it is woken.
struct Restless {
    reader: std::sync::Mutex<Reader<Plain, ()>>,
    woken: AtomicUsize,
}

impl Wake for Restless {
    fn wake(self: Arc<Self>) {
        assert!(self.woken.fetch_add(1, Ordering::Relaxed) < 5, "woken again and again");
        let mut reader = self.reader.lock().unwrap();
        let ready = reader.ready(u64::MAX);
        reader.advance(ready);
        assert!(reader.park(&self.clone().into()));
    }
}

#[test]
fn who_goes_by_steps_wakes_publishers_by_steps() {
    let ring = Arc::new(Ring::new(128));
    let mut reader = ring.subscribe(128, ());
    reader.go_by_steps();
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    for _ in 0..3 {
        (0..ring.free()).for_each(|number| publish(&ring, number));
        let mut room = Box::pin(ring.room());
        assert!(room.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        for rings in [false, true] {
            assert_eq!(reader.ready(1), 1);
            reader.advance(1);
            assert_eq!(bell.rang(), rings, "a step is two of them");
        }
    }
}

/// Many read and go back to sleep while the others are still being woken: each wakes once.
#[test]
fn all_wake_once_while_some_go_back_to_sleep() {
    let ring = Arc::new(Ring::new(4));
    let restless = || Restless { reader: ring.subscribe(4, ()).into(), woken: 0.into() };
    let readers: Vec<_> = (0..50).map(|_| Arc::new(restless())).collect();
    for reader in &readers {
        assert!(reader.reader.lock().unwrap().park(&reader.clone().into()));
    }
    for count in 1..=3 {
        publish(&ring, count);
        let woken = |reader: &Arc<Restless>| reader.woken.load(Ordering::Relaxed) as u64;
        assert!(readers.iter().all(|reader| woken(reader) == count));
    }
    // They know each other.
    readers.iter().for_each(|reader| drop(ring.parking.remove(number_of(reader))));
}

fn number_of(restless: &Restless) -> u64 {
    restless.reader.lock().unwrap().desk().number
}

/// Rings, and panics.
struct Alarm(Arc<Bell>);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.0.clone().wake();
        quiet_panic();
    }
}

/// Whoever is on the list with a waker that panics is woken all the same.
#[test]
fn a_waker_panics() {
    let ring = Arc::new(Ring::new(1));
    let bells: Vec<_> = (0..40).map(|_| Arc::new(Bell::default())).collect();
    let waker = |index: usize| match index % 13 {
        7 => Waker::from(Arc::new(Alarm(bells[index].clone()))),
        _ => Waker::from(bells[index].clone()),
    };
    let all_rang = || bells.iter().all(|bell| bell.rang());
    let mut readers: Vec<_> = bells.iter().map(|_| ring.subscribe(1, ())).collect();
    for (index, reader) in readers.iter_mut().enumerate() {
        assert!(reader.park(&waker(index)));
    }
    panics(|| publish(&ring, 1));
    assert!(all_rang(), "a reader sleeps on");

    let mut rooms: Vec<_> = bells.iter().map(|_| Box::pin(ring.room())).collect();
    for (index, room) in rooms.iter_mut().enumerate() {
        assert!(room.as_mut().poll(&mut Context::from_waker(&waker(index))).is_pending());
    }
    panics(|| ring.open_gate());
    assert!(all_rang(), "a publisher sleeps on");

    // Closed while it sleeps, and a publisher waits for another one.
    readers.truncate(2);
    let sleeper = &mut readers[0];
    assert_eq!(sleeper.ready(1), 1);
    sleeper.advance(1);
    assert!(sleeper.park(&waker(0)));
    assert!(rooms[7].as_mut().poll(&mut Context::from_waker(&waker(7))).is_ready());
    let mut room = Box::pin(ring.room());
    assert!(room.as_mut().poll(&mut Context::from_waker(&waker(7))).is_pending());
    panics(|| ring.close(sleeper.desk()));
    assert!(bells[7].rang());
    assert!(bells[0].rang(), "a closed reader sleeps on");
}

/// The last waker of a task that is gone drops what the task had: not under the ring's lock.
#[test]
fn wakers_are_dropped_under_no_lock() {
    let ring = Arc::new(Ring::new(1));
    let mut reader = ring.subscribe(1, ());
    let mut room = Box::pin(ring.room());
    let gone = || {
        let readers = std::sync::Mutex::new(vec![ring.subscribe(1, ())]);
        Waker::from(Arc::new(Leaves(readers)))
    };
    assert!(reader.park(&gone()));
    assert!(reader.park(Waker::noop()));
    publish(&ring, 1);
    assert!(room.as_mut().poll(&mut Context::from_waker(&gone())).is_pending());
    assert!(room.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(ring.readers(), 1);
}

/// Panics without a backtrace, which would take memory that other tests measure.
fn quiet_panic() -> ! {
    std::panic::resume_unwind(Box::new(()))
}

/// Panics when it is dropped.
struct Bomb(bool);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 && !std::thread::panicking() {
            quiet_panic();
        }
    }
}

impl Content for Bomb {
    fn vacate(this: &mut Option<Self>) {
        *this = None;
    }
}

fn panics(act: impl FnOnce()) {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_err();
}

/// A value whose drop panics while others are vacated: the rest is vacated by the next.
#[test]
fn a_value_panics_when_vacated() {
    let ring = Arc::new(Ring::new(4));
    let mut reader = ring.subscribe(4, ());
    for bomb in [false, true, false] {
        ring.try_claim(1).unwrap().write(|_last| Bomb(bomb));
    }
    assert_eq!(reader.ready(3), 3);
    reader.advance(3);
    panics(|| assert!(reader.park(Waker::noop())));
    assert!(reader.park(Waker::noop()));
    assert_eq!(ring.state().vacated, 3);
    assert!(ring.state().vacating.is_none());
}

/// A value whose drop panics is found by a claim that is given up: all of it is passed over all
/// the same, and who sleeps wakes.
#[test]
fn a_value_panics_when_a_claim_is_given_up() {
    let ring = Arc::new(Ring::new(8));
    let (mut behind, mut reader) = (ring.subscribe(8, ()), ring.subscribe(8, ()));
    for bomb in 0..8 {
        ring.try_claim(1).unwrap().write(|_last| Bomb(bomb == 0));
    }
    assert_eq!((behind.ready(7), reader.ready(8)), (7, 8));
    behind.advance(7);
    reader.advance(8);
    let bell = Arc::new(Bell::default());
    assert!(reader.park(&bell.clone().into()));
    let claim = ring.try_claim(2).unwrap();
    assert_eq!(claim.left(), 2);
    panics(|| drop(claim));
    assert!(bell.rang());
    assert_eq!(reader.ready(9), 2);
    assert!((0..2).all(|ahead| reader.get(ahead).is_none()));
}

type Task<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs the tasks to their end on a few threads, or panics when nothing moves any more.
fn run<T: Send + 'static>(tasks: Vec<Task<T>>) -> Vec<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = tasks.into_iter().map(tokio::spawn).collect();
        let all = futures::future::join_all(tasks);
        let results = tokio::time::timeout(std::time::Duration::from_secs(60), all).await;
        results.expect("it hangs").into_iter().map(|result| result.unwrap()).collect()
    })
}

async fn send(ring: &Ring<Plain, ()>, mut numbers: std::ops::Range<u64>, batch: u64) -> u64 {
    let mut sent = 0;
    while !numbers.is_empty() {
        let most = batch.min(numbers.end - numbers.start);
        let refused = match ring.try_claim(most) {
            Ok(mut claim) => {
                while claim.left() > 0 {
                    let number = numbers.next().unwrap();
                    claim.write(|_last| Plain(number));
                    sent += 1;
                }
                continue;
            }
            Err(refused) => refused,
        };
        match refused {
            Refused::Nobody => return sent,
            // Some waits are cancelled.
            Refused::Full(()) if numbers.start.is_multiple_of(5) => {
                let mut room = Box::pin(ring.room());
                let once = poll_fn(|context| Poll::Ready(room.as_mut().poll(context)));
                if once.await.is_pending() {
                    drop(room);
                    tokio::task::yield_now().await;
                }
            }
            Refused::Full(()) => ring.room().await,
            Refused::Busy => tokio::task::yield_now().await,
        }
    }
    sent
}

/// Reads up to so many at once; `None` at the end.
async fn receive(reader: &mut Reader<Plain, ()>, most: usize) -> Option<Vec<u64>> {
    poll_fn(|context| {
        loop {
            let ready = reader.ready(most as u64);
            let values: Vec<_> = (0..ready).map(|ahead| reader.get(ahead).unwrap().0).collect();
            if !values.is_empty() {
                reader.advance(values.len() as u64);
                return Poll::Ready(Some(values));
            }
            if reader.is_over() {
                return Poll::Ready(None);
            }
            if reader.park(context.waker()) {
                return Poll::Pending;
            }
            if reader.ready(1) == 0 && !reader.is_over() {
                // Somebody was stopped while writing it.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Numbers are `publisher << 32 | count`.
const PUBLISHER: u32 = 32;

/// Checks that what one publisher sends comes in its order.
#[derive(Default)]
struct Order(std::collections::HashMap<u64, u64>);

impl Order {
    /// Gives the gap before this number.
    fn next(&mut self, number: u64) -> u64 {
        let count = number & ((1 << PUBLISHER) - 1);
        let last = self.0.insert(number >> PUBLISHER, count);
        assert!(last.is_none_or(|last| last < count), "out of order");
        last.map_or(0, |last| count - last - 1)
    }
}

#[derive(Clone, Copy)]
struct Load {
    length: usize,
    publishers: u64,
    readers: usize,
    each: u64,
}

fn all_get_all(load: Load) {
    let ring = Arc::new(Ring::new(load.length));
    let readers: Vec<_> = (0..load.readers).map(|at| ring.subscribe(1 + at, ())).collect();
    let publishing = Arc::new(AtomicU64::new(load.publishers));
    let mut tasks: Vec<Task<(u64, u64)>> = Vec::new();
    let desks: Vec<_> = readers.iter().map(|reader| reader.desk().clone()).collect();
    for publisher in 0..load.publishers {
        let (ring, publishing, desks) = (ring.clone(), publishing.clone(), desks.clone());
        tasks.push(Box::pin(async move {
            let first = publisher << PUBLISHER;
            let sent = send(&ring, first..first + load.each, 1 + publisher % 3).await;
            assert_eq!(sent, load.each);
            if publishing.fetch_sub(1, Ordering::AcqRel) == 1 {
                desks.iter().for_each(|desk| ring.close(desk));
            }
            (0, 0)
        }));
    }
    for (at, mut reader) in readers.into_iter().enumerate() {
        tasks.push(Box::pin(async move {
            let (mut order, mut count, mut sum) = (Order::default(), 0, 0);
            while let Some(values) = receive(&mut reader, 1 + at % 4).await {
                for number in values {
                    assert_eq!(order.next(number), 0, "lost");
                    count += 1;
                    sum += number;
                }
            }
            assert_eq!(reader.leave(), 0);
            (count, sum)
        }));
    }
    let results = run(tasks);
    let numbers = (0..load.publishers)
        .flat_map(|publisher| (0..load.each).map(move |count| publisher << PUBLISHER | count));
    let sum = numbers.sum();
    for result in &results[load.publishers as usize..] {
        assert_eq!(*result, (load.publishers * load.each, sum));
    }
    assert!(ring.state().waiting.is_empty());
    assert!(ring.state().seats.is_empty() && ring.state().vacating.is_none());
}

#[test]
fn two_publish_to_two_in_a_tiny_ring() {
    all_get_all(Load { length: 2, publishers: 2, readers: 2, each: 8_000 });
}

#[test]
fn eight_publish_to_one() {
    all_get_all(Load { length: 8, publishers: 8, readers: 1, each: 2_000 });
}

#[test]
fn two_publish_to_eight() {
    all_get_all(Load { length: 32, publishers: 2, readers: 8, each: 5_000 });
}

#[test]
fn eight_publish_to_eight() {
    all_get_all(Load { length: 64, publishers: 8, readers: 8, each: 700 });
}

#[test]
fn four_publish_to_a_hundred() {
    all_get_all(Load { length: 128, publishers: 4, readers: 100, each: 200 });
}

/// Readers come, read a while without a gap, and go: some stuck, some closed.
#[test]
fn readers_come_and_go() {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 4_000;
    let ring = Arc::new(Ring::new(8));
    let mut stays = ring.subscribe(8, ());
    let mut tasks: Vec<Task<u64>> = Vec::new();
    for publisher in 0..PUBLISHERS {
        let ring = ring.clone();
        tasks.push(Box::pin(async move {
            let first = publisher << PUBLISHER;
            send(&ring, first..first + EACH, 1 + publisher % 3).await
        }));
    }
    for visitor in 0..4 {
        let ring = ring.clone();
        tasks.push(Box::pin(async move {
            for visit in 0..200 {
                let mut reader = ring.subscribe(1 + (visit + visitor) % 8, ());
                let mut order = Order::default();
                for read in 0..visit % 7 {
                    if read == 5 {
                        ring.close(reader.desk());
                    }
                    // The publishers may be done.
                    if reader.ready(1) == 0 && (read != 5 || reader.is_over()) {
                        break;
                    }
                    let Some(values) = receive(&mut reader, 2).await else { break };
                    assert!(values.into_iter().all(|number| order.next(number) == 0));
                }
                drop(reader);
                tokio::task::yield_now().await;
            }
            0
        }));
    }
    tasks.push(Box::pin(async move {
        let (mut order, mut count) = (Order::default(), 0);
        while count < PUBLISHERS * EACH {
            for number in receive(&mut stays, 3).await.unwrap() {
                assert_eq!(order.next(number), 0);
                count += 1;
            }
        }
        count
    }));
    let results = run(tasks);
    assert!(results[..PUBLISHERS as usize].iter().all(|sent| *sent == EACH));
    assert_eq!(results.last(), Some(&(PUBLISHERS * EACH)));
    assert_eq!(ring.readers(), 0);
}
