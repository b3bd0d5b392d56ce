//! How much of the machine others had while a bench ran: where they leave it one core of two, it
//! is another race with other winners.

/// Clock ticks since the machine and this process started.
pub(crate) struct Clock {
    all: u64,
    idle: u64,
    own: u64,
}

impl Clock {
    /// `None` where there is no `/proc`.
    pub(crate) fn now() -> Option<Self> {
        let machine = std::fs::read_to_string("/proc/stat").ok()?;
        let process = std::fs::read_to_string("/proc/self/stat").ok()?;
        Self::parse(&machine, &process)
    }

    fn parse(machine: &str, process: &str) -> Option<Self> {
        let number = |word: &str| word.parse::<u64>().ok();
        let cores = machine.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        // What follows is part of the first two.
        let ticks = cores.take(8).map(number).collect::<Option<Vec<_>>>()?;
        // The name before the bracket may contain anything. The last two are of the processes
        // that it started, and that have ended.
        let words = process.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
        let own = words.map(number).sum::<Option<u64>>()?;
        Some(Self { all: ticks.iter().sum(), idle: ticks.get(3)? + ticks.get(4)?, own })
    }

    /// The share of the machine that was neither idle nor ours since then.
    pub(crate) fn others_until(&self, later: &Self) -> f64 {
        let all = (later.all - self.all).max(1);
        let left = (later.idle.saturating_sub(self.idle)) + (later.own - self.own);
        all.saturating_sub(left) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_idle_nor_ours_is_of_others() {
        let process = |user| format!("7 (a) b) S 1 2 3 4 5 6 7 8 9 10 {user} 20 5 6 99");
        let clock = |machine, user| Clock::parse(machine, &process(user)).expect("right");
        let before = clock("cpu  100 0 50 800 10 0 0 0 0 0\ncpu0 1", 30);
        let after = clock("cpu  160 0 50 830 20 0 0 0 0 0\ncpu0 1", 70);
        assert_eq!((before.all, before.idle, before.own), (960, 810, 61));
        assert!((before.others_until(&after) - 0.2).abs() < 1e-9);
        assert!(Clock::parse("", "").is_none());
    }
}
