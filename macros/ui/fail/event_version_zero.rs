// Versions start at 1.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", version = 0)]
struct UserRegistered;

fn main() {}
