//! Who is silent: a peer that owes an answer and says nothing for 2 s is cut off, so that one stuck
//! process blocks nobody (law 1). It may come back by a new hello.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::mesh::{Mesh, Phase, State};

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(500);
/// A peer that owes an answer and does not give it at so many beats in a row is cut off, whatever
/// else it says: after 2 to 2.5 s. (Those at which it may be in the middle of a large frame do not count,
/// see [`Link::is_amid_a_frame`](crate::link::Link::is_amid_a_frame).) Beats are counted, not time: when it was our own process that
/// stood still, one beat is missed, not five, and what came in meanwhile is read before the next.
const SILENT: u32 = 5;
/// An idle link is asked for a sign of life after so many beats.
const IDLE: u32 = 3;

/// Something that a peer has to acknowledge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owed {
    pub(crate) serial: u64,
    /// The ack comes behind the data that is under way, however much that is.
    pub(crate) behind_data: bool,
}

/// What the pulse counts for one peer.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    silent: u32,
    idle: u32,
    /// The oldest thing that it has to acknowledge at once, and since how many beats.
    oldest: (u64, u32),
}

/// What a beat finds.
enum Finding {
    Fine,
    Ask,
    Cut(&'static str),
}

impl Beats {
    fn beat<'a>(&mut self, heard: bool, owed: impl Iterator<Item = &'a Owed> + Clone) -> Finding {
        let mut all = owed.clone();
        let Some(first) = all.next() else {
            *self = Self { idle: if heard { 0 } else { self.idle + 1 }, ..Self::default() };
            return if self.idle >= IDLE { Finding::Ask } else { Finding::Fine };
        };
        self.idle = 0;
        self.silent = if heard { 0 } else { self.silent + 1 };
        let urgent = std::iter::once(first).chain(all).find(|owed| !owed.behind_data);
        self.oldest = match urgent {
            Some(Owed { serial, .. }) if *serial == self.oldest.0 => (*serial, self.oldest.1 + 1),
            Some(Owed { serial, .. }) => (*serial, 1),
            None => (0, 0),
        };
        if self.silent < SILENT && self.oldest.1 < SILENT {
            Finding::Fine
        } else if heard {
            Finding::Cut("it acknowledged nothing for 2 s")
        } else {
            Finding::Cut("it was silent for 2 s")
        }
    }
}

/// Beats as long as the mesh lives.
pub(crate) async fn pulse(mesh: Arc<Mesh>) {
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beats.tick().await;
        for (link, reason) in mesh.look(beat) {
            mesh.link_broke_protocol(&link, reason);
        }
    }
}

fn beat(state: &mut State) -> Vec<(Arc<crate::link::Link>, &'static str)> {
    let mut cut = Vec::new();
    for remote in state.peers.values_mut() {
        remote.link.air();
        remote.link.hurry();
        let heard = remote.link.take_heard();
        let is_amid_a_frame = remote.link.is_amid_a_frame(heard, SILENT);
        if remote.link.is_overrun() {
            cut.push((remote.link.clone(), "it does not read what it is sent"));
            continue;
        }
        // Such a beat does not count: what is owed lies behind that frame, or will soon have its turn.
        if is_amid_a_frame {
            continue;
        }
        match remote.beats.beat(heard, remote.outstanding.iter()) {
            Finding::Cut(reason) => cut.push((remote.link.clone(), reason)),
            Finding::Ask => {
                remote.ping(&mut state.acks);
            }
            Finding::Fine => {}
        }
    }
    cut
}

/// Calls the group engine when its time comes.
pub(crate) async fn engine_timer(mesh: Arc<Mesh>) {
    loop {
        let at = mesh.with(|state, _| {
            if state.phase == Phase::Closed {
                return None;
            }
            state.engine.handle_timeout(Instant::now());
            state.engine.poll_timeout()
        });
        let due = async {
            match at {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = mesh.timer.notified() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: u64 = 100;

    /// At which beat a peer is cut off: what is heard, and what it owes (from `SLOW` on behind data).
    fn beats(pattern: &[(bool, &[u64])]) -> usize {
        let mut beats = Beats::default();
        let cut = |(heard, owed): &(bool, &[u64])| {
            let owed: Vec<_> = owed
                .iter()
                .map(|serial| Owed { serial: *serial, behind_data: *serial >= SLOW })
                .collect();
            matches!(beats.beat(*heard, owed.iter()), Finding::Cut(_))
        };
        pattern.iter().position(cut).unwrap_or(pattern.len())
    }

    #[test]
    fn only_one_that_owes_something_is_cut_off() {
        let always = |heard, owed: &'static [u64]| beats(&[(heard, owed); 40]);
        let soon = SILENT as usize - 1;
        assert_eq!(always(false, &[1]), soon);
        assert_eq!(always(false, &[]), 40);
        // One that talks, and acknowledges nothing.
        assert_eq!(always(true, &[1]), soon);
        assert_eq!(always(true, &[SLOW, 1]), soon);
        // Acks behind data take the time that the data takes.
        assert_eq!(always(true, &[SLOW]), 40);
        assert_eq!(always(false, &[SLOW]), soon);
        let answers: Vec<_> = (0..40u64).map(|n| (n % 4 == 0, vec![n, n + 1])).collect();
        let answers: Vec<_> = answers.iter().map(|(heard, owed)| (*heard, &owed[..])).collect();
        assert_eq!(beats(&answers), answers.len());
    }

    #[test]
    fn an_idle_one_is_asked() {
        let mut beats = Beats::default();
        let mut beat = |heard| matches!(beats.beat(heard, [].iter()), Finding::Ask);
        assert_eq!(
            [false, true, false, false, false].map(&mut beat),
            [false, false, false, false, true]
        );
    }
}
