//! Confirmed publishing, in order, with many in flight.
//!
//! One task owns the channel. It keeps every message until its confirm has come, so that after a
//! lost connection the unconfirmed ones go out again in their old order, before anything new.
//! Room in the window is what a permit holds; it comes back with the confirm.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use busway_transport::{Commit, Host, MessageId, Notice, Receipt, Topic, TransportError};
use bytes::Bytes;
use futures::FutureExt;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{Acker, BasicProperties, Channel, Confirmation};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch};

use crate::address::Settings;
use crate::connection::{Link, backoff};
use crate::error::{self, timed_out, within};
use crate::rebind::Rebind;
use crate::tasks::{Phase, PhaseWatch, Tasks};
use crate::topology::{self, Declare, Stand};

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) id: MessageId,
    /// What it is called in errors.
    pub(crate) what: String,
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    /// Whether the receipt must tell that it reached no queue.
    pub(crate) mandatory: bool,
    pub(crate) properties: BasicProperties,
    pub(crate) payload: Bytes,
    /// What it needs to be there; declared once per connection.
    pub(crate) needs: Option<Stand>,
    /// The delivery that it replaces: pointless once that has gone back to the broker.
    pub(crate) replaces: Option<Acker>,
}

/// How long room may be kept from those who wait for it.
const LINGER: Duration = Duration::from_millis(5);

type Answer = Result<Receipt, TransportError>;

struct Job {
    out: Arc<Outgoing>,
    done: oneshot::Sender<Answer>,
    room: OwnedSemaphorePermit,
}

impl Job {
    /// Gives the answer, and the room back.
    fn end(self, answer: Answer, told: Option<&Arc<dyn Host>>) -> OwnedSemaphorePermit {
        // Nobody waits when the publisher's future was dropped: then the bus is told of failures.
        if let Err(Err(error)) = self.done.send(answer)
            && let Some(host) = told
            && let Ok(topic) = Topic::new(&self.out.what)
        {
            host.notice(Notice::PublishFailed { topic, reason: error.to_string() });
        }
        self.room
    }
}

/// Publishes on a channel of its own. Clones share it.
#[derive(Clone)]
pub(crate) struct Publisher {
    window: Arc<Semaphore>,
    jobs: mpsc::Sender<Job>,
    committed: Arc<AtomicU64>,
    /// All jobs before this one have ended.
    ended: watch::Receiver<u64>,
    link: Link,
}

/// Room for one message.
pub(crate) struct Slot {
    room: OwnedSemaphorePermit,
    jobs: mpsc::Sender<Job>,
    committed: Arc<AtomicU64>,
}

impl Publisher {
    pub(crate) fn start(
        settings: Arc<Settings>,
        link: Link,
        exchanges: Vec<Declare>,
        told: Option<Arc<dyn Host>>,
        rebind: Rebind,
        tasks: &Tasks,
        phase: PhaseWatch,
    ) -> Self {
        let window = Arc::new(Semaphore::new(settings.window));
        // A job holds room in the window until it has ended, so this never holds more.
        let (jobs, queue) = mpsc::channel(settings.window);
        let (ended_by, ended) = watch::channel(0);
        let worker = Worker {
            window: window.clone(),
            room: Vec::new(),
            limit: settings.window,
            settings,
            link: link.clone(),
            exchanges,
            told,
            rebind,
            phase,
            jobs: queue,
            unconfirmed: BTreeMap::new(),
            returned: HashSet::new(),
            next: 0,
            suspects: 0,
            ended: ended_by,
        };
        tasks.spawn(worker.run());
        Self { window, jobs, committed: Arc::new(AtomicU64::new(0)), ended, link }
    }

    /// Room now, or `None`. While the connection is lost nothing new is taken.
    pub(crate) fn try_reserve(&self) -> Result<Option<Slot>, TransportError> {
        if !self.link.is_up()? {
            return Ok(None);
        }
        match self.window.clone().try_acquire_owned() {
            Ok(room) => Ok(Some(self.slot(room))),
            Err(TryAcquireError::NoPermits) => Ok(None),
            Err(TryAcquireError::Closed) => Err(TransportError::Closed),
        }
    }

    /// Waits for room, in order, and for the connection.
    pub(crate) async fn reserve(&self) -> Result<Slot, TransportError> {
        let room = self.window.clone().acquire_owned().await.map_err(|_| TransportError::Closed)?;
        self.link.up().await?;
        Ok(self.slot(room))
    }

