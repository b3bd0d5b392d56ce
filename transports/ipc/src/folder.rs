//! Where the sockets of a bus are, and that nobody else gets at them.
//!
//! The folder is `$XDG_RUNTIME_DIR/busway/NAME`, or `busway-UID/NAME` in the temporary folder. It
//! must be ours alone: a directory, no symbolic link, with no permissions for others. Each bus has
//! one socket in it, named after its peer id. A file `lock` is held (flock, so that it falls with
//! its process) while a socket is bound or removed: whoever finds a dead socket under the lock
//! knows that it is not one that is just being made.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{Folder, Socket};

#[cfg(not(unix))]
mod elsewhere;
#[cfg(not(unix))]
pub(crate) use elsewhere::{Folder, Socket};
