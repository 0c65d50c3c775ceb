//! The start of a rank's work: engine, prompt reader, shard file and lease client are put together here.
//!
//! Owns that assembly; MPI's thread and the engine's threads are connected by channels only. The loops that run
//! afterwards are `worker.rs` and, on rank 0, `coordinator.rs`; the engine's policy is made in
//! `setup/engine_policy.rs`.

use std::sync::mpsc;

use super::{
    coordinator::{Coordinator, CoordinatorSetup},
    lease_client::{LeaseClient, ReportSchedule},
    local_events::{EventSender, LocalEvent, RootEvent},
    protocol::{LeaseGrant, ToWorker, WorkEnd},
    text_fetcher::spawn_text_fetcher,
    worker::run_worker,
};
use crate::job::{
    JobError,
    collect::shard_folders::ShardFolders,
    context::{AnswerSender, JobContext},
    setup::{
        engine_policy::engine_policy,
        run_plan::{ModelSelection, RunPlan},
    },
};
use crate::{
    comm::{Comm, Mailbox},
    domain::{
        EndpointStatus, FailureKind, JobModels, Outcome, Prompt, PromptFailure, PromptId,
        PromptInput, PromptResult, RequestParams, RowHash, Tally,
    },
    engine::{self, Endpoint, EngineEvent, EngineExit, EngineHandle, EnginePolicy, EngineSetup},
    input::{BadRow, InputRules, PromptReader, RowLease},
    metrics::timeline::TimelineSlot,
    shards::{AnswerLineStyle, ShardHeader, ShardWriter, write_answer_line},
    site::SignalHandler,
};

/// Bytes of prompts that are read ahead of the engine, at most, unless a single one has more.
const READ_AHEAD_BYTES: u64 = 16 << 20;
/// Size that an image in a file of its own is taken to have.
const LARGE_IMAGE_BYTES: u64 = 2 << 20;

/// Facts that all ranks share when the work starts.
#[derive(Clone, Copy)]
pub(crate) struct WorkContext<'a> {
    pub(crate) job: &'a JobContext,
    pub(crate) plan: &'a RunPlan,
    pub(crate) folders: &'a ShardFolders,
    pub(crate) selection: &'a ModelSelection,
    /// Whether every prompt to send has used up its tries in an earlier session.
    pub(crate) only_exhausted_left: bool,
}

/// Inputs of this rank alone.
pub(crate) struct WorkerStart<'r> {
    pub(crate) endpoint_statuses: Vec<EndpointStatus>,
    pub(crate) first_grant: LeaseGrant,
    /// Present on rank 0 only.
    pub(crate) coordinator_setup: Option<CoordinatorSetup<'r>>,
}

/// In effect collective, by messages. Works on the prompts granted to this rank until the work of all ranks has ended.
pub(crate) fn run_work_phase(
    comm: &mut dyn Comm,
    context: WorkContext<'_>,
    start: WorkerStart<'_>,
    signals: &SignalHandler,
) -> Result<WorkEnd, JobError> {
    let WorkerStart { endpoint_statuses, first_grant, coordinator_setup } = start;
    let (rank, size) = (comm.rank(), comm.size());
    let settings = &context.job.settings;
    let silence = settings.rank_silence.to_duration();
    let schedule = ReportSchedule::for_rank(rank, size, silence);
    let (work_end, lease_client) = match coordinator_setup {
        Some(setup) => {
            let (sender, events) = mpsc::channel::<RootEvent>();
            let text_fetcher = setup
                .lacks_input
                .contains(&true)
                .then(|| spawn_text_fetcher(context.plan.source.clone(), sender.clone()))
                .flatten();
            let bad_rows = setup.root.bad_rows().to_vec();
            let sender = EventSender::new(sender);
            forward_signals(signals, &sender);
            let mut client = start_client(context, endpoint_statuses, bad_rows, schedule, sender);
            client.on_message(ToWorker::Grant(first_grant));
            let mailbox = Mailbox::new(comm, events);
            let ready_counts = &context.selection.ready_counts;
            Coordinator::new(mailbox, client, setup, settings, ready_counts, text_fetcher)
                .run_until_end()
        }
        None => {
            let (sender, events) = mpsc::channel::<LocalEvent>();
            let sender = EventSender::new(sender);
            forward_signals(signals, &sender);
            let mut client = start_client(context, endpoint_statuses, vec![], schedule, sender);
            client.on_message(ToWorker::Grant(first_grant));
            run_worker(Mailbox::new(comm, events), rank, client, silence)?
        }
    };
    signals.set_listener(None);
    lease_client.stop_engine();
    Ok(work_end)
}

fn forward_signals(signals: &SignalHandler, events: &EventSender) {
    let events = events.clone();
    signals.set_listener(Some(Box::new(move |request| {
        events.send(LocalEvent::ShutdownRequested(request));
    })));
}

/// Starts the engine and returns its lease client. A rank that cannot start reports that like any other end of an
/// engine, since an error returned here would leave the other ranks waiting.
fn start_client(
    context: WorkContext<'_>,
    endpoint_statuses: Vec<EndpointStatus>,
    bad_rows: Vec<BadRow>,
    schedule: ReportSchedule,
    events: EventSender,
) -> LeaseClient {
    let (lease_sender, leases) = mpsc::channel();
    let ended = |exit| LocalEvent::Engine(EngineEvent::Ended(exit, Tally::default()));
    let engine = if endpoint_statuses.is_empty() && bad_rows.is_empty() {
        // Without endpoints and failed rows there is nothing to send and nothing to write.
        events.send(ended(EngineExit::Finished));
        None
    } else {
        start_engine(context, endpoint_statuses, leases, bad_rows, events.clone())
            .map_err(|reason| events.send(ended(EngineExit::StartFailed(reason))))
            .ok()
    };
    LeaseClient::new(engine, Some(lease_sender), schedule)
}

