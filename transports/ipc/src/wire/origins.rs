//! Topics and sources that came in before: their bytes come again with every event, and need be
//! checked and turned into names only once.

use busway_transport::{Name, PeerId, Source, Topic};
use bytes::Buf;

use super::WireError;
use super::read::Read;

/// How many are remembered.
const REMEMBERED: usize = 16;

/// What one link brought lately.
#[derive(Debug, Default)]
pub(crate) struct Origins {
    known: Vec<Origin>,
    /// The one that is forgotten next.
    oldest: usize,
}

#[derive(Debug)]
struct Origin {
    bytes: Vec<u8>,
    topic: Topic,
    source: Source,
}

impl Origins {
    pub(super) fn read(&mut self, from: &mut Read) -> Result<(Topic, Source), WireError> {
        // Each says itself how long it is: one that begins like this is this one.
        let known = self.known.iter().find(|known| from.0.starts_with(&known.bytes));
        if let Some(Origin { bytes, topic, source }) = known {
            from.0.advance(bytes.len());
            return Ok((topic.clone(), source.clone()));
        }
        let all = from.0.clone();
        let topic = from.short("topic", |text| Ok(Topic::new(text)?))?;
        let endpoint = from.short("endpoint", |text| Ok(Name::new(text)?))?;
        let peer = PeerId::from_u64(from.u64("source")?);
        let source = Source { endpoint, peer };
        let bytes = all[..all.len() - from.0.len()].to_vec();
        let origin = Origin { bytes, topic: topic.clone(), source: source.clone() };
        if self.known.len() < REMEMBERED {
            self.known.push(origin);
        } else {
            self.known[self.oldest] = origin;
            self.oldest = (self.oldest + 1) % REMEMBERED;
        }
        Ok((topic, source))
    }
}
