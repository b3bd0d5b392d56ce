//! The steps of random histories.

use proptest::prelude::*;
use proptest::sample::Index;

/// The last of the three groups has only ever one member, of concurrency 1.
pub(crate) const SOLO: usize = 2;

/// One step of a random history.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Join {
        member: u32,
        group: usize,
        concurrency: usize,
    },
    Leave(u32),
    Lost(u32),
    Reserve {
        topic: &'static str,
        to: Option<&'static str>,
    },
    Commit(Index),
    Release(Index),
    Settle {
        which: Index,
        how: How,
    },
    /// Settles what is no longer, or never was, that member's.
    Stray {
        member: u32,
        tag: u64,
    },
    Pass(u64),
    Poll,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    Done,
    Failed,
    Refused,
    HandBack,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let member = 0..5u32;
    let topic = prop_oneof![3 => Just("t"), 2 => Just("u")];
    let to = prop_oneof![4 => Just(None), 1 => Just(Some("a")), 1 => Just(Some("b"))];
    let how = prop_oneof![
        4 => Just(How::Done),
        4 => Just(How::Failed),
        1 => Just(How::Refused),
        2 => Just(How::HandBack),
    ];
    prop_oneof![
        5 => (member.clone(), 0..3usize, 1..4usize).prop_map(|(member, group, concurrency)| {
            match group {
                SOLO => Step::Join { member: 9, group, concurrency: 1 },
                _ => Step::Join { member, group, concurrency },
            }
        }),
        2 => prop_oneof![member.clone(), Just(9)].prop_map(Step::Leave),
        2 => prop_oneof![member.clone(), Just(9)].prop_map(Step::Lost),
        12 => (topic, to).prop_map(|(topic, to)| Step::Reserve { topic, to }),
        12 => any::<Index>().prop_map(Step::Commit),
        2 => any::<Index>().prop_map(Step::Release),
        14 => (any::<Index>(), how).prop_map(|(which, how)| Step::Settle { which, how }),
        1 => (member, 0..30u64).prop_map(|(member, tag)| Step::Stray { member, tag }),
        5 => (1..40u64).prop_map(Step::Pass),
        12 => Just(Step::Poll),
    ]
}
