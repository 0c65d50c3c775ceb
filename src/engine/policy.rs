//! The engine's settings and what follows from them for a request: pure.
//!
//! Owns request parameters (merged, fitted to the context, shared by a batch) and the configured time limit. What an
//! endpoint's behaviour adds (concurrency, batch size, tightened timeouts) is in `endpoint_state`.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use crate::{
    domain::{
        JobModels, ModelNumber, Prompt, PromptInput, RequestParams, Route,
        image::length_without_data,
    },
    endpoint::BatchParams,
    validation::AnswerCheck,
};

/// A number that is given, or adapts while the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SizeMode {
    /// Adapts to the endpoint.
    Auto,
    /// Is this number.
    Fixed(usize),
}

/// The source of token counts in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenCounting {
    /// Answers carry no counts.
    Off,
    /// The sum of a batch is shared out by length.
    Share,
    /// The token ids that the server is asked for are counted.
    Exact,
}

/// Renders a conversation to the text that the model's own chat template makes of it.
pub(crate) trait ConversationRenderer: Send + Sync {
    /// Returns the text for a JSON array of messages. `kwargs` is a JSON object with the template's arguments
    /// (`chat_template_kwargs`). Returns none if the conversation has more than plain messages or the template refuses
    /// it: the server has to render it.
    fn render(&self, messages: &str, kwargs: Option<&str>) -> Option<String>;
}

/// A renderer that several owners share.
#[derive(Clone)]
pub(crate) struct SharedRenderer(pub(crate) Arc<dyn ConversationRenderer>);

impl fmt::Debug for SharedRenderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedRenderer")
    }
}

/// The job's decisions for every rank's engine.
#[derive(Clone, Debug)]
pub(crate) struct EnginePolicy {
    /// The models that prompts are sent to; the first is that of rows that name none.
    pub(crate) models: JobModels,
    /// The route of text prompts whose row names none.
    pub(crate) text_route: Route,
    /// Request parameters of rows without their own.
    pub(crate) default_params: RequestParams,
    /// The same for OpenAI batch rows.
    pub(crate) batch_row_params: RequestParams,
    /// The first message of conversations.
    pub(crate) system_prompt: Option<String>,
    /// Renders conversations to the job's own model, so that they can share a batch.
    pub(crate) renderer: Option<SharedRenderer>,
    /// Sequences in flight per endpoint.
    pub(crate) concurrency: SizeMode,
    /// Prompts per request.
    pub(crate) batch_size: SizeMode,
    /// The time that prompts wait for others that would make a full batch.
    pub(crate) max_batch_wait: Duration,
    /// Requests per second and endpoint, at most.
    pub(crate) rate_limit: Option<f64>,
    /// The time limit of a request of up to 256 prompts.
    pub(crate) timeout: Duration,
    /// The time limit of a larger request per 256 prompts, if that is more than `timeout`.
    pub(crate) timeout_per_sequence: Duration,
    /// Attempts per prompt that count.
    pub(crate) max_tries: u32,
    /// Whether every prompt of the job has used up its tries in an earlier session. Then a fault is the prompt's: no other
    /// prompt is left that could show whether the endpoint is healthy, and it has passed its probe.
    pub(crate) only_exhausted_left: bool,
    /// Tokens left free when an answer is limited to fit the context.
    pub(crate) context_buffer: u64,
    /// The time without progress after which the engine stops.
    pub(crate) no_progress_timeout: Duration,
    /// The source of token counts in answers.
    pub(crate) token_counting: TokenCounting,
    /// Whether answers keep the replies as the server sent them.
    pub(crate) keep_bodies: bool,
    /// Whether thinking at the start of a text is taken out of it.
    pub(crate) split_thinking: bool,
    /// The number of first outcomes that trip fail-fast if they are the same refusal.
    pub(crate) fail_fast_threshold: usize,
    /// The rules that answers have to meet.
    pub(crate) answer_check: Option<Arc<AnswerCheck>>,
    /// The JSON schema of answers, which servers are asked to keep to.
    pub(crate) answer_schema: Option<String>,
}

