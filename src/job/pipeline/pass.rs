//! One pass over the line: a set of prompts, and every one of them with its outcome in a shard file. Each statement's value
//! is the next one's input.
//!
//! Owns the line, and the [`Crew`], which is what passes of one job have in common: servers that are started once, the model
//! that is chosen once, the time and the signals. Does not know what becomes of the answers: `run` gathers them, `reduce`
//! makes prompts of them.

use std::{path::PathBuf, time::Instant};

use crate::job::{
    ExitCodeMap, JobError,
    collect::{
        completion::{CompletionState, check_run_folder},
        line_index::LineIndex,
        local_shards::{ShardFolders, collect_earlier_shards, collect_local_shards},
    },
    context::{JobContext, all_ok, root_result},
    dispatch::{
        shutdown::sync_or_abort,
        worker_start::{CoordinatorSetup, WorkerStart, run_work_phase},
    },
    root::{RootRun, open},
    setup::{
        deadline::Deadline,
        readiness::wait_for_endpoints,
        run_plan::{ModelSelection, RunPlan},
        scan::scan_input,
        servers::{LocalServers, start_servers},
    },
};
use crate::{
    comm::{Comm, MessageTag, TypedComm, drain_messages},
    domain::EndpointStatus,
    serve::IdleSupervisor,
    site::SignalHandler,
};

/// What the passes of a job share.
pub(crate) struct JobResources {
    pub(crate) exit_codes: ExitCodeMap,
    started_at: Instant,
    guard: Option<IdleSupervisor>,
    /// Of the job that makes one pass only, servers end with its work.
    pub(crate) pass_mode: PassMode,
    /// Of the levels of a reduce: the run folder of its leaves.
    pub(crate) tree_folder: Option<PathBuf>,
    /// Where the logs of servers go: into the folder of the first pass.
    log_folder: Option<PathBuf>,
    signals_and_deadline: Option<(SignalHandler, Deadline)>,
    servers: Option<LocalServers>,
    /// This rank's endpoints, as they were found.
    endpoint_statuses: Option<Vec<EndpointStatus>>,
    /// What is asked of them.
    selection: Option<ModelSelection>,
}

/// How many passes a job makes, and what it wants of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassMode {
    /// One, whose answers are gathered if they are wanted in one file.
    Single,
    /// Several, each over what the one before has brought.
    Multiple,
    /// As many as a program calls for: whoever is asked may be asked again.
    OnDemand,
}

/// Who is asked for what.
struct SelectedTargets<'c> {
    servers: &'c mut LocalServers,
    selection: &'c ModelSelection,
    endpoint_statuses: &'c [EndpointStatus],
}

/// What a pass leaves.
pub(crate) struct PassResult {
    /// On rank 0.
    pub(crate) root: Option<RootRun>,
    pub(crate) plan: RunPlan,
    pub(crate) completion: CompletionState,
    /// Where this rank's answers lie, if every prompt has its outcome.
    pub(crate) line_index: Option<LineIndex>,
}

/// Collective. Answers the prompts of `inputs`; nothing where nobody is there to be asked.
pub(crate) fn run_pass(
    comm: &mut dyn Comm,
    common: &JobContext,
    crew: &mut JobResources,
    inputs: &[String],
) -> Result<Option<PassResult>, JobError> {
    let code = crew.exit_codes.error;
    let start = (comm.rank() == 0).then(|| open::PendingStart::new(common, inputs));
    let start = root_result(comm, start, code)?;
    let earlier = start.as_ref().and_then(|start| start.plan_left_on_nodes(common));
    collect_earlier_shards(comm, &common.placement, earlier, code)?;
    let files = start.as_ref().map(|start| start.input_files.as_slice());
    let scanned = scan_input(comm, files, &open::row_rules(&common.settings));
    let begun = start.zip(scanned);
    let begun = begun.map(|(start, scanned)| start.begin(common, inputs, comm.size(), scanned));
    let mut root = root_result(comm, begun, code)?;
    // Who calls passes one by one puts no report together.
    root.iter_mut().for_each(|root| root.assign_pass(crew.tree_folder.as_deref(), crew.pass_mode));
    let (signals, limit) = crew.watch_signals(comm, common)?;
    let brief = comm.broadcast_value(root.as_ref().map(RootRun::run_plan))?;
    let blind = check_run_folder(comm, &brief, &common.placement, code)?;
    let folders = ShardFolders::create_folders(comm, &brief, &common.placement, code)?;
    crew.log_folder.get_or_insert_with(|| folders.server_log_folder());
    collect_local_shards(comm, &folders, &brief, code)?;
    let standing = CompletionState::read(comm, &folders, &brief, code)?;
    let done = standing.done_prompts(common.settings.retry_failed);
    let noted = root.as_mut().map(|root| root.apply_completion(&standing, &done));
    root_result(comm, noted, code)?;

    if done.missing_ranges().next().is_some() {
        let (codes, keeps) = (crew.exit_codes, crew.pass_mode != PassMode::Single);
        let Some(asked) = crew.select_targets(comm, common, root.as_mut(), limit)? else {
            folders.remove_empty_folders();
            return Ok(None);
        };
        let mut lead = root.as_mut().zip(blind).map(|(root, blind)| {
            let book = root.build_assignments(&done, blind.len());
            CoordinatorSetup { root, assignments: book, lacks_input: blind, deadline: limit }
        });
        let weights = &asked.selection.ready_counts;
        let shares =
            lead.as_mut().map(|lead| lead.assignments.first_grants(weights, &lead.lacks_input));
        let first = comm.scatter_values(shares)?;
        let start = WorkerStart {
            endpoint_statuses: asked.servers.without_given_up(asked.endpoint_statuses.to_vec()),
            first,
            coordinator_setup: lead,
        };
        let over =
            run_work_phase(comm, common, (&brief, &folders), asked.selection, start, &signals)?;
        if !keeps {
            asked.servers.close();
        }
        root = sync_or_abort(comm, over, root, (&brief, &folders), codes)?;
        if keeps {
            drain_messages(comm, MessageTag::Job)?;
        }
    }

    let home = collect_local_shards(comm, &folders, &brief, code);
    root.iter_mut().for_each(|root| {
        if home.is_ok() { root.mark_shards_collected() } else { root.mark_stopped() }
    });
    home?;
    folders.remove_empty_folders();
    let gathered = brief.format.is_some() || !brief.aggregate.is_empty();
    let one = crew.pass_mode == PassMode::Single;
    let wanted = (!one || gathered, brief.report);
    let (standing, lines) = CompletionState::read_with_index(comm, &folders, &brief, wanted, code)?;
    Ok(Some(PassResult { root, plan: brief, completion: standing, line_index: lines }))
}

