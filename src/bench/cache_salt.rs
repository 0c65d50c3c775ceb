//! Isolation of measurements in prefix caches, which would make later measurements look faster.
//!
//! vLLM keeps entries of its prefix cache apart by the request's `cache_salt`, which does not change answers. Whether a
//! server does so is known from its version: others ignore the parameter, or refuse it.

use crate::domain::{Prompt, RequestParams};

const CACHE_SALT_KEY: &str = "cache_salt";
/// First version in which no engine refuses the parameter any more.
const FIRST_SALT_VERSION: (u32, u32) = (0, 11);

/// Returns whether a vLLM of this version isolates cache entries by salt.
#[must_use]
pub(crate) fn supports_cache_salt(version: Option<&str>) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    version.and_then(numbers).is_some_and(|version| version >= FIRST_SALT_VERSION)
}

/// Returns whether the parameters already contain a salt, which the user has chosen.
#[must_use]
pub(crate) fn has_cache_salt(parameters: &RequestParams) -> bool {
    parameters.get(CACHE_SALT_KEY).is_some()
}

/// Adds a salt to these prompts, so that they hit no cache entries of requests with another one. A row's own salt
/// stays.
pub(crate) fn add_cache_salt(prompts: &mut [Prompt], salt: &str) {
    for prompt in prompts.iter_mut().filter(|prompt| !has_cache_salt(&prompt.params)) {
        prompt.params.set(CACHE_SALT_KEY, format!("\"{salt}\""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_an_unknown_version_isolates_nothing() {
        for known in ["0.11.0", "0.11.0rc1", "0.32.0+cpu", "1.0", "0.15.1.dev7+g1234"] {
            assert!(supports_cache_salt(Some(known)), "{known}");
        }
        for other in [None, Some("0.10.2"), Some(""), Some("dev"), Some("0"), Some("0.x")] {
            assert!(!supports_cache_salt(other), "{other:?}");
        }
    }
}
