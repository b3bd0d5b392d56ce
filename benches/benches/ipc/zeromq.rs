//! ZeroMQ: the library itself, over its own local sockets, with its own threads beside ours. Its
//! calls block their thread, as is usual with it.

use std::path::Path;

use bytes::Bytes;
use zmq::{Context, Socket, SocketType};

use crate::ask::Asker;
use crate::oneway::{self, CAPACITY, Shape, number_of, subscribe};
use crate::process::Part;

pub(crate) const STREAM: &str = "zeromq-stream";
pub(crate) const ECHO: &str = "zeromq-echo";

fn endpoint(folder: &Path, pattern: &str) -> String {
    format!("ipc://{}/{pattern}", folder.display())
}

fn socket(kind: SocketType) -> Socket {
    let socket = Context::new().socket(kind).expect("a socket");
    let waiting = if [zmq::XPUB, zmq::SUB].contains(&kind) { 0 } else { CAPACITY as i32 };
    socket.set_sndhwm(waiting).expect("set");
    socket.set_rcvhwm(waiting).expect("set");
    socket.set_linger(0).expect("set");
    socket
}

fn bind(folder: &Path, pattern: &str, kind: SocketType) -> Socket {
    let socket = socket(kind);
    socket.bind(&endpoint(folder, pattern)).expect("bound");
    socket
}

/// A socket that goes with whatever was bound there.
fn connect(folder: &Path) -> Socket {
    let peers =
        [("push", zmq::PULL), ("publish", zmq::SUB), ("pair", zmq::PAIR), ("request", zmq::REP)];
    let bound = |pattern: &str| folder.join(pattern).exists();
    let (pattern, kind) = peers.into_iter().find(|(pattern, _)| bound(pattern)).expect("bound");
    let socket = socket(kind);
    if kind == zmq::SUB {
        socket.set_subscribe(b"").expect("subscribed");
    }
    socket.connect(&endpoint(folder, pattern)).expect("connected");
    socket
}

/// To one subscriber: the pattern that is made for it.
pub(crate) struct Push(Socket);

impl oneway::Publisher for Push {
    const SUBSCRIBER: &'static str = STREAM;

    async fn open(folder: &Path, _: Shape) -> Self {
        Self(bind(folder, "push", zmq::PUSH))
    }

    async fn meet(&mut self, _: usize) {}

    async fn publish(&mut self, payload: Bytes) {
        self.0.send(&payload[..], 0).expect("sent");
    }
}

/// To many. It drops what is over its bounds, so here it has none: nobody is compared who loses
/// events.
pub(crate) struct Publisher(Socket);

impl oneway::Publisher for Publisher {
    const SUBSCRIBER: &'static str = STREAM;

    async fn open(folder: &Path, _: Shape) -> Self {
        let socket = bind(folder, "publish", zmq::XPUB);
        // Four subscribers of one topic are otherwise told as one.
        socket.set_xpub_verbose(true).expect("set");
        Self(socket)
    }

    async fn meet(&mut self, subscribers: usize) {
        for _ in 0..subscribers {
            let subscription = self.0.recv_bytes(0).expect("a subscription");
            assert_eq!(subscription, [1]);
        }
    }

    async fn publish(&mut self, payload: Bytes) {
        self.0.send(&payload[..], 0).expect("sent");
    }
}

struct Stream {
    socket: Socket,
    message: zmq::Message,
}

impl oneway::Subscriber for Stream {
    async fn open(folder: &Path) -> Self {
        Self { socket: connect(folder), message: zmq::Message::new() }
    }

    async fn next(&mut self) -> u64 {
        self.socket.recv(&mut self.message, 0).expect("received");
        number_of(&self.message)
    }
}

pub(crate) fn stream(part: Part) {
    subscribe::<Stream>(part);
}

/// There and back.
pub(crate) struct Pair(Socket);

impl Asker for Pair {
    const ANSWERER: &'static str = ECHO;

    async fn open(folder: &Path) -> Self {
        Self(bind(folder, "pair", zmq::PAIR))
    }

    async fn meet(&mut self) {}

    async fn ask(&mut self, payload: Bytes) -> u64 {
        ask(&self.0, &payload)
    }
}

/// Question and answer.
pub(crate) struct Requests(Socket);

impl Asker for Requests {
    const ANSWERER: &'static str = ECHO;

    async fn open(folder: &Path) -> Self {
        Self(bind(folder, "request", zmq::REQ))
    }

    async fn meet(&mut self) {}

    async fn ask(&mut self, payload: Bytes) -> u64 {
        ask(&self.0, &payload)
    }
}

fn ask(socket: &Socket, payload: &[u8]) -> u64 {
    socket.send(payload, 0).expect("sent");
    number_of(&socket.recv_msg(0).expect("received"))
}

pub(crate) fn echo(part: Part) {
    let socket = connect(&part.folder);
    part.is_ready();
    loop {
        let message = socket.recv_msg(0).expect("received");
        socket.send(&message[..], 0).expect("sent");
    }
}
