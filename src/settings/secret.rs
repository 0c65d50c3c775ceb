//! A value that must never be seen: not in logs, files, messages or errors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The API key. It comes from `AURORA_SWARM_API_KEY` and nothing else, and travels from rank 0 to the other ranks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey(String);

impl ApiKey {
    /// The variable it is read from.
    pub const ENV_VARIABLE: &str = "AURORA_SWARM_API_KEY";

    /// Wraps a value. Blank is none.
    #[must_use]
    pub fn new(value: &str) -> Option<Self> {
        let value = value.trim();
        (!value.is_empty()).then(|| Self(value.to_owned()))
    }

    /// The value itself, for the one header it is for.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
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
        let secret = ApiKey::new(" abc ").expect("not blank");
        assert_eq!(format!("{secret:?}"), "(hidden)");
        assert_eq!(secret.expose_secret(), "abc");
        assert_eq!(ApiKey::new("  "), None);
    }
}
