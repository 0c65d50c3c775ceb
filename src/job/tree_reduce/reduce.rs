//! The `reduce` command: makes one text of many answers, one level of a tree at a time.
//!
//! Owns the sequence: the leaves are a pass of the pipeline, and so is each level, over prompts that are built from the texts
//! of the level below. The shape of the tree belongs to [`reduce`](crate::reduce), and building a level's prompts to
//! [`super::level`].

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tracing::info;

use super::{
    level::{LevelBuilder, LevelFiles, build_level_prompts, read_level_groups},
    measurements::PassMeasurements,
    node_texts::{NodeTexts, TextFailure, merge_nodes},
    provenance::write_tree_file,
};
use crate::job::{
    Invocation, JobError, JobVerdict,
    collect::gather::measure_answers,
    context::{JobContext, all_ok, establish_context, root_result},
    pipeline::pass::{JobResources, PassResult, run_pass},
    root::RootRun,
};
use crate::{
    comm::{Comm, ReduceOp, TypedComm},
    console,
    output::{AnswerFormat, OutputError, ReduceProgress, RunState, replace_file},
    reduce::{DEFAULT_REDUCE_TEMPLATE, ReduceTemplate, ReduceTree, TokenBudget},
    settings::{ApiMode, BadRowPolicy, DuplicateIdPolicy, GatherMode, ResumePolicy},
    shards::IndexSet,
};

/// Answers the prompts of `inputs` and reduces the answers to one text. Collective.
///
/// # Errors
/// The settings, the input or an existing run do not allow it, or a file cannot be read or written. Answers received until
/// then are on disk.
pub fn run_reduce(
    comm: &mut dyn Comm,
    mut given: Invocation,
    inputs: &[String],
) -> Result<JobVerdict, JobError> {
    let mut crew = JobResources::new(given.guard.take(), given.exit_code);
    crew.pass_mode = PassMode::Multiple;
    let common = establish_context(comm, given)?;
    console::set_log_identity(common.placement.rank, &common.placement.node.host);
    reduce_tree(comm, common, &mut crew, inputs)
}

/// Runs [`run_reduce`] in a job context that exists already. Collective.
pub(crate) fn reduce_tree(
    comm: &mut dyn Comm,
    mut common: JobContext,
    crew: &mut JobResources,
    inputs: &[String],
) -> Result<JobVerdict, JobError> {
    let recipe = all_ok(comm, prepare_settings(&mut common))?;
    let Some(leaves) = run_pass(comm, &common, crew, inputs)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    let mut growth = TreeReducer::from_leaves(comm, common, crew, recipe, leaves)?;
    let grown = growth.run_levels(comm);
    growth.resources.tree_folder = None;
    // An input without rows is an error, but there is nothing to resume, so that run is not marked as stopped.
    if !matches!(grown, Ok(JobVerdict::Done | JobVerdict::SomeFailed))
        && growth.tree.node_count(0) > 0
        && let Some(root) = &mut growth.root
    {
        root.mark_stopped();
    }
    if let Some(root) = &growth.root {
        let ended = matches!(grown, Ok(JobVerdict::Done | JobVerdict::SomeFailed));
        root.finish_tree_report(std::mem::take(&mut growth.measurements), ended);
    }
    grown
}

/// Checks and adjusts the settings for a reduce, and parses the prompt template of its groups.
fn prepare_settings(common: &mut JobContext) -> Result<ReduceTemplate, JobError> {
    let settings = &mut common.settings;
    if settings.n > 1 {
        return Err(JobError::PreconditionFailed(
            "a tree takes one answer a prompt: leave out --n".into(),
        ));
    }
    if settings.output_format.is_some() {
        return Err(JobError::PreconditionFailed(
            "the output of a reduce is a text: leave out --output-format (merge writes the leaves' answers in any format)"
                .into(),
        ));
    }
    let output = Path::new(settings.output.as_deref().unwrap_or_default());
    if AnswerFormat::Jsonl.infer_from_path(output) == AnswerFormat::Parquet {
        return Err(JobError::PreconditionFailed(
            "the output of a reduce is a text, and would be no Parquet: give --output another ending (merge writes the \
             leaves' answers in any format)"
                .into(),
        ));
    }
    if !settings.aggregate.is_empty() {
        return Err(JobError::PreconditionFailed(
            "a reduce makes a text of the answers: leave out --aggregate (merge --aggregate makes those of the leaves)".into(),
        ));
    }
    settings.gather = GatherMode::None;
    let template = settings.reduce_template.get_or_insert_with(|| DEFAULT_REDUCE_TEMPLATE.into());
    ReduceTemplate::parse(template).map_err(JobError::PreconditionFailed)
}

