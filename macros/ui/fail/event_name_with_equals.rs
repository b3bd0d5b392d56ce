// The name stands in parentheses.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event = "accounts.user_registered"]
struct UserRegistered;

fn main() {}
