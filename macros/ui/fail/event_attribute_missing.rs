// The name is never derived from the type, so the attribute is required.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct UserRegistered;

fn main() {}
