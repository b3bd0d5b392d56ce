//! Who is silent: a peer that owes an answer and says nothing for 2 s is cut off, so that one stuck
//! process blocks nobody (law 1). It may come back by a new hello.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::mesh::{Mesh, Phase, State};
use crate::wire::{Control, Out};

/// Time between two beats.
const BEAT: Duration = Duration::from_millis(500);
/// A peer that owes an answer and is silent at so many beats in a row is cut off: after 2 to
/// 2.5 s. Beats are counted, not time: when it was our own process that stood still, one beat is
/// missed, not five, and what came in meanwhile is read before the next.
const SILENT: u32 = 5;
/// One that is not silent, but acknowledges nothing at so many beats, does not work either.
const DEAF: u32 = 12;
/// An idle link is asked for a sign of life after so many beats.
const IDLE: u32 = 3;

/// What the pulse counts for one peer.
#[derive(Debug, Default)]
pub(crate) struct Beats {
    silent: u32,
    idle: u32,
    /// The oldest thing it has to acknowledge, and since how many beats.
    oldest: (u64, u32),
}

/// What a beat finds.
enum Finding {
    Fine,
    Ask,
    Cut(&'static str),
}

impl Beats {
    fn beat(&mut self, heard: bool, oldest: Option<u64>) -> Finding {
        if heard {
            self.silent = 0;
            self.idle = 0;
        }
        let Some(serial) = oldest else {
            self.silent = 0;
            self.oldest.1 = 0;
            self.idle += u32::from(!heard);
            return if self.idle >= IDLE { Finding::Ask } else { Finding::Fine };
        };
        self.idle = 0;
        self.silent += u32::from(!heard);
        self.oldest =
            if self.oldest.0 == serial { (serial, self.oldest.1 + 1) } else { (serial, 1) };
        if self.silent >= SILENT {
            Finding::Cut("it was silent for 2 s")
        } else if self.oldest.1 >= DEAF {
            Finding::Cut("it acknowledges nothing")
        } else {
            Finding::Fine
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
        let oldest = remote.outstanding.front().copied();
        match remote.beats.beat(remote.link.take_heard(), oldest) {
            _ if remote.link.is_overrun() => {
                cut.push((remote.link.clone(), "it does not read what it is sent"));
            }
            Finding::Cut(reason) => cut.push((remote.link.clone(), reason)),
            Finding::Ask => {
                let serial = state.acks.serial();
                remote.outstanding.push_back(serial);
                remote.link.control(Out::control(&Control::Ping { serial }));
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

    fn beats(pattern: &[(bool, Option<u64>)]) -> usize {
        let mut beats = Beats::default();
        let cut = |(heard, oldest): &(bool, Option<u64>)| {
            matches!(beats.beat(*heard, *oldest), Finding::Cut(_))
        };
        pattern.iter().position(cut).unwrap_or(pattern.len())
    }

    #[test]
    fn only_a_silent_one_that_owes_something_is_cut_off() {
        assert_eq!(beats(&[(false, Some(1)); 9]), SILENT as usize - 1);
        assert_eq!(beats(&[(false, None); 9]), 9);
        assert_eq!(beats(&[(true, Some(1)); 11]), 11);
        assert_eq!(beats(&[(true, Some(1)); 20]), DEAF as usize - 1);
        let mut talks = vec![(false, Some(1)); 4];
        talks.extend([(true, Some(1)), (false, Some(1)), (false, Some(1))]);
        assert_eq!(beats(&talks), talks.len());
        let answers: Vec<_> = (0..40).map(|n| (n % 4 == 0, Some(n))).collect();
        assert_eq!(beats(&answers), answers.len());
    }
}
