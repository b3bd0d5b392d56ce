// A path is written without quotes.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", crate = "busway")]
struct UserRegistered;

fn main() {}
