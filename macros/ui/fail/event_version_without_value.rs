// The value is missing.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", version)]
struct UserRegistered;

fn main() {}
