//! The first program of the README: one event, one subscriber.

use busway::{Bus, Event};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize, Debug)]
#[event("accounts.user_registered")]
struct UserRegistered {
    id: u64,
    email: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::open().await?; // in this process, unless configured otherwise
    let accounts = bus.endpoint("accounts")?;
    let mail = bus.endpoint("mail")?;

    mail.subscribe::<UserRegistered>()
        .for_each(|user| async move { println!("mail: welcome, {}!", user.email) })
        .await?;

    let user = UserRegistered { id: 7, email: "ada@example.org".into() };
    let receipt = accounts.publish(user).await?;

    bus.close().await?; // drains: what was accepted is handled before it returns
    println!("accounts: reached {} subscription", receipt.reached());
    Ok(())
}
