// The name is never derived from the type, so the attribute is required.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
struct CheckWarranty;

fn main() {}
