//! A connection that comes back. lapin's own recovery stays off: it returns before the topology
//! stands, and gives up for ever when its retries are used up.
//!
//! A bus has two links: RabbitMQ blocks publishing connections when it runs short of memory or
//! disk, and everything on a blocked connection hangs, so acks must not be on it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use busway_transport::{PeerId, TransportError};
use futures::{Stream, StreamExt};
use lapin::{Connection, Event};
use tokio::sync::watch;

use crate::address::Settings;
use crate::dial::dial;
use crate::error::{self, timed_out};
use crate::status::{Board, LinkStatus, Role};
use crate::tasks::{Phase, PhaseWatch, Tasks};

/// How long one attempt to come back may take: lapin's handshake has no limit of its own.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How often a connection is looked at, should its event have been missed.
const LOOK: Duration = Duration::from_millis(500);
/// How long lapin has to tell everybody that a connection is lost.
const GRACE: Duration = Duration::from_secs(1);
/// How long a goodbye to the broker may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// The delays between attempts: 50 ms to 1 s, with jitter.
pub(crate) fn backoff() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

#[derive(Clone)]
enum State {
    Up(Arc<Connection>),
    Down,
    /// It will not come back.
    Final(TransportError),
}

/// One supervised connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Link(watch::Receiver<State>);

impl Link {
    /// Waits for a connection that is up. An error is final.
    pub(crate) async fn up(&self) -> Result<Arc<Connection>, TransportError> {
        let mut state = self.0.clone();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                // One that broke and whose supervisor does not know yet is as good as down.
                State::Up(connection) if connection.status().connected() => return Ok(connection),
                State::Final(error) => return Err(error),
                State::Up(_) | State::Down => {}
            }
            if state.changed().await.is_err() {
                return Err(TransportError::Closed);
            }
        }
    }

    /// Whether it is up now; an error is final.
    pub(crate) fn is_up(&self) -> Result<bool, TransportError> {
        match &*self.0.borrow() {
            State::Up(connection) => Ok(connection.status().connected()),
            State::Down => Ok(false),
            State::Final(error) => Err(error.clone()),
        }
    }

    /// Waits until a connection is lost, and a while longer: by then lapin has ended what was on it,
    /// or has missed something that came at the same moment, and never will.
    pub(crate) async fn long_gone(&self, connection: &Arc<Connection>) {
        let is_up = |state: &State| matches!(state, State::Up(now) if Arc::ptr_eq(now, connection));
        // Fails when the supervisor has ended, which was the end of the connection.
        let _ = self.0.clone().wait_for(|state| !is_up(state)).await;
        tokio::time::sleep(GRACE).await;
    }

    /// One that is down, and for which nobody cares.
    #[cfg(test)]
    pub(crate) fn down() -> Self {
        Self(watch::channel(State::Down).1)
    }

    /// Takes a connection into care.
    pub(crate) fn supervise(
        care: Care,
        first: (Connection, Events),
        tasks: &Tasks,
        phase: PhaseWatch,
    ) -> Self {
        let (connection, events) = first;
        let connection = Arc::new(connection);
        let (state, seen) = watch::channel(State::Up(connection.clone()));
        tasks.spawn(care.run(state, connection, events, phase));
        Self(seen)
    }
}

pub(crate) type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// What a supervisor needs.
#[derive(Clone)]
pub(crate) struct Care {
    pub(crate) settings: Arc<Settings>,
    pub(crate) peer: PeerId,
    pub(crate) role: Role,
    pub(crate) board: Arc<Board>,
}

impl Care {
    /// Connects once, within `limit`. The events are taken here and only here: lapin hands each
    /// event to one of its listeners, not to all.
    pub(crate) async fn dial(
        self,
        limit: Duration,
    ) -> Result<(Connection, Events), TransportError> {
        let name = format!("busway {} {} {}", self.settings.bus, self.peer, self.role.as_str());
        match tokio::time::timeout(limit, dial(&self.settings, name)).await {
            Ok(Ok(connection)) => {
                let events = Box::pin(connection.events_listener());
                Ok((connection, events))
            }
            Ok(Err(error)) => Err(error::connecting(&self.settings, &error)),
            Err(_) => Err(timed_out(&format!("connecting to {}", self.settings.shown), limit)),
        }
    }

    async fn run(
        self,
        state: watch::Sender<State>,
        mut connection: Arc<Connection>,
        mut events: Events,
        phase: PhaseWatch,
    ) {
        loop {
            let Some(reason) = self.watch(&connection, &mut events, &phase).await else {
                state.send_replace(State::Final(TransportError::Closed));
                if connection.status().connected() {
                    let goodbye = connection.close(200, "goodbye".into());
                    let _ = tokio::time::timeout(GOODBYE, goodbye).await;
                }
                return;
            };
            state.send_replace(State::Down);
            drop(connection);
            match self.come_back(reason, &phase).await {
                Ok((again, its_events)) => {
                    connection = Arc::new(again);
                    events = its_events;
                    state.send_replace(State::Up(connection.clone()));
                    self.board.set(self.role, LinkStatus::Up);
                }
                Err(error) => {
                    state.send_replace(State::Final(error.clone()));
                    if !matches!(error, TransportError::Closed) {
                        tracing::error!(%error, "the connection will not come back");
                        self.board.set(self.role, LinkStatus::Gone);
                    }
                    return;
                }
            }
        }
    }

    /// Watches a connection until it is lost (the reason) or the bus closes (`None`).
    async fn watch(
        &self,
        connection: &Connection,
        events: &mut Events,
        phase: &PhaseWatch,
    ) -> Option<String> {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = phase.reached(Phase::Closed) => return None,
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        self.board.set(self.role, LinkStatus::Blocked(reason));
                    }
                    Some(Event::ConnectionUnblocked) => self.board.set(self.role, LinkStatus::Up),
                    // A channel's error comes here as well.
                    Some(Event::Error(error)) if !connection.status().connected() => {
                        return Some(error.to_string());
                    }
                    Some(_) => {}
                    None => return Some("the connection ended".into()),
                },
                _ = look.tick() => if !connection.status().connected() {
                    return Some("the connection was closed".into());
                }
            }
        }
    }

    async fn come_back(
        &self,
        reason: String,
        phase: &PhaseWatch,
    ) -> Result<(Connection, Events), TransportError> {
        tracing::warn!(role = self.role.as_str(), %reason, "lost the connection to the broker");
        let mut last_error = reason;
        for (attempt, delay) in (1u32..).zip(backoff()) {
            let status = LinkStatus::Down { attempt: attempt - 1, last_error: last_error.clone() };
            self.board.set(self.role, status);
            let trying = async {
                tokio::time::sleep(delay).await;
                self.clone().dial(ATTEMPT).await
            };
            let outcome = tokio::select! {
                () = phase.reached(Phase::Closed) => return Err(TransportError::Closed),
                outcome = trying => outcome,
            };
            match outcome {
                Ok(connected) => return Ok(connected),
                Err(denied @ TransportError::Denied { .. }) => return Err(denied),
                Err(other) => last_error = other.to_string(),
            }
        }
        Err(TransportError::Closed)
    }
}
