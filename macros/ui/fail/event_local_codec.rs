// Nothing encodes a local event.
use busway::Event;

#[derive(Event)]
#[event("ui.redraw", local, codec = "json")]
struct Redraw;

fn main() {}
