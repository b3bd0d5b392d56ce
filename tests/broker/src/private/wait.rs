//! Waiting for other processes: asking again and again, under a deadline.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

const PAUSE: Duration = Duration::from_millis(20);
/// For one answer of a peer that may be only half awake.
const ANSWER: Duration = Duration::from_secs(2);

/// Asks until it is so; `false` when the deadline passed first.
pub(super) fn until<E>(
    deadline: Duration,
    mut is_so: impl FnMut() -> Result<bool, E>,
) -> Result<bool, E> {
    let start = Instant::now();
    loop {
        if is_so()? {
            return Ok(true);
        }
        if start.elapsed() >= deadline {
            return Ok(false);
        }
        thread::sleep(PAUSE);
    }
}

/// Whether somebody listens.
pub(super) fn listens(port: u16) -> bool {
    connect(port).is_ok()
}

/// Whether a broker answers the protocol header with `Connection.Start`: that comes
/// once it has finished booting, while an open port alone says little.
pub(super) fn speaks_amqp(port: u16) -> bool {
    first_frame(port).is_ok_and(|frame| {
        // A method frame (type, channel, size), then class 10, method 10.
        frame[0] == 1 && frame[7..] == [0, 10, 0, 10]
    })
}

fn first_frame(port: u16) -> io::Result<[u8; 11]> {
    let mut stream = connect(port)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut frame = [0; 11];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ANSWER)
}
