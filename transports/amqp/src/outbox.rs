//! What was taken to be published and is not confirmed yet.
//!
//! Every message is kept until its confirm has come, so that after a lost connection the
//! unconfirmed ones go out again in their old order, before anything new. Whoever holds the lock
//! takes everything as far as it goes: publishers write their messages themselves and take in what
//! confirms they find; what nobody else sees to is left to the [`Sender`](crate::sender::Sender)'s
//! task. Answers are given, and others woken, under no lock.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use busway_transport::{Host, MessageId, Notice, Topic, TransportError};
use futures::stream::FuturesUnordered;
use lapin::types::ShortString;
use lapin::{Acker, Channel};
use tokio::sync::{Semaphore, oneshot, watch};

use crate::address::Settings;
use crate::express::Short;
use crate::flight::{Cargo, Flight};
use crate::publish::{Answer, Outgoing};
use crate::rebind::Rebind;
use crate::shared::lock;
use crate::topology::Stand;

pub(crate) struct Outbox {
    pub(crate) window: Arc<Semaphore>,
    state: Mutex<State>,
    /// All messages before this one have ended.
    ended: watch::Sender<u64>,
    /// Who hears of failures for which nobody waits.
    told: Option<Arc<dyn Host>>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) rebind: Rebind,
}

/// A message that was taken, and who hears of its end.
pub(crate) enum Job {
    Whole(Box<Outgoing>, oneshot::Sender<Answer>),
    Short(Short),
}

pub(crate) struct State {
    /// Everything taken and not ended, by number.
    pub(crate) unconfirmed: BTreeMap<u64, Job>,
    next: u64,
    /// All from this one on are still to be written to this channel.
    unwritten: u64,
    pub(crate) channel: Option<Arc<Channel>>,
    pub(crate) flying: FuturesUnordered<Flight<u64>>,
    /// What stands on the broker for sure, on this connection.
    pub(crate) declared: HashSet<ShortString>,
    /// The mandatory ones that came back.
    pub(crate) returned: HashSet<u64>,
    /// How many messages may be the one for which the broker closed the channel. While there are
    /// any, one goes at a time, so that the next such error has one culprit.
    pub(crate) suspects: usize,
    /// What has ended, until the lock is given back.
    ended: Vec<(Job, Answer)>,
    /// How many tell of what has ended just now.
    tellers: usize,
    /// Room that was used and is not given back yet; see [`room_to_give`](Self::room_to_give).
    room: usize,
    limit: usize,
    /// Whether the sender's task will give back what room is kept.
    lingers: bool,
    closed: bool,
    /// Of the sender's task.
    waker: Waker,
}

/// What only the sender's task can do.
pub(crate) enum Next {
    /// Declares what a message needs.
    Declare(u64, Stand),
    /// The channel is gone.
    Open,
}

