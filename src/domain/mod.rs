//! Domain values: plain types that every module may use, with the laws they keep.
//!
//! Owns what holds everywhere: prompts and outcomes, how values merge, what a server reports about itself. Knows
//! nothing of MPI, HTTP, files or the environment; depends on serde, base64 and std only.

mod answer_columns;
mod answer_flaws;
mod bit_set;
mod catch_panic;
pub(crate) mod image;
mod length_class;
mod merge;
mod model_set;
mod outcome;
mod peer_speed;
mod prefix_keys;
mod printable;
mod prompt;
pub(crate) mod raw_json;
mod reply_fields;
mod row_hash;
mod server_info;
mod tally;
mod url;

#[cfg(feature = "parquet")]
pub(crate) use answer_columns::ColumnType;
pub(crate) use answer_columns::{
    ColumnSurvey, FoundColumns, LineSection, ParsedAnswer, plain_text,
};
pub(crate) use answer_flaws::{AnswerFlaws, FlawCounts};
pub(crate) use bit_set::BitSet;
#[cfg(feature = "parquet")]
pub(crate) use catch_panic::catch_panic;
pub(crate) use catch_panic::is_panic_caught;
pub(crate) use image::PromptImage;
pub(crate) use length_class::LengthClass;
pub use merge::Merge;
pub(crate) use model_set::{JobModel, JobModels, MAX_JOB_MODELS, ModelNumber, ModelSet};
pub(crate) use outcome::{AnswerChoice, InvalidAnswers, Outcome, PromptAnswer, PromptResult};
pub use outcome::{FailureKind, PromptFailure, TokenUsage};
pub(crate) use peer_speed::{PeerSpeed, SLOW_FACTOR};
pub(crate) use prefix_keys::PrefixKeys;
pub(crate) use printable::{clean_for_terminal, clean_line, is_terminal_control};
pub(crate) use prompt::{MAX_SEQUENCES, Prompt, PromptId, PromptInput, RequestParams, Route};
pub(crate) use reply_fields::{
    LINE_NAMES, RENAMED_PREFIX, ReplyFields, THINKING_MARKS, to_stored_json,
};
pub(crate) use row_hash::RowHash;
pub(crate) use server_info::{
    EndpointStatus, ProbeResult, ProbeTarget, ReadinessCounts, ServedModel, ServerInfo,
    ServerRoutes,
};
pub(crate) use tally::Tally;
pub use url::Url;
