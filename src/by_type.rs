//! Maps whose keys are types.

use std::any::TypeId;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by type. The keys are hashes already, and are taken as they are.
pub(crate) type ByType<T> = HashMap<TypeId, T, BuildHasherDefault<Identity>>;

/// Gives back the last word it was given.
#[derive(Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }

    // Not what `TypeId` does today; right, if slow, should it ever.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}
