// An event of each kind of type, there and back through a codec.
#![deny(warnings)]

use busway::{Codec, Event};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event("accounts.user_registered")]
struct UserRegistered {
    id: u64,
    email: String,
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event("accounts.user_left")]
struct UserLeft(u64);

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event("clock.ticked")]
struct Ticked;

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event("orders.changed")]
enum OrderChanged {
    Placed { id: u64 },
    Cancelled(u64, String),
    Forgotten,
}

fn there_and_back<E: Event + PartialEq + std::fmt::Debug>(event: E) {
    let mut buffer = Vec::new();
    event.encode(Codec::Json, &mut buffer).expect("encodes");
    assert_eq!(E::decode(Codec::Json, &buffer).expect("decodes"), event);
}

fn main() {
    assert_eq!(UserRegistered::SCHEMA.name, "accounts.user_registered");
    let email = "a@example.org".to_owned();
    there_and_back(UserRegistered { id: 1, email });
    there_and_back(UserLeft(1));
    there_and_back(Ticked);
    there_and_back(OrderChanged::Placed { id: 1 });
    there_and_back(OrderChanged::Cancelled(1, String::new()));
    there_and_back(OrderChanged::Forgotten);
}
