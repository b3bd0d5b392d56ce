//! The short way of `Publisher`s, through the public API.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use busway::{Bus, Event, PublishError};
use busway_amqp::AmqpConnector;
use busway_transport::{GroupDeliveries, MessageId, Notice, Outcome, Status, Transport};
use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::bench::{body, connect, fresh, group, run, shared, try_connect};
use crate::proxy::{Mode, Proxy};

#[derive(Event, Serialize, Deserialize)]
#[event("x.number")]
struct Number(u32);

async fn open(url: &str) -> Bus {
    let bus = Bus::builder().connector(AmqpConnector::new()).transport(url);
    bus.without_configuration().open().await.expect("connects")
}

/// Takes so many different events of a group.
async fn take(work: &mut GroupDeliveries, count: usize) -> BTreeSet<(u32, MessageId)> {
    let mut taken = BTreeSet::new();
    while taken.len() < count {
        let delivery = work.next().await.expect("goes on");
        taken.insert((body(&delivery.envelope).parse().unwrap(), delivery.envelope.id));
        delivery.settlement.settle(Outcome::Done);
    }
    taken
}

#[test]
fn flush_reports_every_event_that_a_full_group_refused() {
    run(async {
        let (broker, name) = (shared().await, fresh());
        let mut spec = group("x.number");
        (spec.durable, spec.backlog, spec.concurrency) = (true, 20, 16);
        let members = connect(broker, &name).await;
        drop(members.join(spec.clone()).await);
        members.close().await;

        let bus = open(&format!("{}?bus={name}", broker.url())).await;
        let publisher = bus.endpoint("from").unwrap().publisher::<Number>();
        const COUNT: u32 = 600;
        for number in 0..COUNT {
            publisher.publish(Number(number)).await.expect("accepted");
        }
        let error = publisher.flush().await.expect_err("the group is full");
        assert_eq!(error.count, error.failures.len());
        let refused: BTreeSet<MessageId> = error
            .failures
            .iter()
            .map(|failure| match failure {
                PublishError::GroupFull { id, .. } => *id,
                other => panic!("{other}"),
            })
            .collect();
        assert_eq!(refused.len(), error.count, "each once");
        assert!(refused.len() > 100, "{} refused", refused.len());
        publisher.flush().await.expect("reported already");

        // All others are there, and none of those.
        let members = connect(broker, &name).await;
        let mut work = members.join(spec.clone()).await;
        let taken = take(&mut work, COUNT as usize - refused.len()).await;
        assert!(taken.iter().all(|(_, id)| !refused.contains(id)));
        drop(work);
        members.transport.remove_group(&spec.key, true).await.unwrap();
        bus.close().await.unwrap();
        members.close().await;
    });
}

#[test]
fn what_a_publisher_had_not_confirmed_goes_out_again() {
    run(async {
        let (broker, name) = (shared().await, fresh());
        let members = Arc::new(connect(broker, &name).await);
        let mut spec = group("x.number");
        spec.concurrency = 64;
        let mut work = members.join(spec).await;
        let proxy = Proxy::start(broker.port()).await;
        let url = proxy.url(&format!("bus={name}"));
        let bus = open(&url).await;
        let watcher = try_connect(&url, Duration::from_secs(30)).await.expect("connects");
        let publisher = bus.endpoint("from").unwrap().publisher::<Number>();
        const COUNT: u32 = 3000;
        let publishing = async {
            for number in 0..COUNT {
                if number % 1000 == 500 {
                    watcher.host.forget();
                    proxy.set(Mode::Reset);
                    let lost =
                        |n: &Notice| matches!(n, Notice::Status(Status::Reconnecting { .. }));
                    watcher.host.saw(lost).await;
                    proxy.set(Mode::Pass);
                }
                publisher.publish(Number(number)).await.expect("accepted");
            }
            publisher.flush().await.expect("confirmed");
        };
        let ((), taken) = tokio::join!(publishing, take(&mut work, COUNT as usize));
        let numbers: BTreeSet<u32> = taken.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers.len(), COUNT as usize, "with the id that it had");
        drop(work);
        bus.close().await.unwrap();
        watcher.close().await;
        members.close().await;
    });
}
