//! The output of `plan`: the input, the request parameters, the first prompt, the settings, and what `run` would do.
//!
//! Owns the wording only. The decision comes from `job/resume`, the counts from the scan.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use crate::{
    domain::{Prompt, PromptInput},
    output::{AnswerFormat, PromptCounts},
    report::format::{format_count, pluralize},
    settings::{SettingOrigin, TokenLimit},
};

/// Lines of the first prompt that are shown.
const MAX_PROMPT_LINES: usize = 20;
/// Names of fields that are listed.
const MAX_NAMES: usize = 20;

/// Models that are listed.
const MAX_MODELS: usize = 20;

/// Facts about a run that has not started.
#[derive(Debug)]
pub(crate) struct PlanView<'a> {
    pub rows: u64,
    pub files: usize,
    /// Size of the input files in bytes.
    pub bytes: u64,
    pub bad_rows: usize,
    /// Fields of rows that are data, not request parameters.
    pub data_fields: &'a [String],
    /// Parameters that rows set, with the number of rows.
    pub row_params: &'a [(String, u64)],
    /// Tokens that all answers with a limit may have.
    pub answer_tokens: u64,
    /// Number of rows whose answers have no limit.
    pub unlimited_rows: u64,
    /// Models that rows name, with the number of their rows.
    pub models: &'a [(&'a str, u64)],
    /// Remarks of the scan, such as ignored parameters.
    pub notes: &'a [String],
    /// First prompt of the input.
    pub first_prompt: Option<&'a Prompt>,
    pub format: AnswerFormat,
    /// Default request parameters as JSON; a row may override them.
    pub sampling: String,
    /// Values of all settings by name.
    pub settings: Value,
    /// Origins of the settings that differ from their defaults.
    pub origins: &'a BTreeMap<String, SettingOrigin>,
    /// Action that `run` would take.
    pub action: &'a PlannedAction,
}

/// Action that `run` would take on the output and run folder it finds.
#[derive(Debug)]
pub(crate) enum PlannedAction {
    /// It would refuse, for this reason.
    Refused(String),
    /// It needs `--output` first.
    NoOutput {
        /// Prompts that would be sent.
        asked: u64,
    },
    /// It would start a new run.
    StartNew {
        /// Prompts that would be sent.
        asked: u64,
        /// True if it would replace an existing run (`--overwrite`).
        overwrites: bool,
    },
    /// It would resume the run.
    Resume {
        /// Number of the session it would be.
        start: u32,
        /// Counts of the run so far.
        counts: PromptCounts,
        /// Prompts that would be sent: open ones, and failed ones that may be retried.
        asked: u64,
        /// True if the answers have been gathered already.
        is_gathered: bool,
    },
}

impl fmt::Display for PlannedAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prompts = |count: u64| pluralize(count, "prompt");
        match self {
            Self::Refused(reason) => write!(f, "run would be refused: {reason}"),
            Self::NoOutput { asked } => {
                write!(f, "run would send {}, and needs --output FILE", prompts(*asked))
            }
            Self::StartNew { asked, overwrites: false } => {
                let sent = prompts(*asked);
                write!(f, "run would start: no run exists yet, and {sent} would be sent")
            }
            Self::StartNew { asked, overwrites: true } => {
                let sent = prompts(*asked);
                write!(f, "run would replace the existing run (--overwrite): {sent} would be sent")
            }
            Self::Resume { start, counts, asked: 0, is_gathered } => {
                let action = match (counts.open, is_gathered) {
                    (0, true) => "find it complete and send nothing",
                    (0, false) => "send nothing and gather the answers again",
                    _ => "send nothing",
                };
                write!(f, "run would {action} (session {start}): {}", CountsText(counts))
            }
            Self::Resume { start, counts, asked, .. } => {
                write!(f, "run would resume (session {start}): {}; ", CountsText(counts))?;
                match asked.saturating_sub(counts.open) {
                    0 => write!(f, "{} would be sent", prompts(*asked)),
                    again => {
                        let sent = prompts(*asked);
                        write!(f, "{sent} would be sent, {again} of them after a failure")
                    }
                }
            }
        }
    }
}

/// Counts of earlier sessions, for display.
struct CountsText<'a>(&'a PromptCounts);

impl fmt::Display for CountsText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PromptCounts { submitted, answered, failed, open, .. } = self.0;
        write!(f, "{answered} answered, {failed} failed, {open} open of {submitted}")
    }
}

