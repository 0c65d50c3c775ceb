//! What was meant: every knob with its value and where that value came from.
//!
//! Highest first: flags, `AURORA_SWARM_*` variables, the file of `--config`, defaults. Resolved on rank 0 and broadcast,
//! because environments differ between nodes. A key has one name everywhere: `ready-timeout` is `--ready-timeout`,
//! `AURORA_SWARM_READY_TIMEOUT` and `ready-timeout = "90s"` in the file. 0 is a value, not 'unset'.
//!
//! Owns names, types, defaults, precedence and what goes together with what. Knows nothing of clap, MPI or what a value
//! does; facts of a node (its host, its walltime) are `site`'s.

mod aggregates;
mod environment;
mod layers;
mod secret;
mod serve;
mod times;
mod values;

pub use aggregates::AggregateSpec;
pub use environment::Environment;
pub use layers::{
    ResolvedSettings, SettingOrigin, SettingsError, SettingsLayer, nearest_name, resolve_layers,
};
pub use secret::ApiKey;
pub use serve::{ServeLayout, is_secret_name};
pub use times::{UtcTimestamp, Walltime};
pub use values::{
    ApiMode, AutoOrCount, BadRowPolicy, CountOrPercent, DuplicateIdPolicy, ExtraBody, GatherMode,
    HumanDuration, LogFormat, OutputFormat, ProgressStyle, RemoteEndpointPolicy, ResumePolicy,
    UsageMode,
};

use serde::{Deserialize, Serialize};

use crate::domain::{RequestParams, Url};

