//! The asynchronous engine of one rank: the only place that builds a tokio runtime and spawns tasks.
//!
//! Owns concurrency: a reader thread that reads prompts ahead, a scheduler thread that drives the endpoints, and a
//! writer thread, with bounded channels between them for back-pressure, so that no part runs ahead of the others. Knows
//! endpoints, and nothing of ranks or files: prompts come from an iterator, results go to a closure. How it is
//! connected to the coordinator is in `job::dispatch`.
//!
//! | part | owns |
//! |---|---|
//! | `scheduler` | the event loop: what is sent where and when |
//! | `queue` | the prompts that wait to be sent |
//! | `endpoint_state` | the state of endpoints: concurrency, batch size, timeouts, suspension |
//! | `policy` | the settings of the engine, and what follows from them for a request |
//! | `scheduler::command`, `events` | commands to a running engine, and what it reports |
//! | `ready_checker` | the wait until servers are ready, before an engine starts |

mod endpoint_state;
mod events;
mod policy;
mod queue;
mod ready_checker;
mod scheduler;

pub(crate) use endpoint_state::Endpoint;
pub(crate) use events::{EngineBacklog, EngineEvent, EngineExit, EngineProgress};
pub(crate) use policy::{
    ConversationRenderer, EnginePolicy, SharedRenderer, SizeMode, TokenCounting,
};
pub(crate) use ready_checker::ReadyChecker;
pub(crate) use scheduler::EngineCommand;

use std::{
    sync::mpsc as std_mpsc,
    thread::{self, JoinHandle},
};

use tokio::{runtime::Builder, sync::mpsc};

use crate::{
    domain::{Prompt, PromptResult, Tally},
    endpoint::HttpClient,
    settings::ApiKey,
};
use scheduler::Scheduler;

/// The parts that an engine works with.
pub(crate) struct EngineSetup<P, S> {
    pub(crate) policy: EnginePolicy,
    /// The endpoints, ready or not.
    pub(crate) endpoints: Vec<Endpoint>,
    /// The API key of the endpoints.
    pub(crate) api_key: Option<ApiKey>,
    /// The prompts in the order of work; the iterator may block. An error ends the engine, and so does its end once all
    /// prompts are settled.
    pub(crate) prompts: P,
    /// Prompts between the reader and the scheduler, at most.
    pub(crate) read_ahead: usize,
    /// Takes results; called on a thread of its own. An error ends the engine.
    pub(crate) sink: S,
}

/// A running engine. Dropping the handle stops the engine but does not wait for its threads: send
/// [`EngineCommand::Stop`], wait for [`EngineEvent::Ended`], and call [`EngineHandle::join`].
pub(crate) struct EngineHandle {
    commands: mpsc::UnboundedSender<EngineCommand>,
    threads: Vec<JoinHandle<()>>,
}

/// Prompts between the reader and the scheduler, unless they are large.
pub(crate) const MAX_READ_AHEAD: usize = 256;
/// Batches of results between the scheduler and the writer.
const RESULT_CHANNEL_CAPACITY: usize = 64;
/// Results per call of the sink, beyond which no more are added to a write.
const MAX_RESULTS_PER_WRITE: usize = 4096;

/// Threads beside the event loop, which check answers and look up host names; a node's cores are the servers'.
const MAX_BLOCKING_THREADS: usize = 4;

