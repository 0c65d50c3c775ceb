//! What `plan` shows.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use crate::{
    domain::{Input, Prompt},
    output::{Counts, Format},
    settings::Origin,
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
    pub bad: usize,
    /// Fields of the first row that are data and no parameters.
    pub data: &'a [String],
    /// What was noticed.
    pub notes: &'a [String],
    /// The first prompt.
    pub first: Option<&'a Prompt>,
    /// The answers' format.
    pub format: Format,
    /// Request parameters where a row has none, as JSON.
    pub sampling: String,
    /// All settings.
    pub settings: Value,
    /// Where those that are no defaults came from.
    pub origins: &'a BTreeMap<String, Origin>,
    /// What an earlier start has done.
    pub done: Option<&'a Counts>,
}

impl fmt::Display for PlanView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} prompts in {} files, {} bad rows; answers as {}",
            self.rows, self.files, self.bad, self.format
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
                Input::Text(text) => ("text", text),
                Input::Messages(messages) => ("conversation", messages),
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
        match self.done {
            Some(counts) => writeln!(
                f,
                "there is a run already: {} answered, {} failed, {} open of {}",
                counts.answered, counts.failed, counts.open, counts.submitted
            ),
            None => writeln!(f, "no run is there yet"),
        }
    }
}
