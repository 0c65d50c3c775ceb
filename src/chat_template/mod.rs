//! Chat templates: render a conversation to the text format that its model was trained on.
//!
//! Owns where a model's template and special tokens are found, and their errors. The reference is `apply_chat_template`
//! of the Python package transformers: [`ChatRenderer`] gives the same text. Conversations that need more than text
//! messages (tools, images) are refused; the engine sends those to the server's chat route. Whether an endpoint may get
//! rendered conversations is checked by canaries, in `endpoint/canary.rs`.
//!
//! | file | owns |
//! |---|---|
//! | `model_files` | a model's files |
//! | `text_messages` | which conversations are rendered here |
//! | `renderer` | the environment that a template sees |
//! | `jinja2_compat` | rewriting of syntax that minijinja treats differently |
//! | `python_methods` | Python's methods of strings and lists |
//! | `tojson` | Python's `json.dumps` |

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

pub(crate) use renderer::ChatRenderer;

/// A model's chat template with its special tokens. It is compiled by each rank that uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChatTemplate {
    text: String,
    /// Special tokens by name, such as `bos_token`.
    special_tokens: BTreeMap<String, String>,
    /// File that the template was read from, for messages.
    source_file: String,
}

/// Reason why there is no usable chat template.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// The system could not read a file.
    #[error("{}: cannot read: {source}", .path.display())]
    Io {
        /// Path of the file, as messages show it.
        path: PathBuf,
        /// Error that the system reported.
        source: io::Error,
    },
    /// A JSON file that is malformed.
    #[error("{}: {what}", .path.display())]
    Malformed {
        /// Path of the file, as messages show it.
        path: PathBuf,
        /// Description of the malformed part.
        what: String,
    },
    /// The files of the model have no template.
    #[error(
        "{} has no chat template: neither chat_template.jinja nor chat_template in tokenizer_config.json\nhint: pass a \
         template file to --chat-template, or --chat-template none to let the servers render conversations", .path.display()
    )]
    NoTemplate {
        /// Path of the folder or file that was searched.
        path: PathBuf,
    },
    /// The text is not a valid template.
    #[error(
        "{from}: the chat template cannot be used: {what}\nhint: fix the template, or pass --chat-template none to let the servers render conversations"
    )]
    Syntax {
        /// Path of the file, as messages show it.
        from: String,
        /// Description of the error, with its line.
        what: String,
    },
}

/// Reason why a conversation cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChatRenderError {
    /// The conversation has more than text messages. The server's chat route may support it.
    #[error("the conversation has more than text messages: {0}")]
    NotTextOnly(String),
    /// The template rejects the conversation with this message.
    #[error("the chat template rejects the conversation: {0}")]
    TemplateRefused(String),
    /// The template fails with an error.
    #[error("the chat template fails on the conversation: {0}")]
    TemplateFailed(String),
    /// The template takes too many steps or makes too long a text, as it is likely to do again.
    #[error("the chat template does not come to an end: {0}")]
    LimitExceeded(String),
}
