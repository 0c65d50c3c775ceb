//! How a start ends, on rank 0: what the manifest comes to say, and the last word.

use std::path::Path;

use tracing::warn;

use super::Root;
use super::report::page_of;
use crate::{
    console::{self, Finish},
    input::Source,
    job::{
        JobError, Verdict,
        collect::{
            aggregate::{names, remove_stale, report_place},
            completion::Standing,
            gather::gather_alone,
            local_shards::{self, Folders},
        },
        resume::existing_run,
        setup::run_plan::Brief,
    },
    metrics::Measured,
    output::{Counts, State},
};

impl Root {
    /// The end without an end: what is counted so far is left as it is.
    pub(in crate::job) fn stopped(&mut self) {
        self.manifest.state = State::Stopped;
        if let Err(error) = self.manifest.write(&self.folder) {
            warn!("the manifest cannot be written: {error}");
        }
        self.heart.stop();
    }

    /// The end, written last of all. It is none where the answers could not be gathered; of a reduce it is the end of the
    /// leaves, and nothing is finished.
    pub(in crate::job) fn end(
        &mut self,
        standing: &Standing,
        gathered: bool,
        measured: Option<&Measured>,
    ) -> Result<Verdict, JobError> {
        let counts = standing.counts(self.source.rows);
        self.manifest.counts = counts.clone();
        let finished = counts.open == 0 && gathered && self.manifest.reduce.is_none();
        self.manifest.state = if finished { State::Finished } else { State::Stopped };
        self.manifest.seconds += self.began.elapsed().as_secs_f64();
        self.manifest.requests += self.tally.requests;
        self.manifest.did(&self.tally, self.began.elapsed().as_secs_f64());
        if finished && !(self.was_finished && self.tally.settled() == 0) {
            let output = Path::new(&self.manifest.output);
            let made = names(&self.aggregate, output);
            self.manifest.aggregates.retain(|it| !made.contains(it));
            remove_stale(&self.manifest.aggregates, output);
            self.manifest.aggregates = made;
        }
        // Whatever becomes of the manifest, people hear how the run stands.
        let written = self.manifest.write(&self.folder).map_err(JobError::from);
        let written =
            written.and_then(|()| existing_run::drop_replaced(&self.folder, self.manifest.starts));
        if counts.open == 0 {
            // A table may be small, and its rows a thousand times as large.
            existing_run::drop_spools(&self.folder, 1..self.manifest.starts + 1);
        }
        (self.table, self.keys) = Default::default(); // a reduce goes on, and needs no more of the leaves' rows
        let missing = self.expected.map_or(0, |open| counts.open.saturating_sub(open));
        if missing > 0 {
            let (folder, away) = (self.folder.display(), self.manifest.away.as_ref());
            let why = away.map_or_else(
                || format!("were files of {folder} removed?"),
                |away| format!("they may be in {away} of nodes whose ranks are not here any more"),
            );
            warn!("{missing} prompts that were settled have no outcome in the shard files: {why}");
        }
        self.say(&counts, finished, measured);
        if let Some(words) = self.wrong.take() {
            return Err(JobError::AllAlike(words));
        }
        written.map_err(JobError::unfinished)?;
        Ok(match counts {
            Counts { open: 1.., .. } => Verdict::Open,
            Counts { failed: 1.., .. } => Verdict::SomeFailed,
            _ => Verdict::Done,
        })
    }

    /// The end without the ranks that are lost: no collective is possible any more. Rank 0 alone reads what all have
    /// written; if nothing is open, it writes the answers.
    pub(in crate::job) fn end_without(
        mut self,
        brief: &Brief,
        folders: &Folders,
    ) -> Result<Verdict, JobError> {
        let named: Vec<String> =
            self.manifest.lost.iter().map(|it| format!("{} ({})", it.rank, it.host)).collect();
        warn!("the job ends without ranks that are lost: {}", named.join(", "));
        if let Err(error) = local_shards::bring_alone(folders, brief) {
            warn!("{error}");
        }
        let Source { rows, fingerprint, .. } = &self.source;
        let (standing, lines) = Standing::of_folder_with_lines(&self.folder, *rows, fingerprint)?;
        let counts = standing.counts(*rows);
        let gathered = gather_alone(lines, &counts, &brief.output, &brief.wanted(&counts));
        let measured = gathered.as_ref().ok().and_then(Option::as_ref);
        let ended = self.end(&standing, gathered.is_ok(), measured);
        self.report(&gathered);
        gathered.and(ended)
    }

    /// The last word, but for levels of a reduce of which nothing is open: their sums are told at its end.
    fn say(&self, counts: &Counts, finished: bool, measured: Option<&Measured>) {
        let (open, is_reduce) = (counts.open > 0, self.manifest.reduce.is_some());
        if self.tree.is_some() && !open && self.manifest.lost.is_empty() {
            return;
        }
        let gathered = self.gather && finished;
        let aggregated = !self.aggregate.is_empty() && finished;
        let aggregate = report_place(Path::new(&self.manifest.output));
        let folder = self.tree.as_ref().unwrap_or(&self.folder);
        // Of a reduce that goes on, there is none yet.
        let report = (self.report && (open || !is_reduce)).then(|| page_of(folder));
        console::print(
            &Finish {
                what: self.what().map_or("prompts".into(), Into::into),
                counts,
                tally: &self.tally,
                failures: measured.map(|it| &it.failures),
                seconds: self.began.elapsed().as_secs_f64(),
                ranks: self.manifest.ranks,
                starts: self.manifest.starts,
                output: gathered.then_some(self.manifest.output.as_str()),
                aggregate: aggregated.then(|| aggregate.to_string_lossy()).as_deref(),
                report: report.as_ref().map(|it| it.to_string_lossy()).as_deref(),
                folder: &folder.to_string_lossy(),
                goes_on: is_reduce && !open,
            }
            .to_string(),
        );
    }
}
