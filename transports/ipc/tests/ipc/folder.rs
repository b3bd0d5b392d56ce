//! What is in the way on disk.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use busway_transport::{PeerId, Transport, TransportError};

use crate::support::{connect, folder, later, try_connect, within};

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
