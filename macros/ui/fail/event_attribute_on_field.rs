// On a field the attribute would do nothing.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered")]
struct UserRegistered {
    #[event(local)]
    id: u64,
}

fn main() {}