    fn slot(&self, room: OwnedSemaphorePermit) -> Slot {
        Slot { room, jobs: self.jobs.clone(), committed: self.committed.clone() }
    }

    /// Publishes and waits for the confirm.
    pub(crate) async fn send(&self, out: Outgoing) -> Answer {
        self.reserve().await?.commit(out).await
    }

    /// Waits until everything committed before this call has ended.
    pub(crate) async fn flush(&self, deadline: Instant) -> Result<(), TransportError> {
        let goal = self.committed.load(Ordering::Acquire);
        let mut ended = self.ended.clone();
        let waiting = ended.wait_for(|ended| *ended >= goal).map(|_| ());
        let start = Instant::now();
        tokio::time::timeout_at(deadline.into(), waiting)
            .await
            .map_err(|_| timed_out("waiting for confirms", deadline - start))
    }
}

impl Slot {
    /// Hands a message over, in the order of these calls.
    pub(crate) fn commit(self, out: Outgoing) -> BoxFuture<'static, Answer> {
        let id = out.id;
        let (done, answer) = oneshot::channel();
        let job = Job { out: Arc::new(out), done, room: self.room };
        self.committed.fetch_add(1, Ordering::AcqRel);
        if let Err(error) = self.jobs.try_send(job) {
            // Never full: see `start`. Closed with the bus.
            drop(error.into_inner().end(Err(TransportError::Closed), None));
        }
        Box::pin(async move {
            answer.await.unwrap_or_else(|_| {
                let reason = "the bus closed".to_owned();
                Err(TransportError::Unconfirmed { id, reached: 0, reason })
            })
        })
    }

    /// As [`commit`](Self::commit), as the contract has it.
    pub(crate) fn commit_event(self, out: Outgoing) -> Commit {
        Commit::Pending(self.commit(out))
    }
}

struct Worker {
    settings: Arc<Settings>,
    link: Link,
    exchanges: Vec<Declare>,
    /// Who hears of failures for which nobody waits.
    told: Option<Arc<dyn Host>>,
    rebind: Rebind,
    phase: PhaseWatch,
    jobs: mpsc::Receiver<Job>,
    window: Arc<Semaphore>,
    /// Room that was used and is not given back yet; see [`Worker::make_room`].
    room: Vec<OwnedSemaphorePermit>,
    limit: usize,
    /// Everything taken and not ended, by number.
    unconfirmed: BTreeMap<u64, Job>,
    next: u64,
    /// The mandatory ones of these that came back.
    returned: HashSet<u64>,
    /// How many messages may be the one for which the broker closed the channel. While there are
    /// any, one goes at a time, so that the next such error has one culprit.
    suspects: usize,
    ended: watch::Sender<u64>,
}

/// Why a channel is no longer used.
enum Lost {
    /// The bus closed.
    Closed,
    /// The connection or the channel is gone.
    Channel,
}

impl Worker {
    async fn run(mut self) {
        let mut delays = backoff();
        loop {
            let phase = self.phase.clone();
            let connection = tokio::select! {
                () = phase.reached(Phase::Closed) => break self.fail_all(&TransportError::Closed),
                up = self.link.up() => match up {
                    Ok(connection) => connection,
                    Err(error) => break self.fail_all(&error),
                }
            };
            let before = *self.ended.borrow();
            match self.open(&connection).await {
                Ok(channel) => {
                    if matches!(self.publish_on(&channel).await, Lost::Closed) {
                        break self.fail_all(&TransportError::Closed);
                    }
                }
                Err(error) if error::is_final(&error) => {
                    // Neither these nor later ones have a chance until somebody changes the
                    // broker; later ones find out for themselves.
                    for job in std::mem::take(&mut self.unconfirmed).into_values() {
                        drop(job.end(Err(error.clone()), self.told.as_ref()));
                    }
                    self.tell();
                }
                Err(_) => {}
            }
            self.room.clear();
            // Progress earns a quick return.
            if *self.ended.borrow() > before {
                delays = backoff();
            }
            if let Some(delay) = delays.next() {
                tokio::select! {
                    () = phase.reached(Phase::Closed) => {}
                    () = tokio::time::sleep(delay) => {}
                }
            }
        }
    }

