//! The state of a run on rank 0, from the opening of the run folder to the report.
//!
//! Owns [`RootRun`], through which all changes of the manifest go. [`open`] prepares it before the scan, [`report`] and
//! `finish` end it, [`heartbeat`] shows other processes that the run is active. The coordinator, which grants work while
//! requests run, is in `dispatch`.

mod finish;
pub(crate) mod heartbeat;
pub(crate) mod open;
pub(crate) mod reduce_measurements;
pub(crate) mod report;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::{
    JobError,
    collect::{aggregate::aggregate_file_names, completion::CompletionState, shard_folders},
    context::JobContext,
    resume::existing_run,
    setup::{
        model_selection::{NeededModel, SelectionInputs, select_model_and_route},
        run_plan::{ModelSelection, PassMode, RunPlan, SHARDS_FOLDER, TOKEN_FILE},
    },
};
use crate::{
    console::StopCause,
    domain::{BitSet, EndpointStatus, Merge, ModelNumber, ModelSet, Tally},
    engine::EngineProgress,
    input::{
        self, InputRules, InputSource, NamedModel, RowModels, RowTable, ScannedInput, SortKeys,
    },
    ledger::WorkOrder,
    new_file::write_new_file,
    output::{
        AnswerFormat, LostRank, Manifest, OutputError, PromptCounts, ReduceProgress, RunActivity,
        RunChange, RunSample, RunState, append_sample, unix_seconds,
    },
    report::format::pluralize,
    settings::{AggregateSpec, GatherMode, SettingOrigin, Settings},
    shards,
};
use heartbeat::HeartbeatThread;
use open::{PendingStart, answer_format, check_input_fits, row_rules};

/// The run as rank 0 keeps it: manifest, input and settings of the output.
pub(super) struct RootRun {
    manifest: Manifest,
    /// Keeps the heartbeat file fresh until this value is dropped.
    heartbeat: HeartbeatThread,
    /// Host name of each rank.
    hosts: Vec<String>,
    folder: PathBuf,
    source: InputSource,
    rules: InputRules,
    table: RowTable,
    /// Keys for the order of work, taken when the assignments are built.
    sort_keys: SortKeys,
    /// The models that rows name, taken when the assignments are built.
    row_models: RowModels,
    /// Number of rows without an outcome by the number of the model that they name.
    open_by_model: Vec<u64>,
    /// Invalid rows, which are recorded as failed outcomes.
    bad_rows: Vec<input::BadRow>,
    tally: Tally,
    /// Error that all first outcomes share, once fail-fast has stopped the job.
    fail_fast_reason: Option<String>,
    /// Reason why the session stopped early, if the same command alone does not help.
    stop_cause: Option<StopCause>,
    /// Number of prompts that remain according to the ledger.
    expected_open: Option<u64>,
    /// True if the answers are gathered into one file.
    gathers_answers: bool,
    /// Aggregates to compute from all answers.
    aggregate: Vec<AggregateSpec>,
    /// True if the run was finished before this session.
    was_finished: bool,
    started_at: Instant,
    /// When the wait for servers began.
    wait_began: Instant,
    /// How long servers were waited for.
    waited: Duration,
    /// True if answers are measured and a report is written.
    writes_report: bool,
    /// Run folder of the leaves, if this is a level of a reduce.
    tree_folder: Option<PathBuf>,
}

