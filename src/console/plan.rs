//! What `plan` shows.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use crate::{
    domain::{Prompt, PromptInput},
    output::{AnswerFormat, PromptCounts},
    settings::SettingOrigin,
};

/// A run that has not begun.
#[derive(Debug)]
pub struct PlanView<'a> {
    /// Rows of the input.
    pub rows: u64,
    /// Its files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Rows that cannot be read.
    pub bad_rows: usize,
    /// Fields of the first row that are data and no parameters.
    pub data: &'a [String],
    /// What was noticed.
    pub notes: &'a [String],
    /// The first prompt.
    pub first: Option<&'a Prompt>,
    /// The answers' format.
    pub format: AnswerFormat,
    /// Request parameters where a row has none, as JSON.
    pub sampling: String,
    /// All settings.
    pub settings: Value,
    /// Where those that are no defaults came from.
    pub origins: &'a BTreeMap<String, SettingOrigin>,
    /// What it would do with what is there.
    pub action: &'a PlannedAction,
}

/// What a run would do with what is there.
#[derive(Debug)]
pub enum PlannedAction {
    /// Nothing: in its own words.
    Refused(String),
    /// Nobody has said yet where answers go.
    NoOutput {
        /// Prompts that would be asked.
        asked: u64,
    },
    /// Begin.
    StartNew {
        /// Prompts that would be asked.
        asked: u64,
        /// It takes the place of what is there.
        overwrites: bool,
    },
    /// Go on.
    Resume {
        /// As this start.
        start: u32,
        /// From here.
        counts: PromptCounts,
        /// Prompts that would be asked: open ones, and failed ones that may be asked again.
        asked: u64,
        /// The answers are together already.
        output: bool,
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
            Self::Resume { start, counts, asked: 0, output } => {
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

/// What an earlier start has done.
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
        if !self.data.is_empty() {
            writeln!(f, "data, and no parameters: {}", self.data.join(", "))?;
        }
        if let Some(first) = self.first {
            let (what, text) = match &first.input {
                PromptInput::Text(text) => ("text", text),
                PromptInput::Messages(messages) => ("conversation", messages),
            };
            writeln!(
                f,
                "first prompt: id {}, {what} of {} characters",
                first.id.json(),
                text.chars().count()
            )?;
            for line in text.lines().take(20) {
                writeln!(f, "  | {line}")?;
            }
            if !first.params.is_empty() {
                writeln!(f, "  its own parameters: {}", first.params.json())?;
            }
        }
        writeln!(f, "settings that are not defaults:")?;
        for (key, origin) in self.origins {
            writeln!(f, "  {key} = {} ({origin})", self.settings[key])?;
        }
        writeln!(f, "{}", self.action)
    }
}
