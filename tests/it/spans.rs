//! A `tracing` subscriber that notes in which spans events happen.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Clones note in the same place. For tests of one thread.
#[derive(Clone, Default)]
pub(crate) struct Spans(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The path of each span: its number is its place, counted from 1.
    paths: Vec<String>,
    entered: Vec<Id>,
    events: Vec<Recorded>,
}

/// An event of the tests, and the spans around it.
#[derive(Debug, PartialEq)]
pub(crate) struct Recorded {
    path: String,
    what: String,
}

impl Recorded {
    pub(crate) fn new(path: &str, what: &str) -> Self {
        Self { path: path.into(), what: what.into() }
    }
}

impl Spans {
    pub(crate) fn events(&self) -> Vec<Recorded> {
        std::mem::take(&mut self.0.lock().unwrap().events)
    }
}

impl State {
    fn path_of(&self, span: Option<&Id>) -> &str {
        span.map_or("", |id| &self.paths[id.into_u64() as usize - 1])
    }
}

impl Subscriber for Spans {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut state = self.0.lock().unwrap();
        let parent = if span.is_contextual() { state.entered.last() } else { span.parent() };
        let path = match state.path_of(parent) {
            "" => span.metadata().name().to_owned(),
            parent => format!("{parent}/{}", span.metadata().name()),
        };
        state.paths.push(path);
        Id::from_u64(state.paths.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if event.metadata().target().starts_with("it::") {
            let mut what = Message(String::new());
            event.record(&mut what);
            let mut state = self.0.lock().unwrap();
            let path = state.path_of(state.entered.last()).to_owned();
            state.events.push(Recorded { path, what: what.0 });
        }
    }

    fn enter(&self, span: &Id) {
        self.0.lock().unwrap().entered.push(span.clone());
    }

    fn exit(&self, span: &Id) {
        let entered = &mut self.0.lock().unwrap().entered;
        let at = entered.iter().rposition(|other| other == span).expect("it was entered");
        entered.remove(at);
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
