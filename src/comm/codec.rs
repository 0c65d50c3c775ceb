//! Serialisation of values to bytes and back. The only file that uses bincode.
//!
//! The bincode crate is unmaintained, so nothing on disk uses it: its output is only read by other ranks of the same
//! job, which run the same build.

use serde::{Serialize, de::DeserializeOwned};

use super::{CommError, RankMessage};

pub(super) fn encode_value<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CommError> {
    bincode::serde::encode_to_vec(value, bincode::config::standard())
        .map_err(|error| CommError::Encode(error.to_string()))
}

/// Local. Decodes the value that a message holds.
///
/// # Errors
/// Returns [`CommError::Decode`] if the bytes are not a value of this type.
pub(crate) fn decode_message<T: DeserializeOwned>(message: &RankMessage) -> Result<T, CommError> {
    decode_bytes(message.from, &message.bytes)
}

/// Decodes a value that rank `from` encoded. All bytes must be used: a remainder means that the ranks run different
/// builds.
pub(super) fn decode_bytes<T: DeserializeOwned>(from: usize, bytes: &[u8]) -> Result<T, CommError> {
    let decode_error = |detail: String| CommError::Decode { from, detail };
    let (value, used) = bincode::serde::decode_from_slice(bytes, bincode::config::standard())
        .map_err(|error| decode_error(error.to_string()))?;
    if used == bytes.len() {
        Ok(value)
    } else {
        Err(decode_error(format!("{} of {} bytes are left over", bytes.len() - used, bytes.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_and_left_over_bytes_are_an_error() {
        let mut bytes = encode_value(&(7u32, "seven")).expect("plain data");
        assert_eq!(decode_bytes::<(u32, String)>(1, &bytes), Ok((7, "seven".to_owned())));
        bytes.push(0);
        assert!(decode_bytes::<(u32, String)>(1, &bytes).is_err());
        assert!(decode_bytes::<(u32, String)>(1, &bytes[..3]).is_err());
    }
}