/// State of a reduce above the leaves.
struct TreeReducer<'c> {
    context: JobContext,
    resources: &'c mut JobResources,
    template: ReduceTemplate,
    tree: ReduceTree,
    /// Run of the leaves, on rank 0.
    root: Option<RootRun>,
    leaves: Option<LeafPass>,
    /// Run folder of the leaves.
    folder: std::path::PathBuf,
    /// Identifies the leaves' answers and the settings: input of the levels' content stamps.
    leaf_fingerprint: String,
    /// Filled on rank 0 only.
    measurements: PassMeasurements,
    /// Set by a signal that arrives between two passes.
    stop_requested: Arc<AtomicBool>,
}

/// Result of the pass over the leaves, until the levels take it.
struct LeafPass {
    plan: crate::job::setup::run_plan::{PassMode, RunPlan},
    completion: crate::job::collect::completion::CompletionState,
    line_index: Option<crate::job::collect::line_index::LineIndex>,
}

impl<'c> TreeReducer<'c> {
    /// Takes over the finished pass of the leaves. Collective.
    fn from_leaves(
        comm: &mut dyn Comm,
        common: JobContext,
        crew: &'c mut JobResources,
        recipe: ReduceTemplate,
        PassResult { root, plan: brief, completion: standing, line_index: lines }: PassResult,
    ) -> Result<Self, JobError> {
        let tree = ReduceTree::new(brief.source.rows, common.settings.fan_in);
        // Levels of an earlier session are reused only if they were built from the same answers: the same input and
        // answer-affecting settings, and leaves that were not answered again because the input had changed in between.
        let deciding =
            serde_json::to_string(&common.settings.answer_settings()).unwrap_or_default();
        let leaves = root.as_ref().map(RootRun::answer_provenance);
        let made_of =
            leaves.map(|leaves| format!("{} {leaves} {deciding}", brief.source.fingerprint));
        let made_of = comm.broadcast_value(made_of)?;
        let folder = brief.folder.clone();
        let leaves = Some(LeafPass { plan: brief, completion: standing, line_index: lines });
        let asked_to_end = Arc::default();
        Ok(Self {
            context: common,
            resources: crew,
            template: recipe,
            tree,
            root,
            leaves,
            folder,
            leaf_fingerprint: made_of,
            measurements: PassMeasurements::default(),
            stop_requested: asked_to_end,
        })
    }

