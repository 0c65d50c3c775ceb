//! Groups of arguments that several commands share. Each becomes a setting by its long name; texts stay texts.

use clap::{ArgMatches, Args, builder::PossibleValuesParser};

use crate::settings::LogFormat;

/// The heading of arguments that are no settings.
pub(super) const NON_SETTING_HEADING: &str = "Command";

/// All that `run` has to be told, and `plan` is told likewise.
#[derive(Args)]
pub(super) struct JobArgs {
    /// Prompts: .jsonl, .txt, .csv, .tsv, also .gz and .zst, and .parquet; files, folders or globs; - for standard input (JSON lines)
    #[arg(required = true, value_name = "INPUT", help_heading = NON_SETTING_HEADING)]
    pub(super) inputs: Vec<String>,
    #[command(flatten)]
    _rows: InputArgs,
    #[command(flatten)]
    _answers: OutputArgs,
    #[command(flatten)]
    _endpoints: EndpointArgs,
    #[command(flatten)]
    _requests: RequestArgs,
    #[command(flatten)]
    pub(super) running: RuntimeArgs,
}

/// What a reduce has to be told besides.
#[derive(Args)]
#[command(next_help_heading = "Tree")]
pub(super) struct TreeArgs {
    /// The prompt that makes one text of a group's, or @FILE: {{responses}} and {{level}} are filled in
    ///
    /// {{responses}} are the group's texts with lines of --- between them; {{level}} counts from 1. Without it, the
    /// program has one of its own.
    #[arg(long, value_name = "TEXT")]
    reduce_template: Option<String>,
    /// How many texts become one, 2 or more [default: 50]
    #[arg(long, value_name = "N")]
    fan_in: Option<String>,
    /// The longest answer of a group, in tokens [default: what its texts have and 512, at least twice --max-tokens]
    #[arg(long, value_name = "N")]
    max_tokens_aggregation: Option<String>,
}

