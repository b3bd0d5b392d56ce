// Requests with their own error and with the default.
#![deny(warnings)]

use busway::{Refused, Request};
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", response = Warranty, error = WarrantyError)]
struct CheckWarranty {
    serial: String,
}

#[derive(Serialize, Deserialize)]
struct Warranty {
    months_left: u32,
}

#[derive(Serialize, Deserialize, Debug)]
enum WarrantyError {
    UnknownSerial,
}

impl std::fmt::Display for WarrantyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for WarrantyError {}

#[derive(Request, Serialize, Deserialize)]
#[request("stock.count", version = 2, codec = "msgpack", response = Result<Vec<(String, u32)>, ()>,)]
struct CountStock;

fn answer<R: Request>(_: R, response: Result<R::Response, R::Error>) -> Option<R::Response> {
    response.ok()
}

fn refused<R: Request<Error = Refused>>() {}

fn main() {
    assert_eq!(CheckWarranty::SCHEMA.name, "warranty.check");
    let ask = || CheckWarranty { serial: "1".to_owned() };
    assert_eq!(ask().serial, "1");
    let warranty = answer(ask(), Ok(Warranty { months_left: 3 }));
    assert_eq!(warranty.map(|w| w.months_left), Some(3));
    assert!(answer(ask(), Err(WarrantyError::UnknownSerial)).is_none());
    refused::<CountStock>();
}
