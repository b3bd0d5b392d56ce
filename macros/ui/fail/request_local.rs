// Requests have no `local`.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", response = (), local)]
struct CheckWarranty;

fn main() {}