impl JobResources {
    /// Of a job that begins, with its guard.
    pub(crate) fn new(guard: Option<IdleSupervisor>, codes: ExitCodeMap) -> Self {
        Self {
            exit_codes: codes,
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

    /// Local. What comes next has nothing to do with what was before, but for who is there: model and route are chosen anew.
    pub(crate) fn reset_selection(&mut self) {
        (self.selection, self.log_folder, self.tree_folder) = (None, None, None);
    }

    /// Local. Nobody here listens to signals any more: they do what they always do.
    pub(crate) fn release_signals(&self) {
        if let Some((signals, _)) = &self.signals_and_deadline {
            signals.tell(None);
        }
    }

    /// Local. The same time and signals, for passes of this rank alone.
    pub(crate) fn solo_resources(&self) -> Self {
        let mut alone = Self::new(None, self.exit_codes);
        (alone.pass_mode, alone.started_at, alone.signals_and_deadline) =
            (self.pass_mode, self.started_at, self.signals_and_deadline.clone());
        alone
    }

    /// Collective. Signals and the end of the time; caught and asked for once.
    pub(crate) fn watch_signals(
        &mut self,
        comm: &mut dyn Comm,
        common: &JobContext,
    ) -> Result<(SignalHandler, Deadline), JobError> {
        if let Some(watch) = &self.signals_and_deadline {
            return Ok(watch.clone());
        }
        let caught = SignalHandler::install_handler().map_err(JobError::SignalHandler);
        let signals = all_ok(comm, caught, self.exit_codes.error)?;
        let limit = Deadline::agree_on(comm, common, self.started_at)?;
        Ok(self.signals_and_deadline.insert((signals, limit)).clone())
    }

    /// Collective. What the model's context holds, in tokens, by those who are asked; `None` where too few are ready.
    pub(crate) fn context_len(
        &mut self,
        comm: &mut dyn Comm,
        common: &JobContext,
        root: Option<&mut RootRun>,
    ) -> Result<Option<Option<u64>>, JobError> {
        let (_, limit) = self.watch_signals(comm, common)?;
        let asked = self.select_targets(comm, common, root, limit)?;
        Ok(asked.map(|asked| asked.selection.context_len))
    }

    /// Local. Whoever asks this process to end before the next pass is noted so. True where the time is over.
    pub(crate) fn notify_on_signal(&self, note: impl Fn() + Send + 'static) -> bool {
        let Some((signals, limit)) = &self.signals_and_deadline else { return false };
        signals.tell(Some(Box::new(move |_| note())));
        limit.at.is_some_and(|at| Instant::now() >= at)
    }

    /// Local. Nobody is asked any more: servers that were started here may end.
    pub(crate) fn close_servers(&mut self) {
        if let (Some(servers), PassMode::Single | PassMode::Multiple) =
            (&mut self.servers, self.pass_mode)
        {
            servers.close();
        }
    }

    /// Collective. The servers that are there, and the model and the route: found and chosen once. `None` where too few
    /// are ready.
    fn select_targets(
        &mut self,
        comm: &mut dyn Comm,
        common: &JobContext,
        root: Option<&mut RootRun>,
        limit: Deadline,
    ) -> Result<Option<SelectedTargets<'_>>, JobError> {
        let code = self.exit_codes.error;
        if let Some(choice) = &self.selection {
            let noted = root.map(|root| root.record_selection(choice));
            root_result(comm, noted, code)?;
        } else {
            let logs = self.log_folder.clone().unwrap_or_default(); // known since the first pass began
            let servers = match self.servers.take() {
                Some(servers) => servers,
                None => start_servers(comm, common, self.guard.take(), &logs, code)?,
            };
            let servers = self.servers.insert(servers);
            let found = match self.endpoint_statuses.take() {
                Some(found) => found,
                None => wait_for_endpoints(comm, common, servers, limit)?,
            };
            let all = comm.gather_values(&found)?;
            let chosen = root.zip(all).map(|(root, found)| root.choose(common, &found));
            let chosen = root_result(comm, chosen, code)?.flatten();
            self.selection = comm.broadcast_value(Some(chosen))?;
            self.endpoint_statuses = self.selection.is_some().then_some(found); // too few: they are looked for again
        }
        let asked = self
            .servers
            .as_mut()
            .zip(self.selection.as_ref())
            .zip(self.endpoint_statuses.as_deref());
        Ok(asked.map(|((servers, choice), found)| SelectedTargets {
            servers,
            selection: choice,
            endpoint_statuses: found,
        }))
    }
}
