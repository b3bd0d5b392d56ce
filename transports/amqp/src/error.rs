//! From lapin's errors to the contract's. What a broker says never holds our password.

use std::future::Future;
use std::time::Duration;

use busway_transport::TransportError;
use lapin::types::ShortString;
use lapin::{Error, ErrorKind};

use crate::address::Settings;

/// How long one exchange with the broker may take. A connection that the broker blocked hangs
/// every call on it, so each await has this limit.
pub(crate) const OPERATION: Duration = Duration::from_secs(10);

/// The AMQP reply code of an error, when the broker sent one.
pub(crate) fn code(error: &Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}

/// The error of an attempt to connect.
pub(crate) fn connecting(settings: &Settings, error: &Error) -> TransportError {
    let address = settings.shown.clone();
    match (code(error), error.kind()) {
        (Some(403), _) | (_, ErrorKind::AuthProviderError(_)) => {
            TransportError::Denied { address, reason: format!("user name or password: {error}") }
        }
        // NOT_ALLOWED and INVALID_PATH: no such vhost, or not for this user.
        (Some(402 | 530), _) => TransportError::Denied {
            address,
            reason: format!("vhost {:?}: {error}", settings.uri.vhost),
        },
        _ => TransportError::Unreachable { address, reason: error.to_string() },
    }
}

/// The error of a call on a connection that was up.
pub(crate) fn calling(settings: &Settings, what: &str, error: &Error) -> TransportError {
    match code(error) {
        Some(403 | 530) => TransportError::Denied {
            address: settings.shown.clone(),
            reason: format!("{what}: {error}"),
        },
        Some(311 | 404 | 405 | 406) => {
            TransportError::Rejected { what: what.to_owned(), reason: error.to_string() }
        }
        _ => TransportError::Disconnected { reason: format!("{what}: {error}") },
    }
}

/// Whether the broker closed only the channel: the connection is fine, the call was not.
pub(crate) fn is_channel_error(error: &Error) -> bool {
    error.is_amqp_soft_error() || matches!(error.kind(), ErrorKind::SerialisationError(_))
}

/// Why a channel was lost on which requests are asked.
pub(crate) fn losing(settings: &Settings, error: &Error) -> TransportError {
    match is_channel_error(error) {
        true => calling(settings, "a request", error),
        false => TransportError::Disconnected { reason: error.to_string() },
    }
}

/// Whether trying again can help.
pub(crate) fn is_final(error: &TransportError) -> bool {
    matches!(error, TransportError::Denied { .. } | TransportError::Rejected { .. })
}

/// Runs one exchange with the broker within [`OPERATION`].
pub(crate) async fn within<T>(
    settings: &Settings,
    what: &str,
    exchange: impl Future<Output = Result<T, Error>>,
) -> Result<T, TransportError> {
    match tokio::time::timeout(OPERATION, exchange).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(calling(settings, what, &error)),
        Err(_) => Err(timed_out(what, OPERATION)),
    }
}

pub(crate) fn timed_out(what: &str, after: Duration) -> TransportError {
    TransportError::TimedOut { what: what.to_owned(), after, by: None }
}

/// A name for the wire. lapin panics on more than 255 bytes unless asked like this.
pub(crate) fn short(text: impl Into<String>) -> Result<ShortString, TransportError> {
    let text = text.into();
    let length = text.len();
    if length > 255 {
        let start: String = text.chars().take(60).collect();
        return Err(TransportError::Rejected {
            what: format!("the name {start:?}…"),
            reason: format!("it has {length} bytes, AMQP takes 255"),
        });
    }
    Ok(ShortString::from(text))
}
