//! The profile: what kind of server one endpoint is.
//!
//! It owns the settings that hold for an endpoint's whole life; faults that come and go are in
//! `Script`.

use crate::answer::AnswerPolicy;
use crate::cost::CostModel;
use crate::oddity::Oddity;
use crate::script::Script;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Which server is simulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavor {
    /// A vLLM as in the recorded exchanges.
    #[default]
    Vllm,
    /// A vLLM of about 0.15: 400 where prompt and `max_tokens` exceed the context, no batch chat
    /// route, lists of any length.
    Older,
    /// An OpenAI route like Ollama's: single prompts, models without a length, nothing else.
    Bare,
}

/// What a SIGTERM does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnTerm {
    /// New connections are refused and requests under way hang: vLLM's default.
    Hang,
    /// Requests under way finish, new ones get 500 while `/health` says 200.
    Drain,
    /// Everything is cut at once.
    #[default]
    Exit,
}

/// When an endpoint is killed without a word.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Death {
    /// So many seconds after the start.
    After(f64),
    /// When it has answered so many prompts.
    Prompts(u64),
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// Which server it is.
    pub flavor: Flavor,
    /// The names its model is served under; the first is the default.
    pub models: Vec<String>,
    /// The `root` of `/v1/models`.
    pub root: String,
    /// What `/version` says.
    pub version: String,
    /// How the model answers.
    pub policy: AnswerPolicy,
    /// What time costs.
    pub cost: CostModel,
    /// Answers at once, without the engine.
    pub instant: bool,
    /// Tokens in a block of the prefix cache.
    pub block_size: usize,
    /// Blocks in the prefix cache; also what `kv_cache_usage_perc` is a share of.
    pub cache_blocks: usize,
    /// The most prompts in a list.
    pub max_list: Option<usize>,
    /// The most prompts in the engine, before 503.
    pub max_queued: Option<usize>,
    /// The key that requests must bear.
    pub api_key: Option<String>,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How long the port is bound but refuses.
    pub loading: Duration,
    /// What a SIGTERM does.
    pub on_term: OnTerm,
    /// When it is killed.
    pub die: Option<Death>,
    /// Whether the model sees images.
    pub multimodal: bool,
    /// A text that makes any prompt bad that contains it, and with it the whole list.
    pub poison: Option<String>,
    /// Whether the model calls the tools that it is given, as with `--enable-auto-tool-choice`.
    pub calls_tools: bool,
    /// A text that the model answers with a refusal, in any message of a conversation.
    pub refuse: Option<String>,
    /// What it does otherwise than vLLM.
    pub oddities: Vec<Oddity>,
    /// The faults it starts with.
    pub script: Script,
    /// The port, or 0 for a free one.
    pub port: u16,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            flavor: Flavor::Vllm,
            models: vec!["tiny".to_owned()],
            root: "/models/tiny".to_owned(),
            version: "0.32.0".to_owned(),
            policy: AnswerPolicy::default(),
            cost: CostModel::default(),
            instant: false,
            block_size: 16,
            cache_blocks: 32_768,
            max_list: Some(1024),
            max_queued: None,
            api_key: None,
            keep_alive: Duration::from_secs(5),
            loading: Duration::ZERO,
            on_term: OnTerm::Exit,
            die: None,
            multimodal: false,
            poison: None,
            calls_tools: false,
            refuse: None,
            oddities: Vec::new(),
            script: Script::default(),
            port: 0,
        }
    }
}

impl Profile {
    /// A server that answers at once: for tests that are not about time.
    #[must_use]
    pub fn instant() -> Self {
        Self { instant: true, ..Self::default() }
    }
}
