//! Every order in which threads can meet in a ring of two slots, and what each may see of the
//! other's memory, tried by loom. `.ci/loom` runs it.
//!
//! Checks of the gate run twice, see [`Fence`]. Where loom would take minutes a check says how many
//! preemptions it tries at most: three or four for two threads, one or two for more threads or
//! more events.
//!
//! Faults that were planted, and who noticed (`*`: almost all):
//! * going to sleep while a claim is in flight: `*`, first
//!   `nobody_sleeps_while_a_claim_is_in_flight`, and the model
//! * the mark cleared without waking: `*`, first `two_publish_to_a_sleeper`
//! * the mark not cleared (which only wakes too often): the model alone
//! * on the list only after the mark: `one_subscribes_while_another_publishes`,
//!   `two_sleep_while_one_publishes` or `one_is_closed_while_it_goes_to_sleep`
//! * the cursor stored relaxed: `one_sleeps_while_another_leaves`
//! * the gate looked at before the cursor is announced: `one_subscribes_while_another_publishes` or
//!   `publisher_and_reader_wait_for_each_other`
//! * the limit without what is being vacated: `one_publishes_while_another_vacates`
//! * the limit off by one: `one_leaves_while_another_waits_for_it`
//! * a claim that does not check `is_free`: `one_writes_late`
//!
//! * a closed reader that reads past its end: the model alone
//! * a gate that stays shut at `leave`: `one_leaves_while_another_waits_for_it`
//!
//! Not planted in this ring yet: a gate that stays shut at `close` or after vacating, the allowance
//! kept at `subscribe` or `close`, a look at the cursors before the list at `leave`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use loom::future::block_on;
use loom::thread;

use super::bell::Bell;
use super::sync::Fence;
use super::{Content, Reader, Refused, Ring};

/// A value that is counted as long as it lives.
struct Value(u64, Arc<AtomicUsize>);

impl Drop for Value {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Content for Value {
    fn vacate(this: &mut Option<Self>) {
        *this = None;
    }
}

struct World {
    ring: Arc<Ring<Value, &'static str>>,
    alive: Arc<AtomicUsize>,
}

impl Clone for World {
    fn clone(&self) -> Self {
        Self { ring: self.ring.clone(), alive: self.alive.clone() }
    }
}

type Reads = Reader<Value, &'static str>;

impl World {
    fn reader(&self, capacity: usize) -> Reads {
        self.ring.subscribe(capacity, "reader")
    }

    fn value(&self, number: u64) -> Value {
        self.alive.fetch_add(1, Ordering::Relaxed);
        Value(number, self.alive.clone())
    }

    fn alive(&self) -> usize {
        self.alive.load(Ordering::Relaxed)
    }

    /// Publishes, at once.
    fn try_publish(&self, number: u64) -> Result<(), Refused<&'static str>> {
        let _flight = Flight::begin();
        let mut claim = self.ring.try_claim(1)?;
        claim.write(|_last| self.value(number));
        Ok(())
    }

    /// Publishes, and waits for room where there is none. `false` when nobody reads.
    fn publish(&self, number: u64) -> bool {
        loop {
            match self.try_publish(number) {
                Ok(()) => return true,
                Err(Refused::Nobody) => return false,
                Err(refused) => self.wait(refused),
            }
        }
    }

    fn wait(&self, refused: Refused<&'static str>) {
        block_on(self.ring.room());
        if refused == Refused::Busy {
            // Not only until there is room, maybe: somebody writes late.
            thread::yield_now();
        }
    }

    /// Nothing of any wait and no value is left.
    fn is_at_rest(&self) {
        self.nobody_is_at_it();
        assert_eq!(self.alive(), 0, "values are kept");
    }

    fn nobody_is_at_it(&self) {
        assert!(self.ring.state().waiting.is_empty(), "a publisher waits");
        assert!(self.ring.state().vacating.is_none(), "somebody vacates");
    }

    /// As [`is_at_rest`](Self::is_at_rest), where a value may have been late: it stays until the
    /// next reader leaves.
    fn is_at_rest_after_the_next(&self) {
        self.nobody_is_at_it();
        drop(self.reader(1));
        self.is_at_rest();
    }
}

