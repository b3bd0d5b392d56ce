// One type as both: each derive reads its own attribute, and neither constant hides the other.
#![deny(warnings)]

use busway::{Event, Request};
use serde::{Deserialize, Serialize};

#[derive(Event, Request, Serialize, Deserialize)]
#[event("lamp.switched")]
#[request("lamp.switch", response = bool)]
struct Switch {
    on: bool,
}

#[derive(Event, Request, Serialize, Deserialize)]
#[event("door.opened", local)]
#[request("door.open", response = ())]
struct Open;

fn main() {
    assert!(Switch { on: true }.on);
    assert_eq!(<Switch as Event>::SCHEMA.name, "lamp.switched");
    assert_eq!(<Switch as Request>::SCHEMA.name, "lamp.switch");
    assert_eq!(<Open as Event>::SCHEMA.name, "door.opened");
}
