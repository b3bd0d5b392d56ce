//! From an address to a place in the mesh: bind first, then look round, so that of two that start
//! together at least one sees the other.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use busway_transport::{Address, ConnectOptions, Connector, PeerId, TransportError};
use futures::future::join_all;
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Listener as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::address::Place;
use crate::folder::Folder;
use crate::hello::{self, HelloError, Reception};
use crate::link::Link;
use crate::mesh::{Mesh, Phase, State};
use crate::postman;
use crate::pulse::{engine_timer, pulse};
use crate::traffic;
use crate::transport::IpcTransport;
use crate::wire::Out;
use crate::wire::control::Welcome;

/// From the first byte of a link until both sides have applied each other's table.
const HELLO: Duration = Duration::from_secs(2);
/// How many strangers may be in their hello at once. The next ones wait in the socket's backlog.
const MAX_HELLOS: usize = 64;
/// How long the scout waits before it looks round again, as long as somebody is not linked.
const BACK_OFF: [u64; 6] = [0, 50, 100, 250, 500, 1000];

/// Connects buses by `ipc:NAME`: the processes of one user on one machine find each other by the
/// name alone.
///
/// `ipc:NAME?dir=/path`, or else the variable `BUSWAY_IPC_DIR`, says where the folders of buses
/// are, if not in the user's run-time folder. `ipc:NAME?frame=4MiB`, or else `BUSWAY_IPC_FRAME`, says
/// how large a payload with its headers may be that this process sends (4 KiB to 1 GiB, 16 MiB
/// unless set); its peers need not have the same limit. With both options: `ipc:NAME?dir=/path&frame=4MiB`.
#[derive(Debug, Clone, Copy, Default)]
pub struct IpcConnector;

impl IpcConnector {
    /// The connector.
    pub fn new() -> Self {
        Self
    }
}

impl Connector for IpcConnector {
    type Transport = IpcTransport;

    fn schemes(&self) -> &'static [&'static str] {
        &["ipc"]
    }

    async fn connect(
        &self,
        address: &Address,
        options: ConnectOptions,
    ) -> Result<IpcTransport, TransportError> {
        let limit = options.timeout;
        let connected = timeout(limit, Box::pin(establish(address, options))).await;
        connected.unwrap_or_else(|_| {
            let what = format!("connecting to {address}");
            Err(TransportError::TimedOut { what, after: limit, by: None })
        })
    }
}

async fn establish(
    address: &Address,
    options: ConnectOptions,
) -> Result<IpcTransport, TransportError> {
    let place = Place::of(address)?;
    let folder = Folder::open(&place)?;
    let mesh = Mesh::new(place.name, place.frame, &options);
    let (listener, socket) = folder.bind(options.peer).await?;
    let tasks = vec![
        tokio::spawn(accept(mesh.clone(), listener)).abort_handle(),
        tokio::spawn(pulse(mesh.clone())).abort_handle(),
        tokio::spawn(engine_timer(mesh.clone())).abort_handle(),
        tokio::spawn(postman::deliver(mesh.clone())).abort_handle(),
        tokio::spawn(scout(mesh.clone(), folder.clone())).abort_handle(),
    ];
    // From here on dropping it, when the deadline passes, frees everything.
    let transport = IpcTransport::new(mesh.clone(), folder.clone(), socket, tasks);
    if !look_round(&mesh, &folder).await? {
        // Whoever was skipped may only have been busy.
        mesh.scout.notify_one();
    }
    Ok(transport)
}

/// Looks round again after a link was lost: the peer may be there still (then it, or we, were cut
/// off), or it died and left its socket behind.
async fn scout(mesh: Arc<Mesh>, folder: Folder) {
    loop {
        mesh.scout.notified().await;
        for wait in BACK_OFF {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            match look_round(&mesh, &folder).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "cannot look round"),
            }
        }
    }
}

/// Dials everybody who is not linked, and removes the sockets of the dead. True when nobody is
/// left unlinked.
async fn look_round(mesh: &Arc<Mesh>, folder: &Folder) -> Result<bool, TransportError> {
    let others = folder.peers()?.into_iter().filter(|peer| *peer != mesh.me);
    let met = join_all(others.map(|peer| meet(mesh, folder, peer))).await;
    Ok(met.into_iter().all(|met| met))
}

/// Sees to it that a peer is linked, or that its socket is removed.
async fn meet(mesh: &Arc<Mesh>, folder: &Folder, peer: PeerId) -> bool {
    let met = match Dialling::start(mesh, peer) {
        Some(dialling) => {
            let met = timeout(HELLO, dial(mesh, folder, peer)).await;
            drop(dialling);
            if met.is_err() {
                mesh.cut_if_not_ready(peer);
            }
            met.unwrap_or(Err(HelloError::TimedOut))
        }
        // Linked, or somebody else is dialling already.
        None => match timeout(HELLO, mesh.until(|state| state.is_ready(peer))).await {
            Ok(()) => Ok(()),
            Err(_) => Err(HelloError::TimedOut),
        },
    };
    let Err(error) = met else { return true };
    // Slow, but linked after all, or linked from the other side meanwhile.
    if mesh.look(|state| state.is_ready(peer)) {
        return true;
    }
    match error {
        HelloError::Io(error) if error.kind() == ErrorKind::ConnectionRefused => {
            folder.reclaim(peer).await;
            true
        }
        HelloError::Io(error) if error.kind() == ErrorKind::NotFound => true,
        // What is at its place is no socket of ours: there is nobody to be linked with.
        HelloError::Io(error) if error.kind() == ErrorKind::PermissionDenied => {
            mesh.violation(&peer.to_string(), &error.to_string());
            true
        }
        // It is closing, or died this moment: no matter of protocol.
        HelloError::Silent | HelloError::Io(_) => {
            tracing::debug!(%peer, %error, "a peer did not let us in");
            false
        }
        error => {
            mesh.violation(&peer.to_string(), &error.to_string());
            false
        }
    }
}

