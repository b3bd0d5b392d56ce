// A slip; the right option is suggested.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", verison = 2)]
struct UserRegistered;

fn main() {}
