//! How long a link's reader waits for somebody to read what it brings, while all that lies behind that
//! waits as well.
//!
//! While the two take turns, each event is brought and read by one thread. A reader that only gives way
//! comes back too early: then events go the long way, or another thread has them. But one who is slow
//! must hold up no more than his own publishers (law 6). So events of each kind have to earn the waits
//! for those who read them, by going on at once.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::time::{Instant, Sleep, sleep};

use crate::bell::Bell;
use crate::wire::run::Kind;

/// What each event earns: about as long as one takes that goes the long way.
const EARNED: Duration = Duration::from_micros(2);
/// No more than this is kept. Every kind begins with it.
const KEPT: Duration = Duration::from_millis(1);
/// How long one wait can be, beside a tick of the timer. What there was too little for that is owed.
const LONGEST: Duration = Duration::from_millis(4);

/// What is left of it.
pub(crate) struct Patience {
    /// By the number of the kind, in nanoseconds; below 0 is owed. What takes the place of another kind
    /// inherits it.
    kinds: [i64; Kind::MOST],
    /// Ends a wait. Set seldom, and not taken back: to set it may wake another thread.
    alarm: Pin<Box<Sleep>>,
}

/// For what is a few milliseconds at most.
const fn nanos(time: Duration) -> i64 {
    time.as_nanos() as i64
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { kinds: [nanos(KEPT); Kind::MOST], alarm: Box::pin(sleep(Duration::ZERO)) }
    }

    /// So many events of a kind went on at once.
    pub(crate) fn earn(&mut self, kind: usize, events: usize) {
        let left = &mut self.kinds[kind];
        *left = (*left + nanos(EARNED) * events as i64).min(nanos(KEPT));
    }

    /// Waits for room, if there is any patience left; in any case others of this thread may go first.
    pub(crate) async fn wait(
        &mut self,
        kind: usize,
        room: impl Future<Output = ()> + Send,
        bell: &mut Bell,
    ) {
        let left = &mut self.kinds[kind];
        let mut room = pin!(room);
        if *left <= 0 || room.as_mut().now_or_never().is_some() {
            return bell.give_way().await;
        }
        let began = Instant::now();
        let end = began + LONGEST;
        loop {
            if self.alarm.deadline() <= Instant::now() {
                self.alarm.as_mut().reset(end);
            }
            tokio::select! {
                biased;
                () = bell.wait(room.as_mut()) => break,
                () = &mut self.alarm => {}
            }
            if Instant::now() >= end {
                break;
            }
        }
        // A process that was stopped meanwhile owes nothing for that.
        *left -= nanos(began.elapsed().min(LONGEST));
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::advance;

    use super::*;

    /// How long it waits for one who reads after such a time.
    async fn waits(
        patience: &mut Patience,
        kind: usize,
        room: impl Future<Output = ()> + Send,
    ) -> Duration {
        let began = Instant::now();
        patience.wait(kind, room, &mut Bell::default()).await;
        began.elapsed()
    }

    fn events(worth: Duration) -> usize {
        (worth.as_micros() / EARNED.as_micros()) as usize
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_does_not_read_is_waited_for_once() {
        let mut patience = Patience::new();
        assert_eq!(waits(&mut patience, 0, pending()).await, LONGEST);
        assert_eq!(waits(&mut patience, 0, pending()).await, Duration::ZERO);
        // What others earn is not for this one.
        patience.earn(1, events(10 * LONGEST));
        // What it took beyond what there was is to be earned first.
        patience.earn(0, events(LONGEST - KEPT));
        assert_eq!(waits(&mut patience, 0, pending()).await, Duration::ZERO);
        patience.earn(0, 1);
        assert_eq!(waits(&mut patience, 0, pending()).await, LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn those_behind_lose_no_more_time_than_the_events_are_worth() {
        let mut patience = Patience::new();
        let mut lost = Duration::ZERO;
        for _ in 0..1000 {
            patience.earn(0, 128);
            lost += waits(&mut patience, 0, pending()).await;
        }
        assert!(lost <= EARNED * 128 * 1000 + KEPT + LONGEST, "{lost:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_reads_in_time_is_waited_for_again_and_again() {
        let mut patience = Patience::new();
        // Also when an alarm from before comes meanwhile.
        let reads_after = Duration::from_millis(3);
        for _ in 0..1000 {
            assert_eq!(waits(&mut patience, 0, sleep(reads_after)).await, reads_after);
            patience.earn(0, events(LONGEST));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_is_stopped_owes_nothing_for_that() {
        let mut patience = Patience::new();
        let stop = async {
            advance(Duration::from_secs(10)).await;
            pending().await
        };
        patience.wait(0, stop, &mut Bell::default()).await;
        patience.earn(0, events(LONGEST - KEPT) + 1);
        assert_eq!(waits(&mut patience, 0, pending()).await, LONGEST);
    }
}