thread_local! {
    /// How many publish at the moment. (All threads of a model are coroutines of one thread, so
    /// loom sees nothing of this, and it orders nothing.)
    static IN_FLIGHT: Cell<usize> = const { Cell::new(0) };
    /// Who waits for one of them.
    static WATCHERS: RefCell<Vec<Waker>> = const { RefCell::new(Vec::new()) };
}

/// Somebody publishes.
struct Flight;

impl Flight {
    fn begin() -> Self {
        IN_FLIGHT.set(IN_FLIGHT.get() + 1);
        Self
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        IN_FLIGHT.set(IN_FLIGHT.get() - 1);
        WATCHERS.take().into_iter().for_each(Waker::wake);
    }
}

/// What a reader does that must not sleep because a claim is in flight: it would look again and
/// again, which loom would let two of them do for ever while the publisher stands still. So it
/// waits until somebody has published.
fn look_again_later(context: &mut Context<'_>) -> Poll<()> {
    if IN_FLIGHT.get() > 0 {
        WATCHERS.with_borrow_mut(|watchers| watchers.push(context.waker().clone()));
        return Poll::Pending;
    }
    // It does not see yet what is written: it will.
    thread::yield_now();
    Poll::Ready(())
}

/// What a task does that waits for nothing more: parks until it sleeps.
fn sleep(reader: &mut Reads, bell: &Arc<Bell>) {
    let waker = Waker::from(bell.clone());
    while !reader.park(&waker) {
        assert_eq!(reader.ready(1), 0, "there is something to read");
        block_on(poll_fn(look_again_later));
    }
}

/// The next value, if it is there.
fn read(reader: &mut Reads) -> Option<u64> {
    while reader.ready(1) > 0 {
        let number = reader.get(0).map(|value| value.0);
        reader.count_empty(number.is_none().into());
        reader.advance(1);
        if number.is_some() {
            return number;
        }
    }
    None
}

fn poll_next(reader: &mut Reads, context: &mut Context<'_>) -> Poll<Option<u64>> {
    loop {
        if let Some(number) = read(reader) {
            return Poll::Ready(Some(number));
        }
        if reader.is_over() {
            return Poll::Ready(None);
        }
        if reader.park(context.waker()) {
            return Poll::Pending;
        }
        if reader.ready(1) == 0 && !reader.is_over() {
            ready!(look_again_later(context));
        }
    }
}

/// The next value, or `None` at the end.
fn next(reader: &mut Reads) -> Option<u64> {
    block_on(poll_fn(|context| poll_next(reader, context)))
}

/// Where the gate is what is checked, so that it matters where the fence is.
const BOTH_FENCES: &[Fence] = &[Fence::AfterAnnounce, Fence::BeforeLook];
const ONE_FENCE: &[Fence] = &[Fence::AfterAnnounce];

/// Tries every order, with at most so many preemptions if it says so.
fn check(
    fences: &[Fence],
    bound: Option<usize>,
    model: impl Fn(World) + Copy + Send + Sync + 'static,
) {
    check_of_length(2, fences, bound, model);
}

fn check_of_length(
    length: usize,
    fences: &[Fence],
    bound: Option<usize>,
    model: impl Fn(World) + Copy + Send + Sync + 'static,
) {
    for fence in fences.iter().copied() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = bound;
        builder.check(move || {
            fence.choose();
            IN_FLIGHT.set(0);
            WATCHERS.take();
            let alive = Arc::new(AtomicUsize::new(0));
            let ring = Arc::new(Ring::new(length));
            model(World { ring: ring.clone(), alive: alive.clone() });
            drop(ring);
            assert_eq!(alive.load(Ordering::Relaxed), 0, "values are leaked");
        });
    }
}

#[test]
fn two_publish() {
    check(ONE_FENCE, None, |world| {
        let mut reader = world.reader(2);
        let other = world.clone();
        // Neither is told of the other: both find room.
        let other = thread::spawn(move || other.try_publish(1).unwrap());
        world.try_publish(2).unwrap();
        other.join().unwrap();
        let read = [read(&mut reader), read(&mut reader)];
        assert!(matches!(read, [Some(1), Some(2)] | [Some(2), Some(1)]), "{read:?}");
        assert!(reader.park(Waker::noop()));
        world.is_at_rest();
    });
}

