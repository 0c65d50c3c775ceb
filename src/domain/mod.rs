//! Domain values: plain types that every module may use, with the laws they keep.
//!
//! Owns what holds everywhere: prompts and outcomes, how values merge, what a server reports about itself. Knows
//! nothing of MPI, HTTP, files or the environment; depends on serde and std only.

mod bit_set;
mod catch_panic;
mod length_class;
mod merge;
mod outcome;
mod peer_speed;
mod prefix_keys;
mod prompt;
pub(crate) mod raw_json;
mod row_hash;
mod server_info;
mod tally;
mod url;

pub use bit_set::BitSet;
#[cfg(feature = "parquet")]
pub use catch_panic::catch_panic;
pub use catch_panic::is_panic_caught;
pub use length_class::LengthClass;
pub use merge::Merge;
pub use outcome::{
    AnswerChoice, FailureKind, Outcome, PromptAnswer, PromptFailure, PromptResult, TokenUsage,
};
pub use peer_speed::{PeerSpeed, SLOW_FACTOR};
pub use prefix_keys::PrefixKeys;
pub use prompt::{Prompt, PromptId, PromptInput, RequestParams, Route};
pub use row_hash::RowHash;
pub use server_info::{EndpointStatus, ProbeResult, ServedModel, ServerInfo, ServerRoutes};
pub use tally::Tally;
pub use url::Url;
