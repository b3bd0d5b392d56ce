//! One attempt to connect, which leaves nothing behind when it is given up.
//!
//! lapin connects on a thread of its own, whose handshake has no limit: with a peer that says
//! nothing the thread and its socket would stay for ever. So the socket is held here as well until
//! the handshake is done, and shut down when the attempt is dropped before.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};

use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPScheme;
use lapin::{Connection, ConnectionProperties};
use tokio::sync::watch;

use crate::address::Settings;
use crate::shared::lock;

/// Connects under a name that the broker shows. Dropped, it closes what it opened.
pub(crate) async fn dial(settings: &Settings, name: String) -> Result<Connection, lapin::Error> {
    let attempt = Attempt::default();
    let (socket, given_up, tls) =
        (attempt.socket.clone(), attempt.alive.subscribe(), settings.tls.clone());
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let connecting = Connection::connector(
        settings.uri.clone(),
        lapin::runtime::default_runtime()?,
        async move |uri, runtime| {
            let mut given_up = given_up.clone();
            let host = uri.authority.host.clone();
            let opening = async {
                let addresses = runtime.to_socket_addrs((host.clone(), uri.authority.port));
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                if let AsyncTcpStream::Plain(stream) = &stream {
                    let held = duplicate(stream.get_ref())?;
                    *lock(&socket) = Some(held);
                }
                match uri.scheme {
                    AMQPScheme::AMQP => Ok(stream),
                    AMQPScheme::AMQPS => stream.into_tls(&host, tls.as_ref()).await,
                }
            };
            tokio::select! {
                stream = opening => stream.map_err(lapin::Error::from),
                // Nothing is ever sent: it resolves when the attempt has gone.
                _ = given_up.changed() => Err(io::Error::from(io::ErrorKind::Interrupted).into()),
            }
        },
        properties,
    );
    let connection = connecting.await?;
    attempt.succeeded();
    Ok(connection)
}

/// Shuts its socket down when it is dropped, unless it succeeded.
struct Attempt {
    socket: Arc<Mutex<Option<TcpStream>>>,
    alive: watch::Sender<()>,
}

impl Default for Attempt {
    fn default() -> Self {
        Self { socket: Arc::default(), alive: watch::Sender::new(()) }
    }
}

impl Attempt {
    fn succeeded(self) {
        self.take();
    }

    fn take(&self) -> Option<TcpStream> {
        lock(&self.socket).take()
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(socket) = self.take() {
            // An error: it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(unix)]
fn duplicate(socket: &impl std::os::fd::AsFd) -> io::Result<TcpStream> {
    socket.as_fd().try_clone_to_owned().map(TcpStream::from)
}

#[cfg(windows)]
fn duplicate(socket: &impl std::os::windows::io::AsSocket) -> io::Result<TcpStream> {
    socket.as_socket().try_clone_to_owned().map(TcpStream::from)
}