impl Outbox {
    pub(crate) fn new(
        settings: Arc<Settings>,
        told: Option<Arc<dyn Host>>,
        rebind: Rebind,
    ) -> Self {
        let state = State {
            unconfirmed: BTreeMap::new(),
            next: 0,
            unwritten: 0,
            channel: None,
            flying: FuturesUnordered::new(),
            declared: HashSet::new(),
            returned: HashSet::new(),
            suspects: 0,
            ended: Vec::new(),
            tellers: 0,
            room: 0,
            limit: settings.window,
            lingers: false,
            closed: false,
            waker: Waker::noop().clone(),
        };
        Self {
            window: Arc::new(Semaphore::new(settings.window)),
            state: Mutex::new(state),
            ended: watch::Sender::new(0),
            told,
            settings,
            rebind,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes a message, whose room in the window was taken before.
    pub(crate) fn put(&self, job: Job) {
        let mut state = self.state();
        if state.closed {
            drop(state);
            self.window.add_permits(1);
            return job.end(Err(TransportError::Closed), None);
        }
        let number = state.next;
        state.next += 1;
        state.unconfirmed.insert(number, job);
        let waker = state.waker.clone();
        let next = state.turn(self, &mut Context::from_waker(&waker));
        let room = state.room_to_give(self.window.available_permits());
        // Whoever publishes may hold locks of the bus: others are answered by the task.
        let others = state.ended.iter().any(|(job, _)| matches!(job, Job::Whole(..)));
        if others {
            drop(state);
            self.window.add_permits(room);
        } else {
            self.leave(state, room);
        }
        if next.is_some() || others {
            waker.wake();
        }
    }

    /// For the sender's task: goes on as far as it can. `lingered`: room was kept for long enough.
    /// Says as well whether room is kept, which is to be given back in a while.
    pub(crate) fn poll(&self, context: &mut Context<'_>, lingered: bool) -> (Poll<Next>, bool) {
        let mut state = self.state();
        state.waker.clone_from(context.waker());
        state.lingers = true;
        let next = match state.channel {
            Some(_) => state.turn(self, context),
            None => Some(Next::Open),
        };
        let mut room = state.room_to_give(self.window.available_permits());
        if lingered || next.is_some() {
            room += std::mem::take(&mut state.room);
        }
        state.lingers = state.room > 0;
        let keeps = state.lingers;
        self.leave(state, room);
        (next.map_or(Poll::Pending, Poll::Ready), keeps)
    }

    /// Gives the lock back, and tells what came of it.
    fn leave(&self, mut state: MutexGuard<'_, State>, room: usize) {
        let ended = std::mem::take(&mut state.ended);
        state.tellers += usize::from(!ended.is_empty());
        drop(state);
        if room > 0 {
            self.window.add_permits(room);
        }
        if ended.is_empty() {
            return;
        }
        for (job, answer) in ended {
            job.end(answer, self.told.as_ref());
        }
        let mut state = self.state();
        state.tellers -= 1;
        // Else another one says it, who still has something to tell.
        if state.tellers == 0 && state.ended.is_empty() {
            let first = state.unconfirmed.keys().next().copied().unwrap_or(state.next);
            drop(state);
            // Another one may have said more meanwhile.
            self.ended
                .send_if_modified(|ended| std::mem::replace(ended, first.max(*ended)) < first);
        }
    }

    /// Waits until everything that was put before this call has ended.
    pub(crate) async fn all_ended(&self) {
        let goal = self.state().next;
        // Fails only without the outbox.
        let _ = self.ended.subscribe().wait_for(|ended| *ended >= goal).await;
    }

    /// How many have ended.
    pub(crate) fn progress(&self) -> u64 {
        *self.ended.borrow()
    }

    /// A new channel: what is unconfirmed goes out first.
    pub(crate) fn open(&self, channel: Arc<Channel>) {
        let mut state = self.state();
        state.unwritten = 0;
        state.returned.clear();
        state.declared.clear();
        state.channel = Some(channel);
    }

    /// Nothing more is written to the channel.
    pub(crate) fn lost(&self) {
        let mut state = self.state();
        state.channel = None;
        state.flying = FuturesUnordered::new();
        let room = std::mem::take(&mut state.room);
        self.leave(state, room);
    }

    /// What a message needs stands on the broker.
    pub(crate) fn declared(&self, stand: Stand) {
        self.state().declared.insert(stand.queue);
    }

    /// A message has failed.
    pub(crate) fn fail(&self, number: u64, error: TransportError) {
        let mut state = self.state();
        state.end(number, Err(error));
        self.leave(state, 0);
    }

    /// What a message is called in errors.
    pub(crate) fn what(&self, number: u64) -> String {
        self.state().unconfirmed.get(&number).map(|job| job.what().to_owned()).unwrap_or_default()
    }

    /// All that was taken has failed; more may come.
    pub(crate) fn fail_all(&self, error: &TransportError) {
        let mut state = self.state();
        while let Some((number, _)) = state.unconfirmed.first_key_value() {
            let number = *number;
            state.end(number, Err(error.clone()));
        }
        let room = std::mem::take(&mut state.room);
        self.leave(state, room);
    }

    /// The end: what was taken is unconfirmed, what comes later is refused.
    pub(crate) fn close(&self, error: &TransportError) {
        let mut state = self.state();
        state.closed = true;
        state.channel = None;
        state.flying = FuturesUnordered::new();
        state.waker = Waker::noop().clone();
        while let Some((number, job)) = state.unconfirmed.first_key_value() {
            let (number, id, reason) = (*number, job.id(), error.to_string());
            state.end(number, Err(TransportError::Unconfirmed { id, reached: 0, reason }));
        }
        let room = std::mem::take(&mut state.room);
        self.leave(state, room);
    }
}

impl State {
    /// Writes what waits and takes in what has come, until there is nothing more of either.
    fn turn(&mut self, outbox: &Outbox, context: &mut Context<'_>) -> Option<Next> {
        loop {
            let channel = self.channel.clone()?;
            let needs = self.write(&channel);
            match self.hear(&channel, context) {
                Ok(true) => {}
                Ok(false) => return needs,
                Err((number, error)) => {
                    self.broken(outbox, number, &error);
                    self.channel = None;
                    return Some(Next::Open);
                }
            }
        }
    }

    /// Writes all that waits, in order, up to one that needs something first.
    fn write(&mut self, channel: &Arc<Channel>) -> Option<Next> {
        let limit = if self.suspects > 0 { 1 } else { self.limit };
        while self.unwritten < self.next && self.flying.len() < limit {
            let Some((&number, job)) = self.unconfirmed.range(self.unwritten..).next() else {
                self.unwritten = self.next;
                break;
            };
            if !job.is_wanted() {
                let reason = "the delivery went back to the broker".into();
                self.end(number, Err(TransportError::Disconnected { reason }));
                continue;
            }
            if let Some(needs) = job.needs()
                && !self.declared.contains(&needs.queue)
            {
                return Some(Next::Declare(number, needs.clone()));
            }
            self.unwritten = number + 1;
            self.flying.push(Flight::new(number, channel.clone(), job.cargo()));
        }
        None
    }

    /// A message has ended.
    pub(crate) fn end(&mut self, number: u64, answer: Answer) {
        if let Some(job) = self.unconfirmed.remove(&number) {
            self.room += 1;
            self.ended.push((job, answer));
        }
    }

    /// The room to give back now: while publishers wait for it a quarter of the window at once, or
    /// what there is after a while. Each wake would else be for one message, and cost more than it.
    fn room_to_give(&mut self, free: usize) -> usize {
        let enough = self.room * 4 >= self.limit || self.unconfirmed.is_empty();
        if enough || free > 0 {
            return std::mem::take(&mut self.room);
        }
        if self.room > 0 && !self.lingers {
            self.waker.wake_by_ref();
        }
        0
    }
}

impl Job {
    pub(crate) fn id(&self) -> MessageId {
        match self {
            Self::Whole(out, _) => out.id,
            Self::Short(short) => short.id,
        }
    }

    /// What it is called in errors.
    pub(crate) fn what(&self) -> &str {
        match self {
            Self::Whole(out, _) => &out.what,
            Self::Short(short) => short.form.what(),
        }
    }

    /// Whether it must be told that it reached no queue.
    pub(crate) fn is_mandatory(&self) -> bool {
        matches!(self, Self::Whole(out, _) if out.mandatory)
    }

    /// Whether it is the mandatory message with this id.
    pub(crate) fn came_back(&self, id: &Option<ShortString>) -> bool {
        matches!(self, Self::Whole(out, _) if out.mandatory && out.properties.message_id() == id)
    }

    /// What has to stand on the broker first.
    pub(crate) fn needs(&self) -> Option<&Stand> {
        match self {
            Self::Whole(out, _) => out.needs.as_ref(),
            Self::Short(_) => None,
        }
    }

    /// Not when the delivery that it replaces has gone back to the broker.
    fn is_wanted(&self) -> bool {
        match self {
            Self::Whole(out, _) => out.replaces.as_ref().is_none_or(Acker::usable),
            Self::Short(_) => true,
        }
    }

    fn cargo(&self) -> Cargo {
        match self {
            Self::Whole(out, _) => out.cargo(),
            Self::Short(short) => short.cargo(),
        }
    }

    /// Gives the answer.
    fn end(self, answer: Answer, told: Option<&Arc<dyn Host>>) {
        match self {
            Self::Whole(out, done) => {
                // Nobody waits when the publisher's future was dropped: then the bus is told of
                // failures.
                if let Err(Err(error)) = done.send(answer)
                    && let Some(host) = told
                    && let Ok(topic) = Topic::new(&out.what)
                {
                    host.notice(Notice::PublishFailed { topic, reason: error.to_string() });
                }
            }
            Self::Short(short) => short.ended(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use futures::task::{ArcWake, waker};

    use super::*;
    use crate::connection::Link;
    use crate::sender::Sender;
    use crate::tasks::PhaseWatch;

    fn outbox() -> Arc<Outbox> {
        let settings = Settings::parse(&"amqp://h?bus=b&window=4".parse().unwrap()).unwrap();
        Arc::new(Outbox::new(Arc::new(settings), None, Rebind::default()))
    }

    fn put(outbox: &Outbox) -> oneshot::Receiver<Answer> {
        let out = Outgoing::empty("shop.order");
        let (done, answer) = oneshot::channel();
        outbox.window.try_acquire().unwrap().forget();
        outbox.put(Job::Whole(Box::new(out), done));
        answer
    }

    /// Looks at the outbox when it is woken, and says how often it could.
    struct Looks(Arc<Outbox>, AtomicUsize);

    impl ArcWake for Looks {
        fn wake_by_ref(this: &Arc<Self>) {
            this.1.fetch_add(this.0.state.try_lock().is_ok().into(), Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_for_all_to_end_is_woken_under_no_lock() {
        let outbox = outbox();
        let _answers = [put(&outbox), put(&outbox)];
        let looks = Arc::new(Looks(outbox.clone(), AtomicUsize::new(0)));
        let waker = waker(looks.clone());
        let mut context = Context::from_waker(&waker);
        let mut all_ended = std::pin::pin!(outbox.all_ended());
        assert!(all_ended.as_mut().poll(&mut context).is_pending());
        outbox.fail(0, TransportError::Closed);
        assert!(all_ended.as_mut().poll(&mut context).is_pending());
        outbox.fail(1, TransportError::Closed);
        assert_eq!(looks.1.load(Ordering::Relaxed), 2);
        assert!(all_ended.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn room_comes_back_once_however_a_message_ends() {
        let outbox = outbox();
        let [mut first, mut second, mut third] = [put(&outbox), put(&outbox), put(&outbox)];
        assert_eq!(outbox.window.available_permits(), 1);
        outbox.fail(1, TransportError::Closed);
        outbox.fail(1, TransportError::Closed);
        assert!(matches!(second.try_recv(), Ok(Err(TransportError::Closed))));
        outbox.lost();
        assert_eq!(outbox.window.available_permits(), 2);
        outbox.fail_all(&TransportError::Closed);
        outbox.fail_all(&TransportError::Closed);
        assert!(matches!(first.try_recv(), Ok(Err(TransportError::Closed))));
        assert_eq!(outbox.window.available_permits(), 4);
        let mut fourth = put(&outbox);
        outbox.close(&TransportError::Closed);
        assert!(matches!(fourth.try_recv(), Ok(Err(TransportError::Unconfirmed { .. }))));
        assert!(matches!(third.try_recv(), Ok(Err(TransportError::Closed))));
        let mut late = put(&outbox);
        assert!(matches!(late.try_recv(), Ok(Err(TransportError::Closed))));
        assert_eq!(outbox.window.available_permits(), 4);
        assert!(outbox.all_ended().now_or_never().is_some());
    }

    #[test]
    fn nobody_waits_for_a_task_that_ended_with_its_runtime() {
        let outbox = outbox();
        let mut answer = put(&outbox);
        let (_phase, phase) = PhaseWatch::new();
        let (settings, link) = (outbox.settings.clone(), Link::down());
        let sender =
            Sender { outbox: outbox.clone(), settings, link, exchanges: Vec::new(), phase };
        drop(sender.run());
        assert!(matches!(answer.try_recv(), Ok(Err(TransportError::Unconfirmed { .. }))));
        assert!(matches!(put(&outbox).try_recv(), Ok(Err(TransportError::Closed))));
    }
}
