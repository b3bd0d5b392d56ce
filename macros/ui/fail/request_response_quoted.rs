// A type is written without quotes.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", response = "Warranty")]
struct CheckWarranty;

fn main() {}
