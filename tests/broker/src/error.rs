//! What can go wrong with a broker.

use std::{io, process::ExitStatus, time::Duration};

/// Why a broker could not be started or commanded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// No RabbitMQ (or no Erlang) on this machine.
    #[error(
        "{what} was not found: these tests run against a real RabbitMQ. \
         Install it (`apt-get install rabbitmq-server`, `brew install rabbitmq`), \
         or set BUSWAY_TEST_AMQP_SERVER=path of rabbitmq-server, \
         or set BUSWAY_TEST_AMQP=url of a running broker"
    )]
    Missing {
        /// What was looked for.
        what: String,
    },
    /// Private brokers need Unix process groups.
    #[error(
        "private brokers run on Unix only; set BUSWAY_TEST_AMQP=url of a running broker instead"
    )]
    Unsupported,
    /// The broker belongs to somebody else (`BUSWAY_TEST_AMQP`).
    #[error(
        "the broker of BUSWAY_TEST_AMQP is not ours to command: use Broker::start() for one that is"
    )]
    NotOurs,
    /// Stopped or killed, and not started again.
    #[error("the broker is not running")]
    NotRunning,
    /// There is nothing to start again.
    #[error("the broker is running already")]
    AlreadyRunning,
    /// A process ended when it should have run.
    #[error("{what} ended by itself ({status}); its log ends with:\n{log}")]
    Exited {
        /// Which process.
        what: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// The end of the broker's log.
        log: String,
    },
    /// Something did not happen within its deadline.
    #[error("waited {} s for {what}; the broker's log ends with:\n{log}", after.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// The end of the broker's log.
        log: String,
    },
    /// `rabbitmqctl` refused.
    #[error("rabbitmqctl {command} failed ({status}):\n{output}")]
    Ctl {
        /// Its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
    /// The operating system refused.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl BrokerError {
    /// For `map_err`.
    #[cfg(unix)]
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { doing, source: source.into() }
    }
}
