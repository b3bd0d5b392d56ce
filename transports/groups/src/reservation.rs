//! Room that a publisher has been promised.

use busway_transport::Route;

use crate::group::GroupId;

/// Room for one event in every group that its route matched when it was made. Plain data: whoever
/// has one must give it to [`Engine::commit`](crate::Engine::commit) or
/// [`Engine::release`](crate::Engine::release) of the same engine, or the room stays taken.
///
/// It carries its route, because groups come and go before the commit: one that vanished is
/// skipped, one that appeared is served.
#[derive(Debug)]
#[must_use = "the room stays taken until it is committed or released"]
pub struct Reservation {
    pub(crate) route: Route,
    /// Ids are never used again, so one of a vanished group matches nothing.
    pub(crate) groups: Vec<GroupId>,
}

impl Reservation {
    /// The route it was made for.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// In how many groups there is room.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether no group matched.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}
