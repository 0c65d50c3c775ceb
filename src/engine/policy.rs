//! How the engine behaves, and the plain arithmetic of it: pure.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    domain::{Prompt, PromptInput, RequestParams, Route},
    endpoint::BatchParams,
};

/// A number that is given, or found while the work goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeMode {
    /// What does best by what the endpoint shows.
    Auto,
    /// This and no other.
    Fixed(usize),
}

/// How token counts come to the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenCounting {
    /// Not at all.
    Off,
    /// A list's sum, shared out by length.
    Share,
    /// By the token ids, which the server is asked for.
    Exact,
}

/// A conversation as the text that the model's own template makes of it.
pub trait ConversationRenderer: Send + Sync {
    /// The text for a JSON array of messages, with the template's arguments (`chat_template_kwargs`, a JSON object) where
    /// there are any. Nothing where it has more than plain messages, or the template refuses it: such a conversation is
    /// for the server to render.
    fn render(&self, messages: &str, kwargs: Option<&str>) -> Option<String>;
}

/// Who renders conversations here, if anybody does.
#[derive(Clone)]
pub struct SharedRenderer(pub Arc<dyn ConversationRenderer>);

impl fmt::Debug for SharedRenderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Renderer")
    }
}

/// What the job decided for every rank's engine.
#[derive(Clone, Debug)]
pub struct EnginePolicy {
    /// The served model's name.
    pub model: String,
    /// The route of prompts that are texts and name none.
    pub text_route: Route,
    /// Request parameters where a row has none of its own.
    pub default_params: RequestParams,
    /// The first message of conversations.
    pub system_prompt: Option<String>,
    /// Renders conversations, so that they can ride in lists.
    pub renderer: Option<SharedRenderer>,
    /// Sequences in flight an endpoint.
    pub concurrency: SizeMode,
    /// Prompts a request.
    pub batch_size: SizeMode,
    /// How long prompts wait for others that would make a full list.
    pub max_batch_wait: Duration,
    /// Requests begun a second and endpoint, at most.
    pub rate_limit: Option<f64>,
    /// A request's least time limit.
    pub timeout: Duration,
    /// What the limit of a list of more than 256 prompts grows by for every 256 of them.
    pub timeout_per_sequence: Duration,
    /// Tries a prompt has in all.
    pub max_tries: u32,
    /// The longest prompt and answer together, in tokens, where it is known.
    pub max_model_len: Option<u64>,
    /// Tokens left free when an answer is cut to fit.
    pub context_buffer: u64,
    /// How long to go on without any endpoint.
    pub no_progress_timeout: Duration,
    /// How token counts come to the answers.
    pub token_counting: TokenCounting,
    /// So many outcomes that are all the same refusal mean that the job is wrong, not its prompts.
    pub fail_fast_threshold: usize,
}

/// Parameters that both routes know by the same name and meaning: what else a conversation's request has needs the chat
/// route. From vLLM's request schemas; `bad_words` and `response_format` are not among them, since completions routes of
/// older versions pass over them without a word.
const PARAMS_OF_BOTH_ROUTES: [&str; 23] = [
    "allowed_token_ids",
    "cache_salt",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "length_penalty",
    "logit_bias",
    "max_tokens",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "priority",
    "repetition_penalty",
    "seed",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop",
    "stop_token_ids",
    "structured_outputs",
    "temperature",
    "top_k",
    "top_p",
];
/// What the chat route takes for the template: rendering here takes it too.
pub(super) const TEMPLATE_KWARGS: &str = "chat_template_kwargs";

/// Prompts of one list that a server is taken to work on at once; the number is Aurora-Swarm's `batch_concurrency`.
const PROMPTS_PER_TIMEOUT_STEP: usize = 256;
/// The least answer that a prompt is cut down to.
const MIN_ANSWER_TOKENS: u64 = 128;
/// Sizes go in steps, so that prompts of about one length still share a list.
const MAX_TOKENS_STEP: u64 = 64;

impl EnginePolicy {
    /// The time limit of a request with so many prompts.
    #[must_use]
    pub fn request_timeout(&self, prompts: usize) -> Duration {
        match u32::try_from(prompts.div_ceil(PROMPTS_PER_TIMEOUT_STEP)).unwrap_or(u32::MAX) {
            // What the server works on at once has the limit that was asked for, however short.
            0 | 1 => self.timeout,
            rounds => self.timeout.max(self.timeout_per_sequence.saturating_mul(rounds)),
        }
    }

    /// The job's `max_tokens`.
    pub(super) fn max_tokens(&self) -> Option<u64> {
        self.default_params.get_u64("max_tokens")
    }

