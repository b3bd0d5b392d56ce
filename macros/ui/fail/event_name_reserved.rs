// The bus keeps names of its own.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event("busway.user_registered")]
struct UserRegistered;

fn main() {}