    async fn open(&self, connection: &lapin::Connection) -> Result<Channel, TransportError> {
        let channel =
            within(&self.settings, "opening a channel", connection.create_channel()).await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        within(&self.settings, "asking for confirms", confirm).await?;
        let declare = topology::apply(&channel, &self.exchanges);
        within(&self.settings, "declaring exchanges", declare).await?;
        Ok(channel)
    }

    /// Publishes until the channel or the bus ends. What is unconfirmed goes out first.
    async fn publish_on(&mut self, channel: &Channel) -> Lost {
        let phase = self.phase.clone();
        let mut to_send: VecDeque<u64> = self.unconfirmed.keys().copied().collect();
        let mut flying = FuturesUnordered::new();
        let mut declared = HashSet::new();
        self.returned.clear();
        let linger = tokio::time::sleep(LINGER);
        tokio::pin!(linger);
        let mut lingering = false;
        loop {
            let keeps = self.make_room(false);
            if keeps && !lingering {
                linger.as_mut().reset(tokio::time::Instant::now() + LINGER);
            }
            lingering = keeps;
            let limit = if self.suspects > 0 { 1 } else { self.limit };
            while let Some(number) = to_send.front().copied() {
                let Some(job) = self.unconfirmed.get(&number) else {
                    to_send.pop_front();
                    continue;
                };
                let out = job.out.clone();
                if flying.len() >= limit {
                    break;
                }
                to_send.pop_front();
                if out.replaces.as_ref().is_some_and(|acker| !acker.usable()) {
                    let reason = "the delivery went back to the broker".into();
                    self.end(number, Err(TransportError::Disconnected { reason }));
                    continue;
                }
                if let Some(needs) = &out.needs
                    && !declared.contains(&needs.queue)
                {
                    let declare = topology::apply(channel, &needs.declare);
                    if let Err(error) = within(&self.settings, &out.what, declare).await {
                        if error::is_final(&error) {
                            self.end(number, Err(error));
                        }
                        return Lost::Channel;
                    }
                    declared.insert(needs.queue.clone());
                }
                flying.push(fly(channel.clone(), number, out));
            }
            tokio::select! {
                biased;
                () = phase.reached(Phase::Closed) => return Lost::Closed,
                // `len` and not `is_empty`: the stream of no futures has ended, not pending.
                Some(first) = flying.next(), if !flying.is_empty() => {
                    if let Err((number, error)) = self.confirmed(channel, first, &mut flying, &mut declared) {
                        self.broken(number, flying.len(), &error);
                        return Lost::Channel;
                    }
                }
                () = &mut linger, if lingering => {
                    self.make_room(true);
                }
                job = self.jobs.recv(), if to_send.is_empty() => match job {
                    Some(job) => {
                        to_send.push_back(self.accept(job));
                        // All that is there at once: fewer turns of this loop.
                        while to_send.len() + flying.len() < self.limit
                            && let Ok(job) = self.jobs.try_recv()
                        {
                            to_send.push_back(self.accept(job));
                        }
                    }
                    None => return Lost::Closed,
                },
            }
        }
    }

    fn accept(&mut self, job: Job) -> u64 {
        let number = self.next;
        self.unconfirmed.insert(number, job);
        self.next += 1;
        number
    }

    /// Takes in all confirms that are there, `first` and others.
    ///
    /// Whether a mandatory message reached a queue is known only when all confirms of its batch
    /// are: the broker returns a message before it confirms it, but lapin hands each return to any
    /// confirm of the batch that it resolves, so they are matched by message id, and nothing is
    /// said before the whole batch was looked through.
    fn confirmed<F: Future<Output = Flown>>(
        &mut self,
        channel: &Channel,
        first: Flown,
        flying: &mut FuturesUnordered<F>,
        declared: &mut HashSet<ShortString>,
    ) -> Result<(), (u64, lapin::Error)> {
        let mut mandatory = Vec::new();
        let mut next = Some(first);
        while let Some((number, outcome)) = next {
            self.suspects = self.suspects.saturating_sub(1);
            let (taken, returned) = match outcome.map_err(|error| (number, error))? {
                Confirmation::Ack(returned) => (true, returned),
                Confirmation::Nack(returned) => (false, returned),
                Confirmation::NotRequested => (true, None),
            };
            if let Some(returned) = returned {
                self.came_back(&returned);
            }
            match self.unconfirmed.get(&number) {
                Some(job) if job.out.mandatory && taken => mandatory.push(number),
                Some(job) if !taken => {
                    // A queue is full (reject-publish), or failed: the broker does not say which.
                    let (topic, id) = (job.out.what.clone(), job.out.id);
                    self.end(number, Err(TransportError::GroupFull { topic, id }));
                }
                // The broker confirms what it could route to nobody, too.
                _ => self.end(number, Ok(Receipt::unknown())),
            }
            next = flying.next().now_or_never().flatten();
            if next.is_none() && !mandatory.is_empty() {
                // lapin resolves a batch under a lock that this takes: the batch is over then.
                let _ = channel.wait_for_confirms().now_or_never();
                next = flying.next().now_or_never().flatten();
                if next.is_none() {
                    self.routed(&mut mandatory, declared);
                }
            }
        }
        Ok(())
    }

