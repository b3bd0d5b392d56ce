// Every option of an event.
#![deny(warnings)]

use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", version = 1)]
struct First;

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", version = 2)]
struct Second;

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.json", codec = "json")]
struct Json;

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.msgpack", version = 3, codec = "msgpack")]
struct MessagePack;

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.bincode", codec = "bincode", crate = ::busway)]
struct Bincode;

fn main() {
    assert_eq!(First::SCHEMA.name, Second::SCHEMA.name);
    assert_eq!(Json::SCHEMA.name, "accounts.json");
    assert_eq!(MessagePack::SCHEMA.name, "accounts.msgpack");
    assert_eq!(Bincode::SCHEMA.name, "accounts.bincode");
}
