//! One rank's asynchronous middle: the only place that builds a tokio runtime and spawns tasks.
//!
//! Owns what happens at the same time: a thread that reads prompts ahead, one that drives the endpoints, one that writes
//! outcomes, with bounded channels between them, so that no part runs away from the others. Knows endpoints, and nothing
//! of ranks or files: prompts come from an iterator, outcomes go to a closure.

mod endpoint_state;
mod policy;
mod queue;
mod ready_checker;
mod scheduler;

pub use endpoint_state::Endpoint;
pub use policy::{ConversationRenderer, EnginePolicy, SharedRenderer, SizeMode, TokenCounting};
pub use ready_checker::wait_until_ready;
pub use scheduler::backlog::EngineBacklog;

use std::{
    sync::mpsc as std_mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{runtime::Builder, sync::mpsc};

use crate::{
    domain::{Prompt, PromptResult, Tally, Timeline},
    endpoint::HttpClient,
    settings::ApiKey,
};

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineProgress {
    /// What was done.
    pub tally: Tally,
    /// Sequences in flight.
    pub in_flight: u64,
    /// Endpoints that answer.
    pub endpoints_up: u64,
}

/// Why the engine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineExit {
    /// Every prompt it was given has its outcome.
    Finished,
    /// Endpoints are up and nothing was settled for as long as patience lasts; prompts are open.
    Stalled,
    /// It was told to stop; prompts are open.
    Stopped,
    /// Outcomes could not be written.
    WriteFailed,
    /// The input could not be read on.
    ReadFailed(String),
    /// The asynchronous side could not start.
    StartFailed(String),
}

/// What the engine says to the thread that started it.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    /// Every second, and at once when the first endpoint comes up or the last goes down, or nothing is under way any more
    /// of what is drained.
    Progress(EngineProgress),
    /// There is little left to send, or nothing.
    Backlog(EngineBacklog),
    /// It has nobody to ask just now, and will not work on these prompts (by index) any more.
    PromptsReturned(Vec<u64>),
    /// So many first outcomes are all the same failure, with these words: nothing is sent and none of them written until
    /// [`Running::go_on`], [`Running::further`] or [`Running::stop`].
    FailFastTripped(u64, String),
    /// Once, before the last: what its endpoints did over time.
    TimelineRecorded(Timeline),
    /// Once, last.
    Ended(EngineExit, Tally),
}

/// What the engine is told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum EngineCommand {
    Stop,
    Proceed,
    KeepHolding,
    SetSupplied(u64, bool),
    DropRedundant(Vec<u64>),
    RevokeUnsent(u64),
    Drain,
}

/// What an engine works with.
pub struct EngineSetup<P, S> {
    /// How it behaves.
    pub policy: EnginePolicy,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The key they ask for.
    pub api_key: Option<ApiKey>,
    /// What to ask, in the order of work; it may keep its caller waiting. A message ends the work, and so does its end once
    /// all of it is settled.
    pub prompts: P,
    /// Takes outcomes in; called on a thread of its own. An error ends the work.
    pub sink: S,
}

/// An engine at work. Dropping it leaves its threads alone: [`Running::stop`] and then wait for [`Word::Ended`].
pub struct EngineHandle {
    commands: mpsc::UnboundedSender<EngineCommand>,
    threads: Vec<JoinHandle<()>>,
}

/// How often it says something.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Prompts read ahead of the loop.
const PROMPT_CHANNEL_CAPACITY: usize = 256;
/// Batches of outcomes on their way to the disk.
const RESULT_CHANNEL_CAPACITY: usize = 64;

/// Local. Starts the threads and returns; what happens is told over `tell`.
///
/// # Errors
/// Where a thread cannot be started.
pub fn spawn_engine<P, E, S>(
    work: EngineSetup<P, S>,
    tell: impl Fn(EngineEvent) + Send + 'static,
) -> std::io::Result<EngineHandle>
where
    P: Iterator<Item = Result<Prompt, E>> + Send + 'static,
    E: std::fmt::Display,
    S: FnMut(Vec<PromptResult>) -> Result<(), String> + Send + 'static,
{
    raise_file_limit();
    let EngineSetup { policy, endpoints, api_key: key, prompts, sink } = work;
    let (commands, commanded) = mpsc::unbounded_channel();
    let (give, given) = mpsc::channel(PROMPT_CHANNEL_CAPACITY);
    let (settled, settle) = mpsc::channel(RESULT_CHANNEL_CAPACITY);
    let (broken, breaks) = std_mpsc::channel();
    let reader = thread::Builder::new()
        .name("reader".into())
        .spawn(move || feed_prompts(prompts, &give, &broken))?;
    let writer =
        thread::Builder::new().name("writer".into()).spawn(move || write_results(sink, settle))?;
    let driver = thread::Builder::new().name("engine".into()).spawn(move || {
        let (ended, tally) =
            run_scheduler(policy, endpoints, key, given, settled, commanded, &tell);
        // What is settled is on its way to the disk; the last word comes after it is there.
        let written = writer.join().unwrap_or(false);
        let ended = match (breaks.try_recv(), written) {
            (Ok(why), _) => EngineExit::ReadFailed(why),
            (Err(_), false) => EngineExit::WriteFailed,
            (Err(_), true) => ended,
        };
        tell(EngineEvent::Ended(ended, tally));
    })?;
    Ok(EngineHandle { commands, threads: vec![reader, driver] })
}

