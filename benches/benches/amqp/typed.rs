//! What goes over the wire.

use busway::{Event, Request};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::SIZE;

/// Bytes as they are: its codec adds a length.
#[derive(Event, Serialize, Deserialize)]
#[event("bench.blob", codec = "bincode")]
pub(crate) struct Blob {
    pub(crate) bytes: Bytes,
}

pub(crate) fn bytes() -> Bytes {
    Bytes::from(vec![7; SIZE])
}

/// An event as people have them.
#[derive(Event, Serialize, Deserialize)]
#[event("bench.order")]
pub(crate) struct Order {
    pub(crate) number: u64,
    customer: String,
    lines: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    article: String,
    count: u32,
    cents: u64,
}

impl Order {
    pub(crate) fn new(number: u64) -> Self {
        let line = |count| Line { article: format!("article-{count}"), count, cents: 1999 };
        Self { number, customer: "someone@example.org".into(), lines: (1..4).map(line).collect() }
    }
}

/// Answered with its number.
#[derive(Request, Serialize, Deserialize)]
#[request("bench.question", response = u64)]
pub(crate) struct Question {
    pub(crate) number: u64,
}