/// Marks whom we are dialling; dropping it ends that.
struct Dialling<'a> {
    mesh: &'a Arc<Mesh>,
    peer: PeerId,
}

impl<'a> Dialling<'a> {
    fn start(mesh: &'a Arc<Mesh>, peer: PeerId) -> Option<Self> {
        let ours =
            mesh.look(|state| !state.peers.contains_key(&peer) && state.dialling.insert(peer));
        // Made only when it is ours, and with no lock held: dropping it ends the dialling.
        ours.then(|| Self { mesh, peer })
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.mesh.look(|state| state.dialling.remove(&self.peer));
    }
}

/// Dials a peer and waits until both sides know each other's table.
async fn dial(mesh: &Arc<Mesh>, folder: &Folder, peer: PeerId) -> Result<(), HelloError> {
    let stream = folder.dial(peer).await?;
    let attached = match hello::introduce(&stream, &mesh.introduction(), peer).await? {
        Reception::Duplicate => None,
        Reception::Linked(them, decoder) => {
            let link = mesh.with(|state, after| {
                if state.phase == Phase::Closed {
                    return None;
                }
                // The peer took this link in, so that it has no other: what we still have of an
                // earlier one is dead.
                if let Some(old) = state.peers.get(&peer) {
                    let old = old.link.clone();
                    self::lose_old(mesh, state, after, &old);
                }
                Some(attach(mesh, state, peer, them.pid))
            });
            let Some(link) = link else { return Ok(()) };
            traffic::start(mesh, &link, stream, *decoder);
            Some(link)
        }
    };
    let mut gone = false;
    mesh.until(|state| {
        if let Some(link) = &attached {
            let remote = state.peers.get(&peer);
            gone = !remote.is_some_and(|remote| Arc::ptr_eq(&remote.link, link));
        }
        gone || state.is_ready(peer)
    })
    .await;
    if gone { Err(HelloError::Silent) } else { Ok(()) }
}

fn lose_old(mesh: &Arc<Mesh>, state: &mut State, after: &mut crate::mesh::After, old: &Arc<Link>) {
    mesh.lose(state, after, old, "the peer came back by a new link", false);
}

fn attach(mesh: &Arc<Mesh>, state: &mut State, peer: PeerId, pid: u32) -> Arc<Link> {
    state.last_link += 1;
    let link = Arc::new(Link::new(peer, state.last_link, mesh.changed.clone()));
    state.attach(link.clone(), pid);
    link
}

/// Takes in those who dial us.
async fn accept(mesh: Arc<Mesh>, listener: Listener) {
    let hellos = Arc::new(Semaphore::new(MAX_HELLOS));
    loop {
        // The semaphore is never closed.
        let Ok(room) = hellos.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
                let mesh = mesh.clone();
                tokio::spawn(async move {
                    receive(&mesh, stream).await;
                    drop(room);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: trying again at once would only burn time.
                tracing::warn!(%error, "cannot take in a peer");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn receive(mesh: &Arc<Mesh>, stream: Stream) {
    let heard = timeout(HELLO, hello::listen(&stream, &mesh.introduction())).await;
    let (them, decoder) = match heard.unwrap_or(Err(HelloError::TimedOut)) {
        Ok(heard) => heard,
        // Somebody looked whether we are alive.
        Err(HelloError::Silent | HelloError::Io(_)) => return,
        Err(error) => return mesh.violation("somebody who dialled us", &error.to_string()),
    };
    let peer = PeerId::from_u64(them.peer);
    let (welcome, link) = mesh.with(|state, _| {
        let refuse = |reason: &str| (Welcome::Refused(reason.to_owned()), None);
        if state.phase == Phase::Closed {
            return (Welcome::Closing, None);
        }
        if peer == mesh.me {
            return refuse("this bus has the same id");
        }
        // Of two links that cross, the one that the smaller id dialled stays: both sides see it
        // the same way, before anything was sent on either.
        let crossing = state.dialling.contains(&peer) && mesh.me < peer;
        if crossing || state.peers.contains_key(&peer) {
            return (Welcome::Duplicate, None);
        }
        (Welcome::Come(mesh.introduction()), Some(attach(mesh, state, peer, them.pid)))
    });
    let sent = timeout(HELLO, hello::send(&stream, &Out::welcome(&welcome))).await;
    let Some(link) = link else { return };
    match sent {
        Ok(Ok(())) => traffic::start(mesh, &link, stream, decoder),
        // It may still be there, and see the link as lost: the scout looks.
        _ => mesh.link_ended(&link, "it did not take the welcome"),
    }
}
