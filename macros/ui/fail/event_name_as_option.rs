// The name has no key.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(name = "accounts.user_registered")]
struct UserRegistered;

fn main() {}
