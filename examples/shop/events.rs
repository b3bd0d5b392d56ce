//! What the applications tell and ask each other: the contract of the shop.
//!
//! An event carries all that its receivers need, so that none of them has to remember an earlier
//! one: a process that was killed and started again goes on where it was.

use std::fmt;

use busway::{Event, Request};
use serde::{Deserialize, Serialize};

/// One run of sales. Brokers keep the work of durable groups, so events of a day that broke off
/// may still arrive on the next one; this tells them apart.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Day(pub(crate) u64);

/// Which order: its number in the file is unique only on its day.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct OrderId {
    pub(crate) day: Day,
    pub(crate) number: u32,
}

/// So many pieces of one part.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) name: String,
    pub(crate) quantity: u32,
}

/// From sales to spare parts, warranty and mail.
#[derive(Event, Serialize, Deserialize, Debug, Clone)]
#[event("shop.order_placed")]
pub(crate) struct OrderPlaced {
    pub(crate) id: OrderId,
    pub(crate) customer: String,
    pub(crate) email: String,
    pub(crate) product: String,
    pub(crate) serial: String,
    pub(crate) parts: Vec<Parts>,
}

/// From spare parts to sales: the order's parts are taken from the shelf.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event("shop.parts_reserved")]
pub(crate) struct PartsReserved {
    pub(crate) order: OrderId,
    pub(crate) parts: Vec<Parts>,
}

/// From warranty to support, mail and sales: the serial number is in the register, with cover or
/// without. From now on anybody may ask for it.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event("shop.warranty_registered")]
pub(crate) struct WarrantyRegistered {
    pub(crate) order: OrderId,
    pub(crate) serial: String,
    pub(crate) email: String,
}

/// From support to sales: warranty was asked about an order's product.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event("shop.warranty_checked")]
pub(crate) struct WarrantyChecked {
    pub(crate) order: OrderId,
    pub(crate) answer: Result<Warranty, WarrantyError>,
}

/// From mail to sales.
#[derive(Event, Serialize, Deserialize, Debug)]
#[event("shop.mail_sent")]
pub(crate) struct MailSent {
    pub(crate) order: OrderId,
    pub(crate) letter: Letter,
}

/// Which of the two letters that each customer gets.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Letter {
    Confirmation,
    Warranty,
}

/// From support to warranty: is this covered?
#[derive(Request, Serialize, Deserialize, Debug)]
#[request("shop.check_warranty", response = Warranty, error = WarrantyError)]
pub(crate) struct CheckWarranty {
    pub(crate) serial: String,
}

/// It is.
#[derive(Serialize, Deserialize, Debug, Clone)]
pub(crate) struct Warranty {
    pub(crate) months: u32,
}

/// It is not.
#[derive(Serialize, Deserialize, Debug, Clone, thiserror::Error)]
pub(crate) enum WarrantyError {
    #[error("there is no serial number {serial}")]
    UnknownSerial { serial: String },
    #[error("{product} was sold without warranty")]
    SoldWithout { product: String },
}

/// From sales to each of the others, by name: everything is done, go home.
#[derive(Request, Serialize, Deserialize, Debug)]
#[request("shop.end_day", response = DayReport)]
pub(crate) struct EndDay {
    pub(crate) day: Day,
}

/// What an application says as it goes.
#[derive(Serialize, Deserialize, Debug, Clone, Copy)]
pub(crate) struct DayReport {
    /// How often work arrived that it had done already.
    pub(crate) repeats: u64,
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order {}", self.number)
    }
}
