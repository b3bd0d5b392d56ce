//! Checked reading of the parts of a frame: whatever comes in, it is an error, never a panic.

use std::str;

use bytes::{Buf, Bytes};

use super::WireError;

/// What is left of a frame's body.
pub(super) struct Read(pub(super) Bytes);

type Result<T> = std::result::Result<T, WireError>;

impl Read {
    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8> {
        self.0.try_get_u8().map_err(|_| WireError::Truncated(what))
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16> {
        self.0.try_get_u16_le().map_err(|_| WireError::Truncated(what))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32> {
        self.0.try_get_u32_le().map_err(|_| WireError::Truncated(what))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64> {
        self.0.try_get_u64_le().map_err(|_| WireError::Truncated(what))
    }

    /// So many bytes as they are.
    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let array = *self.0.first_chunk().ok_or(WireError::Truncated(what))?;
        self.0.advance(N);
        Ok(array)
    }

    /// A part of the body, without copying it.
    pub(super) fn bytes(&mut self, length: usize, what: &'static str) -> Result<Bytes> {
        if self.0.remaining() < length {
            return Err(WireError::Truncated(what));
        }
        Ok(self.0.split_to(length))
    }

    /// A text of known length, checked and turned into what it means without an allocation of
    /// its own.
    fn text<T>(
        &mut self,
        length: usize,
        what: &'static str,
        parse: impl FnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        let bytes = self.0.chunk().get(..length).ok_or(WireError::Truncated(what))?;
        let value = parse(str::from_utf8(bytes).map_err(|_| WireError::Bad(what))?)?;
        self.0.advance(length);
        Ok(value)
    }

    /// A text with a length of one byte.
    pub(super) fn short<T>(
        &mut self,
        what: &'static str,
        parse: impl FnOnce(&str) -> Result<T>,
    ) -> Result<T> {
        let length = usize::from(self.u8(what)?);
        self.text(length, what, parse)
    }

    /// A text with a length of four bytes.
    pub(super) fn long(&mut self, what: &'static str) -> Result<String> {
        let length = self.u32(what)? as usize;
        self.text(length, what, |text| Ok(text.to_owned()))
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> Bytes {
        self.0
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }
}
