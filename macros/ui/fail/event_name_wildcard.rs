// A topic filter is not a name.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.*")]
struct UserRegistered;

fn main() {}
