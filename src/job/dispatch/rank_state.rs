//! What the coordinator knows of a rank.
//!
//! Owns the record. What a rank holds of the work is in `assignments.rs`; when a silent rank counts as lost is the
//! ledger's.

use crate::engine::EngineProgress;

/// State of a rank, as of its last messages.
pub(crate) struct RankState {
    pub(crate) progress: EngineProgress,
    /// Its work has ended.
    pub(crate) ended: bool,
    pub(crate) lost: bool,
    /// It cannot open the input, so rows are sent to it with their text.
    pub(crate) lacks_input: bool,
    /// Its last grant said that no prompt is free.
    pub(crate) told_exhausted: bool,
    pub(crate) held_failures: Option<HeldFailures>,
}

/// Failures that a rank holds back: its first outcomes, all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HeldFailures {
    pub(crate) count: u64,
    pub(crate) message: String,
    /// The rank was told to keep holding them and to send as many prompts again.
    pub(crate) told_to_hold: bool,
}

impl RankState {
    /// A rank at the start of the work, with this number of endpoints ready.
    pub(crate) fn new(endpoints_up: u64, lacks_input: bool) -> Self {
        Self {
            progress: EngineProgress { endpoints_up, ..EngineProgress::default() },
            ended: false,
            lost: false,
            lacks_input,
            told_exhausted: false,
            held_failures: None,
        }
    }

    /// True unless the rank has ended or is lost.
    pub(crate) fn is_active(&self) -> bool {
        !self.ended && !self.lost
    }
}
