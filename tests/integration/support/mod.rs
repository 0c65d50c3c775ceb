//! What the tests say things with.

pub mod job;
pub mod threads;

pub use job::{Ended, Job};
