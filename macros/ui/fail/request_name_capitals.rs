// The names of requests obey the rule for events.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("CheckWarranty", response = ())]
struct CheckWarranty;

fn main() {}
