// A deprecated event warns where it is used, not where it is derived.
#![deny(warnings)]

use busway::{Event, Request};
use serde::{Deserialize, Serialize};

#[deprecated = "listen to version 2"]
#[derive(Event, Serialize, Deserialize)]
#[event("accounts.user_registered")]
pub struct UserRegistered {
    pub id: u64,
}

#[deprecated]
#[derive(Event)]
#[event("ui.redraw", local)]
pub struct Redraw;

#[deprecated]
#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", response = ())]
pub struct CheckWarranty;

fn main() {}
