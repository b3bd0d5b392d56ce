//! The RabbitMQ transport against a real broker; without the bus on top, but for what needs its
//! drain.
//!
//! Tests of traffic share a broker; tests of faults have one of their own, and one turn at a time
//! on it. Every test has a bus name of its own and runs under a watchdog.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod bench;
mod connect;
mod faults;
mod groups;
mod letters;
mod load;
mod outages;
mod plain;
mod presence;
mod processes;
mod proxy;
mod publish;
mod publisher;
mod requests;
#[cfg(unix)]
mod sigterm;
mod tls;
