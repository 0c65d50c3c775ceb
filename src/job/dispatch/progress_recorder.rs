//! Progress of the work phase, on rank 0: the display, and the counts and samples in the run folder.
//!
//! Owns when each is updated. How progress is displayed is in `console/progress.rs`.

use std::time::{Duration, Instant};

use super::rank_state::RankState;
use crate::job::{root::RootRun, setup::deadline::Deadline};
use crate::{
    console::ProgressView,
    domain::{FailureKind, Merge},
    engine::EngineProgress,
    output::PromptCounts,
    settings::Settings,
};

/// Interval between two writes of the manifest.
const MANIFEST_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at first, so that a session that is killed early leaves a timeline too.
const EARLY_MANIFEST_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two updates of the display, which itself limits its output further.
const DISPLAY_INTERVAL: Duration = Duration::from_millis(500);

/// Display and record of the progress of all ranks.
pub(crate) struct ProgressRecorder {
    view: ProgressView,
    /// Counts at the start of this session.
    counts_before: PromptCounts,
    started_at: Instant,
    next_display: Instant,
    next_manifest: Instant,
}

impl ProgressRecorder {
    /// `open_prompts` is the number of prompts without an outcome in the ledger, on all `ranks`.
    pub(crate) fn new(
        root: &RootRun,
        settings: &Settings,
        ranks: usize,
        open_prompts: u64,
        deadline: Deadline,
    ) -> Self {
        let counts_before = root.counts_before_work();
        // Failed prompts that are sent again are open in the ledger, so they do not count as done.
        let done = counts_before.submitted.saturating_sub(open_prompts);
        let totals = (counts_before.submitted, done);
        let now = Instant::now();
        Self {
            view: ProgressView::new(
                settings.progress,
                ranks,
                totals,
                root.pass_name(),
                deadline.at,
            ),
            counts_before,
            started_at: now,
            next_display: now,
            // The first sample is taken at once: a rate needs two.
            next_manifest: now,
        }
    }

    /// Returns the start of the work phase.
    pub(crate) fn started_at(&self) -> Instant {
        self.started_at
    }

    /// Updates display and run folder as far as they are due.
    pub(crate) fn record_if_due(&mut self, now: Instant, ranks: &[RankState], root: &mut RootRun) {
        if now < self.next_display {
            return;
        }
        self.next_display = now + DISPLAY_INTERVAL;
        let progress = total_progress(ranks, root);
        self.view.update_display(&progress.tally, progress.in_flight, progress.endpoints_up);
        if now >= self.next_manifest {
            let early = now - self.started_at < 2 * MANIFEST_INTERVAL;
            self.next_manifest =
                now + if early { EARLY_MANIFEST_INTERVAL } else { MANIFEST_INTERVAL };
            let lost = ranks.iter().filter(|rank| rank.lost).count();
            root.record_progress(&self.counts_before, &progress, lost);
        }
    }

    /// Updates both for the last time. `lost` is the number of ranks that are lost and have not ended their work.
    pub(crate) fn finish(&mut self, progress: &EngineProgress, lost: usize, root: &mut RootRun) {
        self.view.update_display(&progress.tally, 0, progress.endpoints_up);
        self.view.clear_bar();
        // Gathering may take long; `status` should show meanwhile that all prompts are done.
        root.record_progress(&self.counts_before, progress, lost);
    }
}

/// Returns the sum over all ranks and the rows that could not be read.
pub(crate) fn total_progress(ranks: &[RankState], root: &RootRun) -> EngineProgress {
    let mut sum = EngineProgress::default();
    let bad_rows = root.bad_rows().len() as u64;
    if bad_rows > 0 {
        sum.tally.failed.insert(FailureKind::BadRow, bad_rows);
    }
    for rank in ranks {
        sum.tally.merge(rank.progress.tally.clone());
        sum.in_flight += rank.progress.in_flight;
        sum.endpoints_up += rank.progress.endpoints_up;
    }
    sum
}
