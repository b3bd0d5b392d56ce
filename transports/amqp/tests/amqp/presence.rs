use busway_transport::{Interest, Notice, ResponderSpec, Route, Transport};

use crate::bench::{connect, fresh, group, name, run, shared, topic};

#[test]
fn peers_come_change_and_go() {
    run(async {
        let (broker, bus) = (shared().await, fresh());
        let a = connect(broker, &bus).await;
        assert!(a.transport.peers().is_empty());
        let b = connect(broker, &bus).await;
        let is_b = |id| id == b.peer;
        a.host.saw(|notice| matches!(notice, Notice::PeerUp(peer) if is_b(peer.id))).await;
        // The newcomer hears of those who were there.
        b.host.saw(|notice| matches!(notice, Notice::PeerUp(peer) if peer.id == a.peer)).await;

        let route = Route::new(topic("x.y"), None);
        let to_mail = Route::new(topic("x.y"), Some(name("mail")));
        assert_eq!(a.transport.interest(&route), Interest::Unknown);
        b.transport.announce(name("mail"));
        let seen = b.subscribe(1, "x.*", &["mail"]).await;
        let changed = |notice: &Notice| matches!(notice, Notice::PeerChanged(id) if is_b(*id));
        a.host.saw(|notice| changed(notice) && a.transport.interest(&route) == Interest::Yes).await;
        assert_eq!(a.transport.interest(&to_mail), Interest::Yes);
        let elsewhere = Route::new(topic("x.y"), Some(name("elsewhere")));
        assert_eq!(a.transport.interest(&elsewhere), Interest::Unknown);
        assert!(a.transport.peers()[0].endpoints.contains("mail"));
        assert_eq!(a.transport.peers()[0].pid, Some(std::process::id()));

        assert!(!a.transport.peers()[0].ready);
        b.transport.set_ready();
        a.host.saw(|notice| changed(notice) && a.transport.peers()[0].ready).await;

        drop(seen);
        a.host
            .saw(|notice| changed(notice) && a.transport.interest(&route) == Interest::Unknown)
            .await;

        let _work = b.join(group("x.g")).await;
        let spec = ResponderSpec::new(topic("x.ask"), name("mail"), 1);
        let _asks = b.transport.respond(spec).await.unwrap();
        let work = Route::new(topic("x.g"), None);
        let ask = Route::new(topic("x.ask"), None);
        a.host
            .saw(|notice| {
                changed(notice)
                    && a.transport.interest(&work) == Interest::Yes
                    && a.transport.responders(&ask) == Interest::Yes
            })
            .await;
        assert_eq!(b.transport.interest(&work), Interest::Yes, "its own member counts");
        assert_eq!(b.transport.responders(&ask), Interest::Yes);

        b.close().await;
        a.host.saw(|notice| matches!(notice, Notice::PeerDown(peer) if is_b(peer.id))).await;
        assert!(a.transport.peers().is_empty());
        a.close().await;
    });
}
