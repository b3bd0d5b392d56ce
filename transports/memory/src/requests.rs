//! Requests between the buses of one process.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::{mpsc, oneshot};

use busway_transport::{
    Ask, FailureKind, OutgoingRequest, PeerId, Replier, Reply, ResponderSpec, Route, TransportError,
};

use crate::hub::{Hub, Responder};

/// How many requests wait for one responder at most; more wait with their callers.
const WAITING: usize = 1024;

/// Asks one responder: one of this bus if there is one, else the others in turn.
pub(crate) async fn ask(
    hub: &Arc<Hub>,
    peer: PeerId,
    request: OutgoingRequest,
) -> Result<Reply, TransportError> {
    let OutgoingRequest { envelope, deadline, .. } = request;
    let topic = envelope.topic.to_string();
    let route = Route::new(envelope.topic.clone(), envelope.to.clone());
    let Some(asks) = choose(hub, peer, &route) else {
        return Err(TransportError::NoResponder { topic });
    };
    let (reply, answer) = oneshot::channel();
    // Dropped with this future: that is how the responder learns that nobody waits.
    let (_waiting, gone) = oneshot::channel::<()>();
    let replier = Replier::new(move |answer| {
        // Fails when the caller has gone: a late answer harms nothing.
        let _ = reply.send(answer);
    });
    let cancelled = Box::pin(async move {
        let _ = gone.await;
    });
    let ask = Ask::new(envelope, deadline, replier, cancelled);
    if asks.send(ask).await.is_err() {
        return Err(TransportError::NoResponder { topic });
    }
    Ok(answer.await.unwrap_or_else(|_| Reply::Failed {
        kind: FailureKind::Abandoned,
        text: "the responder's bus is gone".into(),
    }))
}

fn choose(hub: &Hub, peer: PeerId, route: &Route) -> Option<mpsc::Sender<Ask>> {
    let turn = usize::try_from(hub.next_number()).unwrap_or_default();
    hub.with(|state| {
        let all: Vec<_> =
            state.responders.values().filter(|responder| answers(responder, route)).collect();
        let own = all.iter().find(|responder| responder.peer == peer);
        let chosen = own.or_else(|| all.get(turn % all.len().max(1)))?;
        Some(chosen.asks.clone())
    })
}

/// Whether a responder is one for that route.
pub(crate) fn answers(responder: &Responder, route: &Route) -> bool {
    let spec = &responder.spec;
    spec.topic == route.topic && route.to.as_ref().is_none_or(|to| *to == spec.endpoint)
}

/// The requests of one responder; dropping it withdraws the responder.
pub(crate) struct Questions {
    hub: Arc<Hub>,
    id: u64,
    queue: mpsc::Receiver<Ask>,
}

impl Questions {
    /// Registers a responder.
    pub(crate) fn open(hub: &Arc<Hub>, peer: PeerId, spec: ResponderSpec) -> Self {
        let (asks, queue) = mpsc::channel(WAITING);
        let id = hub.next_number();
        hub.with(|state| {
            state.responders.insert(id, Responder { peer, spec, asks });
            state.changed(peer);
        });
        Self { hub: hub.clone(), id, queue }
    }
}

impl Stream for Questions {
    type Item = Ask;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Ask>> {
        self.queue.poll_recv(context)
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.hub.with(|state| {
            if let Some(responder) = state.responders.remove(&self.id) {
                state.changed(responder.peer);
            }
        });
    }
}
