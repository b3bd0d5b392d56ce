//! How long a link's reader waits for the one who is to read what it brings: no longer than those can
//! whose events lie behind these (law 6).
//!
//! While both take turns, each event is brought and read on one processor, by one thread. A reader that
//! only gives way comes back too early: then events go the long way, or another thread has them.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// What each event is worth that went on at once: about as long as one takes that goes the long way.
const EARNED: Duration = Duration::from_micros(2);
/// No more than this is kept.
const KEPT: Duration = Duration::from_millis(1);
/// How long one wait can be. It is paid for afterwards.
const LONGEST: Duration = Duration::from_millis(4);

/// What is left of it.
pub(crate) struct Patience {
    kept: Duration,
    /// What was taken beyond that.
    owed: Duration,
    /// Ends a wait. Set seldom: to set a timer may wake another thread.
    alarm: Pin<Box<Sleep>>,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { kept: KEPT, owed: Duration::ZERO, alarm: Box::pin(sleep(Duration::ZERO)) }
    }

    /// So many events went on at once.
    pub(crate) fn earn(&mut self, events: usize) {
        let earned = EARNED * events as u32;
        self.kept = (self.kept + earned.saturating_sub(self.owed)).min(KEPT);
        self.owed = self.owed.saturating_sub(earned);
    }

    /// Waits, if there is any left.
    pub(crate) async fn wait(&mut self, room: impl Future<Output = ()>) {
        if self.kept.is_zero() {
            return;
        }
        let began = Instant::now();
        if self.alarm.deadline() <= began {
            self.alarm.as_mut().reset(began + LONGEST);
        }
        tokio::select! {
            biased;
            () = room => {}
            () = &mut self.alarm => {}
        }
        let took = began.elapsed();
        self.owed += took.saturating_sub(self.kept);
        self.kept = self.kept.saturating_sub(took);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// How long it waits for one who never reads.
    async fn waits(patience: &mut Patience) -> Duration {
        let began = Instant::now();
        patience.wait(pending()).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_does_not_read_is_waited_for_once() {
        let mut patience = Patience::new();
        assert_eq!(waits(&mut patience).await, LONGEST);
        assert_eq!(waits(&mut patience).await, Duration::ZERO);
        // What it took beyond what there was is to be earned first.
        patience.earn(((LONGEST - KEPT).as_micros() / EARNED.as_micros()) as usize);
        assert_eq!(waits(&mut patience).await, Duration::ZERO);
        patience.earn(1);
        assert_eq!(waits(&mut patience).await, LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn those_behind_lose_no_more_time_than_the_events_are_worth() {
        let mut patience = Patience::new();
        let mut lost = Duration::ZERO;
        for _ in 0..1000 {
            patience.earn(128);
            lost += waits(&mut patience).await;
        }
        assert!(lost <= EARNED * 128 * 1000 + KEPT + LONGEST, "{lost:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_reads_in_time_is_waited_for_again_and_again() {
        let mut patience = Patience::new();
        for _ in 0..1000 {
            let began = Instant::now();
            patience.wait(sleep(Duration::from_millis(1))).await;
            assert!(began.elapsed() >= Duration::from_millis(1));
            patience.earn(512);
        }
    }
}
