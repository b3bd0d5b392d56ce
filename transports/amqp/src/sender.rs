//! The task behind an [`Outbox`]: brings its channel back, declares what messages need, and sees
//! to what no publisher comes to see to.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use busway_transport::TransportError;
use futures::FutureExt;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};

use crate::address::Settings;
use crate::connection::{Link, backoff};
use crate::error::{self, within};
use crate::outbox::{Next, Outbox};
use crate::tasks::{Phase, PhaseWatch};
use crate::topology::{self, Declare};

/// How long room may be kept from those who wait for it.
const LINGER: Duration = Duration::from_millis(5);

pub(crate) struct Sender {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) link: Link,
    pub(crate) exchanges: Vec<Declare>,
    pub(crate) phase: PhaseWatch,
}

/// However the task ends, also with its runtime: whoever publishes may live on another one, and
/// would wait for confirms that nobody hears.
impl Drop for Sender {
    fn drop(&mut self) {
        self.outbox.close(&TransportError::Closed);
    }
}

/// Why a channel is no longer used.
enum Lost {
    /// The bus closed.
    Closed,
    /// The connection or the channel is gone.
    Channel,
}

impl Sender {
    pub(crate) async fn run(self) {
        let mut delays = backoff();
        let error = loop {
            let phase = self.phase.clone();
            let connection = tokio::select! {
                () = phase.reached(Phase::Closed) => break TransportError::Closed,
                up = self.link.up() => match up {
                    Ok(connection) => connection,
                    Err(error) => break error,
                }
            };
            let before = self.outbox.progress();
            match self.open(&connection).await {
                Ok(channel) => {
                    let lost = self.send_on(&connection, &Arc::new(channel)).await;
                    self.outbox.lost();
                    if matches!(lost, Lost::Closed) {
                        break TransportError::Closed;
                    }
                }
                // Neither these nor later ones have a chance until somebody changes the broker;
                // later ones find out for themselves.
                Err(error) if error::is_final(&error) => self.outbox.fail_all(&error),
                Err(_) => {}
            }
            // Progress earns a quick return.
            if self.outbox.progress() > before {
                delays = backoff();
            }
            if let Some(delay) = delays.next() {
                tokio::select! {
                    () = phase.reached(Phase::Closed) => {}
                    () = tokio::time::sleep(delay) => {}
                }
            }
        };
        self.outbox.close(&error);
    }

    async fn open(&self, connection: &Connection) -> Result<Channel, TransportError> {
        let channel =
            within(&self.settings, "opening a channel", connection.create_channel()).await?;
        let confirm = channel.confirm_select(ConfirmSelectOptions::default());
        within(&self.settings, "asking for confirms", confirm).await?;
        let declare = topology::apply(&channel, &self.exchanges);
        within(&self.settings, "declaring exchanges", declare).await?;
        Ok(channel)
    }

    /// Sends until the channel or the bus ends. What is unconfirmed goes out first.
    async fn send_on(&self, connection: &Arc<Connection>, channel: &Arc<Channel>) -> Lost {
        self.outbox.open(channel.clone());
        let closed = self.phase.reached(Phase::Closed);
        let gone = self.link.long_gone(connection);
        tokio::pin!(closed, gone);
        loop {
            let next = tokio::select! {
                biased;
                () = &mut closed => return Lost::Closed,
                next = self.next() => next,
                // A confirm that is still awaited will not come.
                () = &mut gone => return Lost::Channel,
            };
            let (number, needs) = match next {
                Next::Declare(number, needs) => (number, needs),
                Next::Open => return Lost::Channel,
            };
            let what = self.outbox.what(number);
            match within(&self.settings, &what, topology::apply(channel, &needs.declare)).await {
                Ok(()) => self.outbox.declared(needs),
                Err(error) => {
                    if error::is_final(&error) {
                        self.outbox.fail(number, error);
                    }
                    return Lost::Channel;
                }
            }
        }
    }

    /// Waits for something that only this task can do.
    async fn next(&self) -> Next {
        let linger = tokio::time::sleep(LINGER);
        tokio::pin!(linger);
        let mut lingers = false;
        poll_fn(|context| {
            let lingered = lingers && linger.poll_unpin(context).is_ready();
            lingers &= !lingered;
            let (next, keeps) = self.outbox.poll(context, lingered);
            if keeps && !lingers {
                linger.as_mut().reset(tokio::time::Instant::now() + LINGER);
                // Not over yet: this asks to be woken.
                let _ = linger.poll_unpin(context);
            }
            lingers = keeps;
            next
        })
        .await
    }
}
