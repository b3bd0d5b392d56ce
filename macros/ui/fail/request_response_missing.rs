// Every request says what answers it.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check")]
struct CheckWarranty;

fn main() {}
