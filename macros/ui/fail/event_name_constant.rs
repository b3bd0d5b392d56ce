// A constant cannot be checked by the macro.
use busway::Event;
use serde::{Deserialize, Serialize};

const NAME: &str = "accounts.user_registered";

#[derive(Event, Serialize, Deserialize)]
#[event(NAME)]
struct UserRegistered;

fn main() {}
