//! From an event's key to the number by which a group is ordered.

use std::hash::{Hash, Hasher};

/// The number of a key. The same in every process: members on all hosts must agree.
pub(crate) fn number_of(key: &impl Hash) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    key.hash(&mut hasher);
    hasher.finish()
}

/// FNV-1a of 64 bits. The standard library's hashers may change with its version, and so between
/// two builds of one program.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    // By value and not by memory: hosts may differ.
    fn write_u16(&mut self, value: u16) {
        self.write(&value.to_le_bytes());
    }
    fn write_u32(&mut self, value: u32) {
        self.write(&value.to_le_bytes());
    }
    fn write_u64(&mut self, value: u64) {
        self.write(&value.to_le_bytes());
    }
    fn write_u128(&mut self, value: u128) {
        self.write(&value.to_le_bytes());
    }
    fn write_usize(&mut self, value: usize) {
        self.write(&(value as u64).to_le_bytes());
    }

    fn finish(&self) -> u64 {
        // Its low bits choose partitions, and FNV's are the weak ones.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_number_for_ever() {
        // Changing these would mix up the order of groups while a new build is rolled out.
        assert_eq!(number_of(&7_u64), 0x4bd7_a317_4c9b_f875);
        assert_eq!(number_of(&"ada"), number_of(&"ada".to_owned()));
        assert_ne!(number_of(&1_u64), number_of(&2_u64));
    }

    #[test]
    fn partitions_are_used_evenly() {
        let mut counts = [0; 16];
        for key in 0_u64..1600 {
            counts[(number_of(&key) % 16) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (50..200).contains(count)), "{counts:?}");
    }
}
