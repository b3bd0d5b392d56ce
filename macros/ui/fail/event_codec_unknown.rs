// A codec that does not exist.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", codec = "yaml")]
struct UserRegistered;

fn main() {}
