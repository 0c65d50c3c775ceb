//! The `reduce` command: makes one text of many answers, one level of a tree at a time.
//!
//! Owns the sequence: the leaves are a pass of the pipeline, and so is each level, over prompts that are built from the
//! texts of the level below. The shape of the tree belongs to [`reduce`](crate::reduce), and building a level's prompts
//! to [`super::level`].

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tracing::info;

use super::{
    level::{LevelBuilder, build_level_prompts, read_level_groups},
    node_texts::{NodeText, NodeTexts, merge_nodes},
    provenance::write_tree_file,
};
use crate::job::{
    Invocation, JobError, JobVerdict, PreconditionError,
    collect::{
        completion::CompletionState,
        gather::measure_answers,
        level_files::{LevelFiles, TextFailure},
        line_index::LineIndex,
    },
    context::{JobContext, all_ok, establish_context, root_result},
    pipeline::pass::{JobResources, PassResult, run_pass},
    root::{RootRun, reduce_measurements::PassMeasurements},
    setup::run_plan::{PassMode, RunPlan},
};
use crate::{
    comm::{Comm, ReduceOp, TypedComm},
    console,
    domain::BitSet,
    output::{AnswerFormat, OutputError, ReduceProgress, RunState, replace_file},
    reduce::{DEFAULT_REDUCE_TEMPLATE, ReduceTemplate, ReduceTree, TokenBudget},
    report::format::pluralize,
    settings::{ApiMode, BadRowPolicy, DuplicateIdPolicy, GatherMode, ResumePolicy, TokenLimit},
};

/// Collective. Answers the prompts of `inputs` and reduces the answers to one text.
///
/// # Errors
/// The settings, the input or an existing run do not allow it, or a file cannot be read or written. Answers received
/// until then are on disk.
pub(crate) fn run_reduce(
    comm: &mut dyn Comm,
    mut invocation: Invocation,
    inputs: &[String],
) -> Result<JobVerdict, JobError> {
    let mut resources = JobResources::new(invocation.guard.take(), invocation.exit_code);
    resources.pass_mode = PassMode::Multiple;
    let context = establish_context(comm, invocation)?;
    console::set_log_identity(context.placement.rank, &context.placement.node.host);
    reduce_tree(comm, context, &mut resources, inputs)
}

/// Collective. Runs [`run_reduce`] in a job context that exists already.
pub(crate) fn reduce_tree(
    comm: &mut dyn Comm,
    mut context: JobContext,
    resources: &mut JobResources,
    inputs: &[String],
) -> Result<JobVerdict, JobError> {
    let template = all_ok(comm, prepare_settings(&mut context))?;
    let Some(leaves) = run_pass(comm, &context, resources, inputs)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    let mut reducer = TreeReducer::from_leaves(comm, context, resources, template, leaves)?;
    let verdict = reducer.run_levels(comm);
    reducer.resources.tree_folder = None;
    let is_finished = matches!(verdict, Ok(JobVerdict::Done | JobVerdict::SomeFailed));
    // An input without rows is an error, but there is nothing to resume, so that run is not marked as stopped.
    if !is_finished
        && reducer.tree.node_count(0) > 0
        && let Some(root) = &mut reducer.root
    {
        root.mark_stopped();
    }
    if let Some(root) = &reducer.root {
        root.finish_tree_report(std::mem::take(&mut reducer.measurements), is_finished);
    }
    verdict
}

