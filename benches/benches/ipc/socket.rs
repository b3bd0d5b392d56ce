//! Sockets by hand: what one writes with tokio and nothing else. Frames are a length of four
//! bytes and the payload; each is written by itself, and many are read at once.

use std::path::{Path, PathBuf};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use busway_benches::on_runtime;

use crate::ask::Asker;
use crate::oneway::{self, Shape, number_of, subscribe};
use crate::process::Part;

pub(crate) const STREAM: &str = "socket-stream";
pub(crate) const ECHO: &str = "socket-echo";

/// How much is read at once.
const READ: usize = 64 << 10;

struct Frames {
    stream: UnixStream,
    read: BytesMut,
    write: BytesMut,
}

fn path(folder: &Path) -> PathBuf {
    folder.join("socket")
}

impl Frames {
    fn new(stream: UnixStream) -> Self {
        Self { stream, read: BytesMut::new(), write: BytesMut::new() }
    }

    async fn connect(folder: &Path) -> Self {
        Self::new(UnixStream::connect(path(folder)).await.expect("connected"))
    }

    async fn write(&mut self, payload: &Bytes) {
        self.write.clear();
        self.write.put_u32_le(payload.len() as u32);
        if payload.len() < READ / 4 {
            self.write.put_slice(payload);
            self.stream.write_all(&self.write).await.expect("written");
        } else {
            // Not copied.
            let mut both = Buf::chain(&self.write[..], &payload[..]);
            self.stream.write_all_buf(&mut both).await.expect("written");
        }
    }

    async fn read(&mut self) -> Bytes {
        loop {
            if let Some(length) = self.read.first_chunk() {
                let end = 4 + u32::from_le_bytes(*length) as usize;
                if self.read.len() >= end {
                    return self.read.split_to(end).split_off(4).freeze();
                }
                self.read.reserve(end - self.read.len());
            }
            self.read.reserve(READ);
            let count = self.stream.read_buf(&mut self.read).await.expect("read");
            assert!(count > 0, "hung up");
        }
    }
}

pub(crate) struct Publisher {
    listener: UnixListener,
    subscribers: Vec<Frames>,
}

impl oneway::Publisher for Publisher {
    const SUBSCRIBER: &'static str = STREAM;

    async fn open(folder: &Path, _: Shape) -> Self {
        let listener = UnixListener::bind(path(folder)).expect("bound");
        Self { listener, subscribers: Vec::new() }
    }

    async fn meet(&mut self, subscribers: usize) {
        for _ in 0..subscribers {
            let (stream, _) = self.listener.accept().await.expect("accepted");
            self.subscribers.push(Frames::new(stream));
        }
    }

    async fn publish(&mut self, payload: Bytes) {
        for subscriber in &mut self.subscribers {
            subscriber.write(&payload).await;
        }
    }
}

impl oneway::Subscriber for Frames {
    async fn open(folder: &Path) -> Self {
        Self::connect(folder).await
    }

    async fn next(&mut self) -> u64 {
        number_of(&self.read().await)
    }
}

pub(crate) fn stream(part: Part) {
    subscribe::<Frames>(part);
}

pub(crate) struct Caller(Publisher);

impl Asker for Caller {
    const ANSWERER: &'static str = ECHO;

    async fn open(folder: &Path) -> Self {
        let shape = Shape { to: 1, size: 0 };
        Self(<Publisher as oneway::Publisher>::open(folder, shape).await)
    }

    async fn meet(&mut self) {
        oneway::Publisher::meet(&mut self.0, 1).await;
    }

    async fn ask(&mut self, payload: Bytes) -> u64 {
        let frames = &mut self.0.subscribers[0];
        frames.write(&payload).await;
        number_of(&frames.read().await)
    }
}

pub(crate) fn echo(part: Part) {
    on_runtime(async move {
        let mut frames = Frames::connect(&part.folder).await;
        part.is_ready();
        loop {
            let payload = frames.read().await;
            frames.write(&payload).await;
        }
    });
}