/// Opens the run folder for a session whose input is scanned: resumes the existing run or begins a new one, and writes
/// the manifest.
pub(super) fn open_root_run(
    context: &JobContext,
    inputs: &[String],
    ranks: usize,
    pending: PendingStart,
    scanned: ScannedInput,
) -> Result<RootRun, JobError> {
    let settings = &context.settings;
    log_scan(&scanned, &pending);
    let ScannedInput { source, table, keys, bad_rows, models, .. } = scanned;
    let PendingStart {
        output, folder, earlier_manifest, start_number, started_at, heartbeat, ..
    } = pending;
    check_input_fits(settings, &source)?;
    let resumed =
        existing_run::resume_run(settings, earlier_manifest, &source, &folder, start_number)?;
    // Answers carried over to a changed input have a session number of their own.
    let start = resumed.as_ref().map_or(start_number, |manifest| manifest.starts + 1);
    let mut manifest = resumed.unwrap_or_else(|| {
        Manifest::for_new_run(&output.to_string_lossy(), source.rows, &source.fingerprint)
    });
    // A finished run that is started again with the same input writes nothing again.
    let was_finished = manifest.state == RunState::Finished;
    manifest.add_aggregates(&aggregate_file_names(&settings.aggregate, &output));
    manifest.output = output.to_string_lossy().into_owned();
    manifest.format = answer_format(settings, &source);
    manifest.starts = start;
    manifest.ranks = ranks;
    manifest.input = inputs.to_vec();
    manifest.directory = std::env::current_dir().ok();
    record_session(&mut manifest, context);
    set_local_folder(&mut manifest, settings, &output)?;
    if settings.reduce_template.is_some() {
        manifest.reduce = Some(ReduceProgress::default()); // every session walks the tree again from the leaves
    }
    let root = RootRun {
        manifest,
        heartbeat,
        hosts: context.hosts.clone(),
        folder,
        source,
        rules: row_rules(settings),
        table,
        sort_keys: keys,
        row_models: models,
        open_by_model: Vec::new(),
        bad_rows,
        tally: Tally::default(),
        fail_fast_reason: None,
        stop_cause: None,
        expected_open: None,
        gathers_answers: settings.gather == GatherMode::Root,
        aggregate: settings.aggregate.clone(),
        was_finished,
        started_at,
        wait_began: Instant::now(),
        waited: Duration::ZERO,
        writes_report: !settings.no_report,
        tree_folder: None,
    };
    root.open_folder()
}

fn log_scan(scanned: &ScannedInput, pending: &PendingStart) {
    for note in &scanned.notes {
        warn!(event = "input_note", "{note}");
    }
    let (rows, files) = (scanned.source.rows, pending.input_files.len());
    info!(
        event = "input_scanned",
        rows,
        files,
        elapsed_s = pending.started_at.elapsed().as_secs_f64(),
        "input scanned: {}, {}",
        pluralize(rows, "row"),
        pluralize(files as u64, "file")
    );
    if rows == 0 {
        warn!(event = "input_empty", "input is empty: no prompts to send");
    }
}

/// Enters the session's settings, host and process into the manifest.
fn record_session(manifest: &mut Manifest, context: &JobContext) {
    manifest.state = RunState::Running;
    manifest.answer_settings = context.settings.answer_settings();
    manifest.settings = serde_json::to_value(&context.settings).unwrap_or_default();
    let origin_text = |(key, origin): (&String, &SettingOrigin)| (key.clone(), origin.to_string());
    manifest.origins = context.origins.iter().map(origin_text).collect();
    manifest.host.clone_from(&context.placement.node.host);
    manifest.pid = std::process::id();
    manifest.job.clone_from(&context.batch_job_id);
    manifest.began = unix_seconds();
    manifest.lost = Vec::new();
    manifest.record_start();
}

/// Enters the path pattern of local shard files, and warns if an earlier session may have left answers under another one.
fn set_local_folder(
    manifest: &mut Manifest,
    settings: &Settings,
    output: &Path,
) -> Result<(), JobError> {
    let output_name = output.file_name().unwrap_or_default().to_string_lossy();
    let away = shard_folders::local_folder_pattern(
        settings.local_shards.as_deref(),
        &output_name,
        &manifest.id,
    )?;
    if let Some(before) = manifest.away.as_ref().filter(|_| manifest.away != away) {
        warn!(
            event = "local_answers_unreachable",
            "answers of an earlier session not collected: they may be in {before} on its nodes, and their prompts are \
             sent again (the --local-shards of that session would find them)"
        );
    }
    manifest.away = away;
    Ok(())
}