/// Checks and adjusts the settings for a reduce, and parses the prompt template of its groups.
fn prepare_settings(context: &mut JobContext) -> Result<ReduceTemplate, JobError> {
    let refuse = |problem, hint| Err(PreconditionError::NotForReduce { problem, hint }.into());
    let settings = &mut context.settings;
    if settings.n > 1 {
        return refuse("reduce takes one answer per prompt", "leave out --n");
    }
    if settings.output_format.is_some() {
        return refuse(
            "--output-format does not apply to reduce, whose output is a text",
            "leave it out; merge --output-format writes the leaves' answers in any format",
        );
    }
    let output = Path::new(settings.output.as_deref().unwrap_or_default());
    if AnswerFormat::is_table_or_packed(output) {
        return refuse(
            "the output of reduce is a text, and the ending of --output names another format",
            "choose another ending, as .txt or .md; merge writes the leaves' answers in any format",
        );
    }
    if !settings.aggregate.is_empty() {
        return refuse(
            "--aggregate does not apply to reduce",
            "leave it out; merge --aggregate computes aggregates of the leaves' answers",
        );
    }
    // The leaves' answers stay in the shard files: the output file is for the text.
    settings.gather = GatherMode::None;
    let template = settings.reduce_template.get_or_insert_with(|| DEFAULT_REDUCE_TEMPLATE.into());
    Ok(ReduceTemplate::parse(template).map_err(PreconditionError::ReduceTemplate)?)
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
    folder: PathBuf,
    /// Identifies the leaves' answers and the settings: input of the levels' content stamps.
    leaf_fingerprint: String,
    /// Filled on rank 0 only.
    measurements: PassMeasurements,
    /// Set by a signal that arrives between two passes.
    stop_requested: Arc<AtomicBool>,
}

/// Result of the pass over the leaves, until the levels take it.
struct LeafPass {
    plan: RunPlan,
    completion: CompletionState,
    line_index: Option<LineIndex>,
}

/// Result of the pass over a level's prompts.
enum LevelResult {
    /// All prompts are done: the answered ones, and the texts of all nodes.
    Texts(BitSet, Box<NodeTexts>),
    /// The reduce cannot go on to the next level.
    Stopped(JobVerdict),
}

/// Model and route that were chosen for the leaves, if any leaf was sent.
type LeafSelection = (Option<String>, Option<String>);

impl<'c> TreeReducer<'c> {
    /// Collective. Takes over the finished pass of the leaves.
    fn from_leaves(
        comm: &mut dyn Comm,
        context: JobContext,
        resources: &'c mut JobResources,
        template: ReduceTemplate,
        PassResult { root, plan, completion, line_index }: PassResult,
    ) -> Result<Self, JobError> {
        let tree = ReduceTree::new(plan.source.rows, context.settings.fan_in);
        // Levels of an earlier session are reused only if they were built from the same answers: the same input and
        // answer-affecting settings, and leaves that were not answered again because the input had changed in between.
        let answer_settings =
            serde_json::to_string(&context.settings.answer_settings()).unwrap_or_default();
        let provenance = root.as_ref().map(RootRun::answer_provenance);
        let leaf_fingerprint = provenance.map(|provenance| {
            format!("{} {provenance} {answer_settings}", plan.source.fingerprint)
        });
        let leaf_fingerprint = comm.broadcast_value(leaf_fingerprint)?;
        Ok(Self {
            context,
            resources,
            template,
            tree,
            root,
            folder: plan.folder.clone(),
            leaves: Some(LeafPass { plan, completion, line_index }),
            leaf_fingerprint,
            measurements: PassMeasurements::default(),
            stop_requested: Arc::default(),
        })
    }

