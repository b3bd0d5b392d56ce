//! The status of two links, as one.

use crate::shared::lock;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use busway_transport::{Host, Notice, Status};

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Publish,
    Consume,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
        }
    }
}

/// The state of one link.
#[derive(Debug, Clone)]
pub(crate) enum LinkStatus {
    Up,
    Blocked(String),
    Down { attempt: u32, last_error: String },
    Gone,
}

/// Joins the states of the links and tells the bus about changes.
pub(crate) struct Board {
    host: Arc<dyn Host>,
    links: Mutex<[LinkStatus; 2]>,
    // Apart from `links`, which is held while the host is told (so that notices keep their
    // order): the host may ask for the status from inside the notice.
    shown: RwLock<Status>,
}

impl Board {
    pub(crate) fn new(host: Arc<dyn Host>) -> Self {
        Self {
            host,
            links: Mutex::new([LinkStatus::Up, LinkStatus::Up]),
            shown: RwLock::new(Status::Connected),
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, role: Role, status: LinkStatus) {
        let mut links = lock(&self.links);
        links[role as usize] = status;
        self.show(join(&links));
    }

    /// The bus closed.
    pub(crate) fn close(&self) {
        let mut links = lock(&self.links);
        *links = [LinkStatus::Gone, LinkStatus::Gone];
        self.show(Status::Closed);
    }

    fn show(&self, status: Status) {
        {
            let mut shown = self.shown.write().unwrap_or_else(PoisonError::into_inner);
            if *shown == status || *shown == Status::Closed {
                return;
            }
            *shown = status.clone();
        }
        self.host.notice(Notice::Status(status));
    }
}

fn join(links: &[LinkStatus; 2]) -> Status {
    if links.iter().any(|link| matches!(link, LinkStatus::Gone)) {
        return Status::Closed;
    }
    let down = links.iter().filter_map(|link| match link {
        LinkStatus::Down { attempt, last_error } => Some((*attempt, last_error.clone())),
        _ => None,
    });
    if let Some((attempt, last_error)) = down.max_by_key(|(attempt, _)| *attempt) {
        return Status::Reconnecting { attempt, last_error };
    }
    links
        .iter()
        .find_map(|link| match link {
            LinkStatus::Blocked(reason) => Some(Status::Blocked { reason: reason.clone() }),
            _ => None,
        })
        .unwrap_or(Status::Connected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_link_decides() {
        use LinkStatus::{Blocked, Down, Gone, Up};
        let down = Down { attempt: 2, last_error: "x".into() };
        assert_eq!(join(&[Up, Up]), Status::Connected);
        assert!(matches!(join(&[Blocked("disk".into()), Up]), Status::Blocked { .. }));
        assert!(matches!(
            join(&[Blocked("disk".into()), down.clone()]),
            Status::Reconnecting { attempt: 2, .. }
        ));
        assert_eq!(join(&[down, Gone]), Status::Closed);
    }
}
