//! Named pipes have neither a folder nor a mode, and any user may see their names. So each bus has
//! an entry in the folder, a file that it keeps open as long as it lives: while it does, the system
//! lets nobody else write to it or remove it, and when its process ends, in whatever way, anybody of
//! the same user may. The entry says which process has the pipe.
//!
//! * Who **dials** looks at the entry after connecting: its process lives, and it is the one that
//!   answered. It made the pipe's first instance, and nobody else may add one, so that no other
//!   user can have answered in its name.
//! * Who is **dialled** is guarded by the pipe: only its owner has access.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use busway_transport::{PeerId, TransportError};
use interprocess::ConnectWaitMode;
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::{
    GenericFilePath, ListenerOptions, ToFsName as _, traits::StreamCommon as _,
};
use interprocess::os::windows::local_socket::ListenerOptionsExt as _;
use interprocess::os::windows::named_pipe::pipe_mode::Bytes;
use interprocess::os::windows::named_pipe::tokio::DuplexPipeStream;
use interprocess::os::windows::security_descriptor::SecurityDescriptor;
use widestring::{U16CStr, u16cstr};

use super::{Folder, LOCK_RETRY, denied, io_error};
use crate::address::Place;
use crate::mailbox::lock;

type Pipe = DuplexPipeStream<Bytes>;

/// How the names of entries end.
pub(super) const ENDING: &str = ".pipe";
/// All rights for the owner, none for anybody else, and none inherited.
const OWNER_ONLY: &U16CStr = u16cstr!("D:P(A;;GA;;;OW)");
/// `FILE_SHARE_READ`: others may read, and neither write nor remove.
const SHARE_READ: u32 = 1;
/// `ERROR_SHARING_VIOLATION`: somebody has it open, and does not share.
const SHARING_VIOLATION: i32 = 32;

/// The entry of this bus, and with it its pipe.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    /// Open until it is removed.
    held: Mutex<Option<File>>,
}

