//! What is in the way on disk.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::os::unix::net::UnixListener;

use busway_transport::{PeerId, Transport, TransportError};
use futures::future::join_all;

use crate::strangers::{protocol, still_works};
use crate::support::{connect, folder, later, try_connect, within};

/// Somebody else, who owns nothing.
const NOBODY: u32 = 65_534;

/// Only root can become, or give something to, somebody else.
fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: {test}: run as root to see what another user is told");
    }
    root
}

#[tokio::test]
async fn everything_is_for_us_alone() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let shop = dir.path().join("shop");
        assert_eq!(fs::metadata(&shop).unwrap().mode() & 0o777, 0o700);
        let socket = fs::symlink_metadata(shop.join(format!("{}.sock", one.peer))).unwrap();
        assert!(socket.file_type().is_socket());
        assert_eq!(socket.mode() & 0o777, 0o600);
    })
    .await;
}

#[tokio::test]
async fn a_dead_socket_is_reclaimed() {
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let dead = dir.path().join(format!("shop/{}.sock", PeerId::from_u64(7)));
        drop(UnixListener::bind(&dead).unwrap());
        assert!(dead.exists());
        let two = connect(&dir).await;
        assert!(!dead.exists());
        assert_eq!(two.transport.peers().len(), 1);
        // Also where a bus's own has to be.
        drop(UnixListener::bind(&dead).unwrap());
        let three = try_connect(dir.path(), "shop", PeerId::from_u64(7)).await.unwrap();
        assert_eq!(three.transport.peers().len(), 2);
        three.transport.close(later()).await.unwrap();
        assert!(!dead.exists());
        drop(one);
    })
    .await;
}

