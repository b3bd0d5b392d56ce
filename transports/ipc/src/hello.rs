//! Who is there: the first frames of a link, under a deadline and a small limit, after a check
//! that the process on the other side is our own user's.

use std::io;

use busway_transport::PeerId;
use interprocess::local_socket::tokio::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::address::LARGEST_FRAME;
use crate::wire::control::{Introduction, Welcome};
use crate::wire::{Decoder, Frame, Out, WireError};

/// Why a hello came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    /// The other side hung up before it said anything: somebody looked whether we are alive, or
    /// it is closing.
    #[error("it hung up")]
    Silent,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[cfg(unix)]
    #[error("it runs as another user")]
    Stranger,
    #[error("it refused us: {0}")]
    Refused(String),
    #[error("another bus answered at its socket")]
    Swapped,
    #[error("it did not answer within 2 s")]
    TimedOut,
}

/// How the dialling side was received.
pub(crate) enum Reception {
    /// Well.
    Linked(Introduction, Box<Decoder>),
    /// There is another link between the two, or will be.
    Duplicate,
}

/// Checks that the other side runs as our own user, before anything is sent or decoded.
#[cfg(unix)]
pub(crate) fn check_user(stream: &Stream) -> Result<(), HelloError> {
    check_user_is(stream, rustix::process::geteuid().as_raw())
}

#[cfg(unix)]
fn check_user_is(stream: &Stream, ours: u32) -> Result<(), HelloError> {
    use interprocess::local_socket::traits::StreamCommon as _;
    let theirs = stream.peer_creds()?.euid();
    if theirs == Some(ours) { Ok(()) } else { Err(HelloError::Stranger) }
}

/// A pipe does not tell the other side's user. The folder has checked whom we dialled, and nobody
/// but our own user can have dialled us: see there.
#[cfg(windows)]
pub(crate) fn check_user(_: &Stream) -> Result<(), HelloError> {
    Ok(())
}

/// The dialling side: says who we are and reads who answers.
pub(crate) async fn introduce(
    stream: &Stream,
    me: &Introduction,
    expected: PeerId,
) -> Result<Reception, HelloError> {
    check_user(stream)?;
    send(stream, &Out::hello(me)).await?;
    let mut decoder = Decoder::new();
    let Frame::Welcome(welcome) = receive(stream, &mut decoder).await? else {
        return Err(WireError::Unexpected("this frame before the welcome").into());
    };
    match *welcome {
        Welcome::Come(them) => {
            check_bus(me, &them)?;
            if PeerId::from_u64(them.peer) != expected {
                return Err(HelloError::Swapped);
            }
            decoder.trust(limit(&them)?);
            Ok(Reception::Linked(them, Box::new(decoder)))
        }
        Welcome::Duplicate => Ok(Reception::Duplicate),
        Welcome::Closing => Err(HelloError::Silent),
        Welcome::Refused(reason) => Err(HelloError::Refused(reason)),
    }
}

/// The accepting side: reads who dialled. The answer is the caller's to send.
pub(crate) async fn listen(
    stream: &Stream,
    me: &Introduction,
) -> Result<(Introduction, Decoder), HelloError> {
    check_user(stream)?;
    let mut decoder = Decoder::new();
    let heard = match receive(stream, &mut decoder).await {
        Ok(Frame::Hello(them)) => {
            check_bus(me, &them).and_then(|()| Ok(limit(&them)?)).map(|limit| {
                decoder.trust(limit);
                *them
            })
        }
        Ok(_) => Err(WireError::Unexpected("this frame before the hello").into()),
        Err(error) => Err(error),
    };
    match heard {
        Ok(them) => Ok((them, decoder)),
        Err(error) => {
            if matches!(error, HelloError::Wire(_)) {
                // The answer's version tells a newer or older peer what is the matter.
                let _ = send(stream, &Out::welcome(&Welcome::Refused(error.to_string()))).await;
            }
            Err(error)
        }
    }
}

fn check_bus(me: &Introduction, them: &Introduction) -> Result<(), HelloError> {
    if me.bus == them.bus {
        Ok(())
    } else {
        Err(WireError::Bus { found: them.bus.chars().take(64).collect() }.into())
    }
}

/// How large a peer's payloads may be.
fn limit(them: &Introduction) -> Result<usize, WireError> {
    let limit = usize::try_from(them.payload).ok();
    limit.filter(|limit| *limit <= LARGEST_FRAME).ok_or(WireError::Bad("frame limit"))
}

pub(crate) async fn send(mut stream: &Stream, out: &Out) -> io::Result<()> {
    stream.write_all(&out.head).await
}

async fn receive(mut stream: &Stream, decoder: &mut Decoder) -> Result<Frame, HelloError> {
    loop {
        if let Some(frame) = decoder.next()? {
            return Ok(frame);
        }
        if stream.read_buf(decoder.room()).await? == 0 {
            return Err(if decoder.buffer.is_empty() {
                HelloError::Silent
            } else {
                io::Error::from(io::ErrorKind::UnexpectedEof).into()
            });
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use interprocess::local_socket::traits::tokio::{Listener as _, Stream as _};
    use interprocess::local_socket::{GenericFilePath, ListenerOptions, ToFsName as _};

    use super::*;

    /// Both sides of a real socket; whoever is not root cannot become somebody else, but can say
    /// that somebody else is meant.
    #[tokio::test]
    async fn both_sides_see_whose_process_the_other_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let name = || path.as_path().to_fs_name::<GenericFilePath>().unwrap();
        let listener = ListenerOptions::new().name(name()).create_tokio().unwrap();
        let (dialled, accepted) = tokio::join!(Stream::connect(name()), listener.accept());
        let me = rustix::process::geteuid().as_raw();
        for stream in [dialled.unwrap(), accepted.unwrap()] {
            assert!(check_user(&stream).is_ok());
            assert!(matches!(check_user_is(&stream, me + 1), Err(HelloError::Stranger)));
        }
    }
}