    /// Collective. Finishes the leaves and runs all levels up to the final text.
    fn run_levels(&mut self, comm: &mut dyn Comm) -> Result<JobVerdict, JobError> {
        let Some(LeafPass { plan, completion, mut line_index }) = self.leaves.take() else {
            return Ok(JobVerdict::PromptsOpen);
        };
        if !self.finish_leaves(comm, &plan, &completion, line_index.as_mut())? {
            return Ok(JobVerdict::PromptsOpen);
        }
        let selection = comm.broadcast_value(self.root.as_ref().map(RootRun::model_and_api))?;
        let answered = completion.answered_prompts();
        let has_answers = answered.member_count() > 0;
        let mut stamp = ContentStamp::from_text(&self.leaf_fingerprint).with_answers(answered);
        let mut below = all_ok(comm, NodeTexts::from_parts(line_index, None, &[]))?;
        self.resources.tree_folder = Some(self.folder.clone());
        let levels = self.tree.level_count();
        for level in 1..=levels {
            if self.is_stop_requested(comm) {
                return Ok(JobVerdict::PromptsOpen);
            }
            let progress = ReduceProgress { levels, level, ..ReduceProgress::default() };
            self.record_progress(comm, progress, RunState::Running)?;
            let files = LevelFiles::for_level(&self.folder, level);
            if !self.build_level(comm, &files, &stamp, &mut below, &plan, has_answers)? {
                return Ok(JobVerdict::NoEndpoint);
            }
            drop(below); // frees the index of the level below before the pass allocates its own
            match self.run_level(comm, &files, &plan, &selection)? {
                LevelResult::Texts(answered, texts) => {
                    stamp = stamp.with_answers(&answered);
                    below = *texts;
                }
                LevelResult::Stopped(verdict) => return Ok(verdict),
            }
        }
        self.write_root_text(comm, &mut below)
    }

    /// Collective. Ends the run of the leaves. Returns whether all leaves are done.
    ///
    /// # Errors
    /// The input has no rows, or the end of the run cannot be recorded.
    fn finish_leaves(
        &mut self,
        comm: &mut dyn Comm,
        plan: &RunPlan,
        completion: &CompletionState,
        lines: Option<&mut LineIndex>,
    ) -> Result<bool, JobError> {
        let counts = completion.outcome_counts(plan.source.rows);
        self.measurements.leaves = measure_answers(comm, plan, lines, &counts)?;
        let statistics = self.measurements.leaves.as_ref();
        let ended = self.root.as_mut().map(|root| root.finish_run(completion, true, statistics));
        let verdict = root_result(comm, ended)?;
        if comm.broadcast_value(verdict)? == JobVerdict::PromptsOpen {
            return Ok(false);
        }
        if plan.source.rows == 0 {
            // Recorded as finished: a script that resubmits until the run is complete would never stop otherwise.
            self.record_progress(comm, ReduceProgress::default(), RunState::Finished)?;
            return all_ok(comm, Err(PreconditionError::NothingToReduce.into()));
        }
        Ok(true)
    }

    /// Collective. Runs the prompts of a level and ends the level's run. A level without prompts needs no pass.
    fn run_level(
        &mut self,
        comm: &mut dyn Comm,
        files: &LevelFiles,
        leaves: &RunPlan,
        selection: &LeafSelection,
    ) -> Result<LevelResult, JobError> {
        let level = files.level;
        let readers = ranks_seeing_folder(comm, leaves);
        let (prompted, passed_up) = read_level_groups(comm, files, self.tree, readers)?;
        let prompts = prompted.member_count();
        let (mut line_index, mut answered) = (None, BitSet::new(0));
        if prompts > 0 {
            if comm.rank() == 0 {
                info!(
                    event = "reduce_level_started",
                    level,
                    levels = self.tree.level_count(),
                    prompts,
                    "reduce level {level} of {} started: {}",
                    self.tree.level_count(),
                    pluralize(prompts, "prompt")
                );
            }
            let context = self.level_context(files, selection);
            let inputs = [files.prompts_folder().to_string_lossy().into_owned()];
            let Some(mut pass) = run_pass(comm, &context, self.resources, &inputs)? else {
                return Ok(LevelResult::Stopped(JobVerdict::NoEndpoint));
            };
            let counts = pass.completion.outcome_counts(pass.plan.source.rows);
            let lines = pass.line_index.as_mut();
            let statistics = measure_answers(comm, &pass.plan, lines, &counts)?;
            let ended = pass
                .root
                .as_mut()
                .map(|root| root.finish_run(&pass.completion, true, statistics.as_ref()));
            // Levels without prompts have no statistics.
            self.measurements.levels.resize(level as usize - 1, None);
            self.measurements.levels.push(statistics);
            let verdict = root_result(comm, ended)?;
            if comm.broadcast_value(verdict)? == JobVerdict::PromptsOpen {
                return Ok(LevelResult::Stopped(JobVerdict::PromptsOpen));
            }
            line_index = pass.line_index;
            answered = pass.completion.answered_prompts().clone();
        }
        let texts = NodeTexts::from_parts(line_index, Some(prompted), &passed_up);
        Ok(LevelResult::Texts(answered, Box::new(all_ok(comm, texts)?)))
    }

