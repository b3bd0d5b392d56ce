// A request is encoded and decoded; the errors point at the type.
use busway::Request;

#[derive(Request)]
#[request("warranty.check", response = ())]
struct CheckWarranty {
    serial: String,
}

fn main() {}
