//! How the engine behaves, and the plain arithmetic of it: pure.

use std::time::Duration;

use crate::domain::{Input, Params, Prompt, Route};

/// What the job decided for every rank's engine.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The served model's name.
    pub model: String,
    /// The route of prompts that are texts and name none.
    pub text_route: Route,
    /// Request parameters where a row has none of its own.
    pub defaults: Params,
    /// The first message of conversations.
    pub system: Option<String>,
    /// Sequences in flight an endpoint, exactly.
    pub window: usize,
    /// The most prompts a request.
    pub batch: usize,
    /// A request's least time limit.
    pub timeout: Duration,
    /// What the limit of a list of more than 256 prompts grows by for every 256 of them.
    pub timeout_per_sequence: Duration,
    /// Tries a prompt has in all.
    pub tries: u32,
    /// The longest prompt and answer together, in tokens, where it is known.
    pub context: Option<u64>,
    /// Tokens left free when an answer is cut to fit.
    pub buffer: u64,
    /// How long to go on without any endpoint.
    pub patience: Duration,
    /// Are token counts wanted in answers?
    pub usage: bool,
}

/// Prompts of one list that a server is taken to work on at once; the number is Aurora-Swarm's `batch_concurrency`.
const SEQUENCES_AT_ONCE: usize = 256;
/// The least answer that a prompt is cut down to.
const LEAST_ANSWER: u64 = 128;
/// Sizes go in steps, so that prompts of about one length still share a list.
const STEP: u64 = 64;

impl Policy {
    /// The time limit of a request with so many prompts.
    #[must_use]
    pub fn limit(&self, prompts: usize) -> Duration {
        match u32::try_from(prompts.div_ceil(SEQUENCES_AT_ONCE)).unwrap_or(u32::MAX) {
            // What the server works on at once has the limit that was asked for, however short.
            0 | 1 => self.timeout,
            rounds => self.timeout.max(self.timeout_per_sequence.saturating_mul(rounds)),
        }
    }

    /// Which route a prompt takes.
    #[must_use]
    pub fn route(&self, prompt: &Prompt) -> Route {
        match (&prompt.input, prompt.route) {
            (Input::Messages(_), _) => Route::Chat,
            (Input::Text(_), Some(route)) => route,
            (Input::Text(_), None) => self.text_route,
        }
    }

    /// The prompt's `max_tokens` if it has to be another than what was asked for, lest prompt and answer exceed the
    /// context. Deterministic, so that runs are equal; an estimate, so it never refuses a prompt.
    #[must_use]
    pub fn fitted(&self, asked: Option<u64>, prompt: &Input) -> Option<u64> {
        let (context, asked) = (self.context?, asked?);
        let length = match prompt {
            Input::Text(text) | Input::Messages(text) => estimated_tokens(text),
        };
        let room = context.saturating_sub(length).saturating_sub(self.buffer);
        if asked <= room {
            return None;
        }
        let stepped = room / STEP * STEP;
        let fitted = stepped.max(LEAST_ANSWER).min(context.saturating_sub(1)).min(asked);
        (fitted < asked).then_some(fitted)
    }
}

/// About four characters a token, as the originals estimate; bytes of other scripts than Latin count for more.
fn estimated_tokens(text: &str) -> u64 {
    let wide = text.bytes().filter(|byte| !byte.is_ascii()).count() as u64;
    let narrow = text.len() as u64 - wide;
    narrow.div_ceil(4) + wide.div_ceil(3)
}

#[cfg(test)]
pub(super) fn for_tests() -> Policy {
    Policy {
        model: "m".into(),
        text_route: Route::Completions,
        defaults: Params::default(),
        system: None,
        window: 8,
        batch: 4,
        timeout: Duration::from_secs(5),
        timeout_per_sequence: Duration::from_secs(60),
        tries: 3,
        context: Some(2048),
        buffer: 512,
        patience: Duration::from_secs(5),
        usage: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_grow_with_the_list_as_the_originals_do() {
        let policy = Policy { timeout: Duration::from_secs(100), ..for_tests() };
        assert_eq!(policy.limit(1), Duration::from_secs(100));
        assert_eq!(policy.limit(256), Duration::from_secs(100));
        assert_eq!(policy.limit(1024), Duration::from_secs(240));
    }

    #[test]
    fn answers_are_cut_only_where_they_could_not_fit() {
        let policy = for_tests();
        let text = |length: usize| Input::Text("x".repeat(length));
        assert_eq!(policy.fitted(Some(512), &text(400)), None);
        assert_eq!(
            policy.fitted(Some(2000), &text(400)),
            Some(1408),
            "2048 - 100 - 512 in steps of 64"
        );
        assert_eq!(
            policy.fitted(Some(512), &text(8000)),
            Some(128),
            "the server knows better whether it fits"
        );
        assert_eq!(policy.fitted(Some(64), &text(8000)), None);
        assert_eq!(policy.fitted(None, &text(8000)), None);
        let blind = Policy { context: None, ..for_tests() };
        assert_eq!(blind.fitted(Some(100_000), &text(10)), None);
    }

    proptest! {
        #[test]
        fn a_fitted_answer_is_shorter_than_asked_and_below_the_context(
            asked in 1u64..100_000, length in 0usize..20_000, context in 2u64..20_000,
        ) {
            let policy = Policy { context: Some(context), ..for_tests() };
            if let Some(fitted) = policy.fitted(Some(asked), &Input::Text("y".repeat(length))) {
                prop_assert!(fitted < asked && fitted < context && fitted > 0);
            }
        }
    }
}