/// Every setting. The field names, with `-` for `_`, are the keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Servers by their URL; `{rank}`, `{local_rank}` and `{host}` are filled in.
    pub endpoint: Vec<Url>,
    /// First port of this node's servers.
    pub base_port: Option<u16>,
    /// How many servers a node has, on ports from `base_port` on.
    pub endpoints_per_node: Option<u16>,
    /// A file of servers, a line each.
    pub hostfile: Option<String>,
    /// Only the hostfile's lines with all of these `key=value` tags.
    pub tag: Vec<String>,
    /// What to do with servers on hosts that no rank runs on.
    pub remote_endpoints: RemoteEndpointPolicy,
    /// The command that starts one of the node's servers; none: they are there already.
    pub serve: Option<String>,
    /// Variables of each server, as `NAME=VALUE`.
    pub serve_env: Vec<String>,
    /// How the node's GPU tiles are dealt to its servers.
    pub serve_layout: ServeLayout,
    /// How long after its neighbour each of a node's servers is started.
    pub serve_stagger: HumanDuration,
    /// How long to wait for servers to answer.
    pub ready_timeout: HumanDuration,
    /// The served model to use; none: the one model that is served.
    pub model: Option<String>,
    /// Start when so many of them are ready.
    pub min_endpoints: CountOrPercent,
    /// Where the answers go; the run folder is this name and `.run`.
    pub output: Option<String>,
    /// Where each rank keeps its shard files until the end, on its own node; none: in the run folder, which all share.
    pub local_shards: Option<String>,
    /// The answers' format; none: as the input has it.
    pub output_format: Option<OutputFormat>,
    /// Begin anew: what is there is removed.
    pub overwrite: bool,
    /// What to do with a run that is there.
    pub resume: ResumePolicy,
    /// Ask failed prompts again, whatever they failed of.
    pub retry_failed: bool,
    /// Go on though the input or settings that decide answers have changed.
    pub accept_changes: bool,
    /// Where answers go at the end.
    pub gather: GatherMode,
    /// What is made of all answers together, and written beside them.
    pub aggregate: Vec<AggregateSpec>,
    /// Which route is asked.
    pub api: ApiMode,
    /// A prompt template, or `@` and a file that holds it.
    pub template: Option<String>,
    /// Of a reduce: the template that makes one text of many, or `@` and a file that holds it; none: one of ours.
    pub reduce_template: Option<String>,
    /// Of a reduce: how many texts become one.
    pub fan_in: u64,
    /// Of a reduce: the longest answer of a group, in tokens; none: what the group needs.
    pub max_tokens_aggregation: Option<u64>,
    /// The first message of conversations, or `@` and a file that holds it.
    pub system: Option<String>,
    /// The longest answer, in tokens.
    pub max_tokens: u64,
    /// Sampling temperature; none: the server's.
    pub temperature: Option<f64>,
    /// Nucleus sampling; none: the server's.
    pub top_p: Option<f64>,
    /// The sampling seed.
    pub seed: Option<i64>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Sequences a prompt.
    pub n: u64,
    /// More request parameters.
    pub extra_body: ExtraBody,
    /// The longest prompt and answer together, in tokens; none: what the server says.
    pub max_context: Option<u64>,
    /// Tokens left free when an answer is cut to fit the context.
    pub buffer: u64,
    /// Prompts a request.
    pub batch_size: AutoOrCount,
    /// One prompt a request.
    pub no_batch: bool,
    /// How long prompts wait for others that would make a full list.
    pub max_wait: HumanDuration,
    /// Prompts in flight an endpoint.
    pub concurrency: AutoOrCount,
    /// Requests begun a second and endpoint, at most; none: as many as there are.
    pub rate_limit: Option<f64>,
    /// Who renders conversations for lists: `auto`, `none`, or a file.
    pub chat_template: String,
    /// How long the job may take, from its start.
    pub walltime: Walltime,
    /// When the job has to be over.
    pub deadline: Option<UtcTimestamp>,
    /// How much of it is kept for the end.
    pub margin: Option<HumanDuration>,
    /// A rank that was silent for so long is taken to be lost.
    pub rank_silence: HumanDuration,
    /// A request's time limit.
    pub timeout: HumanDuration,
    /// What the limit of a long list is counted with.
    pub timeout_per_sequence: HumanDuration,
    /// Tries a prompt has in all.
    pub retries: u32,
    /// What a row that cannot be read does.
    pub bad_rows: BadRowPolicy,
    /// What two rows with one id do.
    pub duplicate_ids: DuplicateIdPolicy,
    /// A row's other model is no error.
    pub ignore_row_model: bool,
    /// Token counts in answers.
    pub usage: UsageMode,
    /// Leave the prompt out of the answer.
    pub no_echo: bool,
    /// Keep the row's other fields in the answer.
    pub keep_row: bool,
    /// Make no report of how the run went.
    pub no_report: bool,
    /// How progress is shown.
    pub progress: ProgressStyle,
    /// Refuse to start with another number of ranks.
    pub expect_ranks: Option<usize>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Only warnings and errors in the log.
    pub quiet: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: Vec::new(),
            base_port: None,
            endpoints_per_node: None,
            hostfile: None,
            tag: Vec::new(),
            remote_endpoints: RemoteEndpointPolicy::Refuse,
            serve: None,
            serve_env: Vec::new(),
            serve_layout: ServeLayout::None,
            serve_stagger: HumanDuration::from_millis(500),
            ready_timeout: HumanDuration::seconds(60),
            model: None,
            min_endpoints: CountOrPercent::Count(1),
            output: None,
            local_shards: None,
            output_format: None,
            overwrite: false,
            resume: ResumePolicy::Auto,
            retry_failed: false,
            accept_changes: false,
            gather: GatherMode::Root,
            aggregate: Vec::new(),
            api: ApiMode::Auto,
            template: None,
            reduce_template: None,
            fan_in: 50,
            max_tokens_aggregation: None,
            system: None,
            max_tokens: 512,
            temperature: None,
            top_p: None,
            seed: None,
            stop: Vec::new(),
            n: 1,
            extra_body: ExtraBody::default(),
            max_context: None,
            buffer: 512,
            batch_size: AutoOrCount::Auto,
            no_batch: false,
            max_wait: HumanDuration::from_millis(20),
            concurrency: AutoOrCount::Auto,
            rate_limit: None,
            chat_template: "auto".into(),
            walltime: Walltime::Auto,
            deadline: None,
            margin: None,
            rank_silence: HumanDuration::seconds(60),
            timeout: HumanDuration::seconds(300),
            timeout_per_sequence: HumanDuration::seconds(60),
            retries: 3,
            bad_rows: BadRowPolicy::Stop,
            duplicate_ids: DuplicateIdPolicy::Refuse,
            ignore_row_model: false,
            usage: UsageMode::Share,
            no_echo: false,
            keep_row: false,
            no_report: false,
            progress: ProgressStyle::Auto,
            expect_ranks: None,
            log_format: LogFormat::Text,
            quiet: false,
        }
    }
}

impl Settings {
    /// What no single value can show to be wrong.
    ///
    /// # Errors
    /// A sentence that names the keys.
    pub(crate) fn check_consistency(&self) -> Result<(), String> {
        self.check_serve()?;
        let ways = [
            (!self.endpoint.is_empty(), "endpoint"),
            (self.base_port.is_some() || self.endpoints_per_node.is_some(), "base-port"),
            (self.hostfile.is_some(), "hostfile"),
        ];
        let named: Vec<_> =
            ways.iter().filter(|(given, _)| *given).map(|&(_, name)| name).collect();
        if let [first, second, ..] = named[..] {
            return Err(format!(
                "{first} and {second} both say where the servers are: give one of them"
            ));
        }
        match (self.base_port, self.endpoints_per_node) {
            (None, Some(_)) => {
                return Err("endpoints-per-node needs base-port, the first port".into());
            }
            (Some(_), Some(0)) => return Err("endpoints-per-node is 0: nothing to ask".into()),
            (Some(port), Some(count)) if u32::from(port) + u32::from(count) > 65_536 => {
                return Err(format!("{count} ports from {port} on go beyond 65535"));
            }
            _ => {}
        }
        if let Some(folder) = &self.local_shards {
            let known = ["{rank}", "{local_rank}", "{host}"];
            let plain = known.iter().fold(folder.clone(), |text, name| text.replace(name, ""));
            if folder.is_empty() || plain.contains('{') {
                return Err(format!(
                    "local-shards {folder:?} is no folder: of placeholders there are {{rank}}, {{local_rank}} and {{host}}"
                ));
            }
        }
        if !self.tag.is_empty() && self.hostfile.is_none() {
            return Err("tag selects lines of a hostfile, and there is no hostfile".into());
        }
        if let Some(tag) = self.tag.iter().find(|tag| !tag.contains('=')) {
            return Err(format!("tag {tag:?} is not of the form key=value"));
        }
        AggregateSpec::check(&self.aggregate)?;
        self.check_sampling()
    }

