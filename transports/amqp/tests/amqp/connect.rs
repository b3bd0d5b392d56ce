use std::time::{Duration, Instant};

use busway_transport::{Route, Status, Transport, TransportError};

use crate::bench::{blocking, connect, fresh, group, run, run_alone, shared, topic, try_connect};

const SOON: Duration = Duration::from_secs(20);

async fn refused(url: &str) -> TransportError {
    let error = try_connect(url, SOON).await.map(|_| ()).expect_err("is refused");
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("sesame"), "{text}");
    }
    error
}

#[test]
fn a_wrong_password_is_denied_and_not_shown() {
    run(async {
        let url = shared().await.url().replace("guest:guest", "guest:sesame");
        let error = refused(&url).await;
        assert!(matches!(error, TransportError::Denied { .. }), "{error:?}");
    });
}

#[test]
fn an_unknown_vhost_is_denied_by_its_name() {
    run(async {
        let url = shared().await.url().replace("%2f", "nowhere");
        let error = refused(&url).await;
        assert!(matches!(error, TransportError::Denied { .. }), "{error:?}");
        assert!(error.to_string().contains("nowhere"), "{error}");
    });
}

#[test]
fn missing_permissions_are_denied_once_and_for_all() {
    run_alone(async |broker| {
        blocking(|| {
            broker.ctl(&["add_user", "clerk", "sesame"]).expect("adds");
            // It may declare and write nothing.
            broker.ctl(&["set_permissions", "clerk", "^$", "^$", "^$"]).expect("permits");
        })
        .await;
        let url = broker.url().replace("guest:guest", "clerk:sesame");
        let error = refused(&url).await;
        assert!(matches!(error, TransportError::Denied { .. }), "{error:?}");

        // What is lost later is told as well, and ends what it concerns.
        let all = ["set_permissions", "clerk", ".*", ".*", ".*"];
        blocking(move || broker.ctl(&all).expect("permits")).await;
        let bus = try_connect(&format!("{url}?bus={}", fresh()), SOON).await.unwrap();
        let none = ["set_permissions", "clerk", ".*", "^$", "^$"];
        blocking(move || broker.ctl(&none).expect("permits")).await;
        let route = Route::new(topic("x.y"), None);
        let envelope = bus.envelope("x.y", "1");
        // Permissions are remembered by channels for a while; a new connection asks anew.
        blocking(|| broker.ctl(&["close_all_connections", "test"]).expect("closes")).await;
        let error = bus.commit(&route, envelope).await.await.unwrap_err();
        assert!(matches!(error, TransportError::Denied { .. }), "{error:?}");
        assert!(!error.to_string().contains("sesame"), "{error}");
        let error = bus.transport.join(group("x.y")).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, TransportError::Denied { .. }), "{error:?}");
    });
}

#[test]
fn a_broker_that_is_not_there_yet_is_waited_for_when_told_so() {
    run_alone(async |broker| {
        blocking(|| broker.stop().expect("stops")).await;
        let url = format!("{}?bus={}", broker.url(), fresh());
        let error = try_connect(&url, SOON).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, TransportError::Unreachable { .. }), "at once: {error:?}");
        let waiting = format!("{url}&wait=true");
        let error =
            try_connect(&waiting, Duration::from_millis(500)).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, TransportError::Unreachable { .. }), "in the end: {error:?}");
        let connecting = try_connect(&waiting, Duration::from_secs(60));
        let starting = blocking(|| broker.start_again().expect("starts"));
        let (bus, ()) = tokio::join!(connecting, starting);
        bus.expect("connects when it is there").close().await;
    });
}

#[test]
fn a_port_where_nobody_listens_is_unreachable() {
    run(async {
        // Bound and never listened to: nobody else takes it meanwhile.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let error = refused(&format!("amqp://guest:sesame@127.0.0.1:{port}/")).await;
        assert!(matches!(error, TransportError::Unreachable { .. }), "{error:?}");
        let error = refused("amqp://guest:sesame@no-such-host.invalid/").await;
        assert!(matches!(error, TransportError::Unreachable { .. }), "{error:?}");
    });
}

#[test]
fn tls_against_a_broker_without_is_unreachable() {
    run(async {
        let url = shared().await.url().replace("amqp://guest:guest", "amqps://guest:sesame");
        let error = refused(&url).await;
        assert!(matches!(error, TransportError::Unreachable { .. }), "{error:?}");
    });
}

#[test]
fn a_silent_peer_times_out() {
    run(async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = format!("amqp://guest:sesame@127.0.0.1:{port}/");
        let error = try_connect(&url, Duration::from_millis(300)).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, TransportError::TimedOut { .. }), "{error:?}");
        assert!(!error.to_string().contains("sesame"));
        drop(listener);
    });
}

#[test]
fn an_unknown_parameter_names_its_neighbour() {
    run(async {
        let error = refused("amqp://guest:sesame@127.0.0.1:1/?windows=5").await;
        assert!(matches!(error, TransportError::BadAddress { .. }), "{error:?}");
        assert!(error.to_string().contains("\"window\""), "{error}");
    });
}

#[test]
fn closed_is_closed() {
    run(async {
        let bus = connect(shared().await, &fresh()).await;
        assert_eq!(bus.transport.status(), Status::Connected);
        bus.close().await;
        assert_eq!(bus.transport.status(), Status::Closed);
        let route = Route::new(topic("a.b"), None);
        let error = bus.transport.reserve(&route).await.unwrap_err();
        assert!(matches!(error, TransportError::Closed), "{error:?}");
        let error = bus.transport.flush(Instant::now()).await.unwrap_err();
        assert!(matches!(error, TransportError::Closed), "{error:?}");
    });
}
