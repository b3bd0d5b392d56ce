// An option of the other derive.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", response = ())]
struct UserRegistered;

fn main() {}
