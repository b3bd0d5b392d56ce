// One request has one concrete type.
use busway::Request;
use serde::{Deserialize, Serialize};

#[derive(Request, Serialize, Deserialize)]
#[request("warranty.check", response = ())]
struct CheckWarranty<const N: usize>;

fn main() {}
