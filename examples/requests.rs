//! Requests: each ends in exactly one outcome, and a refusal is the responder's own typed error.

use busway::{Bus, Request, RequestError};
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize, Debug)]
#[request("warranty.check", response = Warranty, error = WarrantyError)]
struct CheckWarranty {
    serial: String,
}

#[derive(Serialize, Deserialize, Debug)]
struct Warranty {
    months_left: u32,
}

#[derive(Serialize, Deserialize, Debug, thiserror::Error)]
enum WarrantyError {
    #[error("no product has the serial number {0}")]
    UnknownSerial(String),
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bus = Bus::open().await?;
    let (support, warranty) = (bus.endpoint("support")?, bus.endpoint("warranty")?);
    let ask = |serial: &str| support.request(CheckWarranty { serial: serial.into() });

    match ask("A-1").await {
        Err(RequestError::NoResponder { topic }) => println!("{topic}: nobody responds yet"),
        other => println!("unexpected: {other:?}"),
    }

    warranty
        .respond::<CheckWarranty>()
        .with(|ask| async move {
            match ask.serial.as_str() {
                "A-1" => Ok(Warranty { months_left: 18 }),
                other => Err(WarrantyError::UnknownSerial(other.into())),
            }
        })
        .await?;

    println!("A-1: {} months left", ask("A-1").await?.months_left);
    match ask("B-2").await {
        Err(RequestError::Refused(error)) => println!("B-2: {error}"),
        other => println!("unexpected: {other:?}"),
    }
    bus.close().await?;
    Ok(())
}
