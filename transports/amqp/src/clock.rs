//! How far another bus's clock is from ours. Each of its signs of life says when it was sent: what
//! it then seems to have taken is its way and the difference of the clocks, and the least of
//! several has almost nothing of the way. So what a request has waited at the broker is known also
//! where the clocks are not the same.
//!
//! Our own clock here only ever runs forward: when somebody sets the calendar, requests must not
//! look as if they had waited for all the time in between.

/// So many signs of life make a period: a clock that was set back by less than lies between two of
/// them is believed after two periods.
const PERIOD: u32 = 5;

/// The difference of a clock to ours, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// The least in this period and in the one before.
    least: Option<i64>,
    before: Option<i64>,
    heard: u32,
    /// When the last sign of life was sent, by that clock.
    last_ms: u64,
}

impl Clock {
    /// A sign of life of then came now.
    pub(crate) fn hear(&mut self, then_ms: u64, now_ms: u64) {
        if then_ms < self.last_ms {
            // They come in their order: that clock was set back. (One that comes again after a
            // lost connection is too late, and only lets requests look younger until the next.)
            *self = Self::default();
        }
        self.last_ms = then_ms;
        if self.heard == PERIOD {
            *self = Self { least: None, before: self.least, heard: 0, ..*self };
        }
        let took = difference(then_ms, now_ms);
        self.least = Some(self.least.map_or(took, |least| least.min(took)));
        self.heard += 1;
    }

    /// How long ago its `then` was, in milliseconds. `None` before it was ever heard.
    pub(crate) fn since(&self, then_ms: u64, now_ms: u64) -> Option<u64> {
        let least = self.least.into_iter().chain(self.before).min()?;
        let since = difference(then_ms, now_ms).saturating_sub(least);
        Some(u64::try_from(since).unwrap_or(0))
    }
}

fn difference(then_ms: u64, now_ms: u64) -> i64 {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(now_ms).saturating_sub(signed(then_ms))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_clock_that_goes_wrong_by_an_hour_tells_the_right_time() {
        for (theirs, ours) in [(HOUR, 3 * HOUR), (3 * HOUR, HOUR)] {
            let mut clock = Clock::default();
            assert_eq!(clock.since(theirs, ours), None, "nothing is known of it");
            for way in [40, 2, 700] {
                clock.hear(theirs, ours + way);
            }
            assert_eq!(clock.since(theirs, ours + 2), Some(0));
            assert_eq!(clock.since(theirs, ours + 1502), Some(1500));
            assert_eq!(clock.since(theirs + 9000, ours), Some(0), "never before it was sent");
        }
    }

    #[test]
    fn a_clock_that_was_set_is_believed_at_once() {
        let mut clock = Clock::default();
        let mut now = 2 * HOUR;
        clock.hear(HOUR, now);
        for set in [-40_000, 3_600_000, -3_600_000_i64] {
            now += 2000;
            let then = HOUR.saturating_add_signed(set);
            clock.hear(then, now);
            assert_eq!(clock.since(then, now + 5), Some(5), "{set}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_a_little_is_believed_after_two_periods() {
        let mut clock = Clock::default();
        let beat = |clock: &mut Clock, beats: Range<u32>, set_back: u64| {
            for number in beats {
                let then = HOUR + 2000 * u64::from(number);
                clock.hear(then - set_back, then);
            }
        };
        beat(&mut clock, 0..10, 0);
        beat(&mut clock, 10..10 + 2 * PERIOD, 1500);
        assert_eq!(clock.since(HOUR - 1500, HOUR), Some(0));
    }

    #[test]
    fn no_number_overflows() {
        let mut clock = Clock::default();
        clock.hear(u64::MAX, 0);
        assert!(clock.since(0, u64::MAX).is_some());
        clock.hear(0, u64::MAX);
        assert!(clock.since(u64::MAX, 0).is_some());
    }
}
