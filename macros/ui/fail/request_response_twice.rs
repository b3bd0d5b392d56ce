// An option twice.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", response = (), response = u8)]
struct CheckWarranty;

fn main() {}
