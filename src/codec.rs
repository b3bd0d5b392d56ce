//! From values to bytes and back, chosen on receipt by content type.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use busway_transport::ContentType;

use crate::event::Schema;

/// The most bytes bincode may claim while it decodes: it believes the lengths it reads.
const BINCODE_LIMIT: usize = 64 * 1024 * 1024;

/// A way to encode events, requests and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Codec {
    /// JSON: readable everywhere; the default on RabbitMQ.
    Json,
    /// MessagePack with field names; the default on local sockets.
    MessagePack,
    /// bincode 2: small and fast, but silently wrong for types that use serde's
    /// `skip_serializing_if`, `flatten`, `tag` or `untagged`, and for older payloads of a type
    /// that grew. Only between equal builds, and only for events that ask for it.
    Bincode,
}

/// Why a value could not be encoded or decoded.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value cannot be represented.
    #[error("{what} cannot be encoded as {codec:?}: {reason}")]
    Encode {
        /// The Rust type.
        what: &'static str,
        /// The codec.
        codec: Codec,
        /// What the codec said.
        reason: String,
    },
    /// The bytes are not such a value.
    #[error("not a {what} in {codec:?}: {reason}")]
    Decode {
        /// The Rust type.
        what: &'static str,
        /// The codec.
        codec: Codec,
        /// What the codec said.
        reason: String,
    },
    /// Nobody here reads that content type.
    #[error(
        "no codec for the content type {content_type:?}: there are application/json, application/msgpack and application/x-bincode"
    )]
    UnknownContentType {
        /// What the sender named.
        content_type: String,
    },
    /// bincode arrived for a type that does not ask for it.
    #[error("{name} is not read from bincode: it does not say `codec = \"bincode\"`")]
    Unasked {
        /// The event's or request's name.
        name: &'static str,
    },
    /// A local event was about to leave its process.
    #[error("{name} is declared `local` and never leaves its process")]
    Local {
        /// The event's name.
        name: &'static str,
    },
}

impl CodecError {
    /// The error of a local event, for [`Event::encode`](crate::Event::encode).
    pub fn local(name: &'static str) -> Self {
        Self::Local { name }
    }
}

impl Codec {
    /// The content type it writes.
    pub fn content_type(self) -> ContentType {
        match self {
            Self::Json => ContentType::JSON,
            Self::MessagePack => ContentType::MESSAGE_PACK,
            Self::Bincode => ContentType::BINCODE,
        }
    }

    /// The codec that reads a content type. Parameters (`; charset=utf-8`) are ignored.
    ///
    /// # Errors
    /// [`CodecError::UnknownContentType`].
    pub fn for_content_type(content_type: &ContentType) -> Result<Self, CodecError> {
        // Nearly always one of our own, as we write it.
        match content_type.as_str() {
            "application/msgpack" => return Ok(Self::MessagePack),
            "application/json" => return Ok(Self::Json),
            "application/x-bincode" => return Ok(Self::Bincode),
            _ => {}
        }
        let essence = content_type.as_str().split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/json" | "text/json" => Ok(Self::Json),
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => {
                Ok(Self::MessagePack)
            }
            "application/x-bincode" => Ok(Self::Bincode),
            _ => Err(CodecError::UnknownContentType {
                content_type: essence.chars().take(80).collect(),
            }),
        }
    }

    /// The codec for what arrived for a type. bincode is read only by types that ask for it: for
    /// others it is silently wrong, and it has no limit of depth.
    pub(crate) fn for_receipt(
        content_type: &ContentType,
        schema: &Schema,
    ) -> Result<Self, CodecError> {
        match Self::for_content_type(content_type)? {
            Self::Bincode if schema.codec != Some(Self::Bincode) => {
                Err(CodecError::Unasked { name: schema.name })
            }
            codec => Ok(codec),
        }
    }

    /// Encodes a value to the end of a buffer.
    ///
    /// # Errors
    /// [`CodecError::Encode`]; the buffer is then as it was.
    #[inline]
    pub fn encode<T: Serialize>(self, value: &T, buffer: &mut Vec<u8>) -> Result<(), CodecError> {
        let before = buffer.len();
        let encoded = match self {
            Self::Json => encode_json(value, buffer),
            Self::MessagePack => encode_message_pack(value, buffer),
            Self::Bincode => encode_bincode(value, buffer),
        };
        encoded.map_err(|reason| {
            buffer.truncate(before);
            self.cannot_encode::<T>(reason)
        })
    }

    /// Encodes a value.
    ///
    /// # Errors
    /// [`CodecError::Encode`].
    pub fn to_bytes<T: Serialize>(self, value: &T) -> Result<Bytes, CodecError> {
        let mut buffer = Vec::new();
        self.encode(value, &mut buffer)?;
        Ok(buffer.into())
    }

    /// Decodes a value; all of the bytes have to belong to it.
    ///
    /// # Errors
    /// [`CodecError::Decode`].
    #[inline]
    pub fn decode<T: DeserializeOwned>(self, bytes: &[u8]) -> Result<T, CodecError> {
        let decoded = match self {
            Self::Json => decode_json(bytes),
            Self::MessagePack => decode_message_pack(bytes),
            Self::Bincode => decode_bincode(bytes),
        };
        decoded.map_err(|reason| self.not_a::<T>(reason))
    }

    #[cold]
    fn cannot_encode<T>(self, reason: String) -> CodecError {
        CodecError::Encode { what: std::any::type_name::<T>(), codec: self, reason }
    }

    #[cold]
    fn not_a<T>(self, reason: String) -> CodecError {
        CodecError::Decode { what: std::any::type_name::<T>(), codec: self, reason }
    }
}

