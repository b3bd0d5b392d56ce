//! Named pipes, and the entries that show them. (What goes over them is the other tests' matter.)

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::windows::fs::OpenOptionsExt as _;

use busway_transport::{Notice, PeerId, Transport, TransportError};
use tokio::io::AsyncReadExt as _;
use tokio::net::windows::named_pipe::{ClientOptions, ServerOptions};

use crate::support::{connect, entry, folder, later, try_connect, within};

fn pipe(peer: PeerId) -> String {
    format!(r"\\.\pipe\busway-{peer}")
}

/// Opens entries as their own process does: others may read.
fn holding() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).share_mode(1);
    options
}

#[tokio::test]
async fn the_entry_of_a_living_bus_is_its_own_and_goes_with_it() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let path = entry(&dir, one.peer);
        assert_eq!(fs::read_to_string(&path).unwrap(), std::process::id().to_string());
        assert!(fs::remove_file(&path).is_err() && File::create(&path).is_err());
        // Nor can anybody have the same number.
        let taken = try_connect(dir.path(), "shop", one.peer).await;
        assert!(matches!(taken, Err(TransportError::Denied { .. })));
        one.transport.close(later()).await.unwrap();
        assert!(!path.exists());
    })
    .await;
}

#[tokio::test]
async fn the_entry_of_a_dead_process_is_removed() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let dead = entry(&dir, PeerId::from_u64(7));
        fs::write(&dead, "1").unwrap();
        let two = connect(&dir).await;
        assert!(!dead.exists());
        assert_eq!(two.transport.peers().len(), 1);
        assert!(!one.notes.any(|notice| matches!(notice, Notice::Protocol { .. })));
    })
    .await;
}

#[tokio::test]
async fn who_answers_without_an_entry_of_its_own_is_not_spoken_to() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let impostor = PeerId::from_u64(7);
        let mut server = ServerOptions::new().create(pipe(impostor)).unwrap();
        // Held by us, but another process is said to have the pipe.
        let path = entry(&dir, impostor);
        fs::write(&path, "1").unwrap();
        let _held = holding().open(&path).unwrap();
        let (two, called) = tokio::join!(connect(&dir), server.connect());
        called.unwrap();
        assert_eq!(two.transport.peers().iter().map(|peer| peer.id).collect::<Vec<_>>(), [one.peer]);
        let told = |notice: &Notice| {
            matches!(notice, Notice::Protocol { reason, .. } if reason.contains("another process"))
        };
        assert!(two.notes.any(told));
        // It heard nothing, and then nobody was there any more.
        let mut heard = Vec::new();
        let ended = server.read_to_end(&mut heard).await.map_err(|error| error.kind());
        assert!(matches!(ended, Ok(0) | Err(ErrorKind::BrokenPipe)), "{ended:?}");
        assert!(heard.is_empty());
    })
    .await;
}

#[tokio::test]
async fn an_entry_that_is_just_being_made_is_waited_for() {
    within(async {
        let dir = folder();
        let _one = connect(&dir).await;
        let late = PeerId::from_u64(7);
        let mut server = ServerOptions::new().create(pipe(late)).unwrap();
        let mut held = holding().create_new(true).open(entry(&dir, late)).unwrap();
        // In this order: the first looks round until it has to wait.
        let (two, ()) = tokio::join!(connect(&dir), async {
            write!(held, "{}", std::process::id()).unwrap();
            server.connect().await.unwrap();
            assert!(server.read_u8().await.is_ok(), "no hello");
            drop(server);
            drop(held);
        });
        assert!(!two.notes.any(|notice| matches!(notice, Notice::Protocol { .. })));
    })
    .await;
}

#[tokio::test]
async fn garbage_closes_only_its_own_link() {
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let stranger = ClientOptions::new().open(pipe(one.peer)).unwrap();
        stranger.writable().await.unwrap();
        stranger.try_write(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let told = |notice: &Notice| matches!(notice, Notice::Protocol { .. });
        one.notes.until_any(told).await;
        assert_eq!((one.transport.peers().len(), two.transport.peers().len()), (1, 1));
    })
    .await;
}
