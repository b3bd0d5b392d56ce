//! Questions and answers in one process.

use std::future::Future;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use busway_benches::Sample;

use crate::fanout::{CAPACITY, Done, Start, check, join, sum};

/// One who answers each question with its first word, and some who ask.
pub(crate) trait Service: 'static {
    type Caller: Caller;

    fn open(callers: u64) -> impl Future<Output = Vec<Self::Caller>> + Send;
}

pub(crate) trait Caller: Send + 'static {
    fn ask(&mut self, question: [u64; 4]) -> impl Future<Output = u64> + Send;
}

/// Asks `length` questions in all; each caller waits for its answer before it asks again.
pub(crate) async fn ask<S: Service>(callers: u64, length: u64) -> Sample {
    let each = length.div_ceil(callers);
    let start = Start::of(callers as usize);
    let ask = |mut caller: S::Caller| {
        let start = start.clone();
        tokio::spawn(async move {
            start.together().await;
            let mut sum = 0;
            for number in 0..each {
                sum += caller.ask([number; 4]).await;
            }
            Done { sum, at: Instant::now() }
        })
    };
    let asking: Vec<_> = S::open(callers).await.into_iter().map(ask).collect();
    let done = join(asking).await;
    check(&done, sum(each));
    Sample::rate(each * callers, start.until_last(&done))
}

/// A task that answers, a channel to it, and a channel back for each question.
pub(crate) struct MpscOneshot;

type Asked = ([u64; 4], oneshot::Sender<u64>);

impl Service for MpscOneshot {
    type Caller = mpsc::Sender<Asked>;

    async fn open(callers: u64) -> Vec<Self::Caller> {
        let (sender, mut questions) = mpsc::channel::<Asked>(CAPACITY);
        tokio::spawn(async move {
            while let Some((question, answer)) = questions.recv().await {
                answer.send(question[0]).expect("somebody waits");
            }
        });
        (0..callers).map(|_| sender.clone()).collect()
    }
}

impl Caller for mpsc::Sender<Asked> {
    async fn ask(&mut self, question: [u64; 4]) -> u64 {
        let (sender, answer) = oneshot::channel();
        self.send((question, sender)).await.expect("open");
        answer.await.expect("answered")
    }
}
