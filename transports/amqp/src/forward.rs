//! A delivery that is sent on: to a retry tier, to a partition, to the dead letters, or back from
//! there. The original is acked only when the broker has the copy, so a crash in between makes a
//! repeat and never a loss.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use busway_transport::{Failure, GroupKey, TransportError};
use bytes::Bytes;
use lapin::types::ShortString;
use lapin::{Acker, BasicProperties};

use crate::error;
use crate::properties::{self, Table};
use crate::publish::{Outgoing, Publisher};
use crate::topology::Stand;

/// The longest error text that travels: all headers share one frame.
const LONGEST_TEXT: usize = 8 * 1024;

/// What is sent on.
#[derive(Clone, Copy)]
pub(crate) struct Original<'a> {
    pub(crate) group: &'a GroupKey,
    pub(crate) acker: &'a Acker,
    pub(crate) properties: &'a BasicProperties,
    pub(crate) payload: &'a Bytes,
}

/// Where it is sent.
pub(crate) struct Target {
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    /// What is declared first.
    pub(crate) needs: Option<Stand>,
}

impl Target {
    /// A queue, by the default exchange.
    pub(crate) fn queue(stand: &Stand) -> Self {
        Self { exchange: "".into(), key: stand.queue.clone(), needs: Some(stand.clone()) }
    }
}

impl Original<'_> {
    /// Sends a copy with these headers, and waits until the broker has it. `false`: no queue took
    /// it.
    pub(crate) async fn send(
        self,
        back: &Publisher,
        table: Table,
        target: &Target,
    ) -> Result<bool, TransportError> {
        let mut properties = properties::resend(self.properties, table);
        let id = properties::id_of(&properties);
        if properties.message_id().is_none() {
            // From here on it keeps the id that it was given.
            properties = properties.with_message_id(error::short(id.to_string())?);
        }
        // Once more when what it needs has been deleted under us.
        for _ in 0..2 {
            let out = Outgoing {
                id,
                what: self.group.to_string(),
                exchange: target.exchange.clone(),
                key: target.key.clone(),
                mandatory: true,
                properties: properties.clone(),
                payload: self.payload.clone(),
                needs: target.needs.clone(),
                replaces: Some(self.acker.clone()),
            };
            if back.send(out).await?.reached > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sends a copy to the dead letters.
    pub(crate) async fn bury(
        self,
        back: &Publisher,
        dead: &Stand,
        died: &Died,
    ) -> Result<bool, TransportError> {
        let mut table = Table::of(self.properties);
        table.number(properties::ATTEMPT, u64::from(died.attempts));
        table.text(properties::DEAD_REASON, died.failure.reason.as_str());
        table.text(properties::TEXT, shorten(&died.failure.text));
        table.text(properties::QUEUE, died.queue.as_str());
        table.number(properties::FIRST_MS, first_ms(self.properties, died.attempted));
        table.number(properties::LAST_MS, properties::time_ms(died.attempted));
        table.number(properties::DEAD_AT_MS, properties::now_ms());
        self.send(back, table, &Target::queue(dead)).await
    }
}

/// How an event died.
pub(crate) struct Died {
    pub(crate) attempts: u32,
    pub(crate) failure: Failure,
    /// When the last attempt began.
    pub(crate) attempted: SystemTime,
    /// The queue that its group's events come to.
    pub(crate) queue: ShortString,
}

/// When the first attempt began, if the last one began then.
pub(crate) fn first_ms(properties: &BasicProperties, last: SystemTime) -> u64 {
    properties::number(properties, properties::FIRST_MS)
        .unwrap_or_else(|| properties::time_ms(last))
}

/// The time of a header.
pub(crate) fn time_of(properties: &BasicProperties, key: &str) -> Option<SystemTime> {
    let millis = properties::number(properties, key)?;
    UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

fn shorten(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