/// Parameters that both routes know by the same name and meaning; a conversation with any other needs the chat route.
/// From vLLM's request schemas. `bad_words` and `response_format` are not among them, since completions routes of older
/// versions silently ignore them.
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
/// Parameters that say what an answer has to look like: with any of them the job's schema is not sent. With tools the
/// schema would rule out their calls.
const FORMAT_PARAMS: [&str; 3] = ["response_format", "structured_outputs", "tools"];
/// The chat route's parameter with the template's arguments; rendering here takes it too.
pub(super) const TEMPLATE_KWARGS: &str = "chat_template_kwargs";

/// Prompts of a batch that a server is taken to work on at once: the Python Aurora-Swarm's `batch_concurrency`.
const PROMPTS_PER_TIMEOUT_STEP: usize = 256;
/// No answer is limited to fewer tokens than this.
const MIN_ANSWER_TOKENS: u64 = 128;
/// Limits go in steps, so that prompts of about one length still share a batch.
const MAX_TOKENS_STEP: u64 = 64;

impl EnginePolicy {
    /// Returns the configured time limit of a request with this many prompts.
    #[must_use]
    pub(crate) fn request_timeout(&self, prompts: usize) -> Duration {
        match u32::try_from(prompts.div_ceil(PROMPTS_PER_TIMEOUT_STEP)).unwrap_or(u32::MAX) {
            // Prompts that the server works on at once have the limit that was asked for, however short.
            0 | 1 => self.timeout,
            steps => self.timeout.max(self.timeout_per_sequence.saturating_mul(steps)),
        }
    }

    /// Returns the parameters that apply where the prompt has none of its own. OpenAI batch rows name their route.
    pub(super) fn defaults_of(&self, prompt: &Prompt) -> &RequestParams {
        match prompt.route {
            Some(_) => &self.batch_row_params,
            None => &self.default_params,
        }
    }

    /// Returns the job's `n`, the sequences per prompt.
    pub(super) fn sequences_per_prompt(&self) -> usize {
        sequence_count(&self.default_params)
    }

    /// Returns the parameters of a prompt's request, which it shares with others. `fitted` is the limit of its answer if
    /// that has to differ from what was asked for.
    pub(super) fn batch_params(&self, prompt: &Prompt, fitted: Option<u64>) -> BatchParams {
        let (own, route) = (&prompt.params, self.route_of(prompt));
        let model = self.model_number(prompt).unwrap_or(0);
        let mut params = own.merged_over(self.defaults_of(prompt));
        if route == Route::Completions
            && let Some(limit) = params.remove("max_completion_tokens")
        {
            // Completions know the limit under its older name only.
            params.set("max_tokens", limit);
        }
        if let Some(fitted) = fitted {
            params.set_answer_limit(fitted);
        }
        let asks_token_ids = params.get("return_token_ids") == Some("true");
        let counts_token_ids = self.token_counting == TokenCounting::Exact && !asks_token_ids;
        if counts_token_ids {
            params.set("return_token_ids", "true");
        }
        let is_on_both_routes = |(name, _): (&str, &str)| {
            PARAMS_OF_BOTH_ROUTES.contains(&name)
                || name == TEMPLATE_KWARGS
                || (name == "return_token_ids" && counts_token_ids)
        };
        let allow_lists = match route {
            Route::Completions => true,
            // (canaries have the job's template arguments: a row with its own may be rendered otherwise)
            Route::Chat => {
                self.renderer.is_some()
                    && model == 0
                    && params.iter().all(is_on_both_routes)
                    && own.get(TEMPLATE_KWARGS).is_none()
            }
        };
        let n = sequence_count(&params);
        BatchParams {
            route,
            model: self.models.name(model).to_owned(),
            model_number: model,
            params,
            n,
            allow_lists,
            keep_token_ids: !counts_token_ids,
            token_ids: matches!(prompt.input, PromptInput::TokenIds(_)),
            keep_body: self.keep_bodies,
            split_thinking: self.split_thinking,
        }
    }

    /// Returns the parameters of the same request with its conversations rendered here: special tokens are in the text
    /// already.
    pub(super) fn rendered_params(params: &BatchParams) -> BatchParams {
        let mut params = params.clone();
        params.route = Route::Completions;
        params.params.remove(TEMPLATE_KWARGS);
        params.params.set("add_special_tokens", "false");
        params
    }

