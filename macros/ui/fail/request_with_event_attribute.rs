// The attribute of the other derive.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[event("warranty.check")]
struct CheckWarranty;

fn main() {}
