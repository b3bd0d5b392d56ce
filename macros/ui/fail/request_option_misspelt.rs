// A slip; the right option is suggested.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", respones = ())]
struct CheckWarranty;

fn main() {}