/// Where the servers are, and which of their models is asked.
#[derive(Args)]
#[command(next_help_heading = "Endpoints")]
pub(super) struct EndpointArgs {
    #[command(flatten)]
    _servers: ServerArgs,
    /// The served model to use [default: the one that is served]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

/// Where the servers are.
#[derive(Args)]
#[command(next_help_heading = "Endpoints")]
pub(super) struct ServerArgs {
    /// A server, as http://host:port; again for more. {rank}, {local_rank} and {host} are filled in
    ///
    /// A loopback address means every node's own server; without any of these options it is http://127.0.0.1:8000.
    #[arg(long, value_name = "URL")]
    endpoint: Vec<String>,
    /// This node's servers are 127.0.0.1:P and the ports after it
    #[arg(long, value_name = "P")]
    base_port: Option<String>,
    /// How many servers each node has, from --base-port on
    #[arg(long, value_name = "K")]
    endpoints_per_node: Option<String>,
    /// Servers from a file: host, port and key=value tags a line
    #[arg(long, value_name = "FILE")]
    hostfile: Option<String>,
    /// Only the hostfile's lines with this tag; again for more
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// Servers on hosts without a rank: `refuse` (default) or `deal` them over all ranks
    #[arg(long, value_name = "HOW")]
    remote_endpoints: Option<String>,
    /// Start this node's servers with this command, restart those that end, and end all of them with the job
    ///
    /// {port}, {k} (the server's number on its node), {local_rank}, {host} and {model} are filled in. Servers are on
    /// --endpoints-per-node ports from --base-port on; their logs are in FILE.run/servers.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    serve: Option<String>,
    /// A variable of each server; again for more. Filled in like the command
    #[arg(long, value_name = "NAME=VALUE")]
    serve_env: Vec<String>,
    /// Deal the node's GPU tiles: `aurora-12x1`, `-6x2`, `-3x4`, `-1x12` (servers x tiles), or `none` [default: none]
    #[arg(long, value_name = "LAYOUT")]
    serve_layout: Option<String>,
    /// How long after its neighbour each of a node's servers is started [default: 500ms]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    serve_stagger: Option<String>,
    /// How long to wait for servers to be ready [default: 60s; with --serve 30m]
    #[arg(long, value_name = "TIME")]
    ready_timeout: Option<String>,
    /// Start when so many are ready: N or P% [default: 1]
    #[arg(long, value_name = "N|P%")]
    min_endpoints: Option<String>,
}

/// How servers are asked.
#[derive(Args)]
#[command(next_help_heading = "Requests")]
pub(super) struct RequestArgs {
    /// The route: `auto`, `completions` (raw texts) or `chat`
    ///
    /// auto: conversations by chat; texts as one user message where the model has a chat template, else raw.
    #[arg(long, value_name = "ROUTE")]
    api: Option<String>,
    /// The longest answer, in tokens [default: 512]
    #[arg(long, value_name = "N")]
    max_tokens: Option<String>,
    /// Sampling temperature, 0 to 2 [default: the server's]
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    temperature: Option<String>,
    /// Nucleus sampling, above 0 to 1 [default: the server's]
    #[arg(long, value_name = "P")]
    top_p: Option<String>,
    /// Sampling seed
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    seed: Option<String>,
    /// A text that ends an answer; again for more, four at most
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Sequences a prompt [default: 1]
    #[arg(long, value_name = "N")]
    n: Option<String>,
    /// More request parameters, as a JSON object
    #[arg(long, value_name = "JSON")]
    extra_body: Option<String>,
    /// The longest prompt and answer together, in tokens [default: what the server says]
    #[arg(long, value_name = "N")]
    max_context: Option<String>,
    /// Tokens left free when an answer is cut to fit the context [default: 512]
    #[arg(long, value_name = "N")]
    buffer: Option<String>,
    /// Prompts a request: a number, or what the endpoint's pace asks for [default: auto]
    #[arg(long, value_name = "N")]
    batch_size: Option<String>,
    /// One prompt a request
    #[arg(long)]
    no_batch: bool,
    /// How long prompts wait for others that would make a full list [default: 20ms]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    max_wait: Option<String>,
    /// Prompts in flight at each endpoint: a number, or what keeps it full [default: auto]
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
    /// Requests begun a second at each endpoint, at most [default: no limit]
    #[arg(long, value_name = "N")]
    rate_limit: Option<String>,
    /// Conversations as lists of texts: `auto`, `none`, or the model's template FILE or folder [default: auto]
    ///
    /// auto: the model's own folder, where the server names one that can be read here.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<String>,
    /// A request's time limit; it grows with very long lists [default: 300s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// What the limit of a long list is counted with [default: 60s]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    timeout_per_sequence: Option<String>,
    /// Tries a prompt has in all, at servers that are well [default: 3]
    #[arg(long, value_name = "N")]
    retries: Option<String>,
}

/// What the rows of the input are.
#[derive(Args)]
#[command(next_help_heading = "Input")]
pub(super) struct InputArgs {
    /// A prompt template, or @FILE: {{column}} and {{item}} are filled in from the row
    #[arg(long, value_name = "TEXT")]
    template: Option<String>,
    /// The first message of every conversation, or @FILE
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Rows that cannot be read: `stop` before any work (default), or `fail` as outcomes
    #[arg(long, value_name = "HOW")]
    bad_rows: Option<String>,
    /// Rows with the same id: `refuse` (default) or `keep`
    #[arg(long, value_name = "HOW")]
    duplicate_ids: Option<String>,
    /// A row's other model is no error
    #[arg(long)]
    ignore_row_model: bool,
}

/// What comes out.
#[derive(Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// The answers, in input order; the run folder is FILE.run
    #[arg(long, short, value_name = "FILE")]
    output: Option<String>,
    /// Nodes do not share FILE.run: ranks keep answers here until the end. {rank}, {local_rank}, {host} are filled in
    ///
    /// A folder of each node's own, as /tmp. At every end that finds all ranks there, what is in it goes to FILE.run, which
    /// only rank 0 needs to see then. After a kill the same command on the same nodes goes on with what they hold.
    #[arg(long, value_name = "DIR")]
    local_shards: Option<String>,
    /// `jsonl`, `openai-batch`, `csv` or `parquet` [default: as the output's ending says, else jsonl; openai-batch for such an input]
    #[arg(long, value_name = "FORMAT")]
    output_format: Option<String>,
    /// Remove an earlier run and its answers first
    #[arg(long)]
    overwrite: bool,
    /// A run that is there: `auto` goes on (default), `never`, `require`
    #[arg(long, value_name = "HOW")]
    resume: Option<String>,
    /// Ask failed prompts again, whatever they failed of
    #[arg(long)]
    retry_failed: bool,
    /// Go on though the input or settings that decide answers have changed
    ///
    /// Answers whose rows are still in the input are kept and go to where these stand now; the other rows are asked.
    /// Without it the run is refused, with how many would be kept, new and gone.
    #[arg(long)]
    accept_changes: bool,
    /// `root`: one file (default); `none`: shard files only, for `merge` later
    #[arg(long, value_name = "WHERE")]
    gather: Option<String>,
    /// What all answers come to together, written beside them; again for more: `majority`, `concat`, `json`, `stats`,
    /// `top-k=10:/score`, `best`, `failures`
    ///
    /// After a colon, a JSON pointer into the answers. In answers.aggregate.json beside answers.jsonl; `concat` (texts;
    /// concat=SEPARATOR) writes answers.concat.txt, `json` (one list) answers.merged.json.
    #[arg(long, value_name = "WHAT")]
    aggregate: Vec<String>,
    /// Token counts: `share` of a list's sum (default), `exact`, or `off`
    #[arg(long, value_name = "HOW")]
    usage: Option<String>,
    /// Leave the prompt out of the answer
    #[arg(long)]
    no_echo: bool,
    /// Keep the row's other fields in the answer
    #[arg(long)]
    keep_row: bool,
    /// Leave report.html and summary.json out of the run folder
    #[arg(long)]
    no_report: bool,
    /// `auto`, `bar`, `lines` or `none`
    #[arg(long, value_name = "HOW")]
    progress: Option<String>,
}

