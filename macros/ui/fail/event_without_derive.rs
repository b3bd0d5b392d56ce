// The attribute without the derive.
use busway::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
#[event("accounts.user_registered")]
struct UserRegistered;

fn main() {}
