// One event has one concrete type.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.changed")]
struct Changed<T> {
    value: T,
}

fn main() {}
