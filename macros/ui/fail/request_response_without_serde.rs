// A response is encoded and decoded; the errors point at it.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", response = Warranty)]
struct CheckWarranty {
    serial: String,
}

struct Warranty;

fn main() {}
