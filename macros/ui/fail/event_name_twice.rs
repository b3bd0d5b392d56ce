// A second name.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", "accounts.registered")]
struct UserRegistered;

fn main() {}
