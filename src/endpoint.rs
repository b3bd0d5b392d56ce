//! A named participant, and everything it can do.

use std::sync::Arc;
use std::time::Duration;

use busway_transport::{
    GroupKey, Interest, Name, NameError, Notice, Peer, Route, Topic, TopicFilter, TransportError,
};

use crate::bus::Core;
use crate::dead_letters::{DeadLetters, RemoveGroup};
use crate::error::{GroupError, ReadyError, SubscribeError, TryPublishError, WaitError};
use crate::event::{Event, Request};
use crate::message::Message;
use crate::publish::job::Confirmation;
use crate::publish::outlet::{Outlet, Outlets};
use crate::publish::{Publish, Publisher, Receipt};
use crate::request::{RequestCall, Respond};
use crate::router::topic::TopicNode;
use crate::subscribe::{Any, Plain, Pull, Subscribe};

/// A named participant of a bus, such as `"accounts"`. Clones are the same endpoint, and so is
/// what [`Bus::endpoint`](crate::Bus::endpoint) gives for the same name.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) bus: Arc<Core>,
    pub(crate) name: Name,
    pub(crate) outlets: Arc<Outlets>,
}

impl Endpoint {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Publishes an event to everyone interested, this endpoint included. See [`Publish`] for the
    /// options, errors, and what cancelling does.
    ///
    /// ```
    /// # use busway::{Bus, Event};
    /// # #[derive(Event, serde::Serialize, serde::Deserialize)]
    /// # #[event("docs.pinged")]
    /// # struct Pinged(u32);
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = Bus::private().await?;
    /// # let endpoint = bus.endpoint("docs")?;
    /// let receipt = endpoint.publish(Pinged(1)).await?;
    /// assert_eq!(receipt.reached(), 0); // publishing into the void is no error …
    /// let error = endpoint.publish(Pinged(2)).require_subscriber().await.unwrap_err();
    /// assert_eq!(error.to_string(), "docs.pinged: nobody is subscribed"); // … unless asked for
    /// # Ok(()) }
    /// ```
    pub fn publish<E: Event>(&self, event: E) -> Publish<'_, E> {
        Publish::new(self, event)
    }

    /// Publishes now or not at all; works from synchronous code, also outside of a runtime.
    ///
    /// # Errors
    /// [`TryPublishError`] gives the event back; its error names the one in the way.
    pub fn try_publish<E: Event>(&self, event: E) -> Result<Receipt, TryPublishError<E>> {
        self.publish(event).try_now()
    }

    /// A handle for publishing many events of one type.
    pub fn publisher<E: Event>(&self) -> Publisher<E> {
        Publisher::new(self.clone())
    }

    /// Subscribes a handler to events of one type; goes on with the options of [`Subscribe`], and
    /// ends with `for_each` or `try_for_each`.
    pub fn subscribe<E: Event>(&self) -> Subscribe<'_, E, Plain> {
        Subscribe::new(self, TopicFilter::new(E::SCHEMA.topic), Plain::default())
    }

    /// Opens a stream of events of one type; takes the options of [`Subscribe`], and is awaited.
    ///
    /// ```
    /// # use busway::{Bus, Event};
    /// # #[derive(Event, serde::Serialize, serde::Deserialize)]
    /// # #[event("docs.pinged")]
    /// # struct Pinged(u32);
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = Bus::private().await?;
    /// # let endpoint = bus.endpoint("docs")?;
    /// let mut odd = endpoint.stream::<Pinged>().filter(|ping| ping.0 % 2 == 1).await?;
    /// for number in 1..=3 {
    ///     endpoint.publish(Pinged(number)).await?;
    /// }
    /// assert_eq!(odd.next().await.expect("open")?.0, 1);
    /// assert_eq!(odd.next().await.expect("open")?.0, 3);
    /// # Ok(()) }
    /// ```
    pub fn stream<E: Event>(&self) -> Subscribe<'_, E, Pull> {
        Subscribe::new(self, TopicFilter::new(E::SCHEMA.topic), Pull::default())
    }

    /// Subscribes a handler to events of any type whose topics match a filter, such as `shop.#`:
    /// for tools, audit and bridges.
    pub fn subscribe_any(&self, filter: &str) -> Subscribe<'_, Any, Plain> {
        Subscribe::new(self, TopicFilter::new(filter), Plain::default())
    }

    /// Opens a stream of events of any type whose topics match a filter.
    pub fn stream_any(&self, filter: &str) -> Subscribe<'_, Any, Pull> {
        Subscribe::new(self, TopicFilter::new(filter), Pull::default())
    }

    /// Waits for the next event of one type. It has no deadline of its own.
    ///
    /// # Errors
    /// [`WaitError`], also when something was lost in front of the event.
    ///
    /// # Cancel safety
    /// Dropping it unsubscribes.
    pub async fn wait_for<E: Event>(&self) -> Result<Message<E>, WaitError> {
        let mut stream = self.stream::<E>().take(1).await?;
        match stream.next().await {
            Some(Ok(message)) => Ok(message),
            Some(Err(gap)) => Err(gap.into()),
            None => Err(WaitError::Closed { topic: E::SCHEMA.topic.to_owned() }),
        }
    }

    /// What this endpoint needs for publishing events of one type.
    #[inline]
    pub(crate) fn outlet<E: Event, T>(&self, act: impl FnOnce(&Arc<Outlet>) -> T) -> T {
        self.outlets.with::<E, T>(&self.bus, &self.name, act)
    }

    /// Asks one responder, and gives its one outcome. See [`RequestCall`].
    pub fn request<R: Request>(&self, request: R) -> RequestCall<'_, R> {
        RequestCall::new(self, request)
    }

    /// Registers a responder. See [`Respond`].
    pub fn respond<R: Request>(&self) -> Respond<'_, R> {
        Respond::new(self)
    }

    /// Whether anybody, on this bus or another, is subscribed to an event: as far as the
    /// transport can know without asking, so `false` may also mean that it cannot.
    pub fn is_subscribed<E: Event>(&self) -> bool {
        self.bus.is_subscribed(&self.bus.node_of(E::SCHEMA.topic), E::SCHEMA.local)
    }

    /// Waits until somebody is subscribed to an event, up to the publish timeout.
    ///
    /// # Errors
    /// [`ReadyError::TimedOut`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_until_subscribed<E: Event>(&self) -> Result<(), ReadyError> {
        let after = self.bus.settings.publish_timeout;
        self.bus.wait_until(after, || self.is_subscribed::<E>()).await?.ok_or_else(|| {
            let missing = vec![E::SCHEMA.topic.to_owned()];
            ReadyError::TimedOut { after, missing, not_ready: Vec::new() }
        })
    }

    /// The other buses that are connected now.
    pub fn peers(&self) -> Vec<Peer> {
        self.bus.transport.peers()
    }

    /// The dead letters of a group of this endpoint, to be listed (`.await`), replayed or purged:
    /// see [`DeadLetters`].
    ///
    /// ```
    /// # use busway::{Bus, Event, HandlerError, Notice, Retry};
    /// # #[derive(Event, serde::Serialize, serde::Deserialize)]
    /// # #[event("docs.pinged")]
    /// # struct Pinged(u32);
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let bus = Bus::private().await?;
    /// # let endpoint = bus.endpoint("docs")?;
    /// # let mut notices = bus.notices();
    /// # let group = endpoint.subscribe::<Pinged>().group("g").retry(Retry::none());
    /// # group.try_for_each(|ping| async move {
    /// #     if ping.0 == 0 { Err(HandlerError::new("divided by zero")) } else { Ok(()) }
    /// # }).await?;
    /// # endpoint.publish(Pinged(0)).await?;
    /// # while !matches!(notices.next().await, Some(Notice::DeadLettered(_))) {}
    /// let letters = endpoint.dead_letters::<Pinged>("g");
    /// for letter in letters.list().await? {
    ///     println!("{} after {} attempts: {}", letter.id(), letter.attempts, letter.failure.text);
    ///     match letter.decode() {
    ///         Ok(ping) if ping.0 == 0 => letters.purge(letter.id()).await?,
    ///         _ => letters.replay(letter.id()).await?,
    ///     }
    /// }
    /// # assert!(letters.await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn dead_letters<E: Event>(&self, group: &str) -> DeadLetters<'_, E> {
        DeadLetters::new(self, group)
    }

    /// Removes a durable group of this endpoint for good: its queues, their bindings, and its dead
    /// letters. Awaiting it does it.
    ///
    /// # Errors
    /// [`GroupError::InUse`] while it has members, events or dead letters, unless told to
    /// [`force`](RemoveGroup::force) it; [`GroupError::NoGroup`] when there is no such group;
    /// refused by transports without durable groups. Events that wait for their retry when it is
    /// forced are lost as well.
    pub fn remove_group<E: Event>(&self, group: &str) -> RemoveGroup<'_> {
        RemoveGroup::new::<E>(self, group)
    }

    /// A group of this endpoint.
    pub(crate) fn group_key<E: Event>(&self, group: &str) -> Result<GroupKey, NameError> {
        Ok(GroupKey {
            endpoint: self.name.clone(),
            group: Name::new(group)?,
            topic: Topic::new(E::SCHEMA.topic)?,
        })
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Endpoint").field(&self.name).finish()
    }
}

