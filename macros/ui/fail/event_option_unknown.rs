// An option that does not exist.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", durable)]
struct UserRegistered;

fn main() {}
