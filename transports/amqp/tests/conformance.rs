//! The laws, for `amqp://…`: with quorum queues, or with what `BUSWAY_TEST_QUEUE_TYPE` says.

use std::sync::atomic::{AtomicU64, Ordering};

use busway::Builder;
use busway_amqp::AmqpConnector;
use busway_conformance::Harness;
use busway_test_broker::Broker;

/// All cases share one broker; each has a bus of its own on it.
struct Amqp {
    url: &'static str,
}

impl Amqp {
    fn new() -> Self {
        let broker = Broker::shared().unwrap_or_else(|error| panic!("{error}"));
        Self { url: broker.url() }
    }
}

impl Harness for Amqp {
    fn address(&self, case: &str) -> String {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let case: String = case.chars().take(32).collect();
        let queue_type = std::env::var("BUSWAY_TEST_QUEUE_TYPE").unwrap_or("quorum".into());
        format!("{}?bus=kit-{process}-{number}-{case}&queue_type={queue_type}", self.url)
    }

    fn connector(&self, builder: Builder) -> Builder {
        builder.connector(AmqpConnector::new())
    }
}

busway_conformance::tests!(Amqp::new());
