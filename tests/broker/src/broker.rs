//! The handle that tests hold.

use std::{env, path::PathBuf, sync::OnceLock};

use crate::{BrokerError, private::Private};

/// The environment variable that names a broker which is already running.
pub const URL_VARIABLE: &str = "BUSWAY_TEST_AMQP";

/// A running RabbitMQ: a private one, stopped and removed on drop, or the one
/// that `BUSWAY_TEST_AMQP` names, which is only used.
#[derive(Debug)]
pub struct Broker {
    url: String,
    port: u16,
    /// None: somebody else's broker.
    private: Option<Private>,
}

impl Broker {
    /// Starts a private broker and waits until it speaks AMQP.
    ///
    /// # Errors
    /// [`BrokerError::Missing`] when there is no RabbitMQ; the others with the end of its log.
    pub fn start() -> Result<Self, BrokerError> {
        let private = Private::start()?;
        let port = private.port();
        Ok(Self {
            url: format!("amqp://guest:guest@127.0.0.1:{port}/%2f"),
            port,
            private: Some(private),
        })
    }

    /// The broker that all tests of this process share: the one `BUSWAY_TEST_AMQP` names,
    /// else a private one, started at the first call and stopped when the process ends.
    ///
    /// Tests that stop, pause or command their broker use [`Broker::start`].
    ///
    /// # Errors
    /// As [`Broker::start`]; every later call gives the first call's error.
    pub fn shared() -> Result<&'static Self, &'static BrokerError> {
        // Statics are never dropped: the watchdog of the private broker cleans up.
        static SHARED: OnceLock<Result<Broker, BrokerError>> = OnceLock::new();
        SHARED
            .get_or_init(|| match env::var(URL_VARIABLE) {
                Ok(url) if !url.is_empty() => Ok(Self::of_url(url)),
                _ => Self::start(),
            })
            .as_ref()
    }

    /// Which `rabbitmq-server` would be started.
    ///
    /// # Errors
    /// [`BrokerError::Missing`] or [`BrokerError::Unsupported`].
    pub fn installed() -> Result<PathBuf, BrokerError> {
        Private::installed()
    }

    /// `amqp://guest:guest@127.0.0.1:PORT/%2f`, or what `BUSWAY_TEST_AMQP` says.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The AMQP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The end of the broker's log; empty for somebody else's broker.
    pub fn log(&self) -> String {
        self.private.as_ref().map_or_else(String::new, Private::log)
    }

    /// Shuts the broker down in order and waits until its process has gone.
    ///
    /// # Errors
    /// [`BrokerError::NotRunning`]; [`BrokerError::TimedOut`] when it had to be killed.
    pub fn stop(&self) -> Result<(), BrokerError> {
        self.ours()?.stop()
    }

    /// Starts the broker again after [`stop`](Self::stop), [`kill`](Self::kill) or a
    /// crash, on the same ports and the same data, and waits until it speaks AMQP.
    ///
    /// # Errors
    /// [`BrokerError::AlreadyRunning`]; else as [`Broker::start`].
    pub fn start_again(&self) -> Result<(), BrokerError> {
        self.ours()?.start_again()
    }

    /// Kills the broker (SIGKILL) and waits until its process has gone.
    ///
    /// # Errors
    /// [`BrokerError::NotRunning`].
    pub fn kill(&self) -> Result<(), BrokerError> {
        self.ours()?.kill()
    }

    /// Freezes the broker (SIGSTOP): connections stay open, nobody answers.
    ///
    /// # Errors
    /// [`BrokerError::NotRunning`].
    pub fn pause(&self) -> Result<(), BrokerError> {
        self.ours()?.pause()
    }

    /// Thaws the broker (SIGCONT).
    ///
    /// # Errors
    /// [`BrokerError::NotRunning`].
    pub fn resume(&self) -> Result<(), BrokerError> {
        self.ours()?.resume()
    }

    /// Runs `rabbitmqctl -q` with these arguments against this broker and gives what it
    /// printed: `ctl(&["list_queues", "name", "messages"])`.
    ///
    /// # Errors
    /// [`BrokerError::Ctl`] with its output, [`BrokerError::TimedOut`] after a minute.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String, BrokerError> {
        self.ours()?.ctl(arguments)
    }

    fn of_url(url: String) -> Self {
        Self { port: port_of(&url), url, private: None }
    }

    fn ours(&self) -> Result<&Private, BrokerError> {
        self.private.as_ref().ok_or(BrokerError::NotOurs)
    }
}

/// The port that an AMQP URL names, or its scheme's own.
fn port_of(url: &str) -> u16 {
    let (scheme, rest) = url.split_once("://").unwrap_or(("amqp", url));
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(if scheme == "amqps" {
        5671
    } else {
        5672
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_its_port() {
        assert_eq!(port_of("amqp://guest:guest@127.0.0.1:24001/%2f?a=b:1"), 24001);
        assert_eq!(port_of("amqp://guest:123@broker/%2f"), 5672);
        assert_eq!(port_of("amqps://[::1]"), 5671);
    }

    #[test]
    fn somebody_elses_broker_is_not_commanded() {
        let broker = Broker::of_url("amqp://localhost".into());
        assert!(matches!(broker.kill(), Err(BrokerError::NotOurs)));
        assert!(matches!(broker.ctl(&["status"]), Err(BrokerError::NotOurs)));
    }
}
