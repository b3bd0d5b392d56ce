// The name comes before the options.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(version = 2, "accounts.user_registered")]
struct UserRegistered;

fn main() {}
