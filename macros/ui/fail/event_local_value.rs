// `local` is a flag.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered", local = true)]
struct UserRegistered;

fn main() {}
