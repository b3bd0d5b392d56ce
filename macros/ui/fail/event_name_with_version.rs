// `accounts.user_registered` at version 2 would have the same topic.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered.v2")]
struct UserRegistered;

fn main() {}
