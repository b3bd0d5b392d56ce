// Names are lower case; the right one is suggested.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("Accounts.UserRegistered")]
struct UserRegistered;

fn main() {}
