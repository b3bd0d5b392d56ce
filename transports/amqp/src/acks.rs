//! The acks of one channel, joined: one `multiple` ack for many deliveries costs the broker as much
//! as one for each, and a quorum queue writes each ack to its log.
//!
//! An ack for several covers only what is settled: tags count up from 1 on a channel, so that
//! everything up to a tag is settled when all numbers up to it were seen here. That holds for
//! several consumers on one channel, and for deliveries that nobody has taken yet.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use lapin::Channel;
use lapin::options::BasicAckOptions;

use crate::tasks::Counted;

/// The most that are acked together.
const MOST: usize = 64;
/// How long an ack may wait for others, when what is unacked holds nothing up.
pub(crate) const LINGER: Duration = Duration::from_millis(1);

/// How many are acked together.
pub(crate) fn batch(prefetch: usize) -> usize {
    (prefetch / 4).clamp(1, MOST)
}

/// What is settled on one channel and what the broker knows of it.
pub(crate) struct Acks {
    channel: Channel,
    /// So many may wait for each other: a part of the prefetch, so that the broker goes on
    /// delivering meanwhile.
    batch: usize,
    tags: Tags,
}

/// Acks on their way; gives how many deliveries they are for.
pub(crate) type Telling = BoxFuture<'static, usize>;

impl Acks {
    pub(crate) fn new(channel: Channel, prefetch: u16) -> Self {
        Self { channel, batch: batch(usize::from(prefetch)), tags: Tags::default() }
    }

    /// A delivery is done with, and is to be acked. What counts it goes when it is.
    pub(crate) fn done(&mut self, tag: u64, counted: Option<Counted>) {
        self.tags.settle(tag, Some(counted));
    }

    /// A delivery was given back.
    pub(crate) fn given_back(&mut self, tag: u64) {
        self.tags.settle(tag, None);
    }

    /// How many wait for their ack.
    pub(crate) fn waiting(&self) -> usize {
        self.tags.waiting()
    }

    /// Whether there are enough to be told of.
    pub(crate) fn is_full(&self) -> bool {
        self.tags.waiting() >= self.batch
    }

    /// Tells the broker of all that wait.
    pub(crate) fn tell(&mut self) -> Telling {
        let channel = self.channel.clone();
        let Batch { multiple, single, counted } = self.tags.take();
        Box::pin(async move {
            let up_to = multiple.map(|tag| (tag, true));
            let all = up_to.into_iter().chain(single.into_iter().map(|tag| (tag, false)));
            // All frames are queued before the first is waited for. An error means that the
            // channel is gone: the broker has the deliveries back.
            let acks =
                all.map(|(tag, multiple)| channel.basic_ack(tag, BasicAckOptions { multiple }));
            join_all(acks).await;
            counted.len()
        })
    }
}

/// What there is to tell.
#[derive(Default)]
struct Batch {
    /// Everything up to here.
    multiple: Option<u64>,
    /// Behind something that is still in work.
    single: Vec<u64>,
    counted: Vec<Option<Counted>>,
}

/// The settled tags of a channel.
#[derive(Default)]
struct Tags {
    /// Everything up to this one is settled, and the broker was told.
    told: u64,
    /// Those that wait for their ack, with what counts them.
    settled: BTreeMap<u64, Option<Counted>>,
    /// Those after `told` that nothing is to be said of any more, as first and last of each run:
    /// between two runs something is in work, so that there are never more than the prefetch.
    past: BTreeMap<u64, u64>,
}

impl Tags {
    fn settle(&mut self, tag: u64, waits: Option<Option<Counted>>) {
        match waits {
            Some(counted) => drop(self.settled.insert(tag, counted)),
            None => self.pass(tag),
        }
    }

    fn waiting(&self) -> usize {
        self.settled.len()
    }

    /// Nothing is to be said of it any more.
    fn pass(&mut self, tag: u64) {
        let last = self.past.remove(&(tag + 1)).unwrap_or(tag);
        match self.past.range_mut(..tag).next_back() {
            Some((_, end)) if *end + 1 == tag => *end = last,
            _ => drop(self.past.insert(tag, last)),
        }
    }

    fn take(&mut self) -> Batch {
        let mut batch = Batch::default();
        loop {
            let next = self.told + 1;
            if let Some(counted) = self.settled.remove(&next) {
                self.told = next;
                batch.multiple = Some(next);
                batch.counted.push(counted);
            } else if let Some(last) = self.past.remove(&next) {
                self.told = last;
            } else {
                break;
            }
        }
        for (tag, counted) in std::mem::take(&mut self.settled) {
            batch.single.push(tag);
            batch.counted.push(counted);
            self.pass(tag);
        }
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told after these were settled.
    fn told(tags: &mut Tags, settled: &[u64]) -> (Option<u64>, Vec<u64>) {
        for tag in settled {
            tags.settle(*tag, Some(None));
        }
        let batch = tags.take();
        assert_eq!(tags.waiting(), 0);
        (batch.multiple, batch.single)
    }

    #[test]
    fn nothing_in_work_is_acked_with_others() {
        let mut tags = Tags::default();
        assert_eq!(told(&mut tags, &[2, 3]), (None, vec![2, 3]), "1 is in work");
        assert_eq!(told(&mut tags, &[5]), (None, vec![5]), "and each is told once");
        assert_eq!(told(&mut tags, &[1]), (Some(1), vec![]), "2 and 3 were told");
        assert_eq!(told(&mut tags, &[4, 6, 8]), (Some(6), vec![8]), "7 is in work");
        assert_eq!(told(&mut tags, &[7]), (Some(7), vec![]));
        assert_eq!(told(&mut tags, &[9]), (Some(9), vec![]));
        assert!(tags.settled.is_empty() && tags.past.is_empty());
    }

    #[test]
    fn what_was_given_back_holds_nothing_up_and_is_not_acked() {
        let mut tags = Tags::default();
        tags.settle(1, None);
        assert_eq!((tags.waiting(), told(&mut tags, &[])), (0, (None, vec![])));
        tags.settle(3, None);
        assert_eq!(told(&mut tags, &[2]), (Some(2), vec![]));
        assert_eq!(told(&mut tags, &[4]), (Some(4), vec![]));
    }

    #[test]
    fn one_that_is_stuck_does_not_make_it_grow() {
        let mut tags = Tags::default();
        for tag in 2..1000 {
            assert_eq!(told(&mut tags, &[tag]), (None, vec![tag]));
            assert_eq!((tags.settled.len(), tags.past.len()), (0, 1));
        }
        assert_eq!(told(&mut tags, &[1, 1000]), (Some(1000), vec![]));
        assert!(tags.past.is_empty());
    }

    #[test]
    fn any_order_ends_with_everything_told_once() {
        // A fixed walk through 1..=1000 in a mixed order: 379 and 1009 have no common factor.
        let mut tags = Tags::default();
        let mut told = std::collections::BTreeSet::new();
        for step in 1..1009u64 {
            let tag = step * 379 % 1009;
            tags.settle(tag, Some(None));
            if step % 7 == 0 || step == 1008 {
                let Batch { multiple, single, counted } = tags.take();
                let before = told.len();
                for tag in single {
                    assert!(told.insert(tag), "{tag} was told twice");
                }
                for tag in 1..=multiple.unwrap_or(0) {
                    told.insert(tag);
                }
                assert_eq!(told.len() - before, counted.len());
            }
        }
        assert_eq!(told.len(), 1008);
        assert!(tags.settled.is_empty() && tags.past.is_empty());
    }
}
