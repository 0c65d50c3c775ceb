//! Prefix caches that would make what is measured later look faster: how they are kept apart.
//!
//! vLLM keeps apart what requests with different `cache_salt`s leave in its prefix cache, and answers none of them otherwise.
//! Which servers do is told by their version: others pass over the parameter, or refuse it.

use crate::domain::{Params, Prompt};

const SALT: &str = "cache_salt";
/// The first version that has no engine any more that refuses it.
const SINCE: (u32, u32) = (0, 11);

/// Does a vLLM of this version keep caches apart?
#[must_use]
pub fn keeps_apart(version: Option<&str>) -> bool {
    let numbers = |text: &str| {
        let mut parts = text.split('.').map(str::parse::<u32>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    version.and_then(numbers).is_some_and(|it| it >= SINCE)
}

/// Do all requests have a salt already, which is somebody's will?
#[must_use]
pub fn is_salted(parameters: &Params) -> bool {
    parameters.get(SALT).is_some()
}

/// Has these prompts find nothing that was asked with another salt; a row's own salt stays.
pub fn keep_apart(prompts: &mut [Prompt], salt: &str) {
    for prompt in prompts.iter_mut().filter(|it| !is_salted(&it.params)) {
        prompt.params.set(SALT, format!("\"{salt}\""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_what_says_none_keeps_nothing_apart() {
        for known in ["0.11.0", "0.11.0rc1", "0.32.0+cpu", "1.0", "0.15.1.dev7+g1234"] {
            assert!(keeps_apart(Some(known)), "{known}");
        }
        for other in [None, Some("0.10.2"), Some(""), Some("dev"), Some("0"), Some("0.x")] {
            assert!(!keeps_apart(other), "{other:?}");
        }
    }
}