// MessagePack is what most events go by, and part of what encodes and decodes them.

#[inline(never)]
fn encode_json<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), String> {
    serde_json::to_writer(buffer, value).map_err(|error| error.to_string())
}

#[inline]
fn encode_message_pack<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), String> {
    rmp_serde::encode::write_named(buffer, value).map_err(|error| error.to_string())
}

#[inline(never)]
fn encode_bincode<T: Serialize>(value: &T, buffer: &mut Vec<u8>) -> Result<(), String> {
    let config = bincode::config::standard();
    let encoded = bincode::serde::encode_into_std_write(value, buffer, config);
    encoded.map(|_| ()).map_err(|error| error.to_string())
}

#[inline(never)]
fn decode_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

#[inline]
fn decode_message_pack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    use rmp_serde::decode::Error;
    // Borrowed: another kind of reader copies every text and every byte string once more.
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    let value = T::deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    // It does not tell what is left; but only where nothing is, the next marker is missing.
    match Nothing::deserialize(&mut deserializer) {
        Err(Error::InvalidMarkerRead(_)) => Ok(value),
        _ => Err("bytes are left over at its end".to_owned()),
    }
}

/// A value that nothing is.
struct Nothing;

impl<'de> Deserialize<'de> for Nothing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RefuseAll;
        impl Visitor<'_> for RefuseAll {
            type Value = Nothing;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("nothing")
            }
        }
        deserializer.deserialize_any(RefuseAll)
    }
}

#[inline(never)]
fn decode_bincode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let config = bincode::config::standard().with_limit::<BINCODE_LIMIT>();
    match bincode::serde::decode_from_slice(bytes, config).map_err(|error| error.to_string())? {
        (value, read) if read == bytes.len() => Ok(value),
        (_, read) => Err(format!("{} bytes too many", bytes.len() - read)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        id: u64,
        note: Option<String>,
        parts: Vec<(String, u32)>,
    }

    const ALL: [Codec; 3] = [Codec::Json, Codec::MessagePack, Codec::Bincode];

    #[test]
    fn every_codec_reads_what_it_wrote_and_is_found_by_its_content_type() {
        let order = Order { id: 7, note: None, parts: vec![("bolt".into(), 12)] };
        for codec in ALL {
            let bytes = codec.to_bytes(&order).unwrap();
            assert_eq!(codec.decode::<Order>(&bytes).unwrap(), order);
            assert_eq!(Codec::for_content_type(&codec.content_type()).unwrap(), codec);
        }
        let with_charset = ContentType::new("Application/JSON; charset=utf-8");
        assert_eq!(Codec::for_content_type(&with_charset).unwrap(), Codec::Json);
        assert!(Codec::for_content_type(&ContentType::new("text/plain")).is_err());
    }

    #[test]
    fn a_failed_encoding_leaves_the_buffer_as_it_was() {
        struct Stubborn;
        impl Serialize for Stubborn {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::{Error, SerializeTuple};
                let mut tuple = serializer.serialize_tuple(2)?;
                tuple.serialize_element("something")?;
                Err(S::Error::custom("no"))
            }
        }
        for codec in ALL {
            let mut buffer = b"before".to_vec();
            assert!(codec.encode(&Stubborn, &mut buffer).is_err());
            assert_eq!(buffer, b"before", "{codec:?}");
        }
    }

    #[test]
    fn trailing_and_missing_bytes_are_errors() {
        let order = Order { id: 7, note: Some("x".into()), parts: vec![] };
        for codec in ALL {
            let mut bytes = codec.to_bytes(&order).unwrap().to_vec();
            assert!(codec.decode::<Order>(&bytes[..bytes.len() - 1]).is_err(), "{codec:?}");
            bytes.push(b'0');
            assert!(codec.decode::<Order>(&bytes).is_err(), "{codec:?}");
        }
    }

    #[test]
    fn whatever_is_left_over_is_an_error() {
        let order = Order { id: 7, note: Some("x".into()), parts: vec![] };
        let bytes = Codec::MessagePack.to_bytes(&order).unwrap();
        for first in 0..=u8::MAX {
            for more in [&[][..], &[0], &[1, 2, 3]] {
                let bytes = [&bytes, &[first][..], more].concat();
                assert!(Codec::MessagePack.decode::<Order>(&bytes).is_err(), "{first} {more:?}");
            }
        }
    }

    #[test]
    fn a_length_that_lies_is_an_error_and_not_an_allocation() {
        // A Vec<u64> that claims to have 2^40 elements.
        let bytes = [253, 0, 0, 0, 0, 0, 1, 0, 0];
        assert!(Codec::Bincode.decode::<Vec<u64>>(&bytes).is_err());
    }
}
