//! Free ports.

use std::{
    hash::{BuildHasher, RandomState},
    io,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

/// Below the ephemeral ports of Linux (from 32768) and macOS (from 49152). A port from
/// that range could be taken by any outgoing connection while the broker is down; a
/// client that reconnects to it over loopback can even end up connected to itself.
const RANGE: Range<u16> = 20_000..32_000;

/// The ports of one broker. They stay the same when it is started again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) amqp: u16,
    /// Between Erlang nodes: `rabbitmqctl` comes in here.
    pub(super) distribution: u16,
    /// Erlang's name server.
    pub(super) epmd: u16,
}

impl Ports {
    /// Three neighbours that are free now, from a random place so that brokers which
    /// start at the same moment hardly ever meet.
    pub(super) fn pick() -> io::Result<Self> {
        let width = RANGE.end - RANGE.start - 2;
        for attempt in 0..100 {
            // Each RandomState has keys of its own: std's only source of chance.
            let chance = RandomState::new().hash_one(attempt) % u64::from(width);
            let first = RANGE.start + u16::try_from(chance).unwrap_or_default();
            if (first..first + 3).all(is_free) {
                return Ok(Self { amqp: first, distribution: first + 1, epmd: first + 2 });
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("no three free ports in a row in {RANGE:?}"),
        ))
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