#[test]
fn one_publishes_one_reads() {
    check(BOTH_FENCES, Some(3), |world| {
        let mut reader = world.reader(2);
        let publisher = world.clone();
        let publisher = thread::spawn(move || {
            assert!(publisher.publish(1));
            assert!(publisher.publish(2));
        });
        assert_eq!(next(&mut reader), Some(1));
        assert_eq!(next(&mut reader), Some(2));
        publisher.join().unwrap();
        assert!(reader.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// Both wait for the other: each event needs the room of the one before.
#[test]
fn publisher_and_reader_wait_for_each_other() {
    check(BOTH_FENCES, Some(1), |world| {
        let mut reader = world.reader(1);
        let publisher = world.clone();
        let publisher = thread::spawn(move || (1..=3).all(|number| publisher.publish(number)));
        for number in 1..=3 {
            assert_eq!(next(&mut reader), Some(number));
        }
        assert!(publisher.join().unwrap());
        assert!(reader.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// The publisher laps the ring while the reader's parking vacates it.
#[test]
fn one_publishes_while_another_vacates() {
    check(BOTH_FENCES, Some(3), |world| {
        let mut reader = world.reader(2);
        world.try_publish(1).unwrap();
        world.try_publish(2).unwrap();
        assert_eq!(read(&mut reader), Some(1));
        let publisher = world.clone();
        let publisher = thread::spawn(move || {
            assert!(publisher.publish(3));
            assert!(publisher.publish(4));
        });
        assert_eq!(next(&mut reader), Some(2));
        assert_eq!(next(&mut reader), Some(3));
        assert_eq!(next(&mut reader), Some(4));
        publisher.join().unwrap();
        assert!(reader.park(Waker::noop()));
        world.is_at_rest();
    });
}

#[test]
fn two_read_what_one_publishes() {
    check(BOTH_FENCES, Some(1), |world| {
        let readers = [world.reader(2), world.reader(1)];
        world.try_publish(1).unwrap();
        let readers = readers.map(|mut reader| {
            thread::spawn(move || {
                assert_eq!(next(&mut reader), Some(1));
                assert_eq!(next(&mut reader), Some(2));
                reader
            })
        });
        assert!(world.publish(2));
        let mut readers = readers.map(|reader| reader.join().unwrap());
        assert!(readers.iter_mut().all(|reader| reader.park(Waker::noop())));
        world.is_at_rest();
    });
}

/// Who was woken for nothing goes back to sleep, as its task would.
fn all_sleep<const N: usize>(readers: [(Reads, Arc<Bell>); N]) -> [Reads; N] {
    readers.map(|(mut reader, bell)| {
        while bell.rang() {
            sleep(&mut reader, &bell);
        }
        reader
    })
}

/// Two go to sleep, or find that they should not, while one event is published: both get it, and
/// whoever sleeps last vacates it.
#[test]
fn two_sleep_while_one_publishes() {
    check(ONE_FENCE, Some(2), |world| {
        let readers = [world.reader(2), world.reader(2)].map(|mut reader| {
            thread::spawn(move || {
                assert_eq!(next(&mut reader), Some(1));
                let bell = Arc::new(Bell::default());
                sleep(&mut reader, &bell);
                (reader, bell)
            })
        });
        world.try_publish(1).unwrap();
        let readers = all_sleep(readers.map(|reader| reader.join().unwrap()));
        world.is_at_rest();
        drop(readers);
    });
}

/// Of two that publish to a sleeper, one clears the mark; the other one's event is seen all the
/// same, in whichever order they write.
#[test]
fn two_publish_to_a_sleeper() {
    check(ONE_FENCE, Some(3), |world| {
        let mut reader = world.reader(2);
        let bell = Arc::new(Bell::default());
        sleep(&mut reader, &bell);
        let publishers = [1, 2].map(|number| {
            let world = world.clone();
            thread::spawn(move || world.try_publish(number).unwrap())
        });
        let _ = publishers.map(|publisher| publisher.join().unwrap());
        assert!(bell.rang(), "it sleeps on");
        let read = [read(&mut reader), read(&mut reader)];
        assert!(matches!(read, [Some(1), Some(2)] | [Some(2), Some(1)]), "{read:?}");
        sleep(&mut reader, &bell);
        world.is_at_rest();
    });
}

/// One sleeps already, so that a publisher clears its mark; the other goes to sleep meanwhile.
#[test]
fn another_sleeps_while_two_publish() {
    check(ONE_FENCE, Some(1), |world| {
        let mut sleeper = world.reader(2);
        let mut reader = world.reader(2);
        let bell = Arc::new(Bell::default());
        sleep(&mut sleeper, &bell);
        let publishers = [1, 2].map(|number| {
            let world = world.clone();
            thread::spawn(move || world.try_publish(number).unwrap())
        });
        let seen = [next(&mut reader), next(&mut reader)];
        assert!(matches!(seen, [Some(1), Some(2)] | [Some(2), Some(1)]), "{seen:?}");
        let _ = publishers.map(|publisher| publisher.join().unwrap());
        assert!(bell.rang(), "it sleeps on");
        assert_eq!([read(&mut sleeper), read(&mut sleeper)], seen);
        assert!(reader.park(Waker::noop()) && sleeper.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// A claim is in flight as long as its publisher likes: nobody sleeps at its position, and whoever
/// slept there wakes when it is written.
#[test]
fn nobody_sleeps_while_a_claim_is_in_flight() {
    check(ONE_FENCE, None, |world| {
        let mut sleeper = world.reader(2);
        let mut reader = world.reader(2);
        let bell = Arc::new(Bell::default());
        sleep(&mut sleeper, &bell);
        let flight = Flight::begin();
        let mut claim = world.ring.try_claim(1).unwrap();
        assert!(!bell.rang(), "nothing is written yet");
        let other = thread::spawn(move || {
            let slept = reader.park(Waker::noop());
            assert!(!slept, "the mark was taken already");
            assert_eq!(next(&mut reader), Some(1));
            reader
        });
        claim.write(|_last| world.value(1));
        drop(claim);
        drop(flight);
        assert!(bell.rang(), "it sleeps on");
        assert_eq!(read(&mut sleeper), Some(1));
        let mut reader = other.join().unwrap();
        assert!(reader.park(Waker::noop()) && sleeper.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// One goes to sleep while the other leaves: one of them sees that all are asleep, and vacates.
#[test]
fn one_sleeps_while_another_leaves() {
    check(ONE_FENCE, None, |world| {
        let (mut reader, mut leaver) = (world.reader(2), world.reader(2));
        world.try_publish(1).unwrap();
        assert_eq!(read(&mut leaver), Some(1));
        let leaver = thread::spawn(move || drop(leaver));
        assert_eq!(read(&mut reader), Some(1));
        assert!(reader.park(Waker::noop()));
        leaver.join().unwrap();
        world.is_at_rest();
    });
}

/// One of two sleepers leaves while both are woken.
#[test]
fn one_leaves_while_it_is_woken() {
    check(ONE_FENCE, None, |world| {
        let bell = Arc::new(Bell::default());
        let (mut leaver, mut stays) = (world.reader(2), world.reader(2));
        sleep(&mut leaver, &Arc::new(Bell::default()));
        sleep(&mut stays, &bell);
        let leaver = thread::spawn(move || drop(leaver));
        world.try_publish(1).unwrap();
        leaver.join().unwrap();
        assert!(bell.rang(), "it sleeps on");
        assert_eq!(read(&mut stays), Some(1));
        assert!(stays.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// One is closed while it goes to sleep.
#[test]
fn one_is_closed_while_it_goes_to_sleep() {
    check(ONE_FENCE, None, |world| {
        let mut reader = world.reader(2);
        let desk = reader.desk().clone();
        let closing = world.clone();
        let closing = thread::spawn(move || closing.ring.close(&desk));
        assert_eq!(next(&mut reader), None);
        closing.join().unwrap();
        assert_eq!(world.try_publish(1), Err(Refused::Nobody));
        drop(reader);
        world.is_at_rest();
    });
}

#[test]
fn one_reads_what_two_publish() {
    check(ONE_FENCE, Some(1), |world| {
        let mut reader = world.reader(1);
        let publishers = [1, 2].map(|number| {
            let world = world.clone();
            thread::spawn(move || assert!(world.publish(number)))
        });
        let read = [next(&mut reader), next(&mut reader)];
        assert!(matches!(read, [Some(1), Some(2)] | [Some(2), Some(1)]), "{read:?}");
        let _ = publishers.map(|publisher| publisher.join().unwrap());
        assert!(reader.park(Waker::noop()));
        world.is_at_rest();
    });
}

#[test]
fn one_subscribes_while_another_publishes() {
    check(BOTH_FENCES, Some(2), |world| {
        let mut first = world.reader(2);
        let publisher = world.clone();
        let publisher = thread::spawn(move || {
            publisher.try_publish(1).unwrap();
            // The new one may be smaller.
            publisher.publish(2);
        });
        let mut second = world.reader(1);
        let mut seen = Vec::new();
        while seen.last().is_none_or(|last| *last != 2) && second.cursor() < 2 {
            seen.extend(next(&mut second));
        }
        assert!([1, 2].ends_with(&seen), "{seen:?}");
        publisher.join().unwrap();
        assert_eq!([read(&mut first), read(&mut first)], [Some(1), Some(2)]);
        assert!(second.park(Waker::noop()) && first.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// A stuck reader is dropped while a publisher waits for it.
#[test]
fn one_leaves_while_another_waits_for_it() {
    check(BOTH_FENCES, None, |world| {
        let stuck = world.reader(1);
        let mut other = world.reader(2);
        world.try_publish(1).unwrap();
        assert_eq!(world.try_publish(2), Err(Refused::Full("reader")));
        let publisher = world.clone();
        let publisher = thread::spawn(move || assert!(publisher.publish(2)));
        drop(stuck);
        publisher.join().unwrap();
        assert_eq!([read(&mut other), read(&mut other)], [Some(1), Some(2)]);
        assert!(other.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// The last reader is dropped while somebody publishes: what was being written then goes at the
/// latest with the next.
#[test]
fn the_last_leaves_while_others_publish() {
    check(BOTH_FENCES, None, |world| {
        let reader = world.reader(2);
        let publisher = world.clone();
        let publisher = thread::spawn(move || {
            publisher.publish(1);
            publisher.publish(2);
            publisher.publish(3);
        });
        drop(reader);
        publisher.join().unwrap();
        assert_eq!(world.try_publish(4), Err(Refused::Nobody));
        world.is_at_rest_after_the_next();
    });
}

/// All readers leave before a claim is written, and another comes: the late value is dropped, and
/// who needs its slot waits for it.
#[test]
fn one_writes_late() {
    check(BOTH_FENCES, Some(3), |world| {
        let first = world.reader(2);
        let flight = Flight::begin();
        let mut late = world.ring.try_claim(1).unwrap();
        drop(first);
        let mut second = world.reader(2);
        let publisher = world.clone();
        let publisher = thread::spawn(move || {
            assert!(publisher.publish(2));
            assert!(publisher.publish(3));
        });
        late.write(|_last| world.value(1));
        drop(late);
        drop(flight);
        assert_eq!([next(&mut second), next(&mut second)], [Some(2), Some(3)]);
        publisher.join().unwrap();
        assert!(second.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// All readers leave before a claim is written, and another comes, whose it is not.
#[test]
fn one_writes_after_another_came() {
    check(ONE_FENCE, Some(3), |world| {
        let first = world.reader(2);
        let publisher = world.clone();
        let publisher = thread::spawn(move || publisher.try_publish(1));
        drop(first);
        let mut second = world.reader(2);
        let published = publisher.join().unwrap();
        let begins = second.cursor();
        let seen = read(&mut second);
        assert_eq!(seen.is_some(), published.is_ok() && begins == 0);
        assert!(second.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// A wait for room is cancelled while the room comes: the other publisher gets it.
#[test]
fn one_cancels_its_wait() {
    check(BOTH_FENCES, Some(2), |world| {
        let mut reader = world.reader(1);
        world.try_publish(1).unwrap();
        let waiting = world.clone();
        let waiting = thread::spawn(move || {
            assert!(waiting.publish(2));
        });
        let cancelled = world.clone();
        let cancelled = thread::spawn(move || {
            let mut room = Box::pin(cancelled.ring.room());
            let _ = room.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        });
        assert_eq!(next(&mut reader), Some(1));
        assert_eq!(next(&mut reader), Some(2));
        cancelled.join().unwrap();
        waiting.join().unwrap();
        assert!(reader.park(Waker::noop()));
        world.is_at_rest();
    });
}

#[test]
fn one_is_closed_while_another_publishes() {
    check(ONE_FENCE, Some(1), |world| {
        let mut reader = world.reader(1);
        let publisher = world.clone();
        let publisher =
            thread::spawn(move || (1..=2).take_while(|n| publisher.publish(*n)).count());
        let desk = reader.desk().clone();
        let closing = world.clone();
        let closing = thread::spawn(move || closing.ring.close(&desk));
        let mut seen = 0;
        while let Some(number) = next(&mut reader) {
            seen += 1;
            assert_eq!(number, seen);
        }
        closing.join().unwrap();
        assert_eq!(publisher.join().unwrap() as u64, seen);
        assert_eq!(world.ring.arrived(reader.desk()), seen);
        assert_eq!(reader.leave(), 0);
        world.is_at_rest();
    });
}

/// Who waits for a stuck reader is freed when that is closed.
#[test]
fn one_is_closed_while_another_waits_for_it() {
    check(BOTH_FENCES, None, |world| {
        let mut stuck = world.reader(1);
        world.try_publish(1).unwrap();
        let publisher = world.clone();
        let publisher = thread::spawn(move || assert!(!publisher.publish(2)));
        world.ring.close(stuck.desk());
        publisher.join().unwrap();
        assert_eq!([next(&mut stuck), next(&mut stuck)], [Some(1), None]);
        drop(stuck);
        world.is_at_rest();
    });
}

/// What was allowed before a smaller reader came is not allowed any more. (The least ring that
/// allows two at once.)
#[test]
fn a_smaller_one_subscribes() {
    check_of_length(8, ONE_FENCE, Some(3), |world| {
        let first = world.reader(8);
        let publisher = world.clone();
        let publisher = thread::spawn(move || (1..=2).all(|n| publisher.try_publish(n).is_ok()));
        let small = world.reader(1);
        let all = publisher.join().unwrap();
        assert!(world.ring.waiting_for(small.desk()) <= 1);
        assert_eq!(all, world.ring.position() == 2);
        drop([first, small]);
        world.is_at_rest();
    });
}

/// A batch is written while somebody else publishes and the reader reads. (The least ring that
/// allows claims of two.)
#[test]
fn one_publishes_a_batch() {
    check_of_length(8, ONE_FENCE, Some(1), |world| {
        let mut reader = world.reader(4);
        let batch = world.clone();
        let batch = thread::spawn(move || {
            let mut number = 1;
            while number <= 2 {
                let flight = Flight::begin();
                match batch.ring.try_claim(3 - number) {
                    Ok(mut claim) => {
                        while claim.left() > 0 {
                            claim.write(|_last| batch.value(number));
                            number += 1;
                        }
                    }
                    Err(refused) => {
                        drop(flight);
                        batch.wait(refused);
                    }
                }
            }
        });
        let other = world.clone();
        let other = thread::spawn(move || assert!(other.publish(3)));
        let seen = [next(&mut reader), next(&mut reader), next(&mut reader)];
        let seen = seen.map(|number| number.unwrap());
        assert!(matches!(seen, [1, 2, 3] | [1, 3, 2] | [3, 1, 2]), "{seen:?}");
        batch.join().unwrap();
        other.join().unwrap();
        assert!(reader.park(Waker::noop()));
        world.is_at_rest();
    });
}

/// A claim is dropped before all of it is written: readers pass over the rest.
#[test]
fn one_gives_up_a_claim() {
    check_of_length(8, ONE_FENCE, Some(1), |world| {
        let mut reader = world.reader(2);
        let publisher = world.clone();
        let publisher = thread::spawn(move || {
            let flight = Flight::begin();
            let mut claim = publisher.ring.try_claim(2).unwrap();
            assert_eq!(claim.left(), 2);
            claim.write(|_last| publisher.value(1));
            drop(claim);
            drop(flight);
            assert!(publisher.publish(2));
        });
        assert_eq!(next(&mut reader), Some(1));
        assert_eq!(next(&mut reader), Some(2));
        publisher.join().unwrap();
        assert_eq!(world.ring.arrived(reader.desk()), 2);
        assert!(reader.park(Waker::noop()));
        world.is_at_rest();
    });
}
