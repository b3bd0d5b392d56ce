//! Shared work: each event goes to one member of a group, is attempted again when its handler
//! fails, and becomes a dead letter after the last attempt.

use std::time::Duration;

use busway::{Bus, Event, HandlerError, Notice, Retry};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize, Debug)]
#[event("sales.order_placed")]
struct OrderPlaced {
    id: u64,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::open().await?;
    let (sales, billing) = (bus.endpoint("sales")?, bus.endpoint("billing")?);
    let mut notices = bus.notices();

    billing
        .subscribe::<OrderPlaced>()
        .group("invoicing")
        .retry(Retry::fixed(Duration::from_millis(10)).attempts(3))
        .try_for_each(|order| async move {
            if order.id == 3 {
                println!("order {}: attempt {} fails", order.id, order.attempt());
                return Err(HandlerError::new("the customer has no address"));
            }
            println!("order {}: invoiced", order.id);
            Ok(())
        })
        .await?;

    for id in 1..=3 {
        sales.publish(OrderPlaced { id }).require_subscriber().await?;
    }
    while let Some(notice) = notices.next().await {
        if let Notice::DeadLettered(group) = notice {
            println!("a dead letter of {group}:");
            break;
        }
    }
    for letter in billing.dead_letters::<OrderPlaced>("invoicing").await? {
        println!(
            "{} attempts, {}: {}, published by {}",
            letter.attempts,
            letter.failure.reason,
            letter.failure.text,
            letter.envelope.source.endpoint
        );
    }
    bus.close().await?;
    Ok(())
}
