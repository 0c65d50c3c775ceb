//! Values to bytes and back: the only file that knows bincode.
//!
//! The crate is unmaintained, so nothing on disk uses it: only ranks of one job, which are one build, read what it wrote.

use serde::{Serialize, de::DeserializeOwned};

use super::{CommError, RankMessage};

/// A value as bytes.
pub(super) fn encode_value<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CommError> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|error| CommError::Encode(error.to_string()))
}

/// Local. The value that a letter holds.
///
/// # Errors
/// Where it cannot be read.
pub fn decode_message<T: DeserializeOwned>(letter: &RankMessage) -> Result<T, CommError> {
    decode_bytes(letter.from, &letter.bytes)
}

/// The value that `from` encoded. All bytes must be used: a rest means another build.
pub(super) fn decode_bytes<T: DeserializeOwned>(from: usize, bytes: &[u8]) -> Result<T, CommError> {
    let garbled = |detail: String| CommError::Decode { from, detail };
    let (value, used) = bincode::serde::decode_from_slice(bytes, bincode::config::standard())
        .map_err(|error| garbled(error.to_string()))?;
    if used == bytes.len() {
        Ok(value)
    } else {
        Err(garbled(format!("{} of {} bytes are left over", bytes.len() - used, bytes.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_over_or_missing_is_an_error() {
        let mut bytes = encode_value(&(7u32, "seven")).expect("plain data");
        assert_eq!(decode_bytes::<(u32, String)>(1, &bytes), Ok((7, "seven".to_owned())));
        bytes.push(0);
        assert!(decode_bytes::<(u32, String)>(1, &bytes).is_err());
        assert!(decode_bytes::<(u32, String)>(1, &bytes[..3]).is_err());
    }
}