#[tokio::test]
async fn what_is_not_ours_is_refused_and_stays_untouched() {
    within(async {
        let dir = folder();
        let shop = dir.path().join("shop");
        let refused = async |expected: &str| {
            let error = match try_connect(dir.path(), "shop", PeerId::from_u64(7)).await {
                Ok(_) => panic!("{expected}: connected"),
                Err(error) => error,
            };
            assert!(matches!(error, TransportError::Denied { .. }), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        };

        let elsewhere = folder();
        symlink(elsewhere.path(), &shop).unwrap();
        refused("symbolic link").await;
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
        fs::remove_file(&shop).unwrap();

        fs::write(&shop, "mine").unwrap();
        refused("not a directory").await;
        assert_eq!(fs::read_to_string(&shop).unwrap(), "mine");
        fs::remove_file(&shop).unwrap();

        fs::create_dir(&shop).unwrap();
        fs::set_permissions(&shop, fs::Permissions::from_mode(0o750)).unwrap();
        refused("others have permissions").await;
        fs::set_permissions(&shop, fs::Permissions::from_mode(0o700)).unwrap();

        let socket = shop.join(format!("{}.sock", PeerId::from_u64(7)));
        fs::write(&socket, "mine").unwrap();
        refused("something else than a socket").await;
        assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");

        // As somebody else's socket it is neither dialled nor removed.
        let other = try_connect(dir.path(), "shop", PeerId::from_u64(8)).await.unwrap();
        assert!(other.transport.peers().is_empty());
        assert!(other.notes.any(protocol("something else than a socket")));
        assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");
        fs::remove_file(&socket).unwrap();

        symlink("/dev/null", shop.join("lock2")).unwrap();
        fs::remove_file(shop.join("lock")).unwrap();
        fs::rename(shop.join("lock2"), shop.join("lock")).unwrap();
        refused("symbolic link").await;

        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        refused("others may write").await;
    })
    .await;
}

#[tokio::test]
async fn a_live_socket_is_never_taken_over() {
    within(async {
        let dir = folder();
        let one = try_connect(dir.path(), "shop", PeerId::from_u64(7)).await.unwrap();
        let Err(error) = try_connect(dir.path(), "shop", PeerId::from_u64(7)).await else {
            panic!("the same socket twice");
        };
        assert!(error.to_string().contains("another bus has this socket"), "{error}");
        let two = connect(&dir).await;
        assert_eq!(two.transport.peers()[0].id, one.peer);
    })
    .await;
}

#[tokio::test]
async fn a_path_that_is_too_long_says_the_limit() {
    within(async {
        let dir = folder();
        let long = dir.path().join("x".repeat(90));
        let Err(error) = try_connect(&long, "shop", PeerId::random()).await else { panic!() };
        assert!(error.to_string().contains("may have 107 bytes"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_folder_may_be_reached_by_a_link_of_ours() {
    within(async {
        let (dir, elsewhere) = (folder(), folder());
        let link = elsewhere.path().join("link");
        symlink(dir.path(), &link).unwrap();
        let one = try_connect(&link, "shop", PeerId::random()).await.unwrap();
        let two = connect(&dir).await;
        assert_eq!(one.transport.peers()[0].id, two.peer);
        if is_root("a link of somebody else") {
            lchown(&link, Some(NOBODY), None).unwrap();
            let Err(error) = try_connect(&link, "shop", PeerId::random()).await else { panic!() };
            assert!(error.to_string().contains("a symbolic link of user 65534"), "{error}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_that_start_at_once_reclaim_the_same_dead_sockets() {
    within(async {
        for _ in 0..10 {
            let dir = folder();
            fs::create_dir(dir.path().join("shop")).unwrap();
            let shop = dir.path().join("shop");
            fs::set_permissions(&shop, fs::Permissions::from_mode(0o700)).unwrap();
            for dead in 1..5 {
                let path = shop.join(format!("{}.sock", PeerId::from_u64(dead)));
                drop(UnixListener::bind(path).unwrap());
            }
            // One of them even has to be where a dead one was.
            let buses = join_all((4..10).map(|peer| {
                let dir = dir.path();
                async move { try_connect(dir, "shop", PeerId::from_u64(peer)).await.unwrap() }
            }))
            .await;
            for bus in &buses {
                bus.until_peers(buses.len() - 1).await;
            }
            let mut left: Vec<_> = fs::read_dir(&shop)
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            left.sort();
            let sockets = buses.iter().map(|bus| format!("{}.sock", bus.peer));
            let mut expected: Vec<_> = sockets.chain(["lock".into()]).collect();
            expected.sort();
            assert_eq!(left, expected);
        }
    })
    .await;
}

#[tokio::test]
async fn somebody_elses_socket_is_neither_taken_nor_dialled() {
    if !is_root("somebody else's socket") {
        return;
    }
    within(async {
        let dir = folder();
        let one = connect(&dir).await;
        let theirs = dir.path().join(format!("shop/{}.sock", PeerId::from_u64(7)));
        let listener = UnixListener::bind(&theirs).unwrap();
        lchown(&theirs, Some(NOBODY), None).unwrap();
        let Err(error) = try_connect(dir.path(), "shop", PeerId::from_u64(7)).await else {
            panic!("connected at somebody else's socket");
        };
        assert!(matches!(error, TransportError::Denied { .. }), "{error}");
        assert!(error.to_string().contains("belongs to user 65534"), "{error}");
        let two = connect(&dir).await;
        assert!(two.notes.any(protocol("belongs to user 65534")));
        still_works(&one, &two).await;
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "it was dialled");
        // Nor is it removed when nobody answers there any more.
        drop(listener);
        let three = connect(&dir).await;
        assert_eq!(three.transport.peers().len(), 2);
        assert!(theirs.exists());
    })
    .await;
}

/// Only Linux has users by thread.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn another_user_is_turned_away_before_a_word_is_said() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use busway_transport::Notice;
    use rustix::process::Uid;

    if !is_root("a peer of another user") {
        return;
    }
    within(async {
        let dir = folder();
        let (one, two) = (connect(&dir).await, connect(&dir).await);
        let socket = dir.path().join(format!("shop/{}.sock", one.peer));
        // As if both the folder and the socket stood open.
        for (path, mode) in
            [(dir.path(), 0o755), (&dir.path().join("shop"), 0o755), (&socket, 0o666)]
        {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let stranger = std::thread::spawn(move || {
            // This thread only: what counts is who connects.
            let nobody = Uid::from_raw(NOBODY);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let mut stream = UnixStream::connect(socket).unwrap();
            // Perhaps it hung up already.
            let _ = stream.write_all(&crate::strangers::hello(1, "shop", 5));
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said);
            said
        });
        one.notes.until_any(protocol("another user")).await;
        assert_eq!(stranger.join().unwrap(), b"");
        assert_eq!(one.transport.peers().len(), 1);
        assert!(!two.notes.any(|notice| matches!(notice, Notice::PeerDown(_))));
        still_works(&one, &two).await;
    })
    .await;
}