/// Local. Starts the engine's threads and returns. `events` is called on the scheduler's thread.
///
/// # Errors
/// Returns an error if a thread cannot be started.
pub(crate) fn spawn_engine<P, E, S>(
    setup: EngineSetup<P, S>,
    events: impl Fn(EngineEvent) + Send + 'static,
) -> std::io::Result<EngineHandle>
where
    P: Iterator<Item = Result<Prompt, E>> + Send + 'static,
    E: std::fmt::Display,
    S: FnMut(Vec<PromptResult>) -> Result<(), String> + Send + 'static,
{
    raise_file_limit();
    let EngineSetup { policy, endpoints, api_key, prompts, read_ahead, sink } = setup;
    let (commands, command_receiver) = mpsc::unbounded_channel();
    let (prompt_sender, prompt_receiver) = mpsc::channel(read_ahead.max(1));
    let (result_sender, result_receiver) = mpsc::channel(RESULT_CHANNEL_CAPACITY);
    let (read_error_sender, read_errors) = std_mpsc::channel();
    let reader = thread::Builder::new()
        .name("reader".into())
        .spawn(move || feed_prompts(prompts, &prompt_sender, &read_error_sender))?;
    let writer = thread::Builder::new()
        .name("writer".into())
        .spawn(move || write_results(sink, result_receiver))?;
    let scheduler = thread::Builder::new().name("engine".into()).spawn(move || {
        let (exit, tally) = match create_client(api_key) {
            Ok((runtime, client)) => {
                let scheduler = Scheduler::new(policy, client, endpoints, prompt_receiver);
                runtime.block_on(scheduler.run(result_sender, command_receiver, &events))
            }
            Err(reason) => {
                // The reader and the writer end with their channels.
                drop((prompt_receiver, result_sender));
                (EngineExit::StartFailed(reason), Tally::default())
            }
        };
        // The last event is sent when the last results are on disk.
        let all_written = writer.join().unwrap_or(false);
        let exit = match (read_errors.try_recv(), all_written) {
            (Ok(reason), _) => EngineExit::ReadFailed(reason),
            (Err(_), false) => EngineExit::WriteFailed,
            (Err(_), true) => exit,
        };
        events(EngineEvent::Ended(exit, tally));
    })?;
    // The reader is joined by the handle: it may block until the prompts come to their end.
    Ok(EngineHandle { commands, threads: vec![reader, scheduler] })
}

/// Raises the limit of open files to what the system allows: every request in flight is one, and a login shell's limit
/// is lower than a window.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(event = "file_limit_unchanged", "file limit unchanged: {error}");
    }
}

fn create_client(api_key: Option<ApiKey>) -> Result<(tokio::runtime::Runtime, HttpClient), String> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let client = HttpClient::new(api_key).map_err(|error| error.to_string())?;
    Ok((runtime, client))
}

impl EngineHandle {
    /// Sends a command to the engine. An engine that has ended ignores it.
    pub(crate) fn send_command(&self, command: EngineCommand) {
        let _ = self.commands.send(command); // closed: the engine has ended
    }

    /// Waits for the engine's threads. To be called after [`EngineEvent::Ended`], and when its prompts have come to
    /// their end.
    pub(crate) fn join(self) {
        for thread in self.threads {
            let _ = thread.join(); // a panic has ended the process already
        }
    }
}

fn feed_prompts<E: std::fmt::Display>(
    prompts: impl Iterator<Item = Result<Prompt, E>>,
    prompt_sender: &mpsc::Sender<Prompt>,
    read_errors: &std_mpsc::Sender<String>,
) {
    for prompt in prompts {
        match prompt {
            Ok(prompt) => {
                if prompt_sender.blocking_send(prompt).is_err() {
                    return; // the scheduler has ended
                }
            }
            Err(error) => {
                let _ = read_errors.send(error.to_string());
                return;
            }
        }
    }
}

/// Returns whether all results were written.
fn write_results(
    mut sink: impl FnMut(Vec<PromptResult>) -> Result<(), String>,
    mut results: mpsc::Receiver<Vec<PromptResult>>,
) -> bool {
    while let Some(mut batch) = results.blocking_recv() {
        // Results that have arrived meanwhile go into the same write.
        while batch.len() < MAX_RESULTS_PER_WRITE
            && let Ok(more) = results.try_recv()
        {
            batch.extend(more);
        }
        if let Err(error) = sink(batch) {
            tracing::error!(event = "results_not_written", "results not written: {error}");
            return false;
        }
    }
    true
}
