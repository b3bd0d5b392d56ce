use std::ffi::OsString;
use std::fs::{self, DirBuilder, Metadata};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use busway_transport::{PeerId, TransportError};
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::{
    GenericFilePath, ListenerOptions, ToFsName as _, traits::tokio::Stream as _,
};
use interprocess::os::unix::local_socket::ListenerOptionsExt as _;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Folder, LOCK_RETRY, denied, io_error};
use crate::address::Place;

/// How the names of sockets end.
pub(super) const ENDING: &str = ".sock";
/// What fits into a socket's address, without the zero at its end.
const MAX_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// A socket that this bus bound. It is removed by [`remove`](Self::remove), never by a later one
/// of the same path.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
    identity: (u64, u64),
}

/// Held while sockets are bound and removed; dropping it releases it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: OwnedFd,
}

fn me() -> u32 {
    rustix::process::geteuid().as_raw()
}

impl Folder {
    /// Finds or makes the folder of a bus, and checks that it is ours alone.
    pub(crate) fn open(place: &Place) -> Result<Self, TransportError> {
        let base = match &place.dir {
            Some(dir) => {
                if fs::symlink_metadata(dir).is_err() {
                    make_own(dir)?;
                }
                check_base(dir)?;
                dir.clone()
            }
            None => usual_base(std::env::var_os("XDG_RUNTIME_DIR"), std::env::temp_dir())?,
        };
        let path = base.join(place.name.as_str());
        make_own(&path)?;
        Ok(Self { path })
    }

    /// Takes the lock, waiting for it; the caller sets the deadline.
    pub(crate) async fn lock(&self) -> Result<Lock, TransportError> {
        let path = self.path.join("lock");
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|error| {
            if error == Errno::LOOP {
                denied(&path, "it is a symbolic link")
            } else {
                io_error("opening", &path, error)
            }
        })?;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(Errno::WOULDBLOCK | Errno::INTR) => tokio::time::sleep(LOCK_RETRY).await,
                Err(error) => return Err(io_error("locking", &path, error)),
            }
        }
    }

    /// Binds this bus's socket. What is at the path stays untouched, unless it is a dead socket
    /// of ours.
    pub(crate) async fn bind(&self, peer: PeerId) -> Result<(Listener, Socket), TransportError> {
        let path = self.entry(peer);
        let length = path.as_os_str().len();
        if length > MAX_PATH {
            return Err(TransportError::BadAddress {
                address: path.display().to_string(),
                reason: format!(
                    "a socket's path may have {MAX_PATH} bytes, this one has {length}: take a \
                     shorter bus name, or a shorter folder (ipc:NAME?dir=/path)"
                ),
            });
        }
        let lock = self.lock().await?;
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io_error("looking at", &path, error)),
            Ok(found) => {
                check_socket(&path, &found)?;
                if !self.remove_if_dead(peer, &lock).await {
                    return Err(denied(&path, "another bus has this socket"));
                }
            }
        }
        let listener = listen(&path).map_err(|error| io_error("binding", &path, error))?;
        let bound =
            fs::symlink_metadata(&path).map_err(|error| io_error("looking at", &path, error))?;
        drop(lock);
        Ok((listener, Socket { path, identity: (bound.dev(), bound.ino()) }))
    }

    /// Connects to a peer's socket, which must be ours.
    pub(crate) async fn dial(&self, peer: PeerId) -> io::Result<Stream> {
        let path = self.entry(peer);
        check_socket(&path, &fs::symlink_metadata(&path)?)
            .map_err(|error| io::Error::new(ErrorKind::PermissionDenied, error.to_string()))?;
        loop {
            match Stream::connect(path.as_path().to_fs_name::<GenericFilePath>()?).await {
                // Its backlog is full: it lives, and has much to do.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(LOCK_RETRY).await;
                }
                other => return other,
            }
        }
    }

    /// Removes the socket of a process that died, if it is still dead under the lock: between
    /// bind and listen a new one refuses as well.
    pub(crate) async fn reclaim(&self, peer: PeerId) {
        if let Ok(lock) = self.lock().await {
            self.remove_if_dead(peer, &lock).await;
        }
    }

    async fn remove_if_dead(&self, peer: PeerId, _lock: &Lock) -> bool {
        let dead = matches!(
            self.dial(peer).await,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused
        );
        let removed = dead && fs::remove_file(self.entry(peer)).is_ok();
        if removed {
            tracing::debug!(%peer, "removed the socket of a dead bus");
        }
        removed
    }
}

