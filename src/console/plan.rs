//! The output of `plan`: the input, the request parameters, the first prompt, the settings, and what `run` would do.
//!
//! Owns the wording only. The decision comes from `job/resume`, the counts from the scan.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use crate::{
    domain::{Prompt, PromptInput},
    output::{AnswerFormat, PromptCounts},
    settings::SettingOrigin,
};

/// Facts about a run that has not started.
#[derive(Debug)]
pub struct PlanView<'a> {
    /// Number of input rows.
    pub rows: u64,
    /// Number of input files.
    pub files: usize,
    /// Size of the input files in bytes.
    pub bytes: u64,
    /// Number of invalid rows.
    pub bad_rows: usize,
    /// Keys of the first row that are data, not request parameters.
    pub data_fields: &'a [String],
    /// Remarks of the scan, such as ignored parameters.
    pub notes: &'a [String],
    /// First prompt of the input.
    pub first_prompt: Option<&'a Prompt>,
    /// Format of the answers.
    pub format: AnswerFormat,
    /// Default request parameters as JSON; a row may override them.
    pub sampling: String,
    /// Values of all settings by name.
    pub settings: Value,
    /// Origins of the settings that differ from their defaults.
    pub origins: &'a BTreeMap<String, SettingOrigin>,
    /// What `run` would do with the output and run folder it finds.
    pub action: &'a PlannedAction,
}

/// Action that `run` would take on the output and run folder it finds.
#[derive(Debug)]
pub enum PlannedAction {
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
        match self {
            Self::Refused(why) => write!(f, "run would be refused: {why}"),
            Self::NoOutput { asked } => {
                write!(f, "run would ask {asked} prompts, and needs --output FILE for the answers")
            }
            Self::StartNew { asked, overwrites: false } => {
                write!(
                    f,
                    "run would begin: no run is there yet, and {asked} prompts would be asked"
                )
            }
            Self::StartNew { asked, overwrites: true } => write!(
                f,
                "run would begin anew, in place of what is there (--overwrite): {asked} prompts would be asked"
            ),
            Self::Resume { start, counts, asked: 0, is_gathered: output } => {
                let does = match (counts.open, output) {
                    (0, true) => "find it finished, and ask nothing",
                    (0, false) => "ask nothing, and put the answers together again",
                    _ => "ask nothing",
                };
                write!(f, "run would {does} (start {start}): {}", CountsText(counts))
            }
            Self::Resume { start, counts, asked, .. } => {
                write!(f, "run would go on (start {start}): {}; ", CountsText(counts))?;
                match asked.saturating_sub(counts.open) {
                    0 => write!(f, "{asked} prompts would be asked"),
                    again => write!(
                        f,
                        "{asked} prompts would be asked, {again} of them again since they failed"
                    ),
                }
            }
        }
    }
}

/// Counts of earlier sessions, for display.
struct CountsText<'a>(&'a PromptCounts);

impl fmt::Display for CountsText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PromptCounts { submitted, answered, failed, open } = self.0;
        write!(f, "{answered} answered, {failed} failed, {open} open of {submitted}")
    }
}

impl fmt::Display for PlanView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} prompts in {} files, {} bad rows; answers as {}",
            self.rows, self.files, self.bad_rows, self.format
        )?;
        for note in self.notes {
            writeln!(f, "note: {note}")?;
        }
        writeln!(
            f,
            "api: {} (auto is decided when the servers are asked)",
            self.settings["api"].as_str().unwrap_or_default()
        )?;
        writeln!(f, "parameters: {}", self.sampling)?;
        let longest = self.settings["max-tokens"].as_u64().unwrap_or_default();
        writeln!(
            f,
            "tokens: about {} of input (four bytes a token), at most {} of answers",
            self.bytes / 4,
            self.rows.saturating_mul(longest)
        )?;
        if !self.data_fields.is_empty() {
            writeln!(f, "data, and no parameters: {}", self.data_fields.join(", "))?;
        }
        if let Some(first) = self.first_prompt {
            let (what, text) = match &first.input {
                PromptInput::Text(text) => ("text", text),
                PromptInput::Messages(messages) => ("conversation", messages),
            };
            writeln!(
                f,
                "first prompt: id {}, {what} of {} characters",
                first.id.as_json(),
                text.chars().count()
            )?;
            for line in text.lines().take(20) {
                writeln!(f, "  | {line}")?;
            }
            if !first.params.is_empty() {
                writeln!(f, "  its own parameters: {}", first.params.to_json())?;
            }
        }
        writeln!(f, "settings that are not defaults:")?;
        for (key, origin) in self.origins {
            writeln!(f, "  {key} = {} ({origin})", self.settings[key])?;
        }
        writeln!(f, "{}", self.action)
    }
}
