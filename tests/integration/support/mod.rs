//! What the tests say things with.

pub mod disk;
pub mod job;
pub mod stand_in;
pub mod threads;
pub mod work;

pub use job::{Job, processes_with};
