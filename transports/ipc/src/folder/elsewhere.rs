//! Named pipes have no folder and no owner that could be checked here yet: refused, not faked.

use std::io;

use busway_transport::{PeerId, TransportError};
use interprocess::local_socket::tokio::{Listener, Stream};

use crate::address::Place;

/// Nothing: there is none on this system.
#[derive(Debug, Clone)]
pub(crate) enum Folder {}

/// Nothing: there is none on this system.
#[derive(Debug)]
pub(crate) enum Socket {}

impl Folder {
    pub(crate) fn open(place: &Place) -> Result<Self, TransportError> {
        Err(TransportError::BadAddress {
            address: format!("ipc:{}", place.name),
            reason: "local sockets are supported on Unix only at present".into(),
        })
    }

    pub(crate) fn peers(&self) -> Result<Vec<PeerId>, TransportError> {
        match *self {}
    }

    pub(crate) async fn bind(&self, _: PeerId) -> Result<(Listener, Socket), TransportError> {
        match *self {}
    }

    pub(crate) async fn dial(&self, _: PeerId) -> io::Result<Stream> {
        match *self {}
    }

    pub(crate) async fn reclaim(&self, _: PeerId) {
        match *self {}
    }

    pub(crate) async fn lock(&self) -> Result<(), TransportError> {
        match *self {}
    }
}

impl Socket {
    pub(crate) fn remove(&self) {
        match *self {}
    }
}
