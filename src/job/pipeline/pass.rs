//! One pass of the pipeline: takes a prompt set from the input to one outcome per prompt in the shard files.
//!
//! Owns the order of the steps, and [`JobResources`], which the passes of a job share: servers started once, the model
//! selected once, the deadline and the signal handlers. What becomes of the answers is decided by the callers: `run`
//! gathers them, `tree_reduce` makes the prompts of the next level from them. The scheduling of the prompts is in
//! `dispatch` (between ranks) and in `engine` (on a rank).

use std::{path::PathBuf, time::Instant};

use crate::job::{
    ExitCodeFn, JobError, JobVerdict,
    collect::{
        completion::{CompletionState, check_run_folder},
        line_index::LineIndex,
        local_shards::{collect_earlier_shards, collect_local_shards},
        shard_folders::ShardFolders,
    },
    context::{JobContext, all_ok, root_result},
    dispatch::{
        assignments::Assignments,
        coordinator::CoordinatorSetup,
        shutdown::sync_or_abort,
        worker_start::{WorkContext, WorkerStart, run_work_phase},
    },
    root::{RootRun, open},
    setup::{
        deadline::Deadline,
        readiness::wait_for_endpoints,
        run_plan::{ModelSelection, PassMode, RunPlan},
        scan::scan_input,
        servers::{LocalServers, start_servers},
    },
};
use crate::{
    comm::{Comm, MessageTag, TypedComm, drain_messages},
    domain::{BitSet, EndpointStatus},
    input::InputSource,
    serve::IdleSupervisor,
    settings::Settings,
    site::SignalHandler,
};

/// Resources that all passes of a job share.
pub(crate) struct JobResources {
    exit_code: ExitCodeFn,
    started_at: Instant,
    guard: Option<IdleSupervisor>,
    /// In single-pass mode, servers are stopped as soon as the work ends.
    pub(crate) pass_mode: PassMode,
    /// Run folder of the leaves, while a pass answers a level of a reduce.
    pub(crate) tree_folder: Option<PathBuf>,
    /// Folder for server logs; the first pass chooses one within its run folder.
    log_folder: Option<PathBuf>,
    signals_and_deadline: Option<(SignalHandler, Deadline)>,
    servers: Option<LocalServers>,
    /// Probe results of this rank's endpoints.
    endpoint_statuses: Option<Vec<EndpointStatus>>,
    /// Model, route and context length, once selected.
    selection: Option<ModelSelection>,
}

/// Servers of this rank and the model and route to send prompts to.
struct SelectedTargets<'c> {
    servers: &'c mut LocalServers,
    selection: &'c ModelSelection,
    endpoint_statuses: &'c [EndpointStatus],
}

/// The result of a pass.
pub(crate) struct PassResult {
    /// Present on rank 0 only.
    pub(crate) root: Option<RootRun>,
    pub(crate) plan: RunPlan,
    pub(crate) completion: CompletionState,
    /// Index of this rank's answer lines, if every prompt has an outcome or an index of part of them was requested.
    pub(crate) line_index: Option<LineIndex>,
}

/// A pass whose run folder is open and whose earlier answers are read.
struct OpenPass {
    root: Option<RootRun>,
    plan: RunPlan,
    folders: ShardFolders,
    /// Ranks that cannot read the input, on rank 0.
    lacks_input: Option<Vec<bool>>,
    done: BitSet,
    /// Whether every prompt to send has used up its tries in an earlier session.
    only_exhausted_left: bool,
}

/// Collective. Sends the prompts of `inputs` that have no outcome yet. Returns `None` if too few endpoints are ready.
pub(crate) fn run_pass(
    comm: &mut dyn Comm,
    context: &JobContext,
    resources: &mut JobResources,
    inputs: &[String],
) -> Result<Option<PassResult>, JobError> {
    let mut pass = open_pass(comm, context, resources, inputs)?;
    if pass.done.missing_ranges().next().is_some()
        && !send_prompts(comm, context, resources, &mut pass)?
    {
        pass.folders.remove_empty_folders();
        return Ok(None);
    }

    let OpenPass { mut root, plan, folders, .. } = pass;
    let collected = collect_local_shards(comm, &folders, &plan);
    if let Some(root) = &mut root {
        if collected.is_ok() { root.mark_shards_collected() } else { root.mark_stopped() }
    }
    collected?;
    folders.remove_empty_folders();
    let gathers = plan.format.is_some() || !plan.aggregate.is_empty();
    let needs_index = gathers || resources.pass_mode != PassMode::Single;
    let (completion, line_index) =
        CompletionState::read_with_index(comm, &folders, &plan, (needs_index, plan.report))?;
    Ok(Some(PassResult { root, plan, completion, line_index }))
}

