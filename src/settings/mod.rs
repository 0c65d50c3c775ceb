//! Settings: their names, types, defaults, origins and consistency rules.
//!
//! Precedence, highest first: options on the command line, `AURORA_SWARM_*` variables, the file of `--config`,
//! defaults. Settings are resolved on rank 0 and broadcast, since environments differ between nodes. A setting has one
//! name everywhere: `ready-timeout` is `--ready-timeout`, `AURORA_SWARM_READY_TIMEOUT` and `ready-timeout = "90s"` in
//! the file. 0 is a value, not "unset".
//!
//! The command line itself is in `cli`, and facts of a node such as its host or walltime are in `site`. This module
//! knows neither MPI nor the effect of a value.

mod aggregates;
mod consistency;
mod environment;
mod layers;
mod secret;
mod serve;
mod times;
mod values;

pub(crate) use aggregates::AggregateSpec;
use consistency::Violation;
pub use environment::Environment;
pub(crate) use layers::environment_variable;
pub(crate) use layers::{
    ResolvedSettings, SettingOrigin, SettingsError, SettingsLayer, letter_distance, nearest_name,
    resolve_layers,
};
pub(crate) use secret::ApiKey;
pub(crate) use serve::{ServeLayout, is_secret_name};
pub(crate) use times::{UtcTimestamp, Walltime};
pub(crate) use values::{
    ApiMode, AutoOrCount, BadRowPolicy, CountOrPercent, CsvDelimiter, DuplicateIdPolicy, ExtraBody,
    GatherMode, HeaderMode, HumanDuration, LogFormat, OutputFormat, ProgressStyle,
    RemoteEndpointPolicy, ResumePolicy, SourceFormat, ThinkTagPolicy, TokenLimit,
    UnknownFieldPolicy, UsageMode,
};

use serde::{Deserialize, Serialize};

use crate::domain::{RequestParams, Url};

