//! The end of a durable group.

use busway_transport::{GroupKey, TransportError};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{FieldTable, ShortString};

use crate::dead::Reading;
use crate::error::{self, within};
use crate::shared::Shared;

/// Removes the queues of a group, and with them their bindings. Retry tiers are every group's: what
/// waits there for this one is dropped by the broker when its time has come.
///
/// Looking and deleting are two steps: quorum queues know no conditions for their end.
pub(crate) async fn remove(
    shared: &Shared,
    group: &GroupKey,
    force: bool,
) -> Result<(), TransportError> {
    // Nobody has dead letters in hand then.
    let reading = Reading::begin(shared, group).await?;
    let queue = shared.topology.group_queue(group, true)?;
    let Some(work) = look(shared, &queue).await? else {
        reading.end().await?;
        return Err(TransportError::NoGroup { group: Box::new(group.clone()) });
    };
    let dead = shared.topology.dead_queue(group)?;
    let letters = look(shared, &dead).await?.map_or(0, |found| found.messages);
    let mut queues = vec![queue];
    let mut events = work.messages;
    for number in 0.. {
        let partition = shared.topology.partition_queue(group, true, number)?;
        let Some(found) = look(shared, &partition).await? else { break };
        events += found.messages;
        queues.push(partition);
    }
    // A member whose connection is just lost consumes nothing, and is still known.
    let known = shared.presence.others.members(group).len() as u64;
    let members = work.consumers.max(known);
    if !force && members + events + letters > 0 {
        reading.end().await?;
        let group = Box::new(group.clone());
        return Err(TransportError::GroupInUse { group, members, events, letters });
    }
    queues.push(dead);
    let channel = &reading.channel;
    for queue in queues {
        let deleting = channel.queue_delete(queue.clone(), QueueDeleteOptions::default());
        within(&shared.settings, queue.as_str(), deleting).await?;
    }
    reading.end().await
}

struct Found {
    messages: u64,
    consumers: u64,
}

/// What is in a queue, if it is there. On a channel of its own: asking for one that is not there
/// closes it.
async fn look(shared: &Shared, queue: &ShortString) -> Result<Option<Found>, TransportError> {
    let settings = &shared.settings;
    let connection = shared.consume.up().await?;
    let channel = within(settings, "opening a channel", connection.create_channel()).await?;
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let looking = channel.queue_declare(queue.clone(), passive, FieldTable::default());
    match tokio::time::timeout(error::OPERATION, looking).await {
        Ok(Ok(found)) => {
            let (messages, consumers) = (found.message_count(), found.consumer_count());
            Ok(Some(Found { messages: messages.into(), consumers: consumers.into() }))
        }
        Ok(Err(error)) if error::code(&error) == Some(404) => Ok(None),
        Ok(Err(error)) => Err(error::calling(settings, queue.as_str(), &error)),
        Err(_) => Err(error::timed_out("looking at a queue", error::OPERATION)),
    }
}
