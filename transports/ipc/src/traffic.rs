//! What goes on between a link and its socket: one writes what is in the lanes, one reads.

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt as _;
use interprocess::local_socket::tokio::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::coop::consume_budget;

use crate::bell::Bell;
use crate::dispatch::Flow;
use crate::handful::{Handful, Ran};
use crate::link::Link;
use crate::mesh::Mesh;
use crate::patience::Patience;
use crate::wire::{Decoder, WireError};

/// How much the system is asked to take at once. What it takes unless asked is three events of
/// 64 KiB, and both processes then wait for each other at every one.
#[cfg(unix)]
const TAKEN: usize = 512 << 10;

/// Starts both, in one task: what comes in makes room for what goes out, and two tasks that wake each
/// other would be taken to two threads. It ends with the link.
pub(crate) fn start(mesh: &Arc<Mesh>, link: &Arc<Link>, stream: Stream, decoder: Decoder) {
    let stream = link.open(stream);
    widen(&stream);
    tokio::spawn(run(mesh.clone(), link.clone(), stream, decoder));
}

/// What panics takes its link with it at once: it comes back by a new hello, and what was lost is told.
/// (The bus's own part of a delivery may drop events, which runs code of theirs.)
async fn run(mesh: Arc<Mesh>, link: Arc<Link>, stream: Arc<Stream>, decoder: Decoder) {
    let (handful, patience, bell) = (Handful::default(), Patience::new(), Bell::default());
    let mut intake = Intake { decoder, handful, patience, bell };
    let traffic = async {
        tokio::join!(intake.read(&mesh, &link, &stream), write(&mesh, &link, &stream));
    };
    let mut stop = link.stop.subscribe();
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        ended = AssertUnwindSafe(traffic).catch_unwind() => if ended.is_err() {
            mesh.link_panicked(&link);
        }
    }
}

/// Lets the socket take more at once, as far as the system allows it.
#[cfg(unix)]
fn widen(stream: &Stream) {
    use std::os::fd::AsFd as _;
    let Stream::UdSocket(socket) = stream;
    if let Err(error) = rustix::net::sockopt::set_socket_send_buffer_size(socket.as_fd(), TAKEN) {
        tracing::debug!(%error, "a socket keeps the system's size");
    }
}

#[cfg(not(unix))]
fn widen(_: &Stream) {}

async fn write(mesh: &Arc<Mesh>, link: &Arc<Link>, mut stream: &Stream) {
    let mut joined = Vec::new();
    let mut bell = Bell::default();
    loop {
        let Some(piece) = link.take(&mut joined) else {
            link.wake.notified().await;
            continue;
        };
        let mut rest = if piece.is_empty() { &joined[..] } else { &piece };
        while !rest.is_empty() {
            match stream.write(rest).await {
                Ok(count @ 1..) => rest = &rest[count..],
                Ok(0) => return mesh.link_ended(link, "it takes nothing more"),
                Err(error) => return mesh.link_ended(link, &format!("writing failed: {error}")),
            }
            link.writes_on();
        }
        if link.has_room_again() {
            // Who waits will soon wake us in turn.
            bell.give_way().await;
            mesh.look(|state| state.wake_waiting());
            mesh.changed.notify_waiters();
        }
        consume_budget().await;
    }
}

/// The receiving side.
struct Intake {
    decoder: Decoder,
    handful: Handful,
    patience: Patience,
    bell: Bell,
}

impl Intake {
    async fn read(&mut self, mesh: &Arc<Mesh>, link: &Arc<Link>, mut stream: &Stream) {
        loop {
            let before = self.decoder.buffer.len();
            if self.take(mesh, link).await.is_break() {
                return;
            }
            if self.decoder.buffer.len() < before {
                link.reads_on();
            }
            match stream.read_buf(self.decoder.room()).await {
                Ok(1..) => {
                    if link.hear() {
                        self.decoder.air();
                    }
                }
                Ok(0) => return mesh.link_ended(link, "it hung up"),
                Err(error) => return mesh.link_ended(link, &format!("reading failed: {error}")),
            }
            // The socket's readiness is no part of tokio's budget: without this a busy link would
            // keep its thread for itself.
            consume_budget().await;
        }
    }

    /// Takes what was read, as far as it is whole.
    async fn take(&mut self, mesh: &Arc<Mesh>, link: &Arc<Link>) -> ControlFlow<()> {
        let Self { decoder, handful, patience, bell } = self;
        let mut has_waited = false;
        loop {
            match handful.run(mesh, link, decoder) {
                Ok(Ran::On(kind, events)) => {
                    patience.earn(kind.number(), events);
                    has_waited = false;
                    consume_budget().await;
                    continue;
                }
                Ok(Ran::Full(kind, inbox)) if !has_waited => {
                    has_waited = true;
                    patience.wait(kind.number(), inbox.room(), bell).await;
                    handful.waited();
                    continue;
                }
                Ok(Ran::Full(..) | Ran::No) => {}
                Err(error) => return broke_protocol(mesh, link, &error),
            }
            let flow = match decoder.next() {
                Ok(Some(frame)) => mesh.dispatch(link, handful, frame),
                Ok(None) => match handful.deliver(mesh, link) {
                    Ok(()) => break,
                    Err(error) => Err(error),
                },
                // What came before it is good.
                Err(error) => handful.deliver(mesh, link).and(Err(error)),
            };
            match flow {
                Ok(Flow::On) => {}
                Ok(Flow::Goodbye) => {
                    mesh.link_said_goodbye(link);
                    return ControlFlow::Break(());
                }
                Err(error) => return broke_protocol(mesh, link, &error),
            }
        }
        if handful.gives_way() {
            bell.give_way().await;
        }
        ControlFlow::Continue(())
    }
}

fn broke_protocol(mesh: &Arc<Mesh>, link: &Arc<Link>, error: &WireError) -> ControlFlow<()> {
    mesh.link_broke_protocol(link, &error.to_string());
    ControlFlow::Break(())
}