impl fmt::Display for PlanView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bad_rows = match self.bad_rows {
            0 => "no invalid rows".to_owned(),
            count => pluralize(count as u64, "invalid row"),
        };
        writeln!(
            f,
            "input: {} in {}, {bad_rows}; answers as {}",
            pluralize(self.rows, "prompt"),
            pluralize(self.files as u64, "file"),
            self.format
        )?;
        for note in self.notes {
            writeln!(f, "note: {note}")?;
        }
        if !self.models.is_empty() {
            let listed = self.models.iter().take(MAX_MODELS);
            let listed: Vec<String> = listed
                .map(|(name, count)| format!("{name} ({})", pluralize(*count, "row")))
                .collect();
            let more = match self.models.len().saturating_sub(MAX_MODELS) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let named: u64 = self.models.iter().map(|(_, count)| count).sum();
            let rest = match self.rows.saturating_sub(named + self.bad_rows as u64) {
                0 => String::new(),
                rest => format!("; {} without one, for the job's model", pluralize(rest, "row")),
            };
            writeln!(f, "models that rows name: {}{more}{rest}", listed.join(", "))?;
        }
        match self.settings["api"].as_str().unwrap_or_default() {
            "auto" => writeln!(f, "api: auto (chosen once servers are ready)")?,
            api => writeln!(f, "api: {api}")?,
        }
        writeln!(f, "parameters: {}", self.sampling)?;
        self.write_tokens(f)?;
        if !self.row_params.is_empty() {
            let counts = self.row_params.iter();
            let counts = counts.map(|(name, rows)| format!("{name} ({})", pluralize(*rows, "row")));
            writeln!(f, "parameters of rows: {}", join_some(counts))?;
        }
        if !self.data_fields.is_empty() {
            writeln!(f, "data, not parameters: {}", join_some(self.data_fields.iter().cloned()))?;
        }
        if let Some(first) = self.first_prompt {
            write_first_prompt(f, first)?;
        }
        if !self.origins.is_empty() {
            writeln!(f, "settings that differ from their defaults:")?;
        }
        for (key, origin) in self.origins {
            writeln!(f, "  {key} = {} ({origin})", self.settings[key])?;
        }
        writeln!(f, "{}", self.action)
    }
}

impl PlanView<'_> {
    fn write_tokens(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = match (self.settings["max-tokens"].as_u64(), self.unlimited_rows) {
            (Some(tokens), _) => tokens.to_string(),
            (None, 0) => TokenLimit::DEFAULT_TOKENS.to_string(),
            (None, _) => "none".to_owned(),
        };
        let input = format_count(self.bytes / 4);
        write!(f, "tokens: about {input} of input (4 bytes per token), ")?;
        match (self.unlimited_rows, self.answer_tokens) {
            (0, tokens) => write!(f, "at most {} of answers", format_count(tokens))?,
            (rows, 0) if rows + self.bad_rows as u64 >= self.rows => {
                write!(f, "no limit for answers")?
            }
            (rows, tokens) => write!(
                f,
                "at most {} of answers, and {} without a limit",
                format_count(tokens),
                pluralize(rows, "answer")
            )?,
        }
        writeln!(f, " (--max-tokens {limit})")
    }
}

/// Joins the first texts of a list and counts the others.
fn join_some(texts: impl ExactSizeIterator<Item = String>) -> String {
    let more = texts.len().saturating_sub(MAX_NAMES);
    let mut listed: Vec<String> = texts.take(MAX_NAMES).collect();
    if more > 0 {
        listed.push(format!("and {more} more"));
    }
    listed.join(", ")
}

fn write_first_prompt(f: &mut fmt::Formatter<'_>, first: &Prompt) -> fmt::Result {
    let (kind, text) = match &first.input {
        PromptInput::Text(text) => ("text", text),
        PromptInput::Messages(messages) => ("chat messages", messages),
        PromptInput::TokenIds(ids) => ("token ids", ids),
    };
    let length = pluralize(text.chars().count() as u64, "character");
    writeln!(f, "first prompt: id {}, {kind} of {length}", first.id.as_json())?;
    for line in text.lines().take(MAX_PROMPT_LINES) {
        writeln!(f, "  | {line}")?;
    }
    for image in &first.images {
        match &image.url {
            Ok(_) => writeln!(f, "  image: {}", image.label)?,
            Err(failure) => writeln!(f, "  image: {}", failure.message)?,
        }
    }
    if !first.params.is_empty() {
        writeln!(f, "  its own parameters: {}", first.params.to_json())?;
    }
    Ok(())
}