/// All settings. The keys are the field names with `-` for `_`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// Server URLs; `{rank}`, `{local_rank}` and `{host}` are replaced.
    pub endpoint: Vec<Url>,
    /// First port of each node's servers.
    pub base_port: Option<u16>,
    /// Number of servers per node, on consecutive ports from `base_port`.
    pub endpoints_per_node: Option<u16>,
    /// File that lists servers, one per line.
    pub hostfile: Option<String>,
    /// `key=value` tags that select lines of the hostfile.
    pub tag: Vec<String>,
    /// Treatment of servers on hosts without a rank.
    pub remote_endpoints: RemoteEndpointPolicy,
    /// Command that starts a server; without it the servers are expected to run already.
    pub serve: Option<String>,
    /// Environment variables of each server, as `NAME=VALUE`.
    pub serve_env: Vec<String>,
    /// Assignment of the node's GPU tiles to its servers.
    pub serve_layout: ServeLayout,
    /// Delay between the starts of a node's servers.
    pub serve_stagger: HumanDuration,
    /// Time without progress after which a started server is restarted; 0: never.
    pub serve_hang: HumanDuration,
    /// Age at which a started server is restarted; 0: never.
    pub serve_max_age: HumanDuration,
    /// Maximum wait for servers to become ready.
    pub ready_timeout: HumanDuration,
    /// Served model to use; default: the only one that is served.
    pub model: Option<String>,
    /// Servers that must be ready to start.
    pub min_endpoints: CountOrPercent,
    /// File of the answers; the run folder has this name with `.run` appended.
    pub output: Option<String>,
    /// Node-local folder for shard files until the end of a session; default: the shared run folder.
    pub local_shards: Option<String>,
    /// Format of the answers; default: by the output's ending, or the input's format.
    pub output_format: Option<OutputFormat>,
    /// Replace an earlier run.
    pub overwrite: bool,
    /// Treatment of an existing run.
    pub resume: ResumePolicy,
    /// Send failed prompts again, also those that failed permanently.
    pub retry_failed: bool,
    /// Send prompts again whose answer was cut at its token limit.
    pub retry_cut: bool,
    /// Resume although the input or settings that affect answers have changed.
    pub accept_changes: bool,
    /// Whether answers are gathered into one file at the end.
    pub gather: GatherMode,
    /// Aggregates to compute over all answers.
    pub aggregate: Vec<AggregateSpec>,
    /// JSON schema of answers; the name of a file with it until settings are resolved.
    pub schema: Option<String>,
    /// Regular expression that answers match.
    pub check: Option<String>,
    /// Route of the requests.
    pub api: ApiMode,
    /// Prompt template, or `@` and the name of a file with it.
    pub template: Option<String>,
    /// Column or path of the prompt; default: `prompt`.
    pub prompt_column: Option<String>,
    /// Column or path of the conversation; default: `messages`.
    pub messages_column: Option<String>,
    /// Leave out the answer at the end of conversations.
    pub drop_final_answer: bool,
    /// Columns of the input that hold images.
    pub image_column: Vec<String>,
    /// Template of a reduce, or `@` and the name of a file with it; default: the built-in template.
    pub reduce_template: Option<String>,
    /// Texts per group of a reduce.
    pub fan_in: u64,
    /// Answer limit of a group of a reduce, in tokens; default: by the group's texts.
    pub max_tokens_aggregation: Option<u64>,
    /// Truncated texts of a reduce are no failure.
    pub allow_truncation: bool,
    /// First message of conversations, or `@` and the name of a file with it.
    pub system: Option<String>,
    /// Answer limit of rows without their own.
    pub max_tokens: TokenLimit,
    /// Sampling temperature; default: the server's.
    pub temperature: Option<f64>,
    /// Nucleus sampling probability; default: the server's.
    pub top_p: Option<f64>,
    /// Sampling seed.
    pub seed: Option<i64>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Sequences per prompt.
    pub n: u64,
    /// Additional request parameters.
    pub extra_body: ExtraBody,
    /// Context length in tokens; default: as the server reports it.
    pub max_context: Option<u64>,
    /// Safety margin, in tokens, when the answer limit is lowered to fit the context.
    pub buffer: u64,
    /// Prompts per request.
    pub batch_size: AutoOrCount,
    /// Send one prompt per request, like a batch size of 1.
    pub no_batch: bool,
    /// Maximum wait of a prompt for others to fill a batch.
    pub max_wait: HumanDuration,
    /// Concurrency limit: sequences in flight per endpoint.
    pub concurrency: AutoOrCount,
    /// Throttle: maximum number of requests per second and endpoint; default: no limit.
    pub rate_limit: Option<f64>,
    /// Local rendering of conversations for batches: `auto`, `none`, or a template file.
    pub chat_template: String,
    /// Length of the job, from its start.
    pub walltime: Walltime,
    /// Time at which the job has to be over.
    pub deadline: Option<UtcTimestamp>,
    /// Part of the walltime that is reserved for the end.
    pub margin: Option<HumanDuration>,
    /// Silence after which a rank counts as lost.
    pub rank_silence: HumanDuration,
    /// Time limit of a request.
    pub timeout: HumanDuration,
    /// Additional time limit per 256 prompts of a batch.
    pub timeout_per_sequence: HumanDuration,
    /// Attempts per prompt in all.
    pub retries: u32,
    /// Format of inputs whose extension does not tell it; default: JSON lines for standard input.
    pub input_format: Option<SourceFormat>,
    /// Character between the fields of CSV.
    pub csv_delimiter: CsvDelimiter,
    /// Whether tables begin with a line of column names.
    pub csv_header: HeaderMode,
    /// Encoding of text: `auto` or a name.
    pub encoding: String,
    /// Treatment of invalid rows.
    pub bad_rows: BadRowPolicy,
    /// Treatment of rows with the same id.
    pub duplicate_ids: DuplicateIdPolicy,
    /// Treatment of fields that look like request parameters and would have no effect.
    pub unknown_fields: UnknownFieldPolicy,
    /// Send rows that name another model to the run's model.
    pub ignore_row_model: bool,
    /// Treatment of thinking at the start of answers.
    pub think_tags: ThinkTagPolicy,
    /// Token counts in answers.
    pub usage: UsageMode,
    /// Leave prompts out of answers.
    pub no_echo: bool,
    /// Copy the row's other fields into the answer.
    pub keep_row: bool,
    /// Skip the report page and the summary.
    pub no_report: bool,
    /// Display of progress.
    pub progress: ProgressStyle,
    /// Required number of ranks.
    pub expect_ranks: Option<usize>,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Log only warnings and errors.
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
            serve_hang: HumanDuration::from_secs(600),
            serve_max_age: HumanDuration::from_secs(0),
            ready_timeout: HumanDuration::from_secs(60),
            model: None,
            min_endpoints: CountOrPercent::Count(1),
            output: None,
            local_shards: None,
            output_format: None,
            overwrite: false,
            resume: ResumePolicy::Auto,
            retry_failed: false,
            retry_cut: false,
            accept_changes: false,
            gather: GatherMode::Root,
            aggregate: Vec::new(),
            schema: None,
            check: None,
            api: ApiMode::Auto,
            template: None,
            prompt_column: None,
            messages_column: None,
            drop_final_answer: false,
            image_column: Vec::new(),
            reduce_template: None,
            fan_in: 50,
            max_tokens_aggregation: None,
            allow_truncation: false,
            system: None,
            max_tokens: TokenLimit::Auto,
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
            rank_silence: HumanDuration::from_secs(60),
            timeout: HumanDuration::from_secs(300),
            timeout_per_sequence: HumanDuration::from_secs(60),
            retries: 3,
            input_format: None,
            csv_delimiter: CsvDelimiter::Auto,
            csv_header: HeaderMode::Auto,
            encoding: "auto".into(),
            bad_rows: BadRowPolicy::Stop,
            duplicate_ids: DuplicateIdPolicy::Refuse,
            unknown_fields: UnknownFieldPolicy::Warn,
            ignore_row_model: false,
            think_tags: ThinkTagPolicy::Auto,
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
    /// Returns the request parameters for rows without their own, other than OpenAI batch rows.
    #[must_use]
    pub(crate) fn sampling_params(&self) -> RequestParams {
        self.params_with_limit(self.max_tokens.of_rows())
    }

    /// Returns the request parameters for OpenAI batch rows without their own.
    #[must_use]
    pub(crate) fn batch_row_params(&self) -> RequestParams {
        self.params_with_limit(self.max_tokens.of_batch_rows())
    }

    fn params_with_limit(&self, max_tokens: Option<u64>) -> RequestParams {
        let mut params = RequestParams::default();
        if let Some(tokens) = max_tokens {
            params.set("max_tokens", tokens.to_string());
        }
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
        // (null says that the field is not to be sent)
        self.extra_body.0.merged_over(&params).without_nulls()
    }

    /// Returns the settings that affect answers, by key. A run resumes only with equal ones, unless changes are
    /// accepted.
    #[must_use]
    pub(crate) fn answer_settings(&self) -> std::collections::BTreeMap<String, serde_json::Value> {
        const REDUCE_KEYS: [&str; 3] = ["reduce-template", "fan-in", "max-tokens-aggregation"];
        const ANSWER_KEYS: [&str; 20] = [
            "model",
            "api",
            "template",
            "prompt-column",
            "messages-column",
            "drop-final-answer",
            "image-column",
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
            "schema",
            "check",
            "think-tags",
        ];
        let all = serde_json::to_value(self).unwrap_or_default();
        let reduce_keys = REDUCE_KEYS.iter().filter(|_| self.reduce_template.is_some());
        ANSWER_KEYS
            .iter()
            .chain(reduce_keys)
            .map(|&key| match key {
                // `auto` and its number are the same limit.
                "max-tokens" => (key.to_owned(), self.max_tokens.of_rows().into()),
                _ => (key.to_owned(), all[key].clone()),
            })
            .collect()
    }
}
