//! Ranges of values and rules between settings that no single value can break.
//!
//! Owns the messages of these errors, with the options as they are typed. Rules about `--serve` are in `serve.rs`, the
//! types of values in `values.rs`, and the origins that are added to a message in `layers.rs`.

use std::time::Duration;

use super::{AggregateSpec, AutoOrCount, ResumePolicy, Settings, TokenLimit};
use crate::domain::MAX_SEQUENCES;

/// Shortest `--rank-silence`: ranks report about once a second.
const MIN_RANK_SILENCE: Duration = Duration::from_secs(1);

/// A range or rule that settings break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Keys of the settings involved.
    pub(super) keys: Vec<&'static str>,
    /// The error with the options as typed, and a hint on a second line if there is one.
    pub(super) message: String,
}

impl Violation {
    pub(super) fn new(keys: &[&'static str], message: impl Into<String>) -> Self {
        Self { keys: keys.to_vec(), message: message.into() }
    }
}

impl Settings {
    /// Checks ranges and combinations of values.
    ///
    /// # Errors
    /// If a value is out of range or two settings contradict each other; the message names the options.
    pub(super) fn check_consistency(&self) -> Result<(), Violation> {
        self.check_serve()?;
        self.check_endpoints()?;
        self.check_local_shards()?;
        AggregateSpec::check_duplicates(&self.aggregate)
            .map_err(|message| Violation::new(&["aggregate"], message))?;
        self.check_counts()?;
        self.check_requests()?;
        self.check_sampling()
    }

    fn check_endpoints(&self) -> Result<(), Violation> {
        let sources = [
            (!self.endpoint.is_empty(), "endpoint"),
            (self.base_port.is_some() || self.endpoints_per_node.is_some(), "base-port"),
            (self.hostfile.is_some(), "hostfile"),
        ];
        let named: Vec<_> =
            sources.iter().filter(|(given, _)| *given).map(|&(_, name)| name).collect();
        if let [first, second, ..] = named[..] {
            let message = format!(
                "--{first} and --{second} both say where the servers are\nhint: pass only one of them"
            );
            return Err(Violation::new(&[first, second], message));
        }
        let message = match (self.base_port, self.endpoints_per_node) {
            (None, Some(_)) => "--endpoints-per-node needs --base-port, the first port".into(),
            (Some(0), _) => "--base-port 0: must be at least 1".into(),
            (Some(_), Some(0)) => "--endpoints-per-node 0: must be at least 1".into(),
            (Some(port), Some(count)) if u32::from(port) + u32::from(count) > 65_536 => {
                format!(
                    "--base-port {port} with --endpoints-per-node {count} needs ports above 65535"
                )
            }
            _ => return self.check_tags(),
        };
        Err(Violation::new(&["base-port", "endpoints-per-node"], message))
    }

    fn check_tags(&self) -> Result<(), Violation> {
        if !self.tag.is_empty() && self.hostfile.is_none() {
            return Err(Violation::new(
                &["tag"],
                "--tag selects lines of a hostfile and needs --hostfile",
            ));
        }
        match self.tag.iter().find(|tag| !tag.contains('=')) {
            Some(tag) => Err(Violation::new(
                &["tag"],
                format!("--tag {tag:?} does not have the form KEY=VALUE"),
            )),
            None => Ok(()),
        }
    }

    fn check_local_shards(&self) -> Result<(), Violation> {
        let Some(folder) = &self.local_shards else { return Ok(()) };
        let known = ["{rank}", "{local_rank}", "{host}"];
        let plain = known.iter().fold(folder.clone(), |text, name| text.replace(name, ""));
        if folder.is_empty() || plain.contains('{') {
            let message = format!(
                "--local-shards {folder:?} is not a valid folder\nhint: the placeholders are {{rank}}, {{local_rank}} and \
                 {{host}}"
            );
            return Err(Violation::new(&["local-shards"], message));
        }
        Ok(())
    }