/// Collective. Scans the input, opens the run folder and reads which prompts have an outcome.
fn open_pass(
    comm: &mut dyn Comm,
    context: &JobContext,
    resources: &mut JobResources,
    inputs: &[String],
) -> Result<OpenPass, JobError> {
    let is_tree_level = resources.tree_folder.is_some();
    let pending =
        (comm.rank() == 0).then(|| open::PendingStart::new(context, inputs, is_tree_level));
    let pending = root_result(comm, pending)?;
    let earlier = pending.as_ref().and_then(|pending| pending.plan_left_on_nodes(context));
    collect_earlier_shards(comm, &context.placement, earlier)?;
    let files = pending.as_ref().map(|pending| pending.input_files.as_slice());
    let scanned = scan_input(comm, files, &open::row_rules(&context.settings));
    let opened = pending
        .zip(scanned)
        .map(|(pending, scanned)| pending.open_run(context, inputs, comm.size(), scanned));
    let mut root = root_result(comm, opened)?;
    if let Some(root) = &mut root {
        root.assign_pass(resources.tree_folder.as_deref(), resources.pass_mode);
    }
    resources.watch_signals(comm, context)?; // before servers are started, which must end on a signal
    let plan = comm.broadcast_value(root.as_ref().map(RootRun::run_plan))?;
    let lacks_input = check_run_folder(comm, &plan, &context.placement)?;
    let folders = ShardFolders::create_folders(comm, &plan, &context.placement)?;
    resources.log_folder.get_or_insert_with(|| folders.server_log_folder());
    collect_local_shards(comm, &folders, &plan)?;
    let completion = CompletionState::read_all_ranks(comm, &folders, &plan)?;
    let Settings { retry_failed, retry_cut, .. } = context.settings;
    let done = completion.done_prompts(retry_failed, retry_cut);
    let recorded = root.as_mut().map(|root| root.apply_completion(&completion, &done));
    root_result(comm, recorded)?;
    let only_exhausted_left = completion.only_exhausted_left(&done);
    Ok(OpenPass { root, plan, folders, lacks_input, done, only_exhausted_left })
}

/// Collective. Runs the work phase of a pass: coordinator on rank 0, a worker on each rank. Returns false if too few
/// endpoints are ready.
fn send_prompts(
    comm: &mut dyn Comm,
    context: &JobContext,
    resources: &mut JobResources,
    pass: &mut OpenPass,
) -> Result<bool, JobError> {
    let keeps_servers = resources.pass_mode != PassMode::Single;
    let (signals, deadline) = resources.watch_signals(comm, context)?;
    resources.reset_unless_covered(&pass.plan.source);
    let row_models = &pass.plan.source.models;
    let Some(targets) =
        resources.select_targets(comm, context, pass.root.as_mut(), deadline, row_models)?
    else {
        return Ok(false);
    };
    let lacks_input = pass.lacks_input.take();
    let mut coordinator = pass.root.as_mut().zip(lacks_input).map(|(root, lacks_input)| {
        let (orders, table) = root.take_work_orders(&pass.done, targets.selection);
        let selection = targets.selection;
        let has_one_model = selection.models.len() == 1;
        let assignments = Assignments::new(orders, table, &selection.rank_models, has_one_model);
        CoordinatorSetup { root, assignments, lacks_input, deadline }
    });
    let weights = &targets.selection.ready_counts;
    let grants = coordinator
        .as_mut()
        .map(|coordinator| coordinator.assignments.first_grants(weights, &coordinator.lacks_input));
    let first_grant = comm.scatter_values(grants)?;
    let start = WorkerStart {
        endpoint_statuses: targets.servers.without_given_up(targets.endpoint_statuses.to_vec()),
        first_grant,
        coordinator_setup: coordinator,
    };
    let (plan, folders) = (&pass.plan, &pass.folders);
    let work = WorkContext {
        job: context,
        plan,
        folders,
        selection: targets.selection,
        only_exhausted_left: pass.only_exhausted_left,
    };
    let work_end = run_work_phase(comm, work, start, &signals)?;
    if !keeps_servers {
        targets.servers.close();
    }
    pass.root = sync_or_abort(comm, work_end, pass.root.take(), plan, folders, |ended| {
        resources.abort_code(ended)
    })?;
    if keeps_servers {
        drain_messages(comm, MessageTag::Job)?;
    }
    Ok(true)
}

impl JobResources {
    pub(crate) fn new(guard: Option<IdleSupervisor>, exit_code: ExitCodeFn) -> Self {
        Self {
            exit_code,
            started_at: Instant::now(),
            guard,
            pass_mode: PassMode::Single,
            tree_folder: None,
            log_folder: None,
            signals_and_deadline: None,
            servers: None,
            endpoint_statuses: None,
            selection: None,
        }
    }

    /// Returns the exit code for a pass that rank 0 ends alone, because ranks are lost. In a job of several passes no verdict
    /// of one pass is that of the job: more work was to follow, so the run counts as stopped early.
    fn abort_code(&self, ended: &Result<JobVerdict, JobError>) -> u8 {
        let ended = ended.as_ref().map_err(|error| error.class());
        (self.exit_code)(ended.map(|&verdict| match self.pass_mode {
            PassMode::Single => verdict,
            PassMode::Multiple | PassMode::OnDemand => JobVerdict::PromptsOpen,
        }))
    }

