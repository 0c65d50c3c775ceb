//! What rank 0 alone does: reads the input over, opens the run folder, chooses the model, begins the ledger, keeps the
//! manifest.

mod finish;
pub(crate) mod heartbeat;
pub(crate) mod open;
pub(crate) mod report;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tracing::{info, warn};

use super::{
    JobError,
    collect::{aggregate::aggregate_file_names, completion::CompletionState, local_shards},
    context::JobContext,
    dispatch::assignments::Assignments,
    pipeline::pass::PassMode,
    resume::existing_run,
    setup::{
        model_selection::{SelectionInputs, select_model_and_route},
        run_plan::{ModelSelection, RunPlan, SHARDS_FOLDER, TOKEN_FILE},
    },
};
use crate::{
    domain::{EndpointStatus, Merge, Tally},
    engine::EngineProgress,
    input::{self, InputRules, InputSource, RowTable, ScannedInput, SortKeys},
    ledger::WorkOrder,
    output::{
        LostRank, Manifest, OutputError, PromptCounts, ReduceProgress, RunActivity, RunChange,
        RunSample, RunState, append_sample, unix_seconds,
    },
    settings::{AggregateSpec, GatherMode},
    shards::{self, IndexSet},
};
use heartbeat::HeartbeatThread;
use open::{PendingStart, answer_format, check_input_fits, row_rules};

/// Rank 0's own.
pub(super) struct RootRun {
    pub(super) manifest: Manifest,
    /// Beats for as long as there is a root.
    heartbeat: HeartbeatThread,
    /// Each rank's host.
    hosts: Vec<String>,
    pub(super) folder: PathBuf,
    source: InputSource,
    rules: InputRules,
    table: RowTable,
    /// What the order of work goes by, until there is one.
    sort_keys: SortKeys,
    /// A model that all rows name.
    row_model: Option<String>,
    /// Rows that cannot be read, which are failed outcomes.
    pub(super) bad_rows: Vec<input::BadRow>,
    pub(super) tally: Tally,
    /// What all first outcomes say: the job is wrong.
    pub(super) fail_fast_reason: Option<String>,
    /// Prompts that should be open at the end.
    expected_open: Option<u64>,
    /// Do answers come together in one file?
    gathers_answers: bool,
    /// What is made of all of them.
    aggregate: Vec<AggregateSpec>,
    /// Had everything its outcome before this start?
    was_finished: bool,
    pub(super) started_at: Instant,
    /// Are lines measured, and is a report written of them?
    pub(super) writes_report: bool,
    /// Of a level of a reduce: the run folder of its leaves.
    pub(super) tree_folder: Option<PathBuf>,
}

/// Rank 0's own, of a start whose input is known, and its run folder open.
pub(super) fn open_root_run(
    common: &JobContext,
    inputs: &[String],
    ranks: usize,
    PendingStart {
        output,
        folder,
        earlier_manifest: earlier,
        start_number: start,
        started_at: began,
        heartbeat: heart,
        ..
    }: PendingStart,
    scanned: ScannedInput,
) -> Result<RootRun, JobError> {
    let settings = &common.settings;
    let rules = row_rules(settings);
    let output_name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = output.to_string_lossy().into_owned();
    scanned.notes.iter().for_each(|note| warn!("{note}"));
    let ScannedInput { source, table, keys, bad_rows: bad, row_model, .. } = scanned;
    info!(rows = source.rows, seconds = began.elapsed().as_secs_f64(), "the input is read over");
    if source.rows == 0 {
        warn!("the input has no rows: there is nothing to ask");
    }
    check_input_fits(settings, &source)?;
    let earlier = existing_run::resume_run(settings, earlier, &source, &folder, start)?;
    // A changed input has taken a start's number for what is carried over.
    let start = earlier.as_ref().map_or(start, |it| it.starts + 1);
    let mut manifest =
        earlier.unwrap_or_else(|| Manifest::begin(&output, source.rows, &source.fingerprint));
    // (a start that is told the same of a finished run makes nothing anew)
    let was_finished = manifest.state == RunState::Finished;
    manifest.add_aggregates(&aggregate_file_names(&settings.aggregate, Path::new(&output)));
    manifest.output = output;
    manifest.format = answer_format(settings, &source);
    manifest.state = RunState::Running;
    manifest.starts = start;
    manifest.ranks = ranks;
    manifest.input = inputs.to_vec();
    manifest.deciding = settings.answer_settings();
    manifest.settings = serde_json::to_value(settings).unwrap_or_default();
    manifest.origins.clone_from(&common.origins);
    manifest.host.clone_from(&common.placement.node.host);
    manifest.pid = std::process::id();
    manifest.job.clone_from(&common.batch_job_id);
    manifest.began = unix_seconds();
    manifest.lost = Vec::new();
    manifest.record_start();
    let away = local_shards::local_folder_pattern(
        settings.local_shards.as_deref(),
        &output_name,
        &manifest.id,
    )?;
    if let Some(before) = manifest.away.as_ref().filter(|_| manifest.away != away) {
        warn!(
            "an earlier start may have left answers in {before} of its nodes: they are asked again. Its --local-shards would \
             find them"
        );
    }
    manifest.away = away;
    if settings.reduce_template.is_some() {
        manifest.reduce = Some(ReduceProgress::default()); // it is gone through from the leaves on, whatever is there
    }
    let root = RootRun {
        manifest,
        heartbeat: heart,
        hosts: common.hosts.clone(),
        folder,
        source,
        rules,
        table,
        sort_keys: keys,
        row_model,
        bad_rows: bad,
        tally: Tally::default(),
        fail_fast_reason: None,
        expected_open: None,
        gathers_answers: settings.gather == GatherMode::Root,
        aggregate: settings.aggregate.clone(),
        was_finished,
        started_at: began,
        writes_report: !settings.no_report,
        tree_folder: None,
    };
    root.open_folder()
}

