// The attribute of the other derive.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[request("accounts.user_registered")]
struct UserRegistered;

fn main() {}
