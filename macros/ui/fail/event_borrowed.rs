// An event owns its data.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered")]
struct UserRegistered<'a> {
    email: &'a str,
}

fn main() {}
