//! The short way in: events that lie one behind another in a transport's memory are decoded there and
//! put onto their topic's ring, as if somebody here had published them.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use busway_transport::{Common, Run};

use super::inbound::{Inbound, Watch, decode_by, known_origin};
use super::{Given, Meta, Parcel, Rest, Typed, fill};
use crate::codec::Codec;
use crate::event::Event;
use crate::router::topic::TopicRing;
use crate::subscribe::panic_text;
use crate::zero_copy;

/// Events that are to go onto a ring.
pub(crate) struct Landing<'a> {
    pub(crate) common: &'a Common,
    /// The number of the one before them.
    pub(crate) after: u64,
    /// So many at most, which there are numbers for.
    pub(crate) most: usize,
    pub(crate) run: &'a mut dyn Run,
    pub(crate) ring: &'a TopicRing,
    /// How many read it: if there are others by then, nothing goes there.
    pub(crate) readers: usize,
    /// Takes so many numbers, unless another was quicker: then these events are repeats.
    pub(crate) takes: &'a mut dyn FnMut(u64) -> bool,
}

/// What became of them.
#[derive(Default)]
pub(crate) struct Landed {
    /// Those of them that did not go onto the ring: the last ones, in order. There was no room after
    /// all, or it cannot be decoded.
    pub(crate) left: Vec<Arc<dyn Parcel>>,
    /// How many were taken.
    pub(crate) taken: u64,
    /// How long that took.
    pub(crate) took: Duration,
}

/// A place for one that was decoded. When it has been written, there is what was overwritten.
struct Fresh<E> {
    event: Option<E>,
    given: Given,
    rest: Rest,
}

/// See [`Early::run`](super::Early).
pub(super) fn land<E: Event>(landing: Landing<'_>) -> Landed {
    let Landing { common, after, most, run, ring, readers, takes } = landing;
    let mut landed = Landed::default();
    if common.version != E::SCHEMA.version {
        return landed;
    }
    let Ok(codec) = Codec::for_receipt(&common.content_type, &E::SCHEMA) else { return landed };
    let mut watch = Watch::start();
    // All of them before any is written: decoding runs the event's own code, and between a claim and
    // its completion there must be none. Each is put into a place that is there already: to push what
    // was put together part by part makes the processor wait.
    let mut places = memory::<Fresh<E>>();
    let most = most.min(KEPT / size_of::<Fresh<E>>()).max(1);
    places.reserve(most.saturating_sub(places.len()));
    let (mut count, mut unreadable) = (0, None);
    let lent = run.memory().map(zero_copy::lend);
    while count < most && unreadable.is_none() {
        let Some(event) = run.next_if(after + landed.taken + 1) else { break };
        landed.taken += 1;
        let given = Given { id: event.id, time: Some(event.time) };
        match decode_by(codec, event.payload) {
            Ok(decoded) => {
                if count == places.len() {
                    places.push(Fresh { event: None, given, rest: Rest::default() });
                }
                let place = &mut places[count];
                place.event = Some(decoded);
                place.given = given;
                count += 1;
            }
            // Its reader tells and counts it, if it wants it at all.
            Err(_) => unreadable = Some((given, Bytes::copy_from_slice(event.payload))),
        }
        if watch.counts_and_is_slow() {
            break;
        }
    }
    drop(lent);
    let fresh = &mut places[..count];
    let origin = known_origin(&common.topic, common.version, &common.source);
    let meta = |given| Meta { given: Some(given), ..Meta::new(origin.clone()) };
    if landed.taken > 0 && takes(landed.taken) {
        let mut written = 0;
        while let Some(to_write @ 1..) = fresh.len().checked_sub(written)
            && ring.readers() == readers
            && let Ok(mut claim) = ring.try_claim(to_write as u64)
        {
            let count = claim.left();
            for Fresh { event, given, rest } in &mut fresh[written..][..count] {
                claim.write(|old| fill(old, event, &origin, Some(*given), rest));
            }
            written += count;
            contain(common, || drop(claim));
        }
        for Fresh { event, given, .. } in &mut fresh[written..] {
            landed.left.push(Arc::new(Typed { event: event.take(), meta: meta(*given) }));
        }
        landed.left.extend(unreadable.map(|(given, bytes)| {
            let content_type = common.content_type.clone();
            Arc::new(Inbound { meta: meta(given), content_type, bytes }) as Arc<dyn Parcel>
        }));
    }
    // One by one, and each with its parts apart: see `contain`.
    let mut late = fresh.iter_mut();
    while late.len() > 0 {
        contain(common, || late.by_ref().for_each(|late| drop(late.event.take())));
    }
    let mut late = fresh.iter_mut();
    while late.len() > 0 {
        contain(common, || late.by_ref().for_each(|late| drop(std::mem::take(&mut late.rest))));
    }
    keep(places);
    landed.took = watch.elapsed();
    landed
}

/// What stood on the ring, or is late, may do anything when it is dropped. A panic must not end whoever
/// brings the events of others as well; two of them, one within the other, would end the process.
pub(crate) fn contain(common: &Common, drop: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(drop)) {
        let panic = panic_text(&*panic);
        tracing::error!(topic = %common.topic, panic, "an event panicked when it was dropped");
    }
}

thread_local! {
    /// Memory for what is decoded next, if that is of the same type: to get it anew each time takes
    /// longer than decoding a small event.
    static MEMORY: Cell<Option<Box<dyn Any>>> = const { Cell::new(None) };
}

/// So much is kept, and used at once.
const KEPT: usize = 64 << 10;

fn memory<T: 'static>() -> Vec<T> {
    let kept = MEMORY.take().and_then(|kept| kept.downcast::<Vec<T>>().ok());
    kept.map(|kept| *kept).unwrap_or_default()
}

fn keep<T: 'static>(places: Vec<T>) {
    if places.capacity() * size_of::<T>() <= KEPT {
        MEMORY.set(Some(Box::new(places)));
    }
}