    /// Finishes the leaves and runs all levels up to the final text. Collective.
    fn run_levels(&mut self, comm: &mut dyn Comm) -> Result<JobVerdict, JobError> {
        let Some(LeafPass { plan: brief, completion: standing, line_index: mut lines }) =
            self.leaves.take()
        else {
            return Ok(JobVerdict::PromptsOpen);
        };
        let counts = standing.outcome_counts(brief.source.rows);
        self.measurements.leaves = measure_answers(comm, &brief, lines.as_mut(), &counts)?;
        let measured = self.measurements.leaves.as_ref();
        let ended = self.root.as_mut().map(|root| root.finish_run(&standing, true, measured));
        let ended = root_result(comm, ended)?;
        if comm.broadcast_value(ended)? == JobVerdict::PromptsOpen {
            return Ok(JobVerdict::PromptsOpen);
        }
        if brief.source.rows == 0 {
            self.record_progress(comm, ReduceProgress::default(), RunState::Finished)?;
            let none = "the input has no rows: there is nothing to make a text of";
            return all_ok(comm, Err(JobError::PreconditionFailed(none.into())));
        }
        let asked = comm.broadcast_value(self.root.as_ref().map(RootRun::model_and_api))?;
        let mut stamp = ContentStamp::from_text(&self.leaf_fingerprint)
            .with_answers(standing.answered_prompts());
        let any = standing.answered_prompts().member_count() > 0;
        let mut below = all_ok(comm, NodeTexts::from_parts(lines, None, &[]))?;
        self.resources.tree_folder = Some(self.folder.clone());
        for level in 1..=self.tree.level_count() {
            if self.is_stop_requested(comm) {
                return Ok(JobVerdict::PromptsOpen);
            }
            let levels = self.tree.level_count();
            self.record_progress(
                comm,
                ReduceProgress { levels, level, ..ReduceProgress::default() },
                RunState::Running,
            )?;
            let place = LevelFiles::for_level(&self.folder, level);
            if !self.build_level(comm, &place, &stamp, &mut below, &brief, any)? {
                return Ok(JobVerdict::NoEndpoint);
            }
            drop(below); // frees the index of the level below before the pass allocates its own
            let readers = ranks_seeing_folder(comm, &brief);
            let (called, passed) = read_level_groups(comm, &place, self.tree, readers)?;
            let (mut lines, mut answered) = (None, IndexSet::new(0));
            if called.member_count() > 0 {
                if comm.rank() == 0 {
                    info!(
                        level,
                        of = levels,
                        prompts = called.member_count(),
                        "a level of the tree begins"
                    );
                }
                let common = self.level_context(&place, &asked);
                let inputs = [place.prompts_folder().to_string_lossy().into_owned()];
                let Some(mut done) = run_pass(comm, &common, self.resources, &inputs)? else {
                    return Ok(JobVerdict::NoEndpoint);
                };
                let counts = done.completion.outcome_counts(done.plan.source.rows);
                let measured =
                    measure_answers(comm, &done.plan, done.line_index.as_mut(), &counts)?;
                let ended = done
                    .root
                    .as_mut()
                    .map(|it| it.finish_run(&done.completion, true, measured.as_ref()));
                self.measurements.levels.resize(level as usize - 1, None);
                self.measurements.levels.push(measured);
                let ended = root_result(comm, ended)?;
                if comm.broadcast_value(ended)? == JobVerdict::PromptsOpen {
                    return Ok(JobVerdict::PromptsOpen);
                }
                (lines, answered) = (done.line_index, done.completion.answered_prompts().clone());
            }
            stamp = stamp.with_answers(&answered);
            below = all_ok(comm, NodeTexts::from_parts(lines, Some(called), &passed))?;
        }
        self.write_root_text(comm, &mut below)
    }

    /// Builds the level's prompts unless a complete build from the same inputs exists. Returns false if no server is ready to
    /// report its context length. Collective.
    fn build_level(
        &mut self,
        comm: &mut dyn Comm,
        place: &LevelFiles,
        stamp: &ContentStamp,
        below: &mut NodeTexts,
        leaves: &crate::job::setup::run_plan::RunPlan,
        any: bool,
    ) -> Result<bool, JobError> {
        let (rank, began) = (comm.rank(), Instant::now());
        let is_whole = (rank == 0).then(|| place.is_complete(&stamp.to_hex()));
        if comm.broadcast_value(is_whole)? {
            return Ok(true);
        }
        // Prompts are fitted to the context length, which only a ready server can report.
        let context = if any {
            match self.resources.context_len(comm, &self.context, self.root.as_mut())? {
                Some(context) => context,
                None => return Ok(false),
            }
        } else {
            None
        };
        let begun = (rank == 0).then(|| {
            remove_if_exists(&leaves.output)?;
            remove_if_exists(&self.folder.join("tree.jsonl"))?;
            place.clear_levels(&self.folder, self.tree.level_count())
        });
        root_result(comm, begun)?;
        let settings = &self.context.settings;
        let budget = TokenBudget {
            fixed_tokens: settings.max_tokens_aggregation,
            leaf_tokens: settings.max_tokens,
            context_tokens: context,
            buffer: settings.buffer,
        };
        let cooks = ranks_seeing_folder(comm, leaves);
        let kitchen =
            LevelBuilder { tree: self.tree, template: &self.template, budget, writer_ranks: cooks };
        build_level_prompts(comm, place, &kitchen, below)?;
        let seconds = began.elapsed().as_secs_f64();
        root_result(
            comm,
            (rank == 0).then(|| place.mark_complete(&stamp.to_hex(), seconds)),
        )?;
        Ok(true)
    }

    /// Returns the context of a level's pass: the job's settings, without those that apply to the input's rows only, and with
    /// the model and route that were chosen for the leaves.
    fn level_context(
        &self,
        place: &LevelFiles,
        asked: &(Option<String>, Option<String>),
    ) -> JobContext {
        let mut common = self.context.clone();
        let settings = &mut common.settings;
        settings.output = Some(place.run_output.to_string_lossy().into_owned());
        (settings.overwrite, settings.resume) = (false, ResumePolicy::Auto);
        (settings.template, settings.reduce_template) = (None, None);
        (settings.keep_row, settings.no_echo) = (false, true);
        (settings.bad_rows, settings.duplicate_ids) = (BadRowPolicy::Stop, DuplicateIdPolicy::Keep);
        let (model, api) = asked;
        settings.model = model.clone().or(settings.model.take());
        settings.api = match api.as_deref() {
            Some("chat") => ApiMode::Chat,
            Some("completions") => {
                settings.system = None; // the completions route has no system message
                ApiMode::Completions
            }
            _ => settings.api,
        };
        common
    }

