//! What comes in together goes on together: a link's reader gathers events for one inbox.

use std::sync::{Arc, Weak};

use crate::link::Link;
use crate::mesh::Mesh;
use crate::plain::Inbox;
use crate::wire::envelope::Unread;
use crate::wire::origins::Origins;
use crate::wire::run::Kind;
use crate::wire::{Decoder, WireError};

/// An interest and its inbox. Not held: a link may bring nothing more for long after the interest
/// has ended.
type Known = Option<(u64, Weak<Inbox>)>;

/// What one link's reader has in its hands: events for one inbox, which go there together.
#[derive(Default)]
pub(crate) struct Handful {
    known: Known,
    events: Vec<Unread>,
    origins: Origins,
    /// A [`WEIGHTY`] one came since the reader last gave way.
    weighs: bool,
    /// So many frames are not looked at as a run.
    singly: usize,
}

/// What became of a run.
pub(crate) enum Ran {
    /// The bus took so many, the first events of the buffer.
    On(Kind, usize),
    /// It took none, but may when those have read who are to read them.
    Full(Kind, Arc<Inbox>),
    /// There is none that it takes.
    No,
}

/// How many events a handful has at most.
const HANDFUL: usize = 64;

/// Events over this size are to leave their link's buffer, and the processor's caches, before more
/// are read: else memory is got from the system and given back for each. (Smaller ones are quicker
/// in large handfuls.)
const WEIGHTY: usize = 512;

impl Handful {
    /// An event came in, for these interests of ours.
    pub(crate) fn add(
        &mut self,
        mesh: &Mesh,
        link: &Arc<Link>,
        interests: &[u64],
        event: Unread,
    ) -> Result<(), WireError> {
        self.weighs |= event.len() > WEIGHTY;
        let &[interest] = interests else {
            self.deliver(mesh, link)?;
            for inbox in mesh.inboxes(interests) {
                inbox.push(link, std::iter::once(event.clone()), &mut self.origins)?;
            }
            return Ok(());
        };
        if self.known.as_ref().is_none_or(|(known, _)| *known != interest) {
            self.deliver(mesh, link)?;
            find(&mut self.known, mesh, interest);
        }
        self.events.push(event);
        if self.events.len() < HANDFUL { Ok(()) } else { self.deliver(mesh, link) }
    }

    /// Gives the bus the run of events that a link's buffer begins with, as far as it takes it like
    /// that.
    pub(crate) fn run(
        &mut self,
        mesh: &Mesh,
        link: &Arc<Link>,
        decoder: &mut Decoder,
    ) -> Result<Ran, WireError> {
        if self.singly > 0 {
            self.singly -= 1;
            return Ok(Ran::No);
        }
        // What cannot be read is told when it is its turn.
        let Ok(whole) = decoder.whole().cloned() else { return Ok(Ran::No) };
        let Some(kind) = decoder.kinds.find(&whole) else { return Ok(Ran::No) };
        self.deliver(mesh, link)?;
        let mut run = decoder.kinds.run(kind, &whole, decoder.lends().then_some(&whole));
        let interest = run.alike.interest;
        let Some(inbox) = find(&mut self.known, mesh, interest) else { return Ok(Ran::No) };
        let is_full = inbox.push_run(link, &mut run);
        let (taken, left, next) = (run.taken, run.left(), run.next);
        decoder.pass(left);
        Ok(match taken {
            1.. => {
                decoder.kinds.went(kind, next);
                Ran::On(kind, taken)
            }
            0 => {
                // To look each time would take longer than the event.
                self.singly = HANDFUL;
                if is_full { Ran::Full(kind, inbox) } else { Ran::No }
            }
        })
    }

    /// The reader waited for those who are to read what is in the way of a run.
    pub(crate) fn waited(&mut self) {
        self.singly = 0;
    }

    /// Whether the reader should let those go first who take what it brought.
    pub(crate) fn gives_way(&mut self) -> bool {
        std::mem::take(&mut self.weighs)
    }