    fn check_counts(&self) -> Result<(), Violation> {
        let positive = [
            (Some(self.n), "n"),
            ((self.max_tokens == TokenLimit::Tokens(0)).then_some(0), "max-tokens"),
            (Some(u64::from(self.retries)), "retries"),
            (self.max_tokens_aggregation, "max-tokens-aggregation"),
        ];
        if let (true, AutoOrCount::Count(2..)) = (self.no_batch, self.batch_size) {
            let message = "--no-batch contradicts --batch-size, which asks for batches\nhint: pass only one of them";
            return Err(Violation::new(&["no-batch", "batch-size"], message));
        }
        if self.overwrite && self.resume == ResumePolicy::Require {
            let message = "--overwrite contradicts --resume require: an overwritten run is not resumed\nhint: pass only \
                           one of them";
            return Err(Violation::new(&["overwrite", "resume"], message));
        }
        if let Some((_, key)) = positive.iter().find(|(value, _)| *value == Some(0)) {
            return Err(Violation::new(&[*key], format!("--{key} 0: must be at least 1")));
        }
        for (amount, key) in [(self.batch_size, "batch-size"), (self.concurrency, "concurrency")] {
            if amount == AutoOrCount::Count(0) {
                let message = format!("--{key} 0: must be auto or at least 1");
                return Err(Violation::new(&[key], message));
            }
        }
        if self.fan_in < 2 {
            let message = format!(
                "--fan-in {}: must be at least 2, since a group has to merge texts",
                self.fan_in
            );
            return Err(Violation::new(&["fan-in"], message));
        }
        if let Some(tokens) = self.max_context.filter(|tokens| *tokens < 2) {
            let message =
                format!("--max-context {tokens}: must be at least 2, a prompt and an answer");
            return Err(Violation::new(&["max-context"], message));
        }
        Ok(())
    }

    fn check_requests(&self) -> Result<(), Violation> {
        if let Some(rate) = self.rate_limit.filter(|rate| !(rate.is_finite() && *rate >= 0.001)) {
            let message =
                format!("--rate-limit {rate}: must be at least 0.001 requests per second");
            return Err(Violation::new(&["rate-limit"], message));
        }
        if self.chat_template.is_empty() {
            let message = "--chat-template is empty: pass auto, none or a file";
            return Err(Violation::new(&["chat-template"], message));
        }
        let columns =
            [(&self.prompt_column, "prompt-column"), (&self.messages_column, "messages-column")];
        if let Some((_, key)) = columns.iter().find(|(column, _)| column.is_some())
            && self.template.is_some()
        {
            let message = format!(
                "--template and --{key} both say what the prompt is\nhint: name the column in the template, as {{{{NAME}}}}"
            );
            return Err(Violation::new(&["template", key], message));
        }
        if self.timeout.to_duration().is_zero() {
            return Err(Violation::new(&["timeout"], "--timeout 0: must be above 0"));
        }
        if self.rank_silence.to_duration() < MIN_RANK_SILENCE {
            let message = format!("--rank-silence {}: must be at least 1s", self.rank_silence);
            return Err(Violation::new(&["rank-silence"], message));
        }
        if let Some(name) = self.extra_body.secret_field() {
            let message = format!(
                "--extra-body has a field {name:?}, which looks like a secret, and settings are written to the \
                 manifest\nhint: the key of requests is read from AURORA_SWARM_API_KEY"
            );
            return Err(Violation::new(&["extra-body"], message));
        }
        if self.n > MAX_SEQUENCES.unsigned_abs() {
            let message = format!("--n {}: must be at most {MAX_SEQUENCES}", self.n);
            return Err(Violation::new(&["n"], message));
        }
        let n = usize::try_from(self.n).unwrap_or(usize::MAX);
        if matches!(self.concurrency, AutoOrCount::Count(concurrency) if concurrency < n) {
            let message = format!("--concurrency is below --n {n}: not even one prompt would fit");
            return Err(Violation::new(&["concurrency", "n"], message));
        }
        Ok(())
    }

    fn check_sampling(&self) -> Result<(), Violation> {
        if self.n > 1 && self.temperature == Some(0.0) {
            let message = format!(
                "--n {} with --temperature 0 would give the same answer {} times\nhint: raise --temperature, or use --n 1",
                self.n, self.n
            );
            return Err(Violation::new(&["n", "temperature"], message));
        }
        if let Some(value) = self.temperature.filter(|value| !(0.0..=2.0).contains(value)) {
            let message = format!("--temperature {value}: must be between 0 and 2");
            return Err(Violation::new(&["temperature"], message));
        }
        if let Some(value) = self.top_p.filter(|value| !(*value > 0.0 && *value <= 1.0)) {
            let message = format!("--top-p {value}: must be above 0 and at most 1");
            return Err(Violation::new(&["top-p"], message));
        }
        Ok(())
    }
}
