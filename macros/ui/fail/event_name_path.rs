// Words are separated by dots; the right name is suggested.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts::UserRegistered")]
struct UserRegistered;

fn main() {}