    /// Collective. Builds the level's prompts unless a complete build from the same inputs exists. Returns false if no
    /// server is ready to report its context length.
    fn build_level(
        &mut self,
        comm: &mut dyn Comm,
        files: &LevelFiles,
        stamp: &ContentStamp,
        below: &mut NodeTexts,
        leaves: &RunPlan,
        has_answers: bool,
    ) -> Result<bool, JobError> {
        let (is_root, began) = (comm.rank() == 0, Instant::now());
        let is_complete = is_root.then(|| files.is_complete(&stamp.to_hex()));
        if comm.broadcast_value(is_complete)? {
            return Ok(true);
        }
        // Prompts are fitted to the context length, which only a ready server can report.
        let context_len = if has_answers {
            match self.resources.context_len(comm, &self.context, self.root.as_mut())? {
                Some(context_len) => context_len,
                None => return Ok(false),
            }
        } else {
            None
        };
        // An earlier text must not outlive the levels that it was made of.
        let cleared = is_root.then(|| {
            remove_if_exists(&leaves.output)?;
            remove_if_exists(&self.folder.join("tree.jsonl"))?;
            files.clear_levels(&self.folder, self.tree.level_count())
        });
        root_result(comm, cleared)?;
        let settings = &self.context.settings;
        let budget = TokenBudget {
            fixed_tokens: settings.max_tokens_aggregation,
            leaf_tokens: settings.max_tokens.of_rows().unwrap_or(TokenLimit::DEFAULT_TOKENS),
            context_tokens: context_len,
            buffer: settings.buffer,
        };
        let writer_ranks = ranks_seeing_folder(comm, leaves);
        let builder =
            LevelBuilder { tree: self.tree, template: &self.template, budget, writer_ranks };
        build_level_prompts(comm, files, &builder, below)?;
        let seconds = began.elapsed().as_secs_f64();
        let marked = is_root.then(|| files.mark_complete(&stamp.to_hex(), seconds));
        root_result(comm, marked)?;
        Ok(true)
    }

    /// Returns the context of a level's pass: the job's settings, without those that apply to the input's rows only,
    /// and with the model and route that were chosen for the leaves.
    fn level_context(&self, files: &LevelFiles, (model, api): &LeafSelection) -> JobContext {
        let mut context = self.context.clone();
        let settings = &mut context.settings;
        settings.output = Some(files.run_output.to_string_lossy().into_owned());
        (settings.overwrite, settings.resume) = (false, ResumePolicy::Auto);
        (settings.template, settings.reduce_template) = (None, None);
        (settings.prompt_column, settings.messages_column) = (None, None);
        (settings.schema, settings.check) = (None, None); // merged texts are no answers to the rows
        settings.image_column = Vec::new();
        (settings.keep_row, settings.no_echo) = (false, true);
        (settings.bad_rows, settings.duplicate_ids) = (BadRowPolicy::Stop, DuplicateIdPolicy::Keep);
        settings.model = model.clone().or(settings.model.take());
        settings.api = match api.as_deref() {
            Some("chat") => ApiMode::Chat,
            Some("completions") => {
                settings.system = None; // the completions route has no system message
                ApiMode::Completions
            }
            _ => settings.api,
        };
        context
    }