    /// Sequences a prompt, where its row says nothing else.
    pub(super) fn sequences_per_prompt(&self) -> usize {
        self.default_params.get_u64("n").and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1)
    }

    /// What a prompt's request shares with others; `fitted` is its `max_tokens` where it has to be another.
    pub(super) fn batch_params(
        &self,
        own: &RequestParams,
        route: Route,
        fitted: Option<u64>,
    ) -> BatchParams {
        let mut params = own.merged_over(&self.default_params);
        if let Some(fitted) = fitted {
            params.set("max_tokens", fitted.to_string());
        }
        if self.token_counting == TokenCounting::Exact {
            params.set("return_token_ids", "true");
        }
        let n = params.get_u64("n").and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1);
        let known = |(name, _): (&str, &str)| {
            PARAMS_OF_BOTH_ROUTES.contains(&name)
                || name == TEMPLATE_KWARGS
                || (name == "return_token_ids" && self.token_counting == TokenCounting::Exact)
        };
        let lists = match route {
            Route::Completions => true,
            // (canaries go with the job's template arguments: a row with its own may be answered otherwise)
            Route::Chat => {
                self.renderer.is_some()
                    && params.iter().all(known)
                    && own.get(TEMPLATE_KWARGS).is_none()
            }
        };
        BatchParams { route, model: self.model.clone(), params, n, allow_lists: lists }
    }

    /// The same request with its conversations rendered here: special tokens are in the text already.
    pub(super) fn rendered_params(shared: &BatchParams) -> BatchParams {
        let mut shared = shared.clone();
        shared.route = Route::Completions;
        shared.params.remove(TEMPLATE_KWARGS);
        shared.params.set("add_special_tokens", "false");
        shared
    }

    /// Which route a prompt takes.
    #[must_use]
    pub fn route_of(&self, prompt: &Prompt) -> Route {
        match (&prompt.input, prompt.route) {
            (PromptInput::Messages(_), _) => Route::Chat,
            (PromptInput::Text(_), Some(route)) => route,
            (PromptInput::Text(_), None) => self.text_route,
        }
    }

    /// The prompt's `max_tokens` if it has to be another than what was asked for, lest prompt and answer exceed the
    /// context. Deterministic, so that runs are equal; an estimate, so it never refuses a prompt.
    #[must_use]
    pub fn fitted_max_tokens(&self, asked: Option<u64>, prompt: &PromptInput) -> Option<u64> {
        let (context, asked) = (self.max_model_len?, asked?);
        let length = estimate_tokens(prompt.as_str());
        let room = context.saturating_sub(length).saturating_sub(self.context_buffer);
        if asked <= room {
            return None;
        }
        let stepped = room / MAX_TOKENS_STEP * MAX_TOKENS_STEP;
        let fitted = stepped.max(MIN_ANSWER_TOKENS).min(context.saturating_sub(1)).min(asked);
        (fitted < asked).then_some(fitted)
    }
}

/// About four characters a token, as the originals estimate; bytes of other scripts than Latin count for more.
fn estimate_tokens(text: &str) -> u64 {
    let wide = text.bytes().filter(|byte| !byte.is_ascii()).count() as u64;
    let narrow = text.len() as u64 - wide;
    narrow.div_ceil(4) + wide.div_ceil(3)
}

#[cfg(test)]
pub(super) fn test_policy() -> EnginePolicy {
    EnginePolicy {
        model: "m".into(),
        text_route: Route::Completions,
        default_params: RequestParams::default(),
        system_prompt: None,
        renderer: None,
        concurrency: SizeMode::Fixed(8),
        batch_size: SizeMode::Fixed(4),
        max_batch_wait: Duration::from_millis(20),
        rate_limit: None,
        timeout: Duration::from_secs(5),
        timeout_per_sequence: Duration::from_secs(60),
        max_tries: 3,
        max_model_len: Some(2048),
        context_buffer: 512,
        no_progress_timeout: Duration::from_secs(5),
        token_counting: TokenCounting::Share,
        fail_fast_threshold: 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timeouts_grow_with_the_batch() {
        let policy = EnginePolicy { timeout: Duration::from_secs(100), ..test_policy() };
        assert_eq!(policy.request_timeout(1), Duration::from_secs(100));
        assert_eq!(policy.request_timeout(256), Duration::from_secs(100));
        assert_eq!(policy.request_timeout(1024), Duration::from_secs(240));
    }

    #[test]
    fn answers_are_cut_only_where_they_could_not_fit() {
        let policy = test_policy();
        let text = |length: usize| PromptInput::Text("x".repeat(length));
        assert_eq!(policy.fitted_max_tokens(Some(512), &text(400)), None);
        assert_eq!(
            policy.fitted_max_tokens(Some(2000), &text(400)),
            Some(1408),
            "2048 - 100 - 512 in steps of 64"
        );
        assert_eq!(
            policy.fitted_max_tokens(Some(512), &text(8000)),
            Some(128),
            "the server knows better whether it fits"
        );
        assert_eq!(policy.fitted_max_tokens(Some(64), &text(8000)), None);
        assert_eq!(policy.fitted_max_tokens(None, &text(8000)), None);
        let blind = EnginePolicy { max_model_len: None, ..test_policy() };
        assert_eq!(blind.fitted_max_tokens(Some(100_000), &text(10)), None);
    }

    proptest! {
        #[test]
        fn a_fitted_answer_is_shorter_than_asked_and_below_the_context(
            asked in 1u64..100_000, length in 0usize..20_000, context in 2u64..20_000,
        ) {
            let policy = EnginePolicy { max_model_len: Some(context), ..test_policy() };
            if let Some(fitted) = policy.fitted_max_tokens(Some(asked), &PromptInput::Text("y".repeat(length))) {
                prop_assert!(fitted < asked && fitted < context && fitted > 0);
            }
        }
    }
}
