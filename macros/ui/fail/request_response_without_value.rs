// The type is missing.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", response)]
struct CheckWarranty;

fn main() {}