    /// Local. Forgets model, route and folders, so that the next pass selects them again; servers and probe results stay.
    pub(crate) fn reset_selection(&mut self) {
        (self.selection, self.log_folder, self.tree_folder) = (None, None, None);
    }

    /// Local. Forgets the selection if it lacks a model that rows of this input name; all ranks decide alike.
    fn reset_unless_covered(&mut self, source: &InputSource) {
        self.selection = self.selection.take().filter(|selection| selection.covers(source));
    }

    /// Local. Stops handling signals: they have their default effect again.
    pub(crate) fn release_signals(&self) {
        if let Some((signals, _)) = &self.signals_and_deadline {
            signals.set_listener(None);
        }
    }

    /// Local. Returns resources for passes of this rank alone, with the same deadline and signal handlers.
    pub(crate) fn solo_resources(&self) -> Self {
        let mut alone = Self::new(None, self.exit_code);
        (alone.pass_mode, alone.started_at, alone.signals_and_deadline) =
            (self.pass_mode, self.started_at, self.signals_and_deadline.clone());
        alone
    }

    /// Collective at the first call, which installs the signal handlers and agrees on the deadline; local from then on.
    pub(crate) fn watch_signals(
        &mut self,
        comm: &mut dyn Comm,
        context: &JobContext,
    ) -> Result<(SignalHandler, Deadline), JobError> {
        if let Some(watched) = &self.signals_and_deadline {
            return Ok(watched.clone());
        }
        let installed = SignalHandler::install_handler().map_err(JobError::SignalHandler);
        let signals = all_ok(comm, installed)?;
        let deadline = Deadline::agree_on(comm, context, self.started_at)?;
        Ok(self.signals_and_deadline.insert((signals, deadline)).clone())
    }

    /// Collective. Returns the selected model's context length in tokens (inner `None`: unknown), or `None` if too few
    /// endpoints are ready.
    pub(crate) fn context_len(
        &mut self,
        comm: &mut dyn Comm,
        context: &JobContext,
        root: Option<&mut RootRun>,
    ) -> Result<Option<Option<u64>>, JobError> {
        let (_, deadline) = self.watch_signals(comm, context)?;
        let targets = self.select_targets(comm, context, root, deadline, &[])?;
        Ok(targets.map(|targets| targets.selection.context_len))
    }

    /// Local. Calls `note` for a signal that arrives before the next pass. Returns true if the deadline has passed.
    pub(crate) fn notify_on_signal(&self, note: impl Fn() + Send + 'static) -> bool {
        let Some((signals, deadline)) = &self.signals_and_deadline else { return false };
        signals.set_listener(Some(Box::new(move |_| note())));
        deadline.at.is_some_and(|at| Instant::now() >= at)
    }

    /// Local. Lets the servers started here stop, unless a later call may need them.
    pub(crate) fn close_servers(&mut self) {
        if let (Some(servers), PassMode::Single | PassMode::Multiple) =
            (&mut self.servers, self.pass_mode)
        {
            servers.close();
        }
    }

    /// Collective. Starts and probes the servers and selects model and route, each once per job. Returns `None` if too few
    /// endpoints are ready.
    fn select_targets(
        &mut self,
        comm: &mut dyn Comm,
        context: &JobContext,
        root: Option<&mut RootRun>,
        deadline: Deadline,
        row_models: &[String],
    ) -> Result<Option<SelectedTargets<'_>>, JobError> {
        if let Some(choice) = &self.selection {
            let recorded = root.map(|root| root.record_selection(choice));
            root_result(comm, recorded)?;
        } else {
            let logs = self.log_folder.clone().unwrap_or_default(); // set when the first pass began
            let servers = match self.servers.take() {
                Some(servers) => servers,
                None => start_servers(comm, context, self.guard.take(), &logs)?,
            };
            let servers = self.servers.insert(servers);
            let found = match self.endpoint_statuses.take() {
                Some(found) => found,
                None => wait_for_endpoints(comm, context, servers, deadline, row_models)?,
            };
            let all = comm.gather_values(&found)?;
            let chosen = root.zip(all).map(|(root, found)| root.select_model(context, &found));
            let chosen = root_result(comm, chosen)?.flatten();
            self.selection = comm.broadcast_value(Some(chosen))?;
            self.endpoint_statuses = self.selection.is_some().then_some(found); // if too few are ready, probe again
        }
        let targets = self
            .servers
            .as_mut()
            .zip(self.selection.as_ref())
            .zip(self.endpoint_statuses.as_deref());
        Ok(targets.map(|((servers, choice), found)| SelectedTargets {
            servers,
            selection: choice,
            endpoint_statuses: found,
        }))
    }
}
