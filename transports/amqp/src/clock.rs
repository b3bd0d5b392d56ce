//! How far another bus's clock is from ours. Each of its signs of life says when it was sent: what
//! it then seems to have taken is its way and the difference of the clocks, and the least of
//! several has almost nothing of the way. So what a request has waited at the broker is known also
//! where the clocks are not the same.

/// So many signs of life make a period: a clock that was set is believed after two of them.
const PERIOD: u32 = 30;

/// The difference of a clock to ours, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// The least in this period and in the one before.
    least: Option<i64>,
    before: Option<i64>,
    heard: u32,
}

impl Clock {
    /// A sign of life of then came now.
    pub(crate) fn hear(&mut self, then_ms: u64, now_ms: u64) {
        if self.heard == PERIOD {
            *self = Self { least: None, before: self.least, heard: 0 };
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
    fn a_clock_that_was_set_is_believed_after_two_periods() {
        let mut clock = Clock::default();
        clock.hear(HOUR, HOUR);
        for _ in 0..2 * PERIOD {
            // Ours was set by ten seconds.
            clock.hear(HOUR, HOUR + 10_000);
        }
        assert_eq!(clock.since(HOUR, HOUR + 10_000), Some(0));
        // And back: at once.
        clock.hear(HOUR, HOUR);
        assert_eq!(clock.since(HOUR, HOUR + 5), Some(5));
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
