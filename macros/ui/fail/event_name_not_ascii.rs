// A Cyrillic letter that looks like an `a`.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("аccounts.user_registered")]
struct UserRegistered;

fn main() {}
