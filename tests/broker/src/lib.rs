//! A private RabbitMQ for busway's own tests and benches.
//!
//! [`Broker::start`] runs a real RabbitMQ with ports, folders, node name and
//! name server (epmd) of its own, so that it meets neither a broker of the
//! system nor one of another test. When the [`Broker`] is dropped, or the process
//! that started it ends in whatever way, `kill -9` included, nothing stays behind.
//!
//! ```no_run
//! # fn main() -> Result<(), busway_test_broker::BrokerError> {
//! use busway_test_broker::Broker;
//!
//! // Only traffic: one broker for the whole test process, or CI's (`BUSWAY_TEST_AMQP`).
//! let shared = Broker::shared().map_err(|error| panic!("{error}")).unwrap();
//! println!("{}", shared.url());
//!
//! // Faults: a broker of the test's own.
//! let broker = Broker::start()?;
//! broker.ctl(&["close_all_connections", "test"])?;
//! broker.kill()?;
//! broker.start_again()?;
//! # Ok(())
//! # }
//! ```
//!
//! Everything here blocks: call it from a test's own thread, or through
//! `spawn_blocking` where a runtime must go on meanwhile. A start takes 3 to 4 s on two
//! idle cores; other calls on the same broker wait for it.
//!
//! The binary of the same name starts one broker for a command:
//! `busway-test-broker run -- cargo test`.
//!
//! | variable | says |
//! |---|---|
//! | `BUSWAY_TEST_AMQP` | the URL of a running broker: [`Broker::shared`] uses it and starts nothing |
//! | `BUSWAY_TEST_AMQP_SERVER` | the path of the `rabbitmq-server` to start |

#![forbid(unsafe_code)]

mod broker;
mod error;

#[cfg(unix)]
mod private;
#[cfg(not(unix))]
#[path = "unsupported.rs"]
mod private;

pub use broker::{Broker, URL_VARIABLE};
pub use error::BrokerError;
