//! The middle of a run: every rank works on what it is given and rank 0 listens. Two worlds meet here, over channels.
//!
//! No collective between the scatter and the end, since a rank may be lost meanwhile: ranks send letters, every few seconds
//! at least, and rank 0 knows from them who lives. Owns how the engine, its reader and the shard file are put together.

use std::sync::mpsc;

use super::{
    assignments::Assignments,
    coordinator::{Coordinator, spawn_text_fetcher},
    fail_fast::FAIL_FAST_SAMPLE,
    lease_client::{LeaseClient, LocalEvent, ReportSchedule},
    protocol::{DispatchMessage, LeaseGrant, WorkEnd},
    worker::run_worker,
};
use crate::job::{
    JobError,
    collect::local_shards::ShardFolders,
    context::{AnswerSender, JobContext},
    root::RootRun,
    setup::{
        chat_template::compile_renderer,
        deadline::Deadline,
        run_plan::{ModelSelection, RunPlan},
    },
};
use crate::{
    comm::{Comm, Mailbox},
    domain::{
        EndpointStatus, FailureKind, Outcome, ProbeResult, Prompt, PromptFailure, PromptId,
        PromptInput, PromptResult, RequestParams, RowHash, Tally, TimelineSlot,
    },
    engine::{
        self, Endpoint, EngineEvent, EngineExit, EngineHandle, EnginePolicy, EngineSetup, SizeMode,
        TokenCounting,
    },
    input::{self, BadRow, PromptReader},
    settings::{AutoOrCount, Settings, UsageMode},
    shards::{AnswerLineStyle, ShardHeader, ShardWriter, write_answer_line},
    site::SignalHandler,
};

/// A rank asks after so many, however many ranks have endpoints.
const MIN_FAIL_FAST_SAMPLE: usize = 8;

/// What a rank begins with.
pub(crate) struct WorkerStart<'r> {
    /// Its endpoints.
    pub(crate) endpoint_statuses: Vec<EndpointStatus>,
    pub(crate) first_grant: LeaseGrant,
    /// On rank 0.
    pub(crate) coordinator_setup: Option<CoordinatorSetup<'r>>,
}

/// What rank 0 has besides.
pub(crate) struct CoordinatorSetup<'r> {
    pub(crate) root: &'r mut RootRun,
    pub(crate) assignments: Assignments,
    /// Who cannot open the input.
    pub(crate) lacks_input: Vec<bool>,
    pub(crate) deadline: Deadline,
}

/// In effect collective, by letters. Works on what this rank is given, until all ranks' work has ended.
pub(crate) fn run_work_phase(
    comm: &mut dyn Comm,
    common: &JobContext,
    (brief, folders): (&RunPlan, &ShardFolders),
    choice: &ModelSelection,
    WorkerStart { endpoint_statuses: ready, first_grant: first, coordinator_setup: lead }: WorkerStart<'_>,
    signals: &SignalHandler,
) -> Result<WorkEnd, JobError> {
    let (tell, words) = mpsc::channel();
    let (leases, leased) = mpsc::channel();
    let bad = lead.as_ref().map(|lead| lead.root.bad_rows.clone()).unwrap_or_default();
    let engine = start_engine(common, (brief, folders), choice, ready, leased, bad, tell.clone());
    let engine = engine.unwrap_or_else(|why| {
        // A rank that cannot begin is a value in a report, not an error that leaves the others waiting.
        let _ = tell.send(LocalEvent::Engine(EngineEvent::Ended(
            EngineExit::StartFailed(why),
            Tally::default(),
        )));
        None
    });
    let (rank, size, silence) =
        (comm.rank(), comm.size(), common.settings.rank_silence.to_duration());
    let mut hand =
        LeaseClient::new(engine, Some(leases), ReportSchedule::for_rank(rank, size, silence));
    hand.on_message(DispatchMessage::Grant(first));
    let asked = tell.clone();
    signals.set_listener(Some(Box::new(move |ask| {
        let _ = asked.send(LocalEvent::ShutdownRequested(ask)); // nobody listens: the job is ending
    })));
    let post = Mailbox::new(comm, words);
    let (over, hand) = match lead {
        Some(CoordinatorSetup { root, assignments: book, lacks_input: blind, deadline: limit }) => {
            let any = blind.contains(&true);
            let fetch =
                any.then(|| spawn_text_fetcher(brief.source.clone(), tell.clone())).flatten();
            let knows = (choice.ready_counts.as_slice(), blind.as_slice(), limit);
            Coordinator::new(post, hand, book, root, &common.settings, knows, fetch).run_until_end()
        }
        None => run_worker(post, rank, hand, silence)?,
    };
    signals.set_listener(None);
    hand.stop_engine();
    Ok(over)
}

