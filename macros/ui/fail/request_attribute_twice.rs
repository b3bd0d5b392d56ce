// One request has one name.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", response = ())]
#[request("warranty.ask", response = ())]
struct CheckWarranty;

fn main() {}
