//! The responders of one bus.

use std::any::{Any, TypeId};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, Guard};

use busway_transport::Name;

use crate::by_type::ByType;
use crate::event::Request;
use crate::request::local::Handler;
use crate::sync::Locked;

/// The responders of one bus, by the type they answer. Looked up at each request, and changed
/// rarely: a change makes a new map.
#[derive(Default)]
pub(crate) struct Responders {
    by_type: ArcSwap<Lines>,
    /// Held by whoever changes it.
    changing: Mutex<()>,
}

/// For each type `R` its `Line<R>`.
type Lines = ByType<Arc<dyn Any + Send + Sync>>;

/// The responders of one request type, asked in turn.
struct Line<R: Request> {
    handlers: Box<[Registered<R>]>,
    turn: AtomicUsize,
}

/// A responder, with its number.
type Registered<R> = (u64, Arc<Handler<R>>);

impl Responders {
    pub(crate) fn add<R: Request>(&self, id: u64, handler: Arc<Handler<R>>) {
        self.change::<R>(|handlers| handlers.push((id, handler)));
    }

    pub(crate) fn remove<R: Request>(&self, id: u64) {
        self.change::<R>(|handlers| handlers.retain(|(other, _)| *other != id));
    }

    fn change<R: Request>(&self, change: impl FnOnce(&mut Vec<Registered<R>>)) {
        let changing = self.changing.locked();
        let mut by_type = Lines::clone(&self.by_type.load());
        let line = by_type.get(&TypeId::of::<R>()).and_then(|line| line.downcast_ref::<Line<R>>());
        let mut handlers = line.map_or(Vec::new(), |line| line.handlers.to_vec());
        change(&mut handlers);
        if handlers.is_empty() {
            by_type.remove(&TypeId::of::<R>());
        } else {
            let line = Line { handlers: handlers.into(), turn: AtomicUsize::new(0) };
            by_type.insert(TypeId::of::<R>(), Arc::new(line));
        }
        let before = self.by_type.swap(Arc::new(by_type));
        drop(changing);
        // Outside of the lock: a handler's own `Drop` may do anything.
        drop(before);
    }

    /// Those that are registered now. They live as long as this does: it is not for keeping.
    #[inline]
    pub(crate) fn now(&self) -> Now {
        Now(self.by_type.load())
    }
}

/// The responders at one moment.
pub(crate) struct Now(Guard<Arc<Lines>>);

impl Now {
    /// The next responder of that type, at that endpoint if one is named.
    #[inline]
    pub(crate) fn next<R: Request>(&self, to: Option<&Name>) -> Option<&Arc<Handler<R>>> {
        let line = self.0.get(&TypeId::of::<R>())?.downcast_ref::<Line<R>>()?;
        let fits = |handler: &Handler<R>| to.is_none_or(|to| *to == handler.endpoint);
        match &*line.handlers {
            // Takes no turn: threads would contend for it.
            [(_, only)] => fits(only).then_some(only),
            handlers => {
                let first = line.turn.fetch_add(1, Ordering::Relaxed) % handlers.len();
                let (later, sooner) = handlers.split_at(first);
                sooner.iter().chain(later).map(|(_, handler)| handler).find(|it| fits(it))
            }
        }
    }
}
