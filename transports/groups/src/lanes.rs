//! Lines, one for each key: only the head of a line may be out, so a key's things go one at a
//! time and in order, and one that has to wait blocks only its own key.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Things that wait in the line of their key. Every operation costs at most the logarithm of how
/// many keys there are.
///
/// ```
/// use busway_groups::Lanes;
/// let mut lanes = Lanes::new();
/// lanes.push(7, "first of 7");
/// lanes.push(7, "second of 7");
/// lanes.push(8, "first of 8");
/// assert_eq!(lanes.pop(), Some((7, "first of 7")));
/// assert_eq!(lanes.pop(), Some((8, "first of 8")));
/// assert_eq!(lanes.pop(), None); // both keys have one out
/// lanes.put_back(7, "first of 7");
/// assert_eq!(lanes.pop(), Some((7, "first of 7")));
/// lanes.done(7);
/// assert_eq!(lanes.pop(), Some((7, "second of 7")));
/// ```
#[derive(Debug)]
pub struct Lanes<T> {
    lanes: HashMap<u64, Lane<T>>,
    /// The keys whose head may go out, by the order in which the heads came.
    ready: BTreeMap<u64, u64>,
    waiting: usize,
    next: u64,
}

/// One line. It exists while something waits in it or is out.
#[derive(Debug)]
struct Lane<T> {
    /// With the order in which they came, over all lines.
    line: VecDeque<(u64, T)>,
    /// The order of the one that is out.
    out: Option<u64>,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Lanes<T> {
    /// No lines.
    pub fn new() -> Self {
        Self { lanes: HashMap::new(), ready: BTreeMap::new(), waiting: 0, next: 0 }
    }

    /// How many wait; what is out does not count.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether one could go out now.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Adds one at the end of its key's line.
    pub fn push(&mut self, key: u64, thing: T) {
        let order = self.next;
        self.next += 1;
        let lane = self.lanes.entry(key).or_insert(Lane { line: VecDeque::new(), out: None });
        if lane.out.is_none() && lane.line.is_empty() {
            self.ready.insert(order, key);
        }
        lane.line.push_back((order, thing));
        self.waiting += 1;
    }

    /// Takes out the head that came first, of those whose key has none out.
    pub fn pop(&mut self) -> Option<(u64, T)> {
        let (_, key) = self.ready.pop_first()?;
        let lane = self.lanes.get_mut(&key)?;
        let (order, thing) = lane.line.pop_front()?;
        lane.out = Some(order);
        self.waiting -= 1;
        Some((key, thing))
    }

    /// Puts back the one that is out: it is its key's next again, before all that came after it.
    pub fn put_back(&mut self, key: u64, thing: T) {
        let Some(lane) = self.lanes.get_mut(&key) else { return self.push(key, thing) };
        let Some(order) = lane.out.take() else { return self.push(key, thing) };
        lane.line.push_front((order, thing));
        self.ready.insert(order, key);
        self.waiting += 1;
    }

    /// The one that was out is done with: the next of its key may go.
    pub fn done(&mut self, key: u64) {
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        lane.out = None;
        match lane.line.front() {
            Some((order, _)) => {
                self.ready.insert(*order, key);
            }
            None => {
                self.lanes.remove(&key);
            }
        }
    }

    /// Takes out everything that waits, in the order it came.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        let lanes = std::mem::take(&mut self.lanes);
        self.ready.clear();
        self.waiting = 0;
        let mut all: Vec<_> = lanes.into_values().flat_map(|lane| lane.line).collect();
        all.sort_by_key(|(order, _)| *order);
        all.into_iter().map(|(_, thing)| thing)
    }
}