fn start_engine(
    context: WorkContext<'_>,
    endpoint_statuses: Vec<EndpointStatus>,
    leases: mpsc::Receiver<RowLease>,
    bad_rows: Vec<BadRow>,
    events: EventSender,
) -> Result<EngineHandle, String> {
    let WorkContext { job, plan, selection, .. } = context;
    let (mut shard, style) = create_shard(context)?;
    let answers = job.answer_sender.clone().map(|sender| (sender, style));
    if !bad_rows.is_empty() {
        let failed: Vec<PromptResult> = bad_rows.into_iter().map(bad_row_result).collect();
        shard.append_results(&failed).map_err(|error| error.to_string())?;
        forward_answers(&failed, answers.as_ref());
    }
    // A rank without endpoints sees no failures, so it does not count for the fail-fast sample.
    let working_ranks = selection.ready_counts.iter().filter(|&&count| count > 0).count().max(1);
    let written = events.clone();
    let policy = engine_policy(&job.settings, selection, working_ranks, plan.keep_bodies)?;
    let setup = EngineSetup {
        policy: EnginePolicy { only_exhausted_left: context.only_exhausted_left, ..policy },
        endpoints: engine_endpoints(context, endpoint_statuses),
        api_key: job.api_key.clone(),
        prompts: PromptReader::new(&plan.source, &plan.rules, leases.into_iter()),
        read_ahead: read_ahead(plan.source.longest_row, &plan.rules),
        sink: move |results: Vec<PromptResult>| {
            // The row counts as settled at rank 0 only after its line is in the shard file.
            shard.append_results(&results).map_err(|error| error.to_string())?;
            forward_answers(&results, answers.as_ref());
            let rows = results.iter().map(|result| result.prompt.index).collect();
            written.send(LocalEvent::RowsWritten(rows));
            Ok(())
        },
    };
    engine::spawn_engine(setup, move |event| events.send(LocalEvent::Engine(event)))
        .map_err(|error| format!("cannot start a thread: {error}"))
}

/// Returns how many prompts are read ahead of the engine: fewer where rows are long or name images.
fn read_ahead(longest_row: u64, rules: &InputRules) -> usize {
    let largest = match rules.image_columns[..] {
        [] => longest_row,
        // The sizes of files with images are not known yet.
        _ => longest_row.max(LARGE_IMAGE_BYTES),
    };
    let prompts = READ_AHEAD_BYTES / largest.max(1);
    usize::try_from(prompts).unwrap_or(usize::MAX).clamp(1, engine::MAX_READ_AHEAD)
}

fn create_shard(context: WorkContext<'_>) -> Result<(ShardWriter, AnswerLineStyle), String> {
    let WorkContext { job, plan, folders, selection, .. } = context;
    let placement = &job.placement;
    let host = &placement.node.host;
    let header = ShardHeader::new(plan.start, placement.rank, host, &plan.source.fingerprint);
    let style = AnswerLineStyle {
        echo_prompt: !job.settings.no_echo,
        model: selection.model.clone(),
        text_route: selection.text_route,
        rank: placement.rank,
        host: host.clone(),
    };
    let shard = ShardWriter::create(folders.write_folder(), &header, style.clone());
    Ok((shard.map_err(|error| error.to_string())?, style))
}

/// Returns the engine's endpoints; those that serve none of the job's models start as not ready.
fn engine_endpoints(context: WorkContext<'_>, statuses: Vec<EndpointStatus>) -> Vec<Endpoint> {
    let WorkContext { job, selection, .. } = context;
    let placement = &job.placement;
    let before: u64 = selection.endpoint_counts.iter().take(placement.rank).sum();
    let all = selection.endpoint_counts.iter().sum();
    let job_models = JobModels::new(selection.models.clone());
    let endpoint = |(number, status): (u64, EndpointStatus)| {
        let info = status.probe.ready_info();
        let models = info.map(|info| job_models.served_by(info)).unwrap_or_default();
        let ready = info.map(|info| info.routes);
        let name = format!("{} {}", placement.node.host, status.url);
        Endpoint {
            timeline_row: TimelineSlot::for_endpoint(before + number, all, name),
            url: status.url,
            ready_routes: ready.filter(|_| !models.is_empty()),
            models,
        }
    };
    (0..).zip(statuses).map(endpoint).collect()
}

/// Sends answers to the program that asked for them, as lines like those on disk.
fn forward_answers(results: &[PromptResult], answers: Option<&(AnswerSender, AnswerLineStyle)>) {
    let Some((sender, style)) = answers else { return };
    for result in results {
        let mut line = Vec::new();
        if write_answer_line(&mut line, result, style).is_ok() {
            let _ = sender.send(Some(line)); // the program has stopped reading
        }
    }
}

/// Returns the failed outcome of a row that cannot be read.
fn bad_row_result(bad_row: BadRow) -> PromptResult {
    let id = bad_row.id.unwrap_or_else(|| PromptId::from_index(bad_row.index));
    let failure =
        PromptFailure { kind: FailureKind::BadRow, message: bad_row.reason, status: None };
    let prompt = Prompt {
        index: bad_row.index,
        id,
        input: PromptInput::Text(String::new()),
        images: Vec::new(),
        params: RequestParams::default(),
        model: None,
        route: None,
        priority: 0,
        row: None,
        row_hash: RowHash::UNKNOWN,
    };
    PromptResult {
        prompt,
        outcome: Outcome::Failed(failure),
        endpoint: None,
        latency: 0.0,
        attempts: 0,
        invalid: None,
    }
}
