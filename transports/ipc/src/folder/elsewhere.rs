//! Named pipes have no folder, and interprocess does not tell whose process answers at one: refused,
//! not faked.

#![allow(dead_code, reason = "nothing is ever opened here")]

use std::io;

use busway_transport::{PeerId, TransportError};
use interprocess::local_socket::tokio::{Listener, Stream};

use crate::address::Place;

/// There is none on this system.
#[derive(Debug, Clone)]
pub(crate) struct Folder(());

/// There is none on this system.
#[derive(Debug)]
pub(crate) struct Socket(());

const REFUSED: &str = "local sockets are supported on Unix only at present: take memory: within one \
                       process, or amqp: between several";

fn refused() -> TransportError {
    TransportError::BadAddress { address: "ipc:".into(), reason: REFUSED.into() }
}

impl Folder {
    pub(crate) fn open(_: &Place) -> Result<Self, TransportError> {
        Err(refused())
    }

    pub(crate) fn peers(&self) -> Result<Vec<PeerId>, TransportError> {
        Err(refused())
    }

    pub(crate) async fn bind(&self, _: PeerId) -> Result<(Listener, Socket), TransportError> {
        Err(refused())
    }

    pub(crate) async fn dial(&self, _: PeerId) -> io::Result<Stream> {
        Err(io::Error::new(io::ErrorKind::Unsupported, REFUSED))
    }

    pub(crate) async fn reclaim(&self, _: PeerId) {}

    pub(crate) async fn lock(&self) -> Result<(), TransportError> {
        Err(refused())
    }
}

impl Socket {
    pub(crate) fn remove(&self) {}
}
