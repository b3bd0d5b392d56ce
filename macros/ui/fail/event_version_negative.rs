// A version is positive.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", version = -1)]
struct UserRegistered;

fn main() {}
