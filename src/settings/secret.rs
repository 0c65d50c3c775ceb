//! The API key: a value that must never appear in logs, files, messages or errors.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SettingsError;

/// API key for servers, read from `AURORA_SWARM_API_KEY` only and broadcast by rank 0. Its `Debug` hides the value.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ApiKey(String);

impl ApiKey {
    /// Environment variable with the key.
    pub(crate) const ENV_VARIABLE: &str = "AURORA_SWARM_API_KEY";

    /// Wraps a trimmed value; a blank one is `None`.
    ///
    /// # Errors
    /// If the value cannot stand in a request header.
    pub(crate) fn new(value: &str) -> Result<Option<Self>, SettingsError> {
        let value = value.trim();
        if !value.chars().all(|letter| letter.is_ascii_graphic() || letter == ' ') {
            // The value itself is never part of a message.
            return Err(SettingsError::InvalidKey);
        }
        Ok((!value.is_empty()).then(|| Self(value.to_owned())))
    }

    /// Returns the key, for the `Authorization` header only.
    #[must_use]
    pub(crate) fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_key_is_hidden_in_debug() {
        let secret = ApiKey::new(" abc ").expect("valid").expect("not blank");
        assert_eq!(format!("{secret:?}"), "(hidden)");
        assert_eq!(secret.expose_secret(), "abc");
        assert!(matches!(ApiKey::new("  "), Ok(None)));
        for invalid in ["sk\r\nX: 1", "sk\u{7f}", "schlüssel"] {
            let error = ApiKey::new(invalid).expect_err("no header value").to_string();
            assert!(error.contains(ApiKey::ENV_VARIABLE) && !error.contains("sk"), "{error}");
        }
    }
}
