//! The words of the product and their laws: plain values that any module may hold.
//!
//! Owns what is true everywhere (how values merge, what a server is and told about itself) and knows nothing of MPI, HTTP,
//! files or the environment. serde and std only.

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

pub use crate::metrics::timeline::{
    DowntimeRecord, DowntimeSummary, EndpointSnapshot, Row, TimeBucket, Timeline, TimelineSlot,
};
pub use catch_panic::{catch_panic, is_panic_caught};
pub use length_class::LengthClass;
pub use merge::Merge;
pub use outcome::{
    AnswerChoice, Failure, FailureKind, Outcome, PromptAnswer, PromptResult, TokenUsage,
};
pub use peer_speed::{PeerSpeed, SLOW_FACTOR};
pub use prefix_keys::PrefixKeys;
pub use prompt::{Prompt, PromptId, PromptInput, RequestParams, Route};
pub use row_hash::RowHash;
pub use server_info::{EndpointStatus, ProbeResult, ServedModel, ServerInfo, ServerRoutes};
pub use tally::Tally;
pub use url::Url;
