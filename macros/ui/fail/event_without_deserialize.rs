// An event is also decoded; the error points at the type.
use busway::Event;
use serde::Serialize;

#[derive(Event, Serialize)]
#[event("accounts.user_registered")]
struct UserRegistered {
    id: u64,
}

fn main() {}