impl Socket {
    /// Removes the socket, if it is still the one that was bound.
    pub(crate) fn remove(&self) {
        let same = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if same && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

fn listen(path: &Path) -> io::Result<Listener> {
    // Its own reclaiming removes whatever has the name by then: ours checks.
    let options = || -> io::Result<ListenerOptions<'_>> {
        Ok(ListenerOptions::new()
            .name(path.to_fs_name::<GenericFilePath>()?)
            .reclaim_name(false)
            .try_overwrite(false))
    };
    match options()?.mode(0o600).create_tokio() {
        // macOS cannot set a socket's mode; the folder's does it.
        Err(error) if error.kind() == ErrorKind::Unsupported => options()?.create_tokio(),
        other => other,
    }
}

/// In the run-time folder, if there is a usable one, else a folder of our own in the temporary
/// folder.
fn usual_base(runtime: Option<OsString>, temporary: PathBuf) -> Result<PathBuf, TransportError> {
    let runtime = runtime.map(PathBuf::from);
    let base = match runtime.filter(|dir| dir.is_absolute() && check_base(dir).is_ok()) {
        Some(dir) => dir.join("busway"),
        None => {
            check_base(&temporary)?;
            temporary.join(format!("busway-{}", me()))
        }
    };
    make_own(&base)?;
    Ok(base)
}

/// A folder that we did not make: others must not be able to put another one in the place of
/// ours.
fn check_base(path: &Path) -> Result<(), TransportError> {
    let looking = |error| io_error("looking at", path, error);
    let itself = fs::symlink_metadata(path).map_err(looking)?;
    if itself.is_symlink() && itself.uid() != me() && itself.uid() != 0 {
        return Err(denied(path, format!("it is a symbolic link of user {}", itself.uid())));
    }
    let found = fs::metadata(path).map_err(looking)?;
    if !found.is_dir() {
        return Err(denied(path, "it is not a directory"));
    }
    let (mode, owner) = (found.mode(), found.uid());
    if owner != me() && owner != 0 {
        return Err(denied(path, format!("it belongs to user {owner}")));
    }
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(denied(path, format!("others may write to it (mode {:o})", mode & 0o7777)));
    }
    Ok(())
}

/// A folder that is ours alone, made if it is not there.
fn make_own(path: &Path) -> Result<(), TransportError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io_error("making", path, error)),
    }
    let found = fs::symlink_metadata(path).map_err(|error| io_error("looking at", path, error))?;
    if found.is_symlink() {
        return Err(denied(path, "it is a symbolic link"));
    }
    if !found.is_dir() {
        return Err(denied(path, "it is not a directory"));
    }
    if found.uid() != me() {
        return Err(denied(path, format!("it belongs to user {}", found.uid())));
    }
    if found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o7777;
        return Err(denied(path, format!("others have permissions on it (mode {mode:o})")));
    }
    Ok(())
}

fn check_socket(path: &Path, found: &Metadata) -> Result<(), TransportError> {
    if !found.file_type().is_socket() {
        return Err(denied(path, "there is something else than a socket"));
    }
    if found.uid() != me() {
        return Err(denied(path, format!("the socket belongs to user {}", found.uid())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn without_a_safe_run_time_folder_it_is_one_of_our_own_in_the_temporary_folder() {
        let (runtime, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let base = |runtime: &str| usual_base(Some(runtime.into()), temporary.path().to_owned());
        let own = temporary.path().join(format!("busway-{}", me()));
        let path = runtime.path().to_str().unwrap();

        assert_eq!(base(path).unwrap(), runtime.path().join("busway"));
        for unusable in ["", "run/here", "/there/is/none"] {
            assert_eq!(base(unusable).unwrap(), own);
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(base(path).unwrap(), own);
        assert_eq!(usual_base(None, temporary.path().to_owned()).unwrap(), own);
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);

        // Anybody can put something there first.
        fs::remove_dir(&own).unwrap();
        symlink(runtime.path(), &own).unwrap();
        let error = base("").unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
    }
}
