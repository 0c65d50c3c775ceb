//! Prefix caches that would make what is measured later look faster: how they are kept apart.
//!
//! vLLM keeps apart what requests with different `cache_salt`s leave in its prefix cache, and answers none of them otherwise.
//! Which servers do is told by their version: others pass over the parameter, or refuse it.

use crate::domain::{Prompt, RequestParams};

const CACHE_SALT_KEY: &str = "cache_salt";
/// The first version that has no engine any more that refuses it.
const FIRST_SALT_VERSION: (u32, u32) = (0, 11);

/// Does a vLLM of this version keep caches apart?
#[must_use]
pub fn supports_cache_salt(version: Option<&str>) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    version.and_then(numbers).is_some_and(|it| it >= FIRST_SALT_VERSION)
}

/// Do all requests have a salt already, which is somebody's will?
#[must_use]
pub fn has_cache_salt(parameters: &RequestParams) -> bool {
    parameters.get(CACHE_SALT_KEY).is_some()
}

/// Has these prompts find nothing that was asked with another salt; a row's own salt stays.
pub fn add_cache_salt(prompts: &mut [Prompt], salt: &str) {
    for prompt in prompts.iter_mut().filter(|it| !has_cache_salt(&it.params)) {
        prompt.params.set(CACHE_SALT_KEY, format!("\"{salt}\""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_what_says_none_keeps_nothing_apart() {
        for known in ["0.11.0", "0.11.0rc1", "0.32.0+cpu", "1.0", "0.15.1.dev7+g1234"] {
            assert!(supports_cache_salt(Some(known)), "{known}");
        }
        for other in [None, Some("0.10.2"), Some(""), Some("dev"), Some("0"), Some("0.x")] {
            assert!(!supports_cache_salt(other), "{other:?}");
        }
    }
}