/// How the program runs.
#[derive(Args)]
#[command(next_help_heading = "Running")]
pub(super) struct RuntimeArgs {
    /// Settings from a TOML file; its keys are the options' names
    #[arg(long, value_name = "FILE.toml", help_heading = NON_SETTING_HEADING)]
    pub(super) config: Option<String>,
    /// Refuse to start with another number of ranks
    #[arg(long, value_name = "N")]
    expect_ranks: Option<String>,
    /// How long the job may take, as 90m or 12:00:00 [default: auto, what PBS says]
    #[arg(long, value_name = "TIME")]
    walltime: Option<String>,
    /// When it has to be over: seconds since 1970, or 2026-01-31T18:00:00Z
    #[arg(long, value_name = "TIME")]
    deadline: Option<String>,
    /// How much of that is kept for the end [default: 2m, at most a fifth]
    #[arg(long, value_name = "TIME")]
    margin: Option<String>,
    /// A rank that was silent for so long is lost: others get its prompts [default: 60s]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    rank_silence: Option<String>,
    /// Log lines as `text` or as `json`
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(["text", "json"]))]
    log_format: Option<String>,
    /// Only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

/// The log starts before settings are resolved, since resolving may have something to say: its flags are read at once.
pub(super) fn log_format(given: &ArgMatches) -> LogFormat {
    match given.try_get_one::<String>("log_format") {
        Ok(Some(format)) if format == "json" => LogFormat::Json,
        _ => LogFormat::Text,
    }
}

/// As [`log_format`].
pub(super) fn is_quiet(given: &ArgMatches) -> bool {
    given.try_get_one::<bool>("quiet").ok().flatten().copied().unwrap_or(false)
}
