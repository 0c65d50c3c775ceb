//! Counts of prompts by outcome, and lost ranks: values that the manifest, its history and other files share.

use serde::{Deserialize, Serialize};

use crate::domain::FlawCounts;

/// Counts of prompts by outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PromptCounts {
    pub submitted: u64,
    pub answered: u64,
    /// Number of prompts that failed by their own fault.
    pub failed: u64,
    /// Number of prompts without an outcome.
    pub open: u64,
    /// Flaws among the answered prompts.
    #[serde(flatten)]
    pub flaws: FlawCounts,
}

impl PromptCounts {
    /// Returns the counts with the remaining prompts as open.
    #[must_use]
    pub(crate) fn new(submitted: u64, answered: u64, failed: u64) -> Self {
        let open = submitted.saturating_sub(answered + failed);
        Self { submitted, answered, failed, open, flaws: FlawCounts::default() }
    }

    /// Returns the counts with this number of failed prompts counted as open, because they are sent again.
    #[must_use]
    pub(crate) fn with_resent(&self, resent: u64) -> Self {
        let failed = self.failed.saturating_sub(resent);
        Self { flaws: self.flaws, ..Self::new(self.submitted, self.answered, failed) }
    }
}

/// A lost rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LostRank {
    pub rank: usize,
    /// Host that it ran on.
    pub host: String,
}