impl RootRun {
    /// Sets what the pass belongs to: the tree of a reduce, if any, and the mode of the job.
    pub(super) fn assign_pass(&mut self, tree: Option<&Path>, mode: PassMode) {
        self.writes_report &= mode != PassMode::OnDemand;
        self.tree_folder = tree.map(Path::to_owned);
    }

    fn open_folder(mut self) -> Result<Self, JobError> {
        let shards = self.folder.join(SHARDS_FOLDER);
        for folder in shards::rank_folders(&shards, self.manifest.starts, self.manifest.ranks) {
            std::fs::create_dir_all(&folder)
                .map_err(OutputError::io_error("cannot make", &folder))?;
        }
        let token = self.folder.join(TOKEN_FILE);
        write_new_file(&token, self.folder_token().as_bytes())
            .map_err(OutputError::io_error("cannot write", &token))?;
        self.manifest.write_to(&self.folder)?;
        self.heartbeat.set_phase(RunActivity::ReadingAnswers);
        Ok(self)
    }

    /// Returns a token that differs in every session, so that a node with a stale copy of the folder is detected.
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
            identity: self.manifest.identity(),
            keep_bodies: self.manifest.format == AnswerFormat::OpenaiBatch,
            aggregate: self.aggregate.clone(),
            start: self.manifest.starts,
            local_shards: self.manifest.away.clone(),
            folder_token: self.folder_token(),
            report: self.writes_report,
        }
    }

    /// Selects model and route for the found endpoints and records them. Returns `None` if too few endpoints are ready.
    pub(super) fn select_model(
        &mut self,
        context: &JobContext,
        found: &[Vec<EndpointStatus>],
    ) -> Result<Option<ModelSelection>, JobError> {
        let known = SelectionInputs {
            source: &self.source,
            row_models: self.needed_models(),
            any_unnamed: self.open_by_model.first().is_some_and(|&count| count > 0),
            previous_model: self.manifest.model.as_deref(),
            previous_api: self.manifest.api.as_deref(),
        };
        let selection = select_model_and_route(&context.settings, &known, found);
        if let Ok(Some(selection)) = &selection {
            self.record_selection(selection)?;
        } else {
            // All answers of earlier sessions are collected, and this one has written none.
            (self.manifest.away, self.manifest.resent) = (None, 0);
            self.manifest.state = RunState::Stopped;
            self.manifest.write_to(&self.folder)?;
            existing_run::warn_about_replaced(&self.folder, self.manifest.starts);
        }
        selection
    }

    /// Returns the models that prompts without an outcome name, with the place of the first row of each.
    fn needed_models(&self) -> Vec<NeededModel> {
        let place = |model: &NamedModel| {
            let (file, line) = model.first;
            let file = self.source.files.get(file as usize).map(|file| file.path.display());
            let file = file.map_or(String::new(), |path| path.to_string());
            let rows = pluralize(model.count, "row");
            format!("{rows}, first: {file} line {line}")
        };
        let open = self.open_by_model.iter().skip(1);
        let needed = self.row_models.named().iter().zip(open).filter(|(_, open)| **open > 0);
        needed
            .map(|(model, _)| NeededModel { name: model.name.clone(), place: place(model) })
            .collect()
    }

    /// Records model and route in the manifest, and deletes the run that this one overwrites: from here on prompts are sent.
    pub(super) fn record_selection(&mut self, selection: &ModelSelection) -> Result<(), JobError> {
        self.waited = self.wait_began.elapsed();
        self.manifest.record_wait(self.waited.as_secs_f64());
        let before = self.manifest.model.replace(selection.model.clone());
        if let Some(before) = before.filter(|before| *before != selection.model) {
            let change = format!("the model was {before} and is {}", selection.model);
            let start = self.manifest.starts;
            self.manifest.changes.push(RunChange { start, settings: vec![change], input: None });
        }
        self.manifest.models = match selection.models.as_slice() {
            [_] => Vec::new(),
            several => several.iter().map(|model| model.name.clone()).collect(),
        };
        self.manifest.api = Some(selection.api_name().into());
        self.manifest.write_to(&self.folder)?;
        existing_run::remove_replaced(&self.folder, self.manifest.starts)
    }

    /// Returns the order of work of the prompts without an outcome, for each group of models, and the table of their rows,
    /// which it moves out. Invalid rows count as done: their outcomes are written by rank 0.
    pub(super) fn take_work_orders(
        &mut self,
        done: &BitSet,
        selection: &ModelSelection,
    ) -> (Vec<(ModelSet, WorkOrder)>, RowTable) {
        self.heartbeat.set_phase(RunActivity::Asking);
        let mut done = done.clone();
        for bad in &self.bad_rows {
            done.insert(bad.index);
        }
        let keys = std::mem::take(&mut self.sort_keys);
        let order = match keys.work_order(self.source.rows, |row| !done.contains(row)) {
            Some(rows) => WorkOrder::Sorted(rows),
            None => WorkOrder::from_runs(done.missing_ranges().map(|(from, to)| from..to)),
        };
        drop(keys);
        let models = std::mem::take(&mut self.row_models);
        let numbers = selection.numbers_of(models.named().iter().map(|it| it.name.as_str()));
        let counts = numbers.iter().zip(&self.open_by_model);
        let needed = counts.filter(|(_, open)| **open > 0).map(|(model, _)| *model).collect();
        let groups = selection.group_models(&needed);
        let orders = if groups.len() <= 1 {
            vec![order]
        } else {
            let group_of = |model: ModelNumber| groups.iter().position(|set| set.contains(model));
            let group_of: Vec<usize> =
                numbers.into_iter().map(|model| group_of(model).unwrap_or(0)).collect();
            order.split_into(groups.len(), |row| group_of[usize::from(models.number_of_row(row))])
        };
        // (without a ready endpoint there is no group)
        let sets = groups.into_iter().chain([ModelSet::default()]);
        (sets.zip(orders).collect(), std::mem::take(&mut self.table))
    }

    /// Sets the counts at the start of the session from the shard files, which are ahead of the manifest if the earlier
    /// session was killed.
    pub(super) fn apply_completion(
        &mut self,
        completion: &CompletionState,
        done: &BitSet,
    ) -> Result<(), JobError> {
        self.bad_rows.retain(|bad| !done.contains(bad.index));
        self.manifest.set_start_counts(&completion.outcome_counts(self.source.rows));
        self.manifest.resent = completion.resent_count(done);
        let mut not_sent = done.clone();
        not_sent.extend(self.bad_rows.iter().map(|bad| bad.index));
        self.open_by_model = self.row_models.count_open(&not_sent);
        self.wait_began = Instant::now();
        let all_done = done.missing_ranges().next().is_none();
        self.heartbeat.set_phase(if all_done {
            RunActivity::Gathering
        } else {
            RunActivity::AwaitingEndpoints
        });
        Ok(self.manifest.write_to(&self.folder)?)
    }

    /// Writes the progress so far to the manifest and the samples.
    pub(super) fn record_progress(
        &mut self,
        before: &PromptCounts,
        progress: &EngineProgress,
        lost: usize,
    ) {
        let tally = &progress.tally;
        let (answered, failed) =
            (before.answered + tally.answered, before.failed + tally.failed_count());
        let mut flaws = before.flaws;
        flaws.merge(tally.flaws);
        self.manifest.counts =
            PromptCounts { flaws, ..PromptCounts::new(self.source.rows, answered, failed) };
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
            warn!(event = "sample_not_written", "progress sample not written: {error}");
        }
        if let Err(error) = self.manifest.write_to(&self.folder) {
            warn!(event = "manifest_not_written", "manifest not written: {error}");
        }
    }

    /// Invalid rows of the input, which rank 0 records as failed outcomes.
    pub(super) fn bad_rows(&self) -> &[input::BadRow] {
        &self.bad_rows
    }

    /// True once fail-fast has stopped the job.
    pub(super) fn is_failed_fast(&self) -> bool {
        self.fail_fast_reason.is_some()
    }

    /// Records why the session stops early; the first reason is kept.
    pub(super) fn record_stop(&mut self, cause: StopCause) {
        self.stop_cause.get_or_insert(cause);
    }

    /// Records the error that made fail-fast stop the job; the first one is kept.
    pub(super) fn record_fail_fast(&mut self, message: String) {
        self.fail_fast_reason.get_or_insert(message);
    }

    /// Returns the counts in the manifest: before the work, those of earlier sessions.
    pub(super) fn prompt_counts(&self) -> PromptCounts {
        self.manifest.counts.clone()
    }

    /// Returns the counts at the start of the work: failed prompts that are sent again are open.
    pub(super) fn counts_before_work(&self) -> PromptCounts {
        self.manifest.counts.with_resent(self.manifest.resent)
    }

    /// Records that no answers are left in local directories of the nodes.
    pub(super) fn mark_shards_collected(&mut self) {
        self.manifest.away = None;
    }

    /// Returns the name of this pass within a reduce (`leaves`, `level 1`); `None` if the job is no reduce.
    pub(super) fn pass_name(&self) -> Option<String> {
        match &self.tree_folder {
            Some(_) => {
                let name = self.folder.file_stem().unwrap_or_default().to_string_lossy();
                Some(name.replace("level-0", "level ").replace('-', " "))
            }
            None => self.manifest.reduce.map(|_| "leaves".into()),
        }
    }

    /// Records how many prompts remain by the ledger when the work ends; the shard files must agree.
    pub(super) fn expect_open(&mut self, open: u64) {
        self.heartbeat.set_phase(if open == 0 {
            RunActivity::Gathering
        } else {
            RunActivity::ReadingAnswers
        });
        self.expected_open = Some(open);
    }

    pub(super) fn set_lost_ranks(&mut self, ranks: &[usize]) {
        let host = |rank: usize| self.hosts.get(rank).cloned().unwrap_or_default();
        self.manifest.lost =
            ranks.iter().map(|&rank| LostRank { rank, host: host(rank) }).collect();
    }

    pub(super) fn lost_ranks(&self) -> Vec<usize> {
        self.manifest.lost.iter().map(|lost| lost.rank).collect()
    }

    /// Returns the model of this run and the route of its texts, if they are selected.
    pub(super) fn model_and_api(&self) -> (Option<String>, Option<String>) {
        (self.manifest.model.clone(), self.manifest.api.clone())
    }

    /// Returns a text that changes whenever answers become invalid: the model and the first session whose answers count.
    pub(super) fn answer_provenance(&self) -> String {
        format!("{:?} {}", self.manifest.model, self.manifest.first_valid_start())
    }

    /// Returns the path of the answers, or of the text of a reduce.
    pub(super) fn output_path(&self) -> &str {
        &self.manifest.output
    }

    /// Writes the progress of a reduce's tree to the manifest.
    pub(super) fn record_tree_state(
        &mut self,
        tree: ReduceProgress,
        state: RunState,
    ) -> Result<(), JobError> {
        (self.manifest.reduce, self.manifest.state) = (Some(tree), state);
        self.heartbeat.set_phase(RunActivity::Asking);
        Ok(self.manifest.write_to(&self.folder)?)
    }

    pub(super) fn add_tally(&mut self, tally: Tally) {
        self.tally.merge(tally);
    }
}