    /// Collective. Writes the final text to the output file, and `tree.jsonl` to the run folder.
    fn write_root_text(
        &mut self,
        comm: &mut dyn Comm,
        top: &mut NodeTexts,
    ) -> Result<JobVerdict, JobError> {
        self.resources.close_servers();
        let mut encoded = Vec::new();
        let read = top.read_nodes(&(0..1), &mut encoded);
        all_ok(comm, read)?;
        let all_encoded = comm.gather_values(&encoded)?;
        // Taken out, because the closure needs the rest of `self` as well.
        let mut root = self.root.take();
        let verdict = root.as_mut().zip(all_encoded).map(|(root, all_encoded)| {
            let mut nodes = BTreeMap::new();
            all_encoded.iter().for_each(|bytes| merge_nodes(bytes, &mut nodes));
            let text = nodes.remove(&0).map(NodeText::into_text);
            let output = root.output_path().to_owned();
            let root_state: Result<(), Option<TextFailure>> = match &text {
                Some(Ok(_)) => Ok(()),
                Some(Err(failure)) => Err(Some(failure.clone())),
                None => Err(None),
            };
            let loss = write_tree_file(&self.folder, self.tree, &root_state)?;
            match text {
                Some(Ok(text)) => replace_file(Path::new(&output), text.as_bytes())?,
                _ => remove_if_exists(Path::new(&output))?,
            }
            let levels = self.tree.level_count();
            let text = root_state.is_ok();
            let allows_truncation = self.context.settings.allow_truncation;
            let progress = ReduceProgress { levels, level: levels, text, loss, allows_truncation };
            root.record_tree_state(progress, RunState::Finished)?;
            Ok(if progress.is_complete() { JobVerdict::Done } else { JobVerdict::SomeFailed })
        });
        self.root = root;
        let verdict = root_result(comm, verdict)?;
        Ok(comm.broadcast_value(verdict)?)
    }

    /// Collective. Records the progress of the tree in the manifest.
    fn record_progress(
        &mut self,
        comm: &mut dyn Comm,
        progress: ReduceProgress,
        state: RunState,
    ) -> Result<(), JobError> {
        let recorded = self.root.as_mut().map(|root| root.record_tree_state(progress, state));
        root_result(comm, recorded).map(drop)
    }

    /// Collective. Returns whether any rank was asked to stop or the deadline has passed. From the first call on,
    /// signals that arrive between passes are recorded.
    fn is_stop_requested(&self, comm: &mut dyn Comm) -> bool {
        let flag = Arc::clone(&self.stop_requested);
        let is_over = self.resources.notify_on_signal(move || flag.store(true, Ordering::Relaxed));
        let is_stopped = is_over || self.stop_requested.load(Ordering::Relaxed);
        let mut any_stopped = [u64::from(is_stopped)];
        comm.all_reduce(&mut any_stopped, ReduceOp::Or);
        any_stopped != [0]
    }
}

/// Returns the number of ranks, counted from rank 0, that see the run folder. With `--local-shards` that is rank 0
/// alone.
fn ranks_seeing_folder(comm: &dyn Comm, leaves: &RunPlan) -> usize {
    if leaves.local_shards.is_some() { 1 } else { comm.size() }
}

/// Hash of everything that the texts of a level depend on. Different inputs give different names.
struct ContentStamp(u64);

impl ContentStamp {
    fn from_text(text: &str) -> Self {
        Self(0xcbf2_9ce4_8422_2325).hash_bytes(text.as_bytes())
    }

    /// Adds the set of answered prompts of a pass.
    fn with_answers(self, answered: &BitSet) -> Self {
        let hash_range = |stamp: Self, (from, to): (u64, u64)| {
            stamp.hash_bytes(&from.to_le_bytes()).hash_bytes(&to.to_le_bytes())
        };
        let stamp = answered.missing_ranges().fold(self, hash_range);
        stamp.hash_bytes(&answered.member_count().to_le_bytes())
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
