//! The order file: one order per line, and what can be wrong with a line.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use csv::{ErrorKind, StringRecord, StringRecordsIntoIter};

use crate::error::ShopError;
use crate::events::{Day, OrderId, OrderPlaced, Parts};

const COLUMNS: [&str; 6] = ["order", "customer", "email", "product", "serial", "parts"];

/// What spare parts has on its shelves.
const PARTS: [&str; 15] = [
    "air-filter",
    "bearing",
    "blade",
    "bolt",
    "carbon-brush",
    "chuck",
    "drive-belt",
    "gasket",
    "hose",
    "nut",
    "o-ring",
    "oil-filter",
    "spark-plug",
    "switch",
    "washer",
];

/// The most pieces of one part that one order may take.
const MOST: u32 = 500;

/// Reads the lines of an order file, one at a time.
pub(crate) struct OrderFile {
    path: PathBuf,
    lines: StringRecordsIntoIter<File>,
    day: Day,
    /// The line of each order number and serial number so far.
    orders: HashMap<u32, u64>,
    serials: HashMap<String, u64>,
}

/// One line of the file behind its heading.
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) order: Result<OrderPlaced, BadLine>,
}

/// Why a line is no order.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadLine {
    #[error("{found} fields instead of {}", COLUMNS.len())]
    Fields { found: u64 },
    #[error("is not UTF-8")]
    NotUtf8,
    #[error("{0:?} is no order number")]
    Number(String),
    #[error("order {number} stands in line {line} already")]
    RepeatedNumber { number: u32, line: u64 },
    #[error("the customer has no name")]
    NoCustomer,
    #[error("{0:?} is no mail address")]
    Email(String),
    #[error("there is no serial number")]
    NoSerial,
    #[error("serial number {serial} stands in line {line} already")]
    RepeatedSerial { serial: String, line: u64 },
    #[error("no parts are ordered")]
    NoParts,
    #[error("{0:?} does not say how many")]
    NoQuantity(String),
    #[error("there is no part {0:?}")]
    UnknownPart(String),
    #[error("the part {0:?} stands there twice")]
    RepeatedPart(String),
    #[error("{part}: the quantity {quantity:?} is not a number from 1 to {MOST}")]
    Quantity { part: String, quantity: String },
}

impl OrderFile {
    pub(crate) fn open(path: &Path, day: Day) -> Result<Self, ShopError> {
        let unreadable = |error| ShopError::Orders { path: path.to_owned(), error };
        let mut file = csv::Reader::from_path(path).map_err(unreadable)?;
        if file.headers().map_err(unreadable)? != COLUMNS.as_slice() {
            return Err(ShopError::NotOrders { path: path.to_owned(), columns: COLUMNS.join(",") });
        }
        Ok(Self {
            path: path.to_owned(),
            lines: file.into_records(),
            day,
            orders: HashMap::new(),
            serials: HashMap::new(),
        })
    }

    fn order(&mut self, line: u64, fields: &StringRecord) -> Result<OrderPlaced, BadLine> {
        let field = |column: usize| fields.get(column).unwrap_or_default().trim();
        let number = field(0).parse().map_err(|_| BadLine::Number(field(0).to_owned()))?;
        if let Some(&line) = self.orders.get(&number) {
            return Err(BadLine::RepeatedNumber { number, line });
        }
        let customer = named(field(1)).ok_or(BadLine::NoCustomer)?;
        let email = field(2).to_owned();
        if !email.split_once('@').is_some_and(|(who, host)| !who.is_empty() && host.contains('.')) {
            return Err(BadLine::Email(email));
        }
        let serial = named(field(4)).ok_or(BadLine::NoSerial)?;
        if let Some(&line) = self.serials.get(&serial) {
            return Err(BadLine::RepeatedSerial { serial, line });
        }
        let parts = parts(field(5))?;
        // Only a good line takes its numbers.
        self.orders.insert(number, line);
        self.serials.insert(serial.clone(), line);
        let id = OrderId { day: self.day, number };
        Ok(OrderPlaced { id, customer, email, product: field(3).to_owned(), serial, parts })
    }
}

impl Iterator for OrderFile {
    type Item = Result<Line, ShopError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (number, order) = match self.lines.next()? {
            Ok(fields) => {
                let number = fields.position().map_or(0, csv::Position::line);
                (number, self.order(number, &fields))
            }
            Err(error) => {
                let number = error.position().map_or(0, csv::Position::line);
                match error.kind() {
                    ErrorKind::UnequalLengths { len, .. } => {
                        (number, Err(BadLine::Fields { found: *len }))
                    }
                    ErrorKind::Utf8 { .. } => (number, Err(BadLine::NotUtf8)),
                    // The file itself cannot be read: that is not the line's fault.
                    _ => return Some(Err(ShopError::Orders { path: self.path.clone(), error })),
                }
            }
        };
        Some(Ok(Line { number, order }))
    }
}

fn named(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Reads `bolt:4;gasket:1`.
fn parts(text: &str) -> Result<Vec<Parts>, BadLine> {
    if text.is_empty() {
        return Err(BadLine::NoParts);
    }
    let mut parts: Vec<Parts> = Vec::new();
    for item in text.split(';') {
        let (name, quantity) =
            item.split_once(':').ok_or_else(|| BadLine::NoQuantity(item.to_owned()))?;
        if !PARTS.contains(&name) {
            return Err(BadLine::UnknownPart(name.to_owned()));
        }
        if parts.iter().any(|part| part.name == name) {
            return Err(BadLine::RepeatedPart(name.to_owned()));
        }
        let number = quantity.parse().ok().filter(|number| (1..=MOST).contains(number));
        let wrong = || BadLine::Quantity { part: name.to_owned(), quantity: quantity.to_owned() };
        parts.push(Parts { name: name.to_owned(), quantity: number.ok_or_else(wrong)? });
    }
    Ok(parts)
}
