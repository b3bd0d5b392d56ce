// A codec is written as a string.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", codec = Json)]
struct UserRegistered;

fn main() {}
