//! Input rules: the user's choices for reading rows, broadcast to every rank.
//!
//! Owns the choices and their defaults. Where they come from (option, environment, file) is in `settings`.

use serde::{Deserialize, Serialize};

use super::template::PromptTemplate;
use crate::domain::RequestParams;
use crate::input::FileFormat;

/// The user's choices for reading rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputRules {
    /// How files are read before they are rows.
    pub files: FileRules,
    /// Text of the prompt template, with `{{column}}`, `{{item}}` or `{item}`.
    pub template: Option<String>,
    /// Column or path of the prompt, if it is not `prompt`.
    pub prompt_column: Option<String>,
    /// Column or path of the conversation, if it is not `messages`.
    pub messages_column: Option<String>,
    /// Whether the assistant's message at the end of a conversation is left out.
    pub drop_final_answer: bool,
    /// Columns that hold images, in the order of the images' places.
    pub image_columns: Vec<String>,
    /// Whether a prompt carries its whole row, for the answer to include it.
    pub keep_row: bool,
    /// Whether the models that rows name are ignored.
    pub ignore_row_model: bool,
    /// Whether invalid rows stop the run or fail alone.
    pub bad_rows: BadRowAction,
    /// Whether duplicate ids stop the run or are kept.
    pub duplicate_ids: DuplicateIdAction,
    /// Action on fields that look like request parameters and would have no effect.
    pub unknown_fields: UnknownFieldAction,
    /// The run's request parameters, which apply where a row has none of its own. The scan needs them because the
    /// expected answer length, and so the order of work, depends on them.
    pub defaults: RequestParams,
    /// The same for OpenAI batch rows.
    pub batch_row_defaults: RequestParams,
}

impl InputRules {
    /// Returns the columns of the prompt and of the conversation. If one is named, the other is data unless it is named
    /// too.
    pub(crate) fn input_columns(&self) -> InputColumns<'_> {
        match (self.prompt_column.as_deref(), self.messages_column.as_deref()) {
            (None, None) => InputColumns::DEFAULT,
            (prompt, messages) => InputColumns { prompt, messages },
        }
    }

    /// Whether the user names the column of the prompt or of the conversation.
    pub(super) fn names_columns(&self) -> bool {
        self.prompt_column.is_some() || self.messages_column.is_some()
    }

    /// Whether rows need a column of this name besides those that the template names.
    pub(crate) fn uses_column(&self, name: &str) -> bool {
        let InputColumns { prompt, messages } = self.input_columns();
        [prompt, messages].into_iter().flatten().any(|path| leads_through(path, name))
    }
}

/// Whether a path begins at the column `name`.
pub(crate) fn leads_through(path: &str, name: &str) -> bool {
    path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The columns that hold a row's prompt, of which a row fills exactly one.
#[derive(Clone, Copy)]
pub(crate) struct InputColumns<'n> {
    /// Column or path of the prompt.
    pub prompt: Option<&'n str>,
    /// Column or path of the conversation.
    pub messages: Option<&'n str>,
}

impl InputColumns<'_> {
    pub(crate) const DEFAULT: InputColumns<'static> =
        InputColumns { prompt: Some("prompt"), messages: Some("messages") };

    /// Returns the names for a message, as in "`prompt` or `messages`".
    pub(crate) fn either(&self) -> String {
        let names = [self.prompt, self.messages].into_iter().flatten();
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
    }
}

impl InputRules {
    /// Parses the template.
    ///
    /// # Errors
    /// A sentence about what is invalid.
    pub(crate) fn parse_template(&self) -> Result<Option<PromptTemplate>, String> {
        let parse = match self.image_columns[..] {
            [] => PromptTemplate::parse,
            _ => PromptTemplate::parse_with_images,
        };
        self.template.as_deref().map(parse).transpose()
    }

    /// Sorts the image columns that the template names by their places there, since images are sent in this order.
    pub(crate) fn sort_image_columns(&mut self) {
        if let Ok(Some(template)) = self.parse_template() {
            let place = |column: &String| {
                let mut names = template.placeholder_names().iter();
                names.position(|name| name == column).unwrap_or(usize::MAX)
            };
            self.image_columns.sort_by_key(place);
        }
    }
}

/// The user's choices for reading files as rows; what is not chosen is recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileRules {
    /// Format of inputs whose extension does not tell it (`--input-format`).
    pub format: Option<FileFormat>,
    /// Byte between the fields of CSV (`--csv-delimiter`).
    pub delimiter: Option<u8>,
    /// Whether tables begin with their first row (`--csv-header no`).
    pub has_no_header: bool,
    /// Name of the encoding of text (`--encoding`).
    pub encoding: Option<String>,
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

/// Action to take on fields that look like request parameters and would have no effect (`--unknown-fields`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum UnknownFieldAction {
    /// Name them in the log.
    #[default]
    Warn,
    /// Refuse to start the run.
    Refuse,
    /// Say nothing.
    Ignore,
}