impl RootRun {
    /// Whose pass it is.
    pub(super) fn assign_pass(&mut self, tree: Option<&Path>, passes: PassMode) {
        self.writes_report &= passes != PassMode::OnDemand;
        self.tree_folder = tree.map(Path::to_owned);
    }

    fn open_folder(mut self) -> Result<Self, JobError> {
        let shards = self.folder.join(SHARDS_FOLDER);
        for folder in shards::rank_folders(&shards, self.manifest.starts, self.manifest.ranks) {
            std::fs::create_dir_all(&folder)
                .map_err(OutputError::io_error("cannot make", &folder))?;
        }
        let token = self.folder.join(TOKEN_FILE);
        std::fs::write(&token, self.folder_token())
            .map_err(OutputError::io_error("cannot write", &token))?;
        self.manifest.write(&self.folder)?;
        self.heartbeat.set_phase(RunActivity::ReadingAnswers);
        Ok(self)
    }

    /// New with every start, so that a node that sees an old copy of the folder is found out.
    fn folder_token(&self) -> String {
        let Manifest { host, pid, began, starts, .. } = &self.manifest;
        format!("{host} {pid} {began} {starts}\n")
    }

    pub(super) fn run_plan(&self) -> RunPlan {
        RunPlan {
            source: self.source.clone(),
            rules: self.rules.clone(),
            folder: std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone()),
            output: std::path::absolute(&self.manifest.output).unwrap_or_default(),
            format: self.gathers_answers.then_some(self.manifest.format),
            aggregate: self.aggregate.clone(),
            start: self.manifest.starts,
            local_shards: self.manifest.away.clone(),
            folder_token: self.folder_token(),
            report: self.writes_report,
        }
    }

    /// The model, the route and who is there to be asked; `None` where nobody is.
    pub(super) fn select_model(
        &mut self,
        common: &JobContext,
        found: &[Vec<EndpointStatus>],
    ) -> Result<Option<ModelSelection>, JobError> {
        let known = SelectionInputs {
            source: &self.source,
            row_model: self.row_model.as_deref(),
            previous_model: self.manifest.model.as_deref(),
            previous_api: self.manifest.api.as_deref(),
        };
        let choice = select_model_and_route(&common.settings, &known, found);
        if let Ok(Some(choice)) = &choice {
            self.record_selection(choice)?;
        } else {
            // All there was has come home, and nothing new was written.
            self.manifest.away = None;
            self.manifest.state = RunState::Stopped;
            self.manifest.write(&self.folder)?;
            existing_run::warn_about_replaced(&self.folder, self.manifest.starts);
        }
        choice
    }

    /// This is asked: the run that was to be written over is not needed any more.
    pub(super) fn record_selection(&mut self, choice: &ModelSelection) -> Result<(), JobError> {
        let before = self.manifest.model.replace(choice.model.clone());
        if let Some(before) = before.filter(|before| *before != choice.model) {
            let words = format!("the model was {before} and is {}", choice.model);
            let start = self.manifest.starts;
            self.manifest.changes.push(RunChange { start, settings: vec![words], input: None });
        }
        self.manifest.api = Some(choice.api_name().into());
        self.manifest.write(&self.folder)?;
        existing_run::remove_replaced(&self.folder, self.manifest.starts)
    }

    /// The ledger of what is to do, in the order of work. Rows that cannot be read have their outcome.
    pub(super) fn build_assignments(&mut self, done: &IndexSet, ranks: usize) -> Assignments {
        self.heartbeat.set_phase(RunActivity::Asking);
        let mut done = done.clone();
        self.bad_rows.iter().for_each(|bad| done.insert(bad.index));
        let keys = std::mem::take(&mut self.sort_keys);
        let order = match keys.work_order(self.source.rows, |row| !done.contains(row)) {
            Some(rows) => WorkOrder::Sorted(rows),
            None => WorkOrder::from_runs(done.missing_ranges().map(|(from, to)| from..to)),
        };
        Assignments::new(order, std::mem::take(&mut self.table), ranks)
    }

    /// What the shard files say was done before: the manifest of a run that was killed is behind them.
    pub(super) fn apply_completion(
        &mut self,
        standing: &CompletionState,
        done: &IndexSet,
    ) -> Result<(), JobError> {
        self.bad_rows.retain(|bad| !done.contains(bad.index));
        self.manifest.set_start_counts(&standing.counts(self.source.rows));
        let all_done = done.missing_ranges().next().is_none();
        self.heartbeat.set_phase(if all_done {
            RunActivity::Gathering
        } else {
            RunActivity::AwaitingEndpoints
        });
        Ok(self.manifest.write(&self.folder)?)
    }

    /// While the work goes on: what is done so far, about (a failed prompt that is asked again is counted once more).
    pub(super) fn record_progress(
        &mut self,
        before: &PromptCounts,
        progress: &EngineProgress,
        lost: usize,
    ) {
        let tally = &progress.tally;
        let (answered, failed) =
            (before.answered + tally.answered, before.failed + tally.failed_count());
        self.manifest.counts = PromptCounts::new(self.source.rows, answered, failed);
        self.manifest.record_progress(tally, self.started_at.elapsed().as_secs_f64());
        let sample = RunSample {
            start: self.manifest.starts,
            seconds: self.started_at.elapsed().as_secs_f64(),
            answered,
            failed,
            prompt_tokens: tally.prompt_tokens,
            completion_tokens: tally.completion_tokens,
            requests: tally.requests,
            in_flight: progress.in_flight,
            endpoints_up: progress.endpoints_up,
            ranks_lost: lost as u64,
        };
        if let Err(error) = append_sample(&self.folder, &sample) {
            warn!("{error}");
        }
        if let Err(error) = self.manifest.write(&self.folder) {
            warn!("the manifest cannot be written: {error}");
        }
    }

    /// What was done before this start.
    pub(super) fn prompt_counts(&self) -> PromptCounts {
        self.manifest.counts.clone()
    }

    /// All that ranks keep on their nodes is here.
    pub(super) fn mark_shards_collected(&mut self) {
        self.manifest.away = None;
    }

    /// Of a reduce: which of its passes this is.
    pub(super) fn pass_name(&self) -> Option<String> {
        match &self.tree_folder {
            Some(_) => {
                let name = self.folder.file_stem().unwrap_or_default().to_string_lossy();
                Some(name.replace("level-0", "level ").replace('-', " "))
            }
            None => self.manifest.reduce.map(|_| "leaves".into()),
        }
    }

    /// The work is over, and so many prompts are open by the ledger: what is written is read and put together.
    pub(super) fn expect_open(&mut self, open: u64) {
        self.heartbeat.set_phase(if open == 0 {
            RunActivity::Gathering
        } else {
            RunActivity::ReadingAnswers
        });
        self.expected_open = Some(open);
    }

    /// These ranks are not here any more.
    pub(super) fn set_lost_ranks(&mut self, ranks: &[usize]) {
        let host = |&rank: &usize| self.hosts.get(rank).cloned().unwrap_or_default();
        self.manifest.lost =
            ranks.iter().map(|rank| LostRank { rank: *rank, host: host(rank) }).collect();
    }

    /// Ranks that are not here any more.
    pub(super) fn lost_ranks(&self) -> Vec<usize> {
        self.manifest.lost.iter().map(|it| it.rank).collect()
    }

    /// What was asked so far: the model, and the route of texts.
    pub(super) fn model_and_api(&self) -> (Option<String>, Option<String>) {
        (self.manifest.model.clone(), self.manifest.api.clone())
    }

    /// By which model, and by starts from which on, the answers are that count.
    pub(super) fn answer_provenance(&self) -> String {
        format!("{:?} {}", self.manifest.model, self.manifest.first_valid_start())
    }

    /// Where the answers, or the text of a reduce, go.
    pub(super) fn output_path(&self) -> &str {
        &self.manifest.output
    }

    /// Of a reduce: how its tree stands from now on.
    pub(super) fn record_tree_state(
        &mut self,
        tree: ReduceProgress,
        state: RunState,
    ) -> Result<(), JobError> {
        (self.manifest.reduce, self.manifest.state) = (Some(tree), state);
        self.heartbeat.set_phase(RunActivity::Asking);
        Ok(self.manifest.write(&self.folder)?)
    }

    pub(super) fn add_tally(&mut self, tally: Tally) {
        self.tally.merge(tally);
    }
}
