//! A shop of five applications around an order file: the main job of an event bus.
//!
//! Sales reads the orders and publishes each; spare parts reserves the parts, warranty registers
//! the serial numbers, mail writes to the customers, support asks warranty about each product
//! registered. At the end sales prints a table.
//!
//! ```text
//! cargo run --example shop                                        all five in this process
//! cargo run --example shop -- --transport ipc:shop --apps mail    one of five processes
//! ```
//!
//! To read on: `events` (what they tell each other), `spare_parts` (the shortest application),
//! `sales` (the day from morning to evening), `books` (why the table is always the same).

mod app;
mod books;
mod error;
mod events;
mod journal;
mod mail;
mod orders;
mod progress;
mod sales;
mod spare_parts;
mod support;
mod table;
mod warranty;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use busway::{Bus, Notice, Notices, ReadyError, Status};
use clap::Parser;
use futures::future::join_all;

use crate::app::{App, Closing};
use crate::error::ShopError;
use crate::sales::Sales;

/// A shop of five applications that meet on a bus.
#[derive(Parser, Debug)]
#[command(name = "shop")]
struct Arguments {
    /// Which applications run in this process.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        value_name = "APP,…",
        default_value = "sales,spare-parts,support,warranty,mail"
    )]
    apps: Vec<App>,

    /// Where they meet: memory:NAME, ipc:NAME or amqp://… [default: as configured, else in this
    /// process]
    #[arg(long, value_name = "URL")]
    transport: Option<String>,

    /// The order file.
    #[arg(long, value_name = "FILE",
          default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shop/orders.csv"))]
    orders: PathBuf,

    /// A folder for what sales and warranty must still know when they were killed and are started
    /// again [default: they begin anew]
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match shop(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shop: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn shop(arguments: Arguments) -> Result<(), ShopError> {
    let bus = match &arguments.transport {
        Some(address) => Bus::connect(address).await?,
        None => Bus::open().await?,
    };
    tokio::spawn(tell(bus.notices()));
    let day = day(&bus, arguments).await;
    // Also after an error: what was taken is finished, and the others see us go.
    let closed = bus.close().await;
    day?;
    Ok(closed?)
}

/// Opens this process's applications, and lets them work until the day is over.
async fn day(bus: &Bus, arguments: Arguments) -> Result<(), ShopError> {
    let state = arguments.state.as_deref();
    let mut sales = None;
    let mut staff = Vec::new();
    for app in BTreeSet::from_iter(arguments.apps) {
        match app {
            App::Sales => sales = Some(Sales::open(bus, &arguments.orders, state).await?),
            App::SpareParts => staff.push(spare_parts::open(bus).await?),
            App::Support => staff.push(support::open(bus).await?),
            App::Warranty => staff.push(warranty::open(bus, state).await?),
            App::Mail => staff.push(mail::open(bus).await?),
        }
    }
    // Watches from before the barrier on, so that nobody leaves unseen.
    let notices = bus.notices();
    // All that these applications subscribe to is live. Once that is true of all five, wherever
    // they run, no event can be missed.
    bus.ready(App::NAMES).await?;

    let home = join_all(staff.into_iter().map(Closing::wait));
    match sales {
        Some(sales) => {
            sales.run().await?;
            home.await;
            Ok(())
        }
        None => tokio::select! {
            biased;
            _ = home => Ok(()),
            left = sales_left(bus, notices) => Err(ShopError::SalesLeft(left)),
        },
    }
}

/// Resolves when sales has left and stays away: nobody would send this process home then.
async fn sales_left(bus: &Bus, mut notices: Notices) -> ReadyError {
    let sales = App::Sales.name();
    while let Some(notice) = notices.next().await {
        if let Notice::PeerDown(peer) = notice
            && peer.endpoints.iter().any(|endpoint| endpoint.as_str() == sales)
            && let Err(error) = bus.ready([sales]).await
        {
            return error;
        }
    }
    ReadyError::Closed
}

/// Says on stderr what the bus itself has to tell.
async fn tell(mut notices: Notices) {
    while let Some(notice) = notices.next().await {
        match notice {
            Notice::Status(Status::Closed) => {}
            Notice::Status(status) => eprintln!("shop: the bus is {status}"),
            Notice::Gap { filter, gap } => eprintln!("shop: {filter}: {gap}"),
            Notice::DeadLettered(group) => eprintln!("shop: a dead letter of {group}"),
            Notice::GroupLost { group, missed } => {
                eprintln!("shop: {missed} events for {group} are lost");
            }
            Notice::PublishFailed { topic, reason } => eprintln!("shop: {topic}: {reason}"),
            Notice::Protocol { peer, reason } => eprintln!("shop: {peer} was cut off: {reason}"),
            // Who comes and goes is no news here.
            _ => {}
        }
    }
}
