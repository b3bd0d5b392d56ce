//! Requests that go through the transport: the caller's side and the responder's side.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use busway_transport::{
    Asks, ContentType, Envelope, FailureKind, LocalPayload, Payload, PayloadError, Reply, Topic,
    TransportError,
};

use crate::bus::now;
use crate::codec::{Codec, CodecError};
use crate::event::{Request, Schema};
use crate::request::ask::{About, Ask, Handed};
use crate::request::local::{Answer, Failed, Handler};
use crate::sync::Locked;
use crate::zero_copy;

/// A value that crosses between two buses of one process, and is taken out once.
struct Once<T> {
    topic: &'static str,
    codec: Codec,
    value: Mutex<Option<T>>,
}

impl<T: Serialize + Send + Sync + 'static> LocalPayload for Once<T> {
    fn encode(&self) -> Result<(ContentType, Bytes), PayloadError> {
        let failed = |reason: String| PayloadError { topic: self.topic.into(), reason };
        let value = self.value.locked();
        let value = value.as_ref().ok_or_else(|| failed("it was taken already".into()))?;
        let bytes = self.codec.to_bytes(value).map_err(|error| failed(error.to_string()))?;
        Ok((self.codec.content_type(), bytes))
    }
}

impl<T> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Once").field(&self.topic).finish()
    }
}

/// How a bus turns values into payloads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packing {
    pub(crate) in_process: bool,
    pub(crate) codec: Codec,
    pub(crate) limit: usize,
}

impl Packing {
    /// For a request type with a codec of its own.
    pub(crate) fn of<R: Request>(self) -> Self {
        Self { codec: R::SCHEMA.codec.unwrap_or(self.codec), ..self }
    }

    pub(crate) fn pack<T: Serialize + Send + Sync + 'static>(
        self,
        topic: &'static str,
        value: T,
    ) -> Result<Payload, PackError> {
        if self.in_process {
            let value = Mutex::new(Some(value));
            return Ok(Payload::Local(Arc::new(Once { topic, codec: self.codec, value })));
        }
        let bytes = self.codec.to_bytes(&value)?;
        match bytes.len() {
            size if size > self.limit => {
                let (topic, limit) = (topic.to_owned(), self.limit);
                Err(PackError::TooLarge(TransportError::TooLarge { topic, size, limit }))
            }
            _ => Ok(Payload::Encoded { content_type: self.codec.content_type(), bytes }),
        }
    }
}

/// Why a value did not become a payload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    TooLarge(TransportError),
}

/// The value of a payload: as it is, or decoded.
pub(crate) fn unpack<T>(payload: Payload, schema: &Schema) -> Result<T, String>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let (content_type, bytes) = match payload {
        Payload::Encoded { content_type, bytes } => (content_type, bytes),
        Payload::Local(local) => {
            let any: Arc<dyn Any + Send + Sync> = local.clone();
            match any.downcast::<Once<T>>() {
                Ok(once) => return once.value.locked().take().ok_or("it was taken already".into()),
                // Another Rust type of the same name: through the codec.
                Err(_) => local.encode().map_err(|error| error.to_string())?,
            }
        }
        _ => return Err("a kind of payload this version does not know".into()),
    };
    let codec = Codec::for_receipt(&content_type, schema).map_err(|error| error.to_string())?;
    let _lent = zero_copy::lend(bytes.clone());
    codec.decode(&bytes).map_err(|error| error.to_string())
}

/// Answers what the transport asks, each request in a task of its own.
pub(crate) async fn serve<R: Request>(
    mut asks: Asks,
    handler: Arc<Handler<R>>,
    packing: Packing,
    stop: CancellationToken,
) {
    let stopped = stop.cancelled();
    tokio::pin!(stopped);
    loop {
        let next = tokio::select! {
            biased;
            () = &mut stopped => break,
            next = asks.next() => next,
        };
        let Some(ask) = next else { break };
        // At most one request is taken without room to run it: the others stay with the
        // transport. The room itself is not kept while idle, for calls from here need it too.
        let permit = tokio::select! {
            biased;
            () = &mut stopped => break,
            permit = handler.limit.acquire() => permit,
        };
        let handler = handler.clone();
        handler.tasks.clone().spawn(handler.busy.clone().track_future(async move {
            let _permit = permit;
            // Cut off, it drops the replier, which tells the caller where that can be told.
            handler.gone.run_until_cancelled(answer(ask, &handler, packing)).await;
        }));
    }
}

async fn answer<R: Request>(ask: busway_transport::Ask, handler: &Handler<R>, packing: Packing) {
    let busway_transport::Ask { envelope, deadline, replier, cancelled, .. } = ask;
    let reply = match open::<R>(envelope, deadline) {
        Err(reply) => reply,
        Ok((request, (about, handed))) => {
            let mut cancelled = std::pin::pin!(cancelled);
            if cancelled.as_mut().now_or_never().is_some() {
                // Nobody waits any more: dropped unanswered, and not run.
                return;
            }
            let ask = Ask::new(request, handed);
            let mut answer = std::pin::pin!(handler.answer(ask, handler.about_to_run()));
            let mut told = false;
            let answer = loop {
                tokio::select! {
                    biased;
                    answer = &mut answer => break answer,
                    // Told, but not cut off.
                    () = &mut cancelled, if !told => {
                        told = true;
                        about.end();
                    }
                }
            };
            about.end();
            reply::<R>(answer, packing)
        }
    };
    replier.reply(reply);
}

fn open<R: Request>(
    envelope: Envelope,
    deadline: Instant,
) -> Result<(R, (Arc<About>, Handed)), Reply> {
    let failed = |kind, text: String| Err(Reply::Failed { kind, text });
    if now() >= deadline {
        return failed(FailureKind::Expired, "expired before it was run".into());
    }
    if envelope.version != R::SCHEMA.version {
        let text =
            format!("version {} was asked, {} is answered", envelope.version, R::SCHEMA.version);
        return failed(FailureKind::Version, text);
    }
    let Envelope { id, source, headers, payload, .. } = envelope;
    match unpack(payload, &R::SCHEMA) {
        Ok(request) => Ok((request, About::from_peer(id, source, headers, deadline))),
        Err(text) => failed(FailureKind::Undecodable, text),
    }
}

fn reply<R: Request>(answer: Answer<R>, packing: Packing) -> Reply {
    let packed = match answer {
        Ok(Ok(response)) => packing.pack(R::SCHEMA.topic, response).map(Reply::Response),
        Ok(Err(error)) => packing.pack(R::SCHEMA.topic, error).map(Reply::Refused),
        Err(Failed { kind, text }) => return Reply::Failed { kind, text },
    };
    packed.unwrap_or_else(|error| Reply::Failed {
        kind: FailureKind::Undecodable,
        text: format!("the answer could not be sent: {error}"),
    })
}

/// What a transport's reply says to the caller.
pub(crate) fn read<R: Request>(reply: Reply) -> Result<Answer<R>, String> {
    Ok(match reply {
        Reply::Response(payload) => Ok(Ok(unpack(payload, &R::SCHEMA)?)),
        Reply::Refused(payload) => Ok(Err(unpack(payload, &R::SCHEMA)?)),
        Reply::Failed { kind, text } => Err(Failed { kind, text }),
        _ => return Err("a kind of reply this version does not know".into()),
    })
}

/// The topic of a request type.
pub(crate) fn topic<R: Request>() -> Result<Topic, busway_transport::NameError> {
    Topic::new(R::SCHEMA.topic)
}