    /// Returns the parameters with the job's schema, for a server that takes it; borrowed if it is not to be sent.
    pub(super) fn with_schema<'p>(
        &self,
        params: &'p BatchParams,
        takes_schema: bool,
    ) -> Cow<'p, BatchParams> {
        let has_own = || FORMAT_PARAMS.iter().any(|name| params.params.get(name).is_some());
        let Some(schema) = self.answer_schema.as_deref().filter(|_| takes_schema && !has_own())
        else {
            return Cow::Borrowed(params);
        };
        let mut params = params.clone();
        // OpenAI's name, which most servers know on their chat route; vLLM's, where a request may go both ways.
        if params.route == Route::Chat && self.renderer.is_none() {
            let format = format!(
                r#"{{"type":"json_schema","json_schema":{{"name":"answer","schema":{schema}}}}}"#
            );
            params.params.set("response_format", format);
        } else {
            params.params.set("structured_outputs", format!(r#"{{"json":{schema}}}"#));
        }
        Cow::Owned(params)
    }

    /// Returns the number of a prompt's model; none if it is not a model of the job.
    pub(super) fn model_number(&self, prompt: &Prompt) -> Option<ModelNumber> {
        self.models.number_of(prompt.model.as_deref())
    }

    /// Returns the route of a prompt.
    #[must_use]
    pub(crate) fn route_of(&self, prompt: &Prompt) -> Route {
        match (&prompt.input, prompt.route) {
            _ if !prompt.images.is_empty() => Route::Chat,
            (PromptInput::Messages(_), _) => Route::Chat,
            (PromptInput::TokenIds(_), _) => Route::Completions,
            (PromptInput::Text(_), Some(route)) => route,
            (PromptInput::Text(_), None) => self.text_route,
        }
    }

    /// Returns the prompt's `max_tokens` if it has to be lower than `requested`, lest prompt and answer exceed the
    /// context. `truncated_to` is the number of tokens to which the server cuts the prompt. Deterministic, so that runs
    /// are equal; an estimate, so it never rejects a prompt.
    #[must_use]
    pub(crate) fn fitted_max_tokens(
        &self,
        model: ModelNumber,
        requested: Option<u64>,
        prompt: &PromptInput,
        truncated_to: Option<u64>,
    ) -> Option<u64> {
        let prompt_tokens = count_tokens(prompt).min(truncated_to.unwrap_or(u64::MAX));
        self.fitted_to(model, requested, prompt_tokens)
    }

    /// Returns the `max_tokens` of a prompt with this many tokens if it has to be lower than `requested`.
    fn fitted_to(
        &self,
        model: ModelNumber,
        requested: Option<u64>,
        prompt_tokens: u64,
    ) -> Option<u64> {
        let (context, requested) = (self.models.max_model_len(model)?, requested?);
        let room = context.saturating_sub(prompt_tokens).saturating_sub(self.context_buffer);
        if requested <= room {
            return None;
        }
        let stepped = room / MAX_TOKENS_STEP * MAX_TOKENS_STEP;
        let fitted = stepped.max(MIN_ANSWER_TOKENS).min(context.saturating_sub(1)).min(requested);
        (fitted < requested).then_some(fitted)
    }
}

impl EnginePolicy {
    /// Returns twice `max_tokens` for an answer that was cut, or as much of that as the context leaves; none if that is
    /// no more.
    pub(super) fn doubled_max_tokens(
        &self,
        model: ModelNumber,
        max_tokens: u64,
        prompt: &PromptInput,
    ) -> Option<u64> {
        let doubled = max_tokens.saturating_mul(2);
        let fitted = self.fitted_max_tokens(model, Some(doubled), prompt, None).unwrap_or(doubled);
        (fitted > max_tokens).then_some(fitted)
    }

    /// Returns the `max_tokens` of a prompt that is sent with `added` text, if it has to be lower than `max_tokens`.
    pub(super) fn max_tokens_beside(
        &self,
        model: ModelNumber,
        max_tokens: Option<u64>,
        prompt: &PromptInput,
        added: &str,
    ) -> Option<u64> {
        let tokens = count_tokens(prompt) + estimate_tokens(added);
        self.fitted_to(model, max_tokens, tokens)
    }
}

