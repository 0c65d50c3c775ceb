//! Input rules: the user's choices for reading rows, broadcast to every rank.
//!
//! Owns the choices and their defaults. Where they come from (option, environment, file) is in `settings`.

use serde::{Deserialize, Serialize};

use crate::domain::RequestParams;

/// The user's choices for reading rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputRules {
    /// Text of the prompt template, with `{{column}}`, `{{item}}` or `{item}`.
    pub template: Option<String>,
    /// Whether a prompt carries its whole row, for the answer to include it.
    pub keep_row: bool,
    /// The run's model, if known. A row that names another one is an error …
    pub model: Option<String>,
    /// … unless the models that rows name are ignored.
    pub ignore_row_model: bool,
    /// Whether invalid rows stop the run or fail alone.
    pub bad_rows: BadRowAction,
    /// Whether duplicate ids stop the run or are kept.
    pub duplicate_ids: DuplicateIdAction,
    /// The run's request parameters, which apply where a row has none of its own. The scan needs them because the
    /// expected answer length, and so the order of work, depends on them.
    pub defaults: RequestParams,
}

/// Action to take on invalid rows (`--bad-rows`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum BadRowAction {
    /// Refuse to start the run.
    #[default]
    Stop,
    /// Record them as failed answers and process the others.
    Fail,
}

/// Action to take on duplicate ids (`--duplicate-ids`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DuplicateIdAction {
    /// Refuse to start the run, because answers with the same id cannot be told apart.
    #[default]
    Refuse,
    /// Keep them; the index tells them apart.
    Keep,
}
