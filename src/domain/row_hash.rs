//! Row hashes: a number for the content of an input row, by which its answer is matched when the input has changed.
//!
//! Owns the number's form. It is computed in `input/scan/row_hashes.rs`.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A hash of the row's bytes in 63 bits, and whether the row has an id of its own in the lowest bit. Written as 16 hex
/// digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RowHash(u64);

impl RowHash {
    /// Hash of an unknown row.
    pub(crate) const UNKNOWN: Self = Self(0);
    const OWN_ID: u64 = 1;

    /// Returns the row hash made of a hash of the row's bytes.
    #[must_use]
    pub(crate) fn new(hash: u64, own_id: bool) -> Self {
        Self(hash & !Self::OWN_ID | u64::from(own_id))
    }

    /// Whether nothing is known of the row.
    #[must_use]
    pub(crate) fn is_unknown(&self) -> bool {
        *self == Self::UNKNOWN
    }

    /// Whether the row has an id of its own, rather than its index.
    #[must_use]
    pub(crate) fn has_own_id(self) -> bool {
        self.0 & Self::OWN_ID != 0
    }

    /// Returns the hash without the id bit, which is equal for rows with equal bytes.
    #[must_use]
    pub(crate) fn bytes_hash(self) -> u64 {
        self.0 & !Self::OWN_ID
    }
}

impl fmt::Display for RowHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for RowHash {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

impl Serialize for RowHash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RowHash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_hash_has_sixteen_digits_and_the_id_flag_in_its_lowest_bit() {
        for hash in [1, 0xabc, u64::MAX] {
            let (own, none) = (RowHash::new(hash, true), RowHash::new(hash, false));
            assert!(own.has_own_id() && !none.has_own_id());
            assert_eq!(own.bytes_hash(), none.bytes_hash());
            for hash in [own, none] {
                assert_eq!(hash.to_string().len(), 16);
                assert_eq!(hash.to_string().parse(), Ok(hash));
            }
        }
        assert_ne!(RowHash::new(2, true).bytes_hash(), RowHash::new(4, true).bytes_hash());
        assert!(RowHash::default().is_unknown());
        assert!("row".parse::<RowHash>().is_err());
    }
}