/// Held while entries are made and removed; dropping it releases it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Folder {
    /// Finds or makes the folder of a bus. That others cannot get at it is up to where it is: the
    /// usual place is in the user's profile.
    pub(crate) fn open(place: &Place) -> Result<Self, TransportError> {
        let base = match &place.dir {
            Some(dir) => dir.clone(),
            None => usual_base()?,
        };
        let path = base.join(place.name.as_str());
        fs::create_dir_all(&path).map_err(|error| io_error("making", &path, error))?;
        for path in [&base, &path] {
            let found = fs::symlink_metadata(path);
            let found = found.map_err(|error| io_error("looking at", path, error))?;
            if !found.is_dir() {
                return Err(denied(path, "it is not a directory, but a link or a file"));
            }
        }
        Ok(Self { path })
    }

    /// Takes the lock, waiting for it; the caller sets the deadline.
    pub(crate) async fn lock(&self) -> Result<Lock, TransportError> {
        let path = self.path.join("lock");
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(denied(&path, "it is not a file"));
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| io_error("opening", &path, error))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_RETRY).await,
                Err(TryLockError::Error(error)) => return Err(io_error("locking", &path, error)),
            }
        }
    }

    /// Makes this bus's pipe and its entry. What is at the entry's path stays untouched, unless it
    /// is that of a process that has ended.
    pub(crate) async fn bind(&self, peer: PeerId) -> Result<(Listener, Socket), TransportError> {
        let path = self.entry(peer);
        let lock = self.lock().await?;
        if !self.remove_if_dead(peer, &lock) {
            return Err(denied(&path, "another bus has this entry"));
        }
        // Before the entry, so that whoever finds the one finds the other.
        let listener =
            listen(peer).map_err(|error| io_error("making the pipe of", &path, error))?;
        let mut options = OpenOptions::new();
        let held = options.write(true).create_new(true).share_mode(SHARE_READ).open(&path);
        let mut held = held.map_err(|error| io_error("making", &path, error))?;
        write!(held, "{}", std::process::id())
            .map_err(|error| io_error("writing to", &path, error))?;
        drop(lock);
        Ok((listener, Socket { path, held: Mutex::new(Some(held)) }))
    }

    /// Connects to a peer's pipe, and checks that it is the peer's process that answers.
    pub(crate) async fn dial(&self, peer: PeerId) -> io::Result<Stream> {
        let path = self.entry(peer);
        let owner = loop {
            if !is_held(&path)? {
                return Err(io::Error::new(ErrorKind::ConnectionRefused, "its process has ended"));
            }
            let owner = fs::read_to_string(&path)?;
            if !owner.is_empty() {
                break owner;
            }
            // It is just being made.
            tokio::time::sleep(LOCK_RETRY).await;
        };
        let stream = loop {
            // Never waiting in there: that would be a thread that cannot be called back.
            let at_once = ConnectWaitMode::Timeout(Duration::ZERO);
            match Pipe::connect_by_path_with_wait_mode(pipe(peer).as_str(), at_once).await {
                // Others are dialling it at this moment: it lives, and has much to do.
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    tokio::time::sleep(LOCK_RETRY).await;
                }
                other => break Stream::NamedPipe(other?.into()),
            }
        };
        let answering = stream.peer_creds()?.pid().map(|pid| pid.to_string());
        if answering.as_deref() != Some(owner.as_str()) || !is_held(&path)? {
            let reason = "another process than the entry's answers at the pipe";
            return Err(io::Error::new(ErrorKind::PermissionDenied, reason));
        }
        Ok(stream)
    }

    /// Removes the entry of a process that has ended.
    pub(crate) async fn reclaim(&self, peer: PeerId) {
        if let Ok(lock) = self.lock().await {
            self.remove_if_dead(peer, &lock);
        }
    }

    /// Whether the entry is not there, or not any more.
    fn remove_if_dead(&self, peer: PeerId, _lock: &Lock) -> bool {
        match fs::remove_file(self.entry(peer)) {
            Ok(()) => tracing::debug!(%peer, "removed the entry of a dead bus"),
            Err(error) => return error.kind() == ErrorKind::NotFound,
        }
        true
    }
}

impl Socket {
    /// Removes the entry; before that, nobody else could have.
    pub(crate) fn remove(&self) {
        // Closed by this, or it could not be removed.
        if lock(&self.held).take().is_none() {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "the entry stays behind");
        }
    }
}

/// Whether the process that made an entry still has it open.
fn is_held(path: &Path) -> io::Result<bool> {
    match OpenOptions::new().write(true).open(path) {
        Ok(_) => Ok(false),
        Err(error) if error.raw_os_error() == Some(SHARING_VIOLATION) => Ok(true),
        Err(error) => Err(error),
    }
}

/// The path of a peer's pipe: peers are numbered at random, so that nobody else has it first.
fn pipe(peer: PeerId) -> String {
    format!(r"\\.\pipe\busway-{peer}")
}

/// Makes the pipe; an error if there is one already.
fn listen(peer: PeerId) -> io::Result<Listener> {
    ListenerOptions::new()
        .name(pipe(peer).to_fs_name::<GenericFilePath>()?)
        .security_descriptor(SecurityDescriptor::deserialize(OWNER_ONLY)?)
        .create_tokio()
}

fn usual_base() -> Result<PathBuf, TransportError> {
    let profile = std::env::var_os("LOCALAPPDATA").map(PathBuf::from);
    match profile.filter(|dir| dir.is_absolute()) {
        Some(dir) => Ok(dir.join("busway")),
        None => Err(TransportError::BadAddress {
            address: "ipc:".into(),
            reason:
                "LOCALAPPDATA is not set: say where the bus's folder is (ipc:NAME?dir=C:\\path)"
                    .into(),
        }),
    }
}