impl Core {
    /// Whether a plain subscription here, or anybody out there, takes the topic.
    pub(crate) fn is_subscribed(&self, node: &TopicNode, local: bool) -> bool {
        let out_there = || {
            let route = Route::new(node.topic.clone(), None);
            self.transport.interest(&route) == Interest::Yes
        };
        node.is_subscribed() || (!local && out_there())
    }

    /// Waits until a condition holds, looking again at each change of who is there. `None` when
    /// the time is over.
    pub(crate) async fn wait_until(
        &self,
        after: Duration,
        mut holds: impl FnMut() -> bool,
    ) -> Result<Option<()>, ReadyError> {
        let mut changed = self.board.watch();
        let waiting = async {
            loop {
                // Marked as seen before looking, so that no change falls between.
                changed.mark_unchanged();
                self.check_open(|| ReadyError::Closed)?;
                if holds() {
                    return Ok(());
                }
                if changed.changed().await.is_err() {
                    return Err(ReadyError::Closed);
                }
            }
        };
        match tokio::time::timeout(after, waiting).await {
            Ok(outcome) => outcome.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// A cold call to the transport, under the subscribe timeout.
    pub(crate) async fn within<T>(
        &self,
        topic: &str,
        call: impl Future<Output = Result<T, busway_transport::TransportError>>,
    ) -> Result<T, SubscribeError> {
        let (topic, after) = (topic.to_owned(), self.settings.subscribe_timeout);
        match tokio::time::timeout(after, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(busway_transport::TransportError::Closed)) => {
                Err(SubscribeError::Closed { topic })
            }
            Ok(Err(error)) => Err(SubscribeError::Transport { topic, error }),
            Err(_) => Err(SubscribeError::TimedOut { topic, after }),
        }
    }

    /// A cold call about a group, under the subscribe timeout.
    pub(crate) async fn on_group<T>(
        &self,
        group: &GroupKey,
        call: impl Future<Output = Result<T, TransportError>>,
    ) -> Result<T, GroupError> {
        self.check_open(|| GroupError::Closed)?;
        let after = self.settings.subscribe_timeout;
        match tokio::time::timeout(after, call).await {
            Ok(outcome) => outcome.map_err(GroupError::from),
            Err(_) => Err(GroupError::TimedOut { group: Box::new(group.clone()), after }),
        }
    }

    /// Reports a late failure of a publish that nobody waits for.
    pub(crate) fn report_later(&self, topic: String, pending: Confirmation) {
        let board = self.board.clone();
        self.spawn_anywhere(async move {
            if let Err(error) = pending.await {
                tracing::warn!(topic, %error, "a published event was not confirmed");
                if let Ok(topic) = Topic::new(&topic) {
                    let reason = error.to_string();
                    board.tell(Notice::PublishFailed { topic, reason });
                }
            }
        });
    }
}
