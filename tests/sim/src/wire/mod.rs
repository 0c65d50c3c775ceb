//! The wire: what requests, answers and refusals look like in JSON.
//!
//! It owns shapes and wording, as recorded from a real server, and decides nothing about time
//! or faults.

pub mod answers;
pub mod chunks;
pub mod fields;
pub mod images;
pub mod logprobs;
pub mod plan;
pub mod refusal;
pub mod request;
pub mod sampling;
pub mod tools;
pub mod unions;
