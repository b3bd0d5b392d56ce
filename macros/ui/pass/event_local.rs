// A local event may hold what no codec can encode, and says so when asked to.
#![deny(warnings)]

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::mpsc::Sender;

use busway::{Codec, Event};

#[derive(Event)]
#[event("ui.redraw", local)]
struct Redraw {
    done: Mutex<Cell<Option<Sender<()>>>>,
}

#[derive(Event)]
#[event("ui.resize", local, version = 2)]
struct Resize;

fn main() {
    let redraw = Redraw { done: Mutex::new(Cell::new(None)) };
    assert!(redraw.done.lock().is_ok());
    assert!(redraw.encode(Codec::Json, &mut Vec::new()).is_err());
    assert!(Resize.encode(Codec::Json, &mut Vec::new()).is_err());
}
