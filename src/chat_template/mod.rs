//! Chat templates: a conversation as the one text that its model was trained on.
//!
//! Owns where a model keeps its template and special tokens, and the errors of both. The reference is
//! `apply_chat_template` of the Python package transformers: what it gives, [`Renderer`] gives. Does not know which
//! server, row or job a conversation belongs to, and refuses those that need more than texts (tools, images).
//!
//! | file | owns |
//! |---|---|
//! | `load` | a model's files |
//! | `plain` | which conversations are rendered here |
//! | `renderer` | the environment that a template sees |
//! | `rewrite` | what has to be said otherwise before it is compiled |
//! | `python` | Python's methods of texts and lists |
//! | `dumps` | Python's `json.dumps` |

mod jinja2_compat;
mod model_files;
mod python_methods;
mod renderer;
#[cfg(test)]
mod tests;
mod text_messages;
mod tojson;

use std::{collections::BTreeMap, io, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use renderer::ChatRenderer;
pub use text_messages::check_text_only;

/// A model's chat template with the special tokens it writes; to be compiled where it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatTemplate {
    text: String,
    /// `bos_token` and the like, as texts.
    special_tokens: BTreeMap<String, String>,
    /// The file it is from, for sentences.
    source_file: String,
}

impl ChatTemplate {
    /// The template's text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file it is from.
    #[must_use]
    pub fn source_file(&self) -> &str {
        &self.source_file
    }
}

/// There is no usable chat template.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// The system refused.
    #[error("{}: cannot read it: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that should be JSON.
    #[error("{}: {what}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Files without a template.
    #[error(
        "{} has no chat template: neither a chat_template.jinja nor a chat_template in tokenizer_config.json; name a file \
         that has one, or let the server render the conversations", .path.display()
    )]
    NoTemplate {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A text that is no template.
    #[error(
        "{from}: the chat template cannot be used: {what}; let the server render the conversations, or mend the template"
    )]
    Syntax {
        /// The file.
        from: String,
        /// What is wrong and where.
        what: String,
    },
}

/// Why there is no text for a conversation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatRenderError {
    /// It asks for more than texts; the server's own chat route may know what to do.
    #[error("the conversation is not one of texts only: {0}")]
    NotTextOnly(String),
    /// The template refuses it, in its own words.
    #[error("the chat template refuses the conversation: {0}")]
    TemplateRefused(String),
    /// The template fails on it.
    #[error("the chat template fails on the conversation: {0}")]
    TemplateFailed(String),
}
