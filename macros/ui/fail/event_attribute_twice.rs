// One event has one name.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered")]
#[event("accounts.registered")]
struct UserRegistered;

fn main() {}
