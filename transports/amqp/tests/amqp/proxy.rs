//! A TCP proxy that does to connections what networks do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Each piece comes so much later.
    Delay(Duration),
    /// At most so many bytes a second, each way.
    Limit(usize),
    /// So many more bytes each way, then the end: in the middle of a frame.
    CutAfter(usize),
    /// Connections stay open and nothing passes.
    Silent,
    /// Connections are closed at once, with what is under way.
    Reset,
}

/// Passes connections on to a broker.
pub(crate) struct Proxy {
    mode: Arc<watch::Sender<Mode>>,
    address: SocketAddr,
    /// How many connections there were.
    accepted: Arc<watch::Sender<usize>>,
}

impl Proxy {
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, accepted) =
            (Arc::new(watch::Sender::new(Mode::Pass)), Arc::new(watch::Sender::new(0)));
        let (modes, count) = (mode.clone(), accepted.clone());
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                let modes = modes.subscribe();
                tokio::spawn(async move {
                    let Ok(to) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    let ((from_r, from_w), (to_r, to_w)) = (from.into_split(), to.into_split());
                    // Either end of the connection is the end of both.
                    tokio::select! {
                        () = pass(from_r, to_w, modes.clone()) => {}
                        () = pass(to_r, from_w, modes) => {}
                    }
                });
            }
        });
        Self { mode, address, accepted }
    }

    /// The broker's URL by way of this.
    pub(crate) fn url(&self, query: &str) -> String {
        format!("amqp://guest:guest@{}/%2f?{query}", self.address)
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Waits until so many connections more have come.
    pub(crate) async fn came(&self, before: usize, more: usize) {
        self.accepted.subscribe().wait_for(|count| *count >= before + more).await.unwrap();
    }

    pub(crate) fn accepted(&self) -> usize {
        *self.accepted.borrow()
    }
}

async fn pass(from: tcp::OwnedReadHalf, to: tcp::OwnedWriteHalf, mut modes: watch::Receiver<Mode>) {
    let mut buffer = vec![0; 16 * 1024];
    let mut left = None;
    loop {
        let mode = *modes.borrow_and_update();
        let most = match mode {
            Mode::Reset => return,
            Mode::Limit(rate) => (rate / 50).clamp(1, buffer.len()),
            Mode::CutAfter(bytes) => (*left.get_or_insert(bytes)).clamp(1, buffer.len()),
            Mode::Pass | Mode::Delay(_) | Mode::Silent => buffer.len(),
        };
        if !matches!(mode, Mode::CutAfter(_)) {
            left = None;
        }
        let read = tokio::select! {
            changed = modes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = read(&from, &mut buffer[..most]), if mode != Mode::Silent => read,
        };
        let Ok(count @ 1..) = read else { return };
        match mode {
            Mode::Delay(delay) => tokio::time::sleep(delay).await,
            Mode::Limit(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            _ => {}
        }
        if write_all(&to, &buffer[..count]).await.is_err() {
            return;
        }
        if let Some(left) = &mut left {
            *left -= count.min(*left);
            if *left == 0 {
                return;
            }
        }
    }
}

async fn read(from: &tcp::OwnedReadHalf, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        from.readable().await?;
        match from.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
}

async fn write_all(to: &tcp::OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
