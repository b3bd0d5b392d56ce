// An option twice.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", version = 2, version = 3)]
struct UserRegistered;

fn main() {}