    /// A message that no queue took came back.
    fn came_back(&mut self, message: &BasicReturnMessage) {
        let id = message.properties.message_id();
        let its = self.unconfirmed.iter().find(|(number, job)| {
            job.out.mandatory
                && job.out.properties.message_id() == id
                && !self.returned.contains(number)
        });
        if let Some((number, _)) = its {
            self.returned.insert(*number);
        }
    }

    /// Says of mandatory messages whether a queue took them.
    fn routed(&mut self, mandatory: &mut Vec<u64>, declared: &mut HashSet<ShortString>) {
        for number in mandatory.drain(..) {
            let returned = self.returned.remove(&number);
            if returned
                && let Some(job) = self.unconfirmed.get(&number)
                && let Some(needs) = &job.out.needs
            {
                // What it needed was declared, and has been deleted since.
                declared.remove(&needs.queue);
            }
            self.end(number, Ok(Receipt::somebody(!returned)));
        }
    }

    /// The channel ended while `number` and `others` were under way.
    fn broken(&mut self, number: u64, others: usize, error: &lapin::Error) {
        if !error::is_channel_error(error) {
            return;
        }
        if error::code(error) == Some(404) {
            self.rebind.found();
        }
        if others == 0 {
            self.suspects = self.suspects.saturating_sub(1);
            if let Some(job) = self.unconfirmed.get(&number) {
                let answer = match error::calling(&self.settings, &job.out.what, error) {
                    TransportError::Disconnected { reason } => {
                        TransportError::Rejected { what: job.out.what.clone(), reason }
                    }
                    other => other,
                };
                self.end(number, Err(answer));
            }
        } else {
            self.suspects = others + 1;
        }
    }

    fn end(&mut self, number: u64, answer: Answer) {
        if let Some(job) = self.unconfirmed.remove(&number) {
            let room = job.end(answer, self.told.as_ref());
            self.room.push(room);
        }
        self.tell();
    }

    /// Gives room back; while publishers wait for it, a quarter of the window at once, or what
    /// there is after [`LINGER`]. Each wake would else be for one message, and cost more than it.
    /// Says whether some is kept.
    fn make_room(&mut self, lingered: bool) -> bool {
        let enough = self.room.len() * 4 >= self.limit || self.unconfirmed.is_empty();
        if lingered || enough || self.window.available_permits() > 0 {
            self.room.clear();
        }
        !self.room.is_empty()
    }

    fn tell(&self) {
        let ended = self.unconfirmed.keys().next().copied().unwrap_or(self.next);
        self.ended.send_replace(ended);
    }

    /// The end: what was taken is unconfirmed, what comes later is refused.
    fn fail_all(&mut self, error: &TransportError) {
        self.jobs.close();
        while let Ok(job) = self.jobs.try_recv() {
            self.accept(job);
        }
        for job in std::mem::take(&mut self.unconfirmed).into_values() {
            let (id, reason) = (job.out.id, error.to_string());
            let answer = Err(TransportError::Unconfirmed { id, reached: 0, reason });
            drop(job.end(answer, self.told.as_ref()));
        }
        self.room.clear();
        self.tell();
    }
}

/// A message that is under way, and what came of it.
type Flown = (u64, Result<Confirmation, lapin::Error>);

/// Publishes and waits for the confirm. Its frame is queued at the first poll.
async fn fly(channel: Channel, number: u64, out: Arc<Outgoing>) -> Flown {
    let options = BasicPublishOptions { mandatory: out.mandatory, immediate: false };
    let (exchange, key) = (out.exchange.clone(), out.key.clone());
    let properties = out.properties.clone();
    let sent = channel.basic_publish(exchange, key, options, &out.payload, properties).await;
    let outcome = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    (number, outcome)
}