fn sequence_count(params: &RequestParams) -> usize {
    params.get_u64("n").and_then(|n| usize::try_from(n).ok()).unwrap_or(1).max(1)
}

fn count_tokens(prompt: &PromptInput) -> u64 {
    match prompt {
        PromptInput::TokenIds(ids) => ids.matches(',').count() as u64 + 1,
        PromptInput::Text(text) => estimate_tokens(text),
        // (images in a conversation are no text to the model)
        PromptInput::Messages(json) => {
            let data = json.len() - length_without_data(json);
            estimate_tokens(json).saturating_sub(data.div_ceil(4) as u64)
        }
    }
}

/// Counts four characters per token, as the Python originals do; bytes of scripts other than Latin count for more.
fn estimate_tokens(text: &str) -> u64 {
    let wide = text.bytes().filter(|byte| !byte.is_ascii()).count() as u64;
    let narrow = text.len() as u64 - wide;
    narrow.div_ceil(4) + wide.div_ceil(3)
}

/// Returns the models of a job with one model, which has this context length.
#[cfg(test)]
pub(super) fn test_models(max_model_len: Option<u64>) -> JobModels {
    JobModels::new(vec![crate::domain::JobModel { name: "m".into(), max_model_len }])
}

#[cfg(test)]
pub(super) fn test_policy() -> EnginePolicy {
    EnginePolicy {
        models: test_models(Some(2048)),
        text_route: Route::Completions,
        default_params: RequestParams::default(),
        batch_row_params: RequestParams::default(),
        system_prompt: None,
        renderer: None,
        concurrency: SizeMode::Fixed(8),
        batch_size: SizeMode::Fixed(4),
        max_batch_wait: Duration::from_millis(20),
        rate_limit: None,
        timeout: Duration::from_secs(5),
        timeout_per_sequence: Duration::from_secs(60),
        max_tries: 3,
        only_exhausted_left: false,
        context_buffer: 512,
        no_progress_timeout: Duration::from_secs(5),
        token_counting: TokenCounting::Share,
        keep_bodies: false,
        split_thinking: true,
        fail_fast_threshold: 100,
        answer_check: None,
        answer_schema: None,
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
        assert_eq!(policy.fitted_max_tokens(0, Some(512), &text(400), None), None);
        assert_eq!(
            policy.fitted_max_tokens(0, Some(2000), &text(400), None),
            Some(1408),
            "2048 - 100 - 512 in steps of 64"
        );
        assert_eq!(
            policy.fitted_max_tokens(0, Some(512), &text(8000), None),
            Some(128),
            "the server knows better whether it fits"
        );
        assert_eq!(policy.fitted_max_tokens(0, Some(64), &text(8000), None), None);
        assert_eq!(policy.fitted_max_tokens(0, None, &text(8000), None), None);
        let cut = policy.fitted_max_tokens(0, Some(512), &text(8000), Some(500));
        assert_eq!(cut, None, "the server cuts the prompt, and all of the answer fits");
        let url = format!("data:image/png;base64,{}", "A".repeat(1 << 20));
        let image = PromptInput::Messages(format!(r#"[{{"role":"user","content":"{url}"}}]"#));
        let fitted = policy.fitted_max_tokens(0, Some(512), &image, None);
        assert_eq!(fitted, None, "base64 is no text");
        let unknown = EnginePolicy { models: test_models(None), ..test_policy() };
        assert_eq!(unknown.fitted_max_tokens(0, Some(100_000), &text(10), None), None);
    }

    fn prompt_with(params: &[(&str, &str)], route: Option<Route>, input: PromptInput) -> Prompt {
        let mut own = RequestParams::default();
        params.iter().for_each(|(name, json)| own.set(name, *json));
        Prompt {
            index: 0,
            id: crate::domain::PromptId::from_index(0),
            input,
            images: Vec::new(),
            params: own,
            model: None,
            route,
            priority: 0,
            row: None,
            row_hash: crate::domain::RowHash::UNKNOWN,
        }
    }

    #[test]
    fn a_limit_of_the_row_replaces_the_default_and_batch_rows_have_none() {
        let mut defaults = RequestParams::default();
        defaults.set("max_tokens", "512");
        let policy = EnginePolicy { default_params: defaults, ..test_policy() };
        let json = |params: &[(&str, &str)], route, fitted| {
            let prompt = prompt_with(params, route, PromptInput::Text("x".into()));
            policy.batch_params(&prompt, fitted).params.to_json()
        };
        assert_eq!(json(&[], None, None), r#"{"max_tokens":512}"#);
        assert_eq!(json(&[], Some(Route::Chat), None), "{}");
        let newer = [("max_completion_tokens", "64")];
        assert_eq!(json(&newer, Some(Route::Chat), None), r#"{"max_completion_tokens":64}"#);
        assert_eq!(json(&newer, Some(Route::Chat), Some(8)), r#"{"max_completion_tokens":8}"#);
        assert_eq!(json(&newer, None, None), r#"{"max_tokens":64}"#, "completions know one name");
    }

    #[test]
    fn token_ids_go_to_completions_and_never_into_a_list_with_texts() {
        let policy = EnginePolicy { text_route: Route::Chat, ..test_policy() };
        let ids = prompt_with(&[], None, PromptInput::TokenIds("[1,2]".into()));
        let text = prompt_with(&[], Some(Route::Completions), PromptInput::Text("x".into()));
        let (ids, text) = (policy.batch_params(&ids, None), policy.batch_params(&text, None));
        assert_eq!((ids.route, text.route), (Route::Completions, Route::Completions));
        assert!(ids.token_ids && ids.allow_lists && ids != text);
    }

    #[test]
    fn the_schema_is_sent_unless_the_request_says_how_answers_look() {
        let policy = EnginePolicy { answer_schema: Some("{}".into()), ..test_policy() };
        let sent = |policy: &EnginePolicy, route, own: &[(&str, &str)], takes_schema| {
            let prompt = prompt_with(own, Some(route), PromptInput::Text("x".into()));
            let params = policy.batch_params(&prompt, None);
            policy.with_schema(&params, takes_schema).params.to_json()
        };
        assert_eq!(
            sent(&policy, Route::Chat, &[], true),
            r#"{"response_format":{"type":"json_schema","json_schema":{"name":"answer","schema":{}}}}"#
        );
        assert_eq!(
            sent(&policy, Route::Completions, &[], true),
            r#"{"structured_outputs":{"json":{}}}"#
        );
        assert_eq!(sent(&policy, Route::Chat, &[], false), "{}", "the server has refused it");
        assert_eq!(sent(&test_policy(), Route::Chat, &[], true), "{}");
        for name in FORMAT_PARAMS {
            let own = sent(&policy, Route::Chat, &[(name, "1")], true);
            assert_eq!(own, format!("{{\"{name}\":1}}"));
        }
    }

    #[test]
    fn a_cut_answer_gets_twice_the_room_until_the_context_is_full() {
        let policy = test_policy();
        let prompt = PromptInput::Text("x".repeat(400));
        assert_eq!(policy.doubled_max_tokens(0, 512, &prompt), Some(1024));
        assert_eq!(policy.doubled_max_tokens(0, 1024, &prompt), Some(1408), "2048 - 100 - 512");
        assert_eq!(policy.doubled_max_tokens(0, 1408, &prompt), None);
        let unknown = EnginePolicy { models: test_models(None), ..test_policy() };
        assert_eq!(unknown.doubled_max_tokens(0, 1408, &prompt), Some(2816));
    }

    proptest! {
        #[test]
        fn a_fitted_answer_is_shorter_than_requested_and_below_the_context(
            requested in 1u64..100_000, length in 0usize..20_000, context in 2u64..20_000,
        ) {
            let policy = EnginePolicy { models: test_models(Some(context)), ..test_policy() };
            let prompt = PromptInput::Text("y".repeat(length));
            if let Some(fitted) = policy.fitted_max_tokens(0, Some(requested), &prompt, None) {
                prop_assert!(fitted < requested && fitted < context && fitted > 0);
            }
        }
    }
}
