//! How rows are read: what the user chose, as one value that every rank is told.
//!
//! Owns the choices and their defaults. Does not know where they came from: a flag, a file, the environment.

use serde::{Deserialize, Serialize};

use crate::domain::RequestParams;

/// How rows are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRules {
    /// The prompt template's text: `{{column}}`, `{{item}}`, `{item}`.
    pub template: Option<String>,
    /// Does a prompt carry its whole row, so that the answer can?
    pub keep_row: bool,
    /// The job's model, where it is known: a row that names another is an error …
    pub model: Option<String>,
    /// … unless what rows name does not count.
    pub ignore_row_model: bool,
    /// What becomes of rows that are no prompts.
    pub bad_rows: BadRowAction,
    /// What becomes of ids that stand twice.
    pub duplicate_ids: DuplicateIdAction,
    /// The job's request parameters, where a row has none of its own: how long an answer is expected to be, and with that
    /// the order of work, hangs on them.
    pub defaults: RequestParams,
}

/// What becomes of rows that are no prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadRowAction {
    /// The job does not begin.
    #[default]
    Stop,
    /// They are failed outcomes; the others are answered.
    Fail,
}

/// What becomes of ids that stand twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DuplicateIdAction {
    /// The job does not begin: two answers of one name cannot be told apart.
    #[default]
    Refuse,
    /// They are kept; the index tells them apart.
    Keep,
}
