//! Law 14, reconnect. The kit cannot cut a transport's connection: each transport tests that
//! itself. Here is what every transport owes without a fault.

use busway::{Notice, Status};

use crate::verdict::{Done, Verdict};
use crate::world::{World, notice};

pub(crate) async fn status_is_observable(world: World) -> Done {
    let a = world.join("a").await?;
    assert_eq!(a.bus().status(), Status::Connected);
    let mut notices = a.bus().notices();
    let b = world.join("b").await?;
    let id = b.bus().id();
    notice(&mut notices, |notice| matches!(notice, Notice::PeerUp(peer) if peer.id == id)).await?;
    a.bus().close().await?;
    assert_eq!(a.bus().status(), Status::Closed);
    Ok(Verdict::Passed)
}
