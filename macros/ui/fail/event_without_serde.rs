// An event that may leave its process is encoded; the errors point at the type.
use busway::Event;

#[derive(Event)]
#[event("accounts.user_registered")]
struct UserRegistered {
    id: u64,
}

fn main() {}