/// Every request under way is an open file: as many as the system allows, not as many as a login shell has.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}

impl EngineHandle {
    /// Asks it to stop; prompts in flight stay open.
    pub fn stop(&self) {
        self.send_command(EngineCommand::Stop);
    }

    /// The failures it has held back are the prompts' own.
    pub fn proceed(&self) {
        self.send_command(EngineCommand::Proceed);
    }

    /// The failures it has held back are too few to tell: it holds back as many again.
    pub fn keep_holding(&self) {
        self.send_command(EngineCommand::KeepHolding);
    }

    /// It was given so many prompts in all; `ending` where there are no more to be had for now.
    pub fn set_supplied(&self, prompts: u64, ending: bool) {
        self.send_command(EngineCommand::SetSupplied(prompts, ending));
    }

    /// Somebody else has settled these prompts (by index).
    pub fn drop_redundant(&self, indexes: Vec<u64>) {
        self.send_command(EngineCommand::DropRedundant(indexes));
    }

    /// From now on nothing is sent; what it has not sent it gives back ([`Word::GivesBack`]), what is under way it waits for.
    pub fn drain(&self) {
        self.send_command(EngineCommand::Drain);
    }

    /// Asks it to give back what it has not sent of the first `given` prompts ([`Word::GivesBack`]).
    pub fn revoke_unsent(&self, given: u64) {
        self.send_command(EngineCommand::RevokeUnsent(given));
    }

    fn send_command(&self, command: EngineCommand) {
        let _ = self.commands.send(command); // closed: it has ended
    }

    /// Waits for its threads. To be called after [`Word::Ended`], and when its prompts have come to their end.
    pub fn join(self) {
        for thread in self.threads {
            let _ = thread.join(); // a panic has ended the process already
        }
    }
}

fn feed_prompts<E: std::fmt::Display>(
    prompts: impl Iterator<Item = Result<Prompt, E>>,
    give: &mpsc::Sender<Prompt>,
    broken: &std_mpsc::Sender<String>,
) {
    for prompt in prompts {
        match prompt {
            Ok(prompt) => {
                if give.blocking_send(prompt).is_err() {
                    return; // the loop has ended
                }
            }
            Err(error) => {
                let _ = broken.send(error.to_string());
                return;
            }
        }
    }
}

/// True if all of it was written.
fn write_results(
    mut sink: impl FnMut(Vec<PromptResult>) -> Result<(), String>,
    mut settle: mpsc::Receiver<Vec<PromptResult>>,
) -> bool {
    while let Some(mut batch) = settle.blocking_recv() {
        // What has come meanwhile goes in the same write.
        while batch.len() < 4096
            && let Ok(more) = settle.try_recv()
        {
            batch.extend(more);
        }
        if let Err(why) = sink(batch) {
            tracing::error!("{why}");
            return false;
        }
    }
    true
}

fn run_scheduler(
    policy: EnginePolicy,
    endpoints: Vec<Endpoint>,
    key: Option<ApiKey>,
    prompts: mpsc::Receiver<Prompt>,
    settled: mpsc::Sender<Vec<PromptResult>>,
    commands: mpsc::UnboundedReceiver<EngineCommand>,
    tell: &impl Fn(EngineEvent),
) -> (EngineExit, Tally) {
    let failed = |why: String| (EngineExit::StartFailed(why), Tally::default());
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(error.to_string()),
    };
    let client = match HttpClient::new(key) {
        Ok(client) => client,
        Err(trouble) => return failed(trouble.to_string()),
    };
    let driver = scheduler::Scheduler::new(policy, client, endpoints);
    runtime.block_on(driver.run(prompts, settled, commands, tell))
}
