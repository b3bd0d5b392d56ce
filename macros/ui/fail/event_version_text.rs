// A version is a number.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", version = "2")]
struct UserRegistered;

fn main() {}
