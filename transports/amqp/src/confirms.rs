//! What the broker says of messages under way: confirmed, refused, returned; or the channel broke.

use std::task::{Context, Poll};

use busway_transport::{Receipt, TransportError};
use futures::{FutureExt, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::{Channel, Confirmation};

use crate::error;
use crate::outbox::{Outbox, State};

impl State {
    /// Takes in all confirms that are there. Says whether there were any; an error is the
    /// channel's end, found out by the message of that number.
    ///
    /// Whether a mandatory message reached a queue is known only when all confirms of its batch
    /// are: the broker returns a message before it confirms it, but lapin hands each return to any
    /// confirm of the batch that it resolves, so they are matched by message id, and nothing is
    /// said before the whole batch was looked through.
    pub(crate) fn hear(
        &mut self,
        channel: &Channel,
        context: &mut Context<'_>,
    ) -> Result<bool, (u64, lapin::Error)> {
        let mut mandatory = Vec::new();
        let (mut heard, mut over) = (false, false);
        loop {
            let Poll::Ready(Some((number, outcome))) = self.flying.poll_next_unpin(context) else {
                if mandatory.is_empty() || over {
                    break;
                }
                // lapin resolves a batch under a lock that this takes: the batch is over then.
                let _ = channel.wait_for_confirms().now_or_never();
                over = true;
                continue;
            };
            (heard, over) = (true, false);
            self.suspects = self.suspects.saturating_sub(1);
            let (taken, returned) = match outcome.map_err(|error| (number, error))? {
                Confirmation::Ack(returned) => (true, returned),
                Confirmation::Nack(returned) => (false, returned),
                Confirmation::NotRequested => (true, None),
            };
            if let Some(returned) = returned {
                self.came_back(&returned);
            }
            match self.unconfirmed.get(&number) {
                Some(job) if job.is_mandatory() && taken => mandatory.push(number),
                Some(job) if !taken => {
                    // A queue is full (reject-publish), or failed: the broker does not say which.
                    let (topic, id) = (job.what().to_owned(), job.id());
                    self.end(number, Err(TransportError::GroupFull { topic, id }));
                }
                // The broker confirms what it could route to nobody, too.
                _ => self.end(number, Ok(Receipt::unknown())),
            }
        }
        self.routed(mandatory);
        Ok(heard)
    }

    /// A message that no queue took came back.
    fn came_back(&mut self, message: &BasicReturnMessage) {
        let id = message.properties.message_id();
        let its = self
            .unconfirmed
            .iter()
            .find(|(number, job)| job.came_back(id) && !self.returned.contains(number));
        if let Some((number, _)) = its {
            self.returned.insert(*number);
        }
    }

    /// Says of mandatory messages whether a queue took them.
    fn routed(&mut self, mandatory: Vec<u64>) {
        for number in mandatory {
            let returned = self.returned.remove(&number);
            if returned
                && let Some(job) = self.unconfirmed.get(&number)
                && let Some(needs) = job.needs()
            {
                // What it needed was declared, and has been deleted since.
                self.declared.remove(&needs.queue);
            }
            self.end(number, Ok(Receipt::somebody(!returned)));
        }
    }

    /// The channel ended while `number` and what else is flying were under way.
    pub(crate) fn broken(&mut self, outbox: &Outbox, number: u64, error: &lapin::Error) {
        if !error::is_channel_error(error) {
            return;
        }
        if error::code(error) == Some(404) {
            outbox.rebind.found();
        }
        let others = self.flying.len();
        if others > 0 {
            self.suspects = others + 1;
            return;
        }
        self.suspects = self.suspects.saturating_sub(1);
        if let Some(job) = self.unconfirmed.get(&number) {
            let what = job.what().to_owned();
            let answer = match error::calling(&outbox.settings, &what, error) {
                TransportError::Disconnected { reason } => {
                    TransportError::Rejected { what, reason }
                }
                other => other,
            };
            self.end(number, Err(answer));
        }
    }
}
