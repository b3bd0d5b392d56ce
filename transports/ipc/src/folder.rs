//! Where the sockets of a bus are, and that nobody else gets at them.
//!
//! The folder is `$XDG_RUNTIME_DIR/busway/NAME`, or `busway-UID/NAME` in the temporary folder. It
//! must be ours alone: a directory, no symbolic link, with no permissions for others. Each bus has
//! one socket in it, named after its peer id. A file `lock` is held (flock, so that it falls with
//! its process) while a socket is bound or removed: whoever finds a dead socket under the lock
//! knows that it is not one that is just being made.
//!
//! On Windows the folder is `%LOCALAPPDATA%\busway\NAME`, and has an entry for each pipe.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
use unix::ENDING;
#[cfg(unix)]
pub(crate) use unix::Socket;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows::ENDING;
#[cfg(windows)]
pub(crate) use windows::Socket;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use busway_transport::{PeerId, TransportError};

/// How often a lock that somebody else has is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// The folder of one bus. How it is opened, and how sockets are bound, dialled and reclaimed in it, is
/// each system's own matter.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// What shows that a peer is there: its socket, or the entry of its pipe.
    fn entry(&self, peer: PeerId) -> PathBuf {
        self.path.join(format!("{peer}{ENDING}"))
    }

    /// The peers whose entries are there, dead ones included.
    pub(crate) fn peers(&self) -> Result<Vec<PeerId>, TransportError> {
        let entries =
            fs::read_dir(&self.path).map_err(|error| io_error("reading", &self.path, error))?;
        let mut peers: Vec<PeerId> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| {
                let peer: PeerId = file.strip_suffix(ENDING)?.parse().ok()?;
                // Another spelling of a number is none of ours.
                (format!("{peer}{ENDING}") == file).then_some(peer)
            })
            .collect();
        peers.sort_unstable();
        Ok(peers)
    }
}

fn denied(path: &Path, reason: impl Into<String>) -> TransportError {
    TransportError::Denied { address: path.display().to_string(), reason: reason.into() }
}

fn io_error(what: &str, path: &Path, error: impl std::fmt::Display) -> TransportError {
    TransportError::Io { what: format!("{what} {}", path.display()), reason: error.to_string() }
}
