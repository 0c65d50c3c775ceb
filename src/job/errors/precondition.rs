//! The reasons why a job must not start as asked: the command does not fit existing files, the input or its own options.
//!
//! Settings that conflict without regard to files are errors of [`settings`](crate::settings).

use std::{io, path::PathBuf};

use crate::{domain::Url, output::Heartbeat};

/// A reason why the job must not start as asked. Nothing has been changed, and the user has to decide.
#[derive(Debug, thiserror::Error)]
pub enum PreconditionError {
    /// The output exists without a run folder.
    #[error(
        "{} exists, but {} does not: the file may not be an output of aurora-swarm\nhint: choose another --output, or pass \
         --overwrite to replace the file",
        .output.display(), .folder.display()
    )]
    OutputExists {
        output: PathBuf,
        /// Path that its run folder would have.
        folder: PathBuf,
    },
    /// The output is a folder, or ends with a slash.
    #[error(
        "--output {} is a folder, and all answers are written to one file\nhint: name a file in it: {}",
        .0.display(), .0.join("answers.jsonl").display()
    )]
    OutputIsFolder(PathBuf),
    /// The output is a device, a pipe or the like.
    #[error(
        "--output {} is not a file: answers are written to a file beside it, which then takes its name\nhint: choose \
         another --output",
        .0.display()
    )]
    OutputNotFile(PathBuf),
    /// The output lies in the folder of a run, whose files belong to that run.
    #[error(
        "--output {} lies in the run folder {}, whose files must not be mixed with others\nhint: choose another --output",
        .output.display(), .folder.display()
    )]
    OutputInRunFolder { output: PathBuf, folder: PathBuf },
    /// A test before the work could not write the output or a file beside it.
    #[error(
        "--output {} cannot be written: {}: {error}\nhint: choose another --output, or make its folder writable",
        .output.display(), .path.display()
    )]
    OutputUnwritable {
        output: PathBuf,
        /// File or folder that could not be created.
        path: PathBuf,
        error: io::Error,
    },
    /// A file that would be written beside the output exists, and no session of this run has written it.
    #[error(
        "{} exists, and this run has not written it\nhint: choose another --output, or pass --overwrite to replace the \
         file",
        .0.display()
    )]
    FileNotOwn(PathBuf),
    /// The run folder has shard files but no manifest.
    #[error(
        "{} has answers but no manifest.json, which says to which input they belong\nhint: restore manifest.json, choose \
         another --output, or pass --overwrite to replace the answers",
        .0.display()
    )]
    ManifestMissing(PathBuf),
    /// Another session works on the run.
    #[error(
        "{} is being written by process {} on {}{}, active {} s ago ({})\nhint: wait until that run ends, or stop it; if \
         there is no such process any more, remove {}",
        .output.display(), .heartbeat.pid, .heartbeat.host, describe_batch_job(.heartbeat), .heartbeat.age_s(),
        .heartbeat.doing, .folder.join(Heartbeat::FILE_NAME).display()
    )]
    RunActive {
        output: PathBuf,
        /// Heartbeat of the other session.
        heartbeat: Box<Heartbeat>,
        folder: PathBuf,
    },
    /// A session was killed while it took over the run folder of another one.
    #[error("{} is left by a session that was killed as it began\nhint: if no session begins now, remove this file", .0.display())]
    TakeoverLeft(PathBuf),
    /// `--resume never` was given, but the run exists.
    #[error(
        "--resume never, but the run {} exists\nhint: choose another --output, or pass --overwrite to replace the run",
        .0.display()
    )]
    RunExists(PathBuf),
    /// `--resume require` was given, but there is no run.
    #[error(
        "--resume require, but {} has no run to resume\nhint: check --output, or leave out --resume to begin a new run",
        .0.display()
    )]
    NothingToResume(PathBuf),
    /// A command on an existing run found none.
    #[error("no run found in {}\nhint: pass the --output FILE of a run, or its folder FILE.run", .0.display())]
    RunNotFound(PathBuf),
    /// The run folder belongs to the other of the commands `run` and `reduce`.
    #[error(
        "{} is the folder of a {existing}, which a {requested} cannot resume\nhint: choose another --output, or pass \
         --overwrite to replace it",
        .folder.display()
    )]
    OtherCommand { folder: PathBuf, existing: &'static str, requested: &'static str },
    /// Input or settings differ from those of the run; the text lists the changes.
    #[error("{0}")]
    RunChanged(String),
    /// Another process has begun a session while this one prepared the run folder.
    #[error(
        "another process has begun a session in {} meanwhile\nhint: wait until it ends, then run the same command again",
        .0.display()
    )]
    RunTaken(PathBuf),
    /// Too few endpoints are ready, and the others can never be used; the text lists the reasons.
    #[error("{0}")]
    EndpointsUnusable(String),
    /// There are fewer endpoints than the settings require.
    #[error(
        "--min-endpoints {required}, but {endpoints} configured\nhint: lower --min-endpoints, or name more servers with \
         --endpoint, --endpoints-per-node or --hostfile"
    )]
    TooFewEndpoints {
        required: u64,
        /// Number of endpoints, with noun and verb.
        endpoints: String,
    },
    /// An endpoint needs TLS, and this build has none.
    #[error(
        "endpoint {0} needs TLS, which this program was built without\nhint: build it with --features tls, or use a URL \
         with http://"
    )]
    TlsNotBuilt(Url),
    /// The served model is not that of the existing answers.
    #[error(
        "the existing answers are from model {before}, but this session would use {model}\nhint: serve {before} again, \
         pass --accept-changes to keep the answers and continue with {model}, or pass --overwrite"
    )]
    ModelChanged { before: String, model: String },
    /// A row names another model than the one that a benchmark measures.
    #[error(
        "rows name the model {0:?} beside another, but a benchmark has one model\nhint: pass --ignore-row-model"
    )]
    BenchRowModel(String),
    /// The output is one of the input files.
    #[error("{} is an input, but the answers would overwrite it\nhint: choose another --output", .0.display())]
    OutputIsInput(PathBuf),
    /// The input has conversations, and the route takes only texts.
    #[error(
        "the input has rows with `messages`, but --api completions takes only texts\nhint: drop --api completions, or give \
         the rows a `prompt`"
    )]
    MessagesNeedChat,
    /// `--api chat` was given, and rows have token ids, which only the completions route takes.
    #[error(
        "the input has rows with token ids, but --api chat takes only texts and messages\nhint: drop --api chat, or give \
         the rows a text"
    )]
    TokenIdsNeedCompletions,
    /// `--system` was given, and the route takes only texts.
    #[error(
        "--system is a chat message, but these prompts are sent as texts to /v1/completions\nhint: pass --api chat, or put \
         the text into --template"
    )]
    SystemNeedsChat,
    /// This build cannot write the answer format.
    #[error("cannot write a Parquet output: {0}")]
    FormatUnsupported(&'static str),
    /// An option or value does not apply to a reduce.
    #[error("{problem}\nhint: {hint}")]
    NotForReduce {
        /// Message with the option as typed.
        problem: &'static str,
        hint: &'static str,
    },
    /// The prompt template of a reduce is invalid.
    #[error("{0}")]
    ReduceTemplate(String),
    /// A reduce got an input without rows.
    #[error("the input has no rows, so there is no text to make")]
    NothingToReduce,
    /// `merge` without `--partial` found prompts without an outcome.
    #[error(
        "{remaining} of {submitted} still open\nhint: {remedy}, or pass --partial to merge the answers so far"
    )]
    PromptsRemain {
        remaining: u64,
        /// Number of all prompts, with its noun.
        submitted: String,
        remedy: &'static str,
    },
    /// `merge` would replace the text of a reduce.
    #[error(
        "{0} is the text of a reduce, which only `reduce` writes\nhint: pass --output FILE to write the leaves' answers to \
         another file"
    )]
    OutputIsReduceText(String),
    /// The manifest of a finished run and its shard files disagree.
    #[error(
        "the manifest of {} counts {manifest}, but its shard files hold {shards}: a shard file is damaged or missing\nhint: \
         run the same command again to send the missing prompts",
        .folder.display()
    )]
    CountsDiffer {
        folder: PathBuf,
        /// Counts of the manifest, as text.
        manifest: String,
        /// Counts of the shard files, as text.
        shards: String,
    },
    /// A benchmark got an input without rows.
    #[error("the input has no rows\nhint: without INPUT, synthetic prompts are used")]
    NoBenchmarkRows,
    /// The report of a benchmark has another extension than `.json`.
    #[error(
        "--output {0}: the name of the report must end with .json (plots are written beside it)"
    )]
    ReportName(String),
    /// The folder for the report of a benchmark does not exist.
    #[error("--output {output}: folder {} not found\nhint: create it first", .folder.display())]
    ReportFolder { output: String, folder: PathBuf },
    /// The report of a benchmark, or a plot beside it, exists.
    #[error("{} already exists\nhint: choose another --output, or pass --overwrite to replace it", .0.display())]
    ReportExists(PathBuf),
    /// A local call of a library program names a server that its rank does not have.
    #[error("server index {index} is out of range: rank {rank} has {servers}")]
    ServerIndex {
        /// Requested index, from 0.
        index: usize,
        rank: usize,
        /// Number of its servers, with its noun.
        servers: String,
    },
    /// `serve` was set by a library program.
    #[error(
        "the setting serve is only for the aurora-swarm command, which also supervises the servers\nhint: start the servers \
         first, and name them with endpoint, base-port or hostfile"
    )]
    ServeInProgram,
}

fn describe_batch_job(heartbeat: &Heartbeat) -> String {
    heartbeat.job.as_ref().map_or_else(String::new, |job| format!(" (job {job})"))
}