    /// Puts it where it belongs: before anything else of this link is looked at.
    pub(crate) fn deliver(&mut self, mesh: &Mesh, link: &Arc<Link>) -> Result<(), WireError> {
        if self.events.is_empty() {
            return Ok(());
        }
        let interest = self.known.as_ref().map(|(interest, _)| *interest);
        let inbox = interest.and_then(|interest| find(&mut self.known, mesh, interest));
        match inbox {
            Some(inbox) => inbox.push(link, self.events.drain(..), &mut self.origins),
            // One that was withdrawn meanwhile is not there: its events go nowhere.
            None => {
                self.events.clear();
                Ok(())
            }
        }
    }
}

/// The inbox of an interest, if it is there; looked up when it is not the known one.
fn find(known: &mut Known, mesh: &Mesh, interest: u64) -> Option<Arc<Inbox>> {
    let is_that = known.as_ref().filter(|(known, _)| *known == interest);
    // A later interest may have the number of one that has ended.
    if let Some(inbox) = is_that.and_then(|(_, inbox)| inbox.upgrade()).filter(|it| !it.has_ended())
    {
        return Some(inbox);
    }
    let found = mesh.inboxes(&[interest]).pop();
    *known = found.as_ref().map(|inbox| (interest, Arc::downgrade(inbox)));
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use busway_transport::{
        ContentType, Envelope, MessageId, Payload, PeerId, PlainInterest, Source, SubscriptionId,
        TopicFilter,
    };
    use bytes::BufMut as _;

    use super::*;
    use crate::wire::envelope::Encoded;
    use crate::wire::{Frame, Out};

    #[tokio::test]
    async fn a_link_keeps_nothing_of_an_interest_that_has_ended() {
        let mesh = Mesh::alone();
        let filter: TopicFilter = "t".parse().unwrap();
        let endpoints = BTreeSet::from(["a".parse().unwrap()]);
        let interest = PlainInterest::new(SubscriptionId(1), filter, endpoints, 8);
        let deliveries = mesh.subscribe(interest).await.unwrap();
        let link = Arc::new(Link::new(PeerId::from_u64(2), 1, Arc::default()));
        mesh.with(|state, _| state.attach(link.clone(), 7));

        let source = Source { endpoint: "b".parse().unwrap(), peer: link.peer };
        let payload = Payload::encoded(ContentType::JSON, "1");
        let envelope = Envelope::new(MessageId::new(), "t".parse().unwrap(), source, payload);
        let out = Out::event(&[1], &Encoded::new(&envelope).unwrap());
        let mut decoder = Decoder::new();
        [out.head, out.shared, out.payload].iter().for_each(|it| decoder.buffer.put_slice(it));
        let Some(Frame::Event { interests, envelope }) = decoder.next().unwrap() else { panic!() };
        let mut handful = Handful::default();
        handful.add(&mesh, &link, &interests, envelope.clone()).unwrap();
        handful.deliver(&mesh, &link).unwrap();

        let inbox = Arc::downgrade(&mesh.inboxes(&interests)[0]);
        assert_eq!(inbox.upgrade().unwrap().held(), 1);
        drop(deliveries);
        assert!(inbox.upgrade().is_none());
        // What comes behind that goes nowhere.
        handful.add(&mesh, &link, &interests, envelope).unwrap();
        handful.deliver(&mesh, &link).unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_told_before_its_turn() {
        let (mesh, mut decoder) = (Mesh::alone(), Decoder::new());
        let link = Arc::new(Link::new(PeerId::from_u64(2), 1, Arc::default()));
        decoder.buffer.put_u32_le(u32::MAX);
        // Events may be in hand.
        let ran = Handful::default().run(&mesh, &link, &mut decoder);
        assert!(matches!(ran, Ok(Ran::No)));
        assert!(matches!(decoder.next(), Err(WireError::TooLong { .. })));
    }
}