    fn check_sampling(&self) -> Result<(), String> {
        if self.n > 1 && self.temperature == Some(0.0) {
            return Err("n above 1 with temperature 0 asks for the same answer again and again: \
                        give a temperature, or n 1"
                .into());
        }
        let least_one =
            [(self.n, "n"), (self.max_tokens, "max-tokens"), (u64::from(self.retries), "retries")];
        if let Some((_, key)) = least_one.iter().find(|(value, _)| *value == 0) {
            return Err(format!("{key} cannot be 0"));
        }
        if self.fan_in < 2 {
            return Err(format!(
                "fan-in is how many texts become one: with {} there would be no end of it, give 2 or more",
                self.fan_in
            ));
        }
        if self.max_tokens_aggregation == Some(0) {
            return Err("max-tokens-aggregation cannot be 0".into());
        }
        for (amount, key) in [(self.batch_size, "batch-size"), (self.concurrency, "concurrency")] {
            if amount == AutoOrCount::Count(0) {
                return Err(format!("{key} cannot be 0"));
            }
        }
        if self.rate_limit.is_some_and(|it| !(it.is_finite() && it >= 0.001)) {
            return Err("rate-limit is a number of requests a second, at least 0.001".into());
        }
        if self.chat_template.is_empty() {
            return Err("chat-template is auto, none or a file".into());
        }
        if self.timeout.to_duration().is_zero() {
            return Err("timeout cannot be 0: no server answers in no time".into());
        }
        if self.base_port == Some(0) {
            return Err("base-port cannot be 0".into());
        }
        if self.max_context.is_some_and(|it| it < 2) {
            return Err("max-context has to hold a prompt and an answer".into());
        }
        if self.temperature.is_some_and(|it| !(0.0..=2.0).contains(&it)) {
            return Err("temperature is from 0 to 2".into());
        }
        if self.top_p.is_some_and(|it| !(it > 0.0 && it <= 1.0)) {
            return Err("top-p is above 0 and at most 1".into());
        }
        if self.stop.len() > 4 {
            return Err("vLLM takes at most four stop texts".into());
        }
        let n = usize::try_from(self.n).unwrap_or(usize::MAX);
        if matches!(self.concurrency, AutoOrCount::Count(concurrency) if concurrency < n) {
            return Err("concurrency is below n: not one prompt would fit".into());
        }
        Ok(())
    }

    /// What every request carries where a row says nothing else.
    #[must_use]
    pub fn sampling_params(&self) -> RequestParams {
        let mut params = RequestParams::default();
        params.set("max_tokens", self.max_tokens.to_string());
        let numbers = [("temperature", self.temperature), ("top_p", self.top_p)];
        for (name, value) in numbers {
            if let Some(value) = value {
                params.set(name, value.to_string());
            }
        }
        if let Some(seed) = self.seed {
            params.set("seed", seed.to_string());
        }
        if !self.stop.is_empty() {
            params.set("stop", serde_json::to_string(&self.stop).unwrap_or_default());
        }
        if self.n > 1 {
            params.set("n", self.n.to_string());
        }
        self.extra_body.0.over(&params)
    }

    /// What decides an answer: a run goes on only with the same, or where changes are accepted. By key, as JSON.
    #[must_use]
    pub fn answer_settings(&self) -> std::collections::BTreeMap<String, serde_json::Value> {
        const REDUCE_KEYS: [&str; 3] = ["reduce-template", "fan-in", "max-tokens-aggregation"];
        const ANSWER_KEYS: [&str; 13] = [
            "model",
            "api",
            "template",
            "system",
            "max-tokens",
            "temperature",
            "top-p",
            "seed",
            "stop",
            "n",
            "extra-body",
            "max-context",
            "buffer",
        ];
        let all = serde_json::to_value(self).unwrap_or_default();
        let of_a_reduce = REDUCE_KEYS.iter().filter(|_| self.reduce_template.is_some());
        ANSWER_KEYS
            .iter()
            .chain(of_a_reduce)
            .map(|&key| (key.to_owned(), all[key].clone()))
            .collect()
    }
}
