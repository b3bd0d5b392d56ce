//! Outages under load, each judged by the ledger: nothing that was confirmed is lost.

use std::sync::Arc;
use std::time::Duration;

use busway_transport::{Notice, Status};

use crate::bench::{Bus, blocking, connect_with, fresh, run, run_alone, shared, try_connect};
use crate::load::Load;
use crate::proxy::{Mode, Proxy};

const WINDOW: usize = 256;

async fn buses(url: &str) -> (Arc<Bus>, Bus) {
    let connect = || try_connect(url, Duration::from_secs(30));
    let (from, to) = (connect().await.expect("connects"), connect().await.expect("connects"));
    (Arc::new(from), to)
}

async fn close(from: &Bus, to: &Bus) {
    from.close().await;
    to.close().await;
}

#[test]
fn connections_that_the_broker_closes_twenty_times_lose_nothing() {
    run_alone(async |broker| {
        let (from, to) = buses(&format!("{}?bus={}", broker.url(), fresh())).await;
        let load = Load::start(from.clone(), &to).await;
        load.goes_on(100).await;
        // In one go: each call of rabbitmqctl takes seconds.
        let closing = "[begin \
             [rabbit_networking:close_connection(P, \"test\") || P <- rabbit_networking:connections()], \
             timer:sleep(500) end || _ <- lists:seq(1, 20)], ok.";
        blocking(|| broker.ctl(&["eval", closing]).expect("closes")).await;
        println!("closed 20 times: went on after {:?}", load.goes_on(100).await);
        load.end("closed 20 times", 20, WINDOW).await;
        close(&from, &to).await;
    });
}

#[test]
fn a_broker_that_stops_is_killed_or_freezes_loses_nothing() {
    run_alone(async |broker| {
        // Classic queues: RabbitMQ 3.10 finds no leader for a quorum queue that was declared just
        // before the kill. A short heartbeat: a frozen broker is noticed after two.
        let url = format!("{}?bus={}&queue_type=classic&heartbeat=1", broker.url(), fresh());
        let (from, to) = buses(&url).await;
        let load = Load::start(from.clone(), &to).await;
        load.goes_on(100).await;
        blocking(|| {
            broker.stop().expect("stops");
            broker.start_again().expect("starts");
        })
        .await;
        println!("stopped: went on {:?} after the broker was back", load.goes_on(100).await);
        blocking(|| {
            broker.kill().expect("kills");
            broker.start_again().expect("starts");
        })
        .await;
        println!("killed: went on {:?} after the broker was back", load.goes_on(100).await);
        from.host.forget();
        blocking(|| broker.pause().expect("freezes")).await;
        from.host.saw(|n| matches!(n, Notice::Status(Status::Reconnecting { .. }))).await;
        blocking(|| broker.resume().expect("thaws")).await;
        println!("frozen: went on {:?} after the broker was back", load.goes_on(100).await);
        load.end("stopped, killed, frozen", 3, WINDOW).await;
        close(&from, &to).await;
    });
}

#[test]
fn a_bad_network_loses_nothing() {
    run(async {
        let broker = shared().await;
        let proxy = Proxy::start(broker.port()).await;
        let (from, to) = buses(&proxy.url(&format!("bus={}&heartbeat=1", fresh()))).await;
        let load = Load::start(from.clone(), &to).await;
        load.goes_on(100).await;
        for (mode, breaks) in [
            (Mode::Delay(Duration::from_millis(30)), false),
            (Mode::Limit(400_000), false),
            (Mode::CutAfter(10_007), true),
            (Mode::Reset, true),
            (Mode::Silent, true),
        ] {
            let before = proxy.accepted();
            proxy.set(mode);
            if breaks {
                // Tried again while it lasts.
                proxy.came(before, 2).await;
            } else {
                load.goes_on(300).await;
            }
            proxy.set(Mode::Pass);
            println!("{mode:?}: went on after {:?}", load.goes_on(300).await);
        }
        // Cut, reset and silent: at the proxy an attempt to come back may fail like the first.
        load.end("a bad network", 12, WINDOW).await;
        close(&from, &to).await;
    });
}

#[test]
fn an_alarm_blocks_publishers_and_neither_acks_nor_close() {
    run_alone(async |broker| {
        for (set, unset) in [
            (["set_vm_memory_high_watermark", "0.000001"], ["set_vm_memory_high_watermark", "0.4"]),
            (["set_disk_free_limit", "1000000GB"], ["set_disk_free_limit", "1MB"]),
        ] {
            let query = format!("bus={}&queue_type=classic", fresh());
            let connect = || connect_with(broker, &query);
            let (from, to, third) = (connect().await, connect().await, connect().await);
            let mut work = to.join(crate::bench::group("x.y")).await;
            let mut before = Vec::new();
            for n in 0..5 {
                before.push(from.publish("x.y", &n.to_string()).await);
            }
            blocking(move || broker.ctl(&set).expect("sets")).await;
            let route = busway_transport::Route::new(crate::bench::topic("x.y"), None);
            let late = from.envelope("x.y", "late");
            let late_id = late.id;
            let late = from.commit(&route, late).await;
            let blocked = |n: &Notice| match n {
                Notice::Status(Status::Blocked { reason }) => !reason.is_empty(),
                _ => false,
            };
            from.host.saw(blocked).await;
            // One at a time: each next one shows that the ack before it was taken.
            for id in before {
                let delivery = futures::StreamExt::next(&mut work).await.unwrap();
                assert_eq!(delivery.envelope.id, id);
                delivery.settlement.settle(busway_transport::Outcome::Done);
            }
            // Says that its goodbye was not confirmed, or closes: but it returns.
            let deadline = std::time::Instant::now() + Duration::from_secs(3);
            let _ = busway_transport::Transport::close(&third.transport, deadline).await;
            assert_eq!(busway_transport::Transport::status(&third.transport), Status::Closed);
            from.host.forget();
            blocking(move || broker.ctl(&unset).expect("unsets")).await;
            from.host.saw(|n| matches!(n, Notice::Status(Status::Connected))).await;
            late.await.expect("confirmed in the end");
            let delivery = futures::StreamExt::next(&mut work).await.unwrap();
            assert_eq!(delivery.envelope.id, late_id);
            delivery.settlement.settle(busway_transport::Outcome::Done);
            close(&from, &to).await;
        }
    });
}