/// The engine, unless this rank has nobody to ask and nothing to write.
fn start_engine(
    common: &JobContext,
    (brief, folders): (&RunPlan, &ShardFolders),
    choice: &ModelSelection,
    ready: Vec<EndpointStatus>,
    leases: mpsc::Receiver<input::RowLease>,
    bad: Vec<BadRow>,
    tell: mpsc::Sender<LocalEvent>,
) -> Result<Option<EngineHandle>, String> {
    if ready.is_empty() && bad.is_empty() {
        let _ = tell
            .send(LocalEvent::Engine(EngineEvent::Ended(EngineExit::Finished, Tally::default())));
        return Ok(None);
    }
    let JobContext { settings, api_key: key, placement: place, .. } = common;
    // Who has nobody to ask sees no failures.
    let askers = choice.ready_counts.iter().filter(|&&weight| weight > 0).count().max(1);
    let header =
        ShardHeader::new(brief.start, place.rank, &place.node.host, &brief.source.fingerprint);
    let style = AnswerLineStyle {
        echo_prompt: !settings.no_echo,
        model: choice.model.clone(),
        text_route: choice.text_route,
        rank: place.rank,
        host: place.node.host.clone(),
    };
    let tap = common.answer_sender.clone().map(|tap| (tap, style.clone()));
    let mut shard = ShardWriter::create(folders.write_folder(), &header, style)
        .map_err(|error| error.to_string())?;
    if !bad.is_empty() {
        let failed: Vec<PromptResult> = bad.into_iter().map(bad_row_result).collect();
        shard.append_results(&failed).map_err(|error| error.to_string())?;
        forward_answers(&failed, tap.as_ref());
    }
    let before: u64 = choice.endpoint_counts.iter().take(place.rank).sum();
    let all = choice.endpoint_counts.iter().sum();
    let endpoint = |(number, it): (u64, EndpointStatus)| {
        let ready = match it.probe {
            ProbeResult::Ready(facts) if facts.models.iter().any(|it| it.id == choice.model) => {
                Some(facts.routes)
            }
            ProbeResult::Ready(_) | ProbeResult::NotReady(_) => None,
        };
        let name = format!("{} {}", place.node.host, it.url);
        Endpoint {
            timeline_row: TimelineSlot::for_endpoint(before + number, all, name),
            url: it.url,
            ready_routes: ready,
        }
    };
    let written = tell.clone();
    let work = EngineSetup {
        policy: engine_policy(settings, choice, askers)?,
        endpoints: (0..).zip(ready).map(endpoint).collect(),
        api_key: key.clone(),
        prompts: PromptReader::new(&brief.source, &brief.rules, leases.into_iter()),
        sink: move |outcomes: Vec<PromptResult>| {
            shard.append_results(&outcomes).map_err(|error| error.to_string())?;
            forward_answers(&outcomes, tap.as_ref());
            let rows = outcomes.iter().map(|it| it.prompt.index).collect();
            let _ = written.send(LocalEvent::RowsWritten(rows)); // nobody listens: the job is ending
            Ok(())
        },
    };
    engine::spawn_engine(work, move |word| {
        let _ = tell.send(LocalEvent::Engine(word)); // as above
    })
    .map(Some)
    .map_err(|error| format!("no thread can be started: {error}"))
}

/// Whoever listens gets what is on disk, as it is there.
fn forward_answers(outcomes: &[PromptResult], tap: Option<&(AnswerSender, AnswerLineStyle)>) {
    let Some((tap, style)) = tap else { return };
    for settled in outcomes {
        let mut line = Vec::new();
        if write_answer_line(&mut line, settled, style).is_ok() {
            let _ = tap.send(Some(line)); // nobody listens any more
        }
    }
}

pub(crate) fn engine_policy(
    settings: &Settings,
    choice: &ModelSelection,
    askers: usize,
) -> Result<EnginePolicy, String> {
    let renderer = choice.chat_template.as_ref().map(compile_renderer).transpose();
    Ok(EnginePolicy {
        model: choice.model.clone(),
        text_route: choice.text_route,
        default_params: settings.sampling_params(),
        system_prompt: settings.system.clone(),
        renderer: renderer.map_err(|error| error.to_string())?,
        concurrency: amount_to_size(settings.concurrency),
        batch_size: if settings.no_batch {
            SizeMode::Fixed(1)
        } else {
            amount_to_size(settings.batch_size)
        },
        max_batch_wait: settings.max_wait.to_duration(),
        rate_limit: settings.rate_limit,
        timeout: settings.timeout.to_duration(),
        timeout_per_sequence: settings.timeout_per_sequence.to_duration(),
        max_tries: settings.retries,
        max_model_len: choice.context_len,
        context_buffer: settings.buffer,
        no_progress_timeout: settings.ready_timeout.to_duration(),
        token_counting: match settings.usage {
            UsageMode::Off => TokenCounting::Off,
            UsageMode::Share => TokenCounting::Share,
            UsageMode::Exact => TokenCounting::Exact,
        },
        fail_fast_threshold: FAIL_FAST_SAMPLE.div_ceil(askers).max(MIN_FAIL_FAST_SAMPLE),
    })
}

fn amount_to_size(amount: AutoOrCount) -> SizeMode {
    match amount {
        AutoOrCount::Auto => SizeMode::Auto,
        AutoOrCount::Count(size) => SizeMode::Fixed(size),
    }
}

/// A row that cannot be read, as an outcome of its prompt.
fn bad_row_result(bad: BadRow) -> PromptResult {
    let id = bad.id.unwrap_or_else(|| PromptId::from_index(bad.index));
    let failure = PromptFailure { kind: FailureKind::BadRow, message: bad.reason, status: None };
    let prompt = Prompt {
        index: bad.index,
        id,
        input: PromptInput::Text(String::new()),
        params: RequestParams::default(),
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
    }
}