    /// Writes the final text to the output file, and `tree.jsonl` to the run folder. Collective.
    fn write_root_text(
        &mut self,
        comm: &mut dyn Comm,
        top: &mut NodeTexts,
    ) -> Result<JobVerdict, JobError> {
        self.resources.close_servers();
        let mut mine = Vec::new();
        let read = top.read_nodes(&(0..1), &mut mine);
        all_ok(comm, read)?;
        let all = comm.gather_values(&mine)?;
        let mut root = self.root.take();
        let verdict = root.as_mut().zip(all).map(|(root, all)| {
            let mut told = std::collections::BTreeMap::new();
            all.iter().for_each(|bytes| merge_nodes(bytes, &mut told));
            let text = told.remove(&0).map(super::node_texts::NodeText::into_text);
            let output = root.output_path().to_owned();
            let fault: Result<(), Option<TextFailure>> = match &text {
                Some(Ok(_)) => Ok(()),
                Some(Err(fault)) => Err(Some(fault.clone())),
                None => Err(None),
            };
            let missing = write_tree_file(&self.folder, self.tree, &fault)?;
            match text {
                Some(Ok(text)) => replace_file(Path::new(&output), text.as_bytes())?,
                _ => remove_if_exists(Path::new(&output))?,
            }
            let levels = self.tree.level_count();
            let text = fault.is_ok();
            let tree = ReduceProgress { levels, level: levels, text, missing };
            root.record_tree_state(tree, RunState::Finished)?;
            Ok(if text && missing == 0 { JobVerdict::Done } else { JobVerdict::SomeFailed })
        });
        self.root = root;
        let verdict = root_result(comm, verdict)?;
        Ok(comm.broadcast_value(verdict)?)
    }

    /// Records the progress of the tree in the manifest. Collective.
    fn record_progress(
        &mut self,
        comm: &mut dyn Comm,
        tree: ReduceProgress,
        state: RunState,
    ) -> Result<(), JobError> {
        let noted = self.root.as_mut().map(|root| root.record_tree_state(tree, state));
        root_result(comm, noted).map(drop)
    }

    /// Returns whether any rank was asked to stop or the deadline has passed. From the first call on, signals that arrive
    /// between passes are recorded. Collective.
    fn is_stop_requested(&self, comm: &mut dyn Comm) -> bool {
        let note = Arc::clone(&self.stop_requested);
        let over = self.resources.notify_on_signal(move || note.store(true, Ordering::Relaxed));
        let mut end = [u64::from(over || self.stop_requested.load(Ordering::Relaxed))];
        comm.all_reduce(&mut end, ReduceOp::Or);
        end != [0]
    }
}

/// Returns the number of ranks, counted from rank 0, that see the run folder. With `--local-shards` that is rank 0 alone.
fn ranks_seeing_folder(comm: &dyn Comm, leaves: &crate::job::setup::run_plan::RunPlan) -> usize {
    if leaves.local_shards.is_some() { 1 } else { comm.size() }
}

/// Hash of everything that the texts of a level depend on. Different inputs give different names.
struct ContentStamp(u64);

impl ContentStamp {
    fn from_text(text: &str) -> Self {
        Self(0xcbf2_9ce4_8422_2325).hash_bytes(text.as_bytes())
    }

    /// Adds the set of answered prompts of a pass.
    fn with_answers(self, answered: &IndexSet) -> Self {
        let pair = |it: Self, (from, to): (u64, u64)| {
            it.hash_bytes(&from.to_le_bytes()).hash_bytes(&to.to_le_bytes())
        };
        answered
            .missing_ranges()
            .fold(self, pair)
            .hash_bytes(&answered.member_count().to_le_bytes())
    }

    /// FNV-1a: the same on every machine and in every version.
    fn hash_bytes(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(self.0, step))
    }

    fn to_hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

fn remove_if_exists(path: &Path) -> Result<(), JobError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(OutputError::io_error("cannot remove", path)(error).into())
        }
        _ => Ok(()),
    }
}
