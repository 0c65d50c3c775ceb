//! Groups of arguments that several commands share. Each becomes a setting by its long name; values stay texts.
//!
//! Owns the help texts and the headings; a heading of [`SETTING_HEADINGS`] makes an option a setting. Types, ranges and
//! defaults of the values are in `settings`; only choices are listed here too, so that help and completions offer them.

use clap::{ArgMatches, Args, builder::PossibleValuesParser};

use crate::settings::LogFormat;

/// Headings of options that are settings, except for `--config`, which names the settings file.
const SETTING_HEADINGS: [&str; 6] = ["Input", "Output", "Reduce", "Servers", "Requests", "Running"];

/// Choices of a setting, for help, completions and suggestions; a test compares them with the setting's type.
fn choices<const N: usize>(words: [&'static str; N]) -> PossibleValuesParser {
    PossibleValuesParser::new(words)
}

/// Returns the key of the setting that an option sets; `None` for other arguments.
pub(super) fn setting_key(argument: &clap::Arg) -> Option<&str> {
    let is_setting = argument.get_help_heading().is_some_and(|it| SETTING_HEADINGS.contains(&it));
    let key = argument.get_long().filter(|_| is_setting)?;
    (!matches!(key, "config" | "help")).then_some(key)
}

/// Arguments of `run`, `plan` and `reduce`.
#[derive(Args)]
pub(super) struct JobArgs {
    /// Files, folders or globs with prompts, or - for stdin
    ///
    /// Formats: .jsonl, .json, .txt, .csv, .tsv, also with .gz or .zst, and .parquet; for others pass --input-format.
    /// Standard input takes JSON lines by default. See `aurora-swarm help input`.
    #[arg(required = true, value_name = "INPUT")]
    pub(super) inputs: Vec<String>,
    #[command(flatten)]
    _input: InputArgs,
    #[command(flatten)]
    _output: OutputArgs,
    #[command(flatten)]
    _endpoints: EndpointArgs,
    #[command(flatten)]
    _requests: RequestArgs,
    #[command(flatten)]
    pub(super) running: RuntimeArgs,
}

/// Options about the tree of a reduce.
#[derive(Args)]
#[command(next_help_heading = "Reduce")]
pub(super) struct TreeArgs {
    /// Prompt that merges texts, or @FILE [default: built in]
    ///
    /// {{responses}} are the group's texts, separated by lines of ---; {{level}} is the level of the tree, from 1.
    #[arg(long, value_name = "TEXT")]
    reduce_template: Option<String>,
    /// Texts per group, at least 2 [default: 50]
    #[arg(long, value_name = "N")]
    fan_in: Option<String>,
    /// Longest merged text [default: by its texts]
    ///
    /// In tokens. The default is the tokens of the group's texts plus 512, at least twice --max-tokens and at most a
    /// quarter of the context.
    #[arg(long, value_name = "N")]
    max_tokens_aggregation: Option<String>,
    /// Exit with 0 although leaves were truncated to fit the model's context
    #[arg(long)]
    allow_truncation: bool,
}

/// Options about the servers and the model.
#[derive(Args)]
#[command(next_help_heading = "Servers")]
pub(super) struct EndpointArgs {
    #[command(flatten)]
    _servers: ServerArgs,
    /// Served model to use [default: the only one]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

/// Options about the servers.
#[derive(Args)]
#[command(next_help_heading = "Servers")]
pub(super) struct ServerArgs {
    /// Server URL, as http://host:8000 (repeatable)
    ///
    /// A loopback address means a server on each rank's node. {rank}, {local_rank} and {host} are replaced. Without any
    /// option that names servers it is http://127.0.0.1:8000.
    #[arg(long, value_name = "URL")]
    endpoint: Vec<String>,
    /// First port of each node's servers on 127.0.0.1
    #[arg(long, value_name = "PORT")]
    base_port: Option<String>,
    /// Servers per node, from --base-port on
    #[arg(long, value_name = "N")]
    endpoints_per_node: Option<String>,
    /// File of servers, one per line
    ///
    /// A line has host, port and KEY=VALUE tags. See `aurora-swarm help servers`.
    #[arg(long, value_name = "FILE")]
    hostfile: Option<String>,
    /// Use only hostfile entries with KEY=VALUE (repeatable)
    #[arg(long, value_name = "KEY=VALUE", hide_short_help = true)]
    tag: Vec<String>,
    /// Allow servers on nodes that run no rank [default: refuse]
    ///
    /// deal assigns them to the ranks in turn, which reach them over the network.
    #[arg(long, value_name = "HOW", hide_short_help = true, value_parser = choices(["refuse", "deal"]))]
    remote_endpoints: Option<String>,
    /// Start this node's servers with a shell command
    ///
    /// Restarts servers that exit, and ends all of them with the job. {port}, {k} (number of the server on its node),
    /// {local_rank}, {host} and {model} are replaced. The ports are set by --base-port [8000] and --endpoints-per-node;
    /// the logs are in FILE.run/servers. See `aurora-swarm help servers`.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    serve: Option<String>,
    /// Environment variable of each server (repeatable); placeholders as in --serve
    #[arg(long, value_name = "NAME=VALUE", hide_short_help = true)]
    serve_env: Vec<String>,
    /// Assignment of an Aurora node's GPU tiles, as servers x tiles [default: none]
    #[arg(long, value_name = "LAYOUT", hide_short_help = true,
          value_parser = choices(["none", "aurora-12x1", "aurora-6x2", "aurora-3x4", "aurora-1x12"]))]
    serve_layout: Option<String>,
    /// Delay between the starts of a node's servers [default: 500ms]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    serve_stagger: Option<String>,
    /// Restart a server whose requests make no progress for this long; 0s: never [default: 10m]
    ///
    /// A server hangs if its token counters in /metrics stand still while requests run, or if it answers /metrics no more.
    /// Its state, and the stacks of Python processes, are written to its log before it is killed.
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    serve_hang: Option<String>,
    /// Restart servers of this age, one of a rank at a time; 0s: never [default: 0s]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    serve_max_age: Option<String>,
    /// Longest wait for servers [default: 60s]
    ///
    /// With --serve the default is 30m.
    #[arg(long, value_name = "TIME")]
    ready_timeout: Option<String>,
    /// Minimum servers that must be ready to start [default: 1]
    #[arg(long, value_name = "N|P%", hide_short_help = true)]
    min_endpoints: Option<String>,
}

/// Options about requests: route, sampling, batching, timeouts.
#[derive(Args)]
#[command(next_help_heading = "Requests")]
pub(super) struct RequestArgs {
    /// Route of requests [default: auto]
    ///
    /// completions sends plain texts, chat sends chat messages. auto uses chat for conversations and, if the model has
    /// a chat template, for plain prompts (as one user message); otherwise completions.
    #[arg(long, value_name = "ROUTE", hide_short_help = true,
          value_parser = choices(["auto", "completions", "chat"]))]
    api: Option<String>,
    /// Longest answer in tokens, or none [default: 512]
    ///
    /// Rows may have their own max_tokens. none sends no limit: the chat route then uses what the context leaves, and
    /// vLLM's completions route stops after 16 tokens. It is the default of OpenAI batch rows.
    #[arg(long, value_name = "N")]
    max_tokens: Option<String>,
    /// Sampling temperature, 0 to 2 [default: the server's]
    #[arg(long, value_name = "T", allow_hyphen_values = true)]
    temperature: Option<String>,
    /// Nucleus sampling, above 0 to 1 [default: the server's]
    #[arg(long, value_name = "P", hide_short_help = true)]
    top_p: Option<String>,
    /// Sampling seed [default: none]
    #[arg(long, value_name = "N", allow_hyphen_values = true, hide_short_help = true)]
    seed: Option<String>,
    /// Text that ends an answer (repeatable)
    ///
    /// \n, \t and \\ stand for a line break, a tab and a backslash.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Answers per prompt [default: 1]
    #[arg(long, value_name = "N")]
    n: Option<String>,
    /// More request parameters, as a JSON object
    #[arg(long, value_name = "JSON")]
    extra_body: Option<String>,
    /// Context length to assume if the server does not report one, in tokens
    #[arg(long, value_name = "N", hide_short_help = true)]
    max_context: Option<String>,
    /// Safety margin when max_tokens is lowered to fit the context, in tokens [default: 512]
    #[arg(long, value_name = "N", hide_short_help = true)]
    buffer: Option<String>,
    /// Prompts per HTTP request, or auto [default: auto]
    #[arg(long, value_name = "N")]
    batch_size: Option<String>,
    /// Same as --batch-size 1
    #[arg(long, hide_short_help = true)]
    no_batch: bool,
    /// Longest wait to fill a batch [default: 20ms]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    max_wait: Option<String>,
    /// Prompts in flight per server, or auto [default: auto]
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
    /// Most requests per second and server [default: no limit]
    #[arg(long, value_name = "N", hide_short_help = true)]
    rate_limit: Option<String>,
    /// Render chats locally so they can be batched: auto, none, or a template file [default: auto]
    ///
    /// auto uses the model's own folder, if the server names one that is readable here. A folder of model files works
    /// too.
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    chat_template: Option<String>,
    /// Time limit of a request [default: 300s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Extra time per 256 prompts of a batch, added to --timeout [default: 60s]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    timeout_per_sequence: Option<String>,
    /// Attempts per prompt on healthy servers [default: 3]
    ///
    /// A prompt that has used all attempts fails as `exhausted`. Outages of servers do not count.
    #[arg(long, value_name = "N", alias = "max-attempts")]
    retries: Option<String>,
}

/// Options about the rows of the input.
#[derive(Args)]
#[command(next_help_heading = "Input")]
pub(super) struct InputArgs {
    /// Prompt template, or @FILE; see `help templates`
    ///
    /// {{column}}, {{column.key}}, {{column[0]}} and {{item}} are replaced by the row's fields; \n and \t stand for a
    /// line break and a tab. The text of @FILE is taken as it is.
    #[arg(long, value_name = "TEXT")]
    template: Option<String>,
    /// Column with the prompt [default: prompt]
    ///
    /// A column, or a path such as item.question or turns[0]. Its value is a text, a list of messages, or a list of
    /// token ids.
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    prompt_column: Option<String>,
    /// Column with the conversation [default: messages]
    ///
    /// A column, or a path such as data.turns. Its value is a list of messages, with role and content or (ShareGPT)
    /// from and value, or JSON text of it.
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    messages_column: Option<String>,
    /// Leave out the answer that ends a conversation
    ///
    /// Data sets for training end conversations with the assistant's message. Rows with continue_final_message keep it.
    #[arg(long, hide_short_help = true)]
    drop_final_answer: bool,
    /// Column with images, which are sent with the prompt (repeatable)
    ///
    /// Its values are bytes, structs of bytes and path (Hugging Face), paths, or URLs, or lists of these. See
    /// `aurora-swarm help images`.
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    image_column: Vec<String>,
    /// First message of every conversation, or @FILE
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Format of inputs whose ending does not tell it: stdin, pipes, no ending
    ///
    /// If every input has a known ending, it replaces them. json is one JSON list of rows, or rows one after the other.
    /// Standard input is jsonl by default.
    #[arg(long, value_name = "FORMAT", hide_short_help = true,
          value_parser = choices(["jsonl", "json", "txt", "csv", "tsv", "parquet"]))]
    input_format: Option<String>,
    /// Character between the fields of .csv files, or tab [default: auto]
    ///
    /// auto recognises a comma, a semicolon, a tab and a vertical bar.
    #[arg(long, value_name = "C", hide_short_help = true)]
    csv_delimiter: Option<String>,
    /// Whether .csv and .tsv files begin with column names [default: auto]
    ///
    /// auto expects them. no: the columns are called 1, 2 and so on, as in --template '{{1}}'.
    #[arg(long, value_name = "HOW", hide_short_help = true, value_parser = choices(["auto", "yes", "no"]))]
    csv_header: Option<String>,
    /// Encoding of text inputs, such as windows-1252 [default: auto]
    ///
    /// auto is UTF-8, or UTF-16 where the first bytes show it.
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    encoding: Option<String>,
    /// What to do with invalid rows [default: stop]
    ///
    /// stop refuses to start before anything is sent; fail writes invalid rows as failed answers.
    #[arg(long, value_name = "HOW", hide_short_help = true, value_parser = choices(["stop", "fail"]))]
    bad_rows: Option<String>,
    /// What to do with rows of the same id [default: refuse]
    #[arg(long, value_name = "HOW", hide_short_help = true, value_parser = choices(["refuse", "keep"]))]
    duplicate_ids: Option<String>,
    /// Fields that look like misspelt, obsolete or misplaced parameters [default: warn]
    ///
    /// warn names them; refuse refuses to start before anything is sent; ignore says nothing.
    #[arg(long, value_name = "HOW", hide_short_help = true,
          value_parser = choices(["warn", "refuse", "ignore"]))]
    unknown_fields: Option<String>,
    /// Thinking that the server leaves at the start of an answer [default: auto]
    ///
    /// auto moves it to `reasoning`: <think>…</think>, a lone </think>, and the channels of harmony. off leaves it there.
    #[arg(long, value_name = "HOW", hide_short_help = true, value_parser = choices(["auto", "off"]))]
    think_tags: Option<String>,
    /// Ask the job's model for all rows, also for those that name another
    #[arg(long, hide_short_help = true)]
    ignore_row_model: bool,
}

/// Options about answers, the run folder and progress.
#[derive(Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// Answers in input order (required)
    ///
    /// The endings .jsonl, .csv, .tsv and .parquet choose the format; .gz or .zst after one of the first three compresses
    /// the file. The run folder, with the files that a resumed run needs, is FILE.run.
    #[arg(long, short, value_name = "FILE")]
    output: Option<String>,
    /// Keep shard files on each node until the end, if nodes do not share FILE.run
    ///
    /// DIR is local to each node, such as /tmp; {rank}, {local_rank} and {host} are replaced. At the end of every
    /// session rank 0 collects the files into FILE.run, which only rank 0 needs to see then. After a kill the same
    /// command on the same nodes resumes with the answers they hold.
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    local_shards: Option<String>,
    /// Format of the answers [default: by the ending of FILE, else as the input]
    ///
    /// An input in the format of OpenAI's batch API gives openai-batch, any other jsonl.
    #[arg(long, value_name = "FORMAT", hide_short_help = true,
          value_parser = choices(["jsonl", "openai-batch", "csv", "tsv", "parquet"]))]
    output_format: Option<String>,
    /// Remove an earlier run and its answers first
    #[arg(long)]
    overwrite: bool,
    /// What to do with an unfinished run [default: auto]
    ///
    /// If --output has an unfinished run: resume it (auto), or refuse to start (never); require refuses to start if
    /// there is none.
    #[arg(long, value_name = "HOW", hide_short_help = true,
          value_parser = choices(["auto", "never", "require"]))]
    resume: Option<String>,
    /// Also resend prompts that failed permanently
    ///
    /// These are prompts that were too long or rejected. Others are resent without this option.
    #[arg(long)]
    retry_failed: bool,
    /// Also resend prompts whose answer was cut at its token limit
    ///
    /// To be used with a larger --max-tokens, which then needs no --accept-changes. The cut answer is kept until a better
    /// one arrives. A row's own max_tokens stays in effect.
    #[arg(long, hide_short_help = true)]
    retry_cut: bool,
    /// Resume even if the input or sampling settings changed
    ///
    /// Keeps answers whose rows are unchanged, at the rows' new places, and sends the other rows. Without it the run is
    /// refused with the numbers of kept, new and dropped answers.
    #[arg(long)]
    accept_changes: bool,
    /// Write one output file, or leave per-rank files for a later `merge` [default: root]
    ///
    /// root writes one output file; none leaves the files.
    #[arg(long, value_name = "WHERE", hide_short_help = true, value_parser = choices(["root", "none"]))]
    gather: Option<String>,
    /// Also compute majority, stats, top-k … (repeatable)
    ///
    /// majority, concat, json, stats, best, top-k=10 or failures, optionally with a JSON pointer into the answers:
    /// top-k=10:/score. Written to answers.aggregate.json beside answers.jsonl; concat (concat=SEPARATOR) writes
    /// answers.concat.txt, json writes answers.merged.json. See `aurora-swarm help aggregates`.
    #[arg(long, value_name = "KIND")]
    aggregate: Vec<String>,
    /// JSON schema that answers must be valid by
    ///
    /// Servers are asked to keep to it, and each answer is checked. One that is not valid is asked for again with the
    /// reason, or with more room if it was cut, up to --retries times; then the prompt fails as `invalid` and keeps the
    /// raw text. See `aurora-swarm help validation`.
    #[arg(long, value_name = "FILE")]
    schema: Option<String>,
    /// Regular expression that answers must match
    ///
    /// It is searched for anywhere in the answer; ^ and $ anchor it. Answers that do not match are asked for again as
    /// with --schema.
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true, hide_short_help = true)]
    check: Option<String>,
    /// Token counts of batched prompts [default: share]
    ///
    /// share estimates them from the batch total, exact requests token ids (slower), off writes none.
    #[arg(long, value_name = "HOW", hide_short_help = true, value_parser = choices(["share", "exact", "off"]))]
    usage: Option<String>,
    /// Do not repeat the prompt in each answer
    #[arg(long, hide_short_help = true)]
    no_echo: bool,
    /// Copy the input row into each answer
    ///
    /// JSON lines get a key `row`; tables get a column for each field, with row_ before a name that another column has.
    #[arg(long)]
    keep_row: bool,
    /// Do not write report.html and summary.json
    #[arg(long, hide_short_help = true)]
    no_report: bool,
    /// Display of progress [default: auto]
    #[arg(long, value_name = "HOW", hide_short_help = true,
          value_parser = choices(["auto", "bar", "lines", "none"]))]
    progress: Option<String>,
}

/// Options about the job: settings file, time, ranks, log.
#[derive(Args)]
#[command(next_help_heading = "Running")]
pub(super) struct RuntimeArgs {
    /// Settings from a TOML file; keys are option names
    #[arg(long, value_name = "FILE.toml")]
    pub(super) config: Option<String>,
    /// Refuse to start with another number of ranks
    #[arg(long, value_name = "N", hide_short_help = true)]
    expect_ranks: Option<String>,
    /// Length of the job, as 12:00:00 [default: auto]
    ///
    /// auto asks the batch system (PBS). A duration such as 90m works too.
    #[arg(long, value_name = "TIME")]
    walltime: Option<String>,
    /// End of the job: seconds since 1970, or 2026-01-31T18:00:00Z [default: none]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    deadline: Option<String>,
    /// Walltime reserved for shutdown [default: 2m, at most a fifth]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    margin: Option<String>,
    /// Treat a rank as dead after this long without messages [default: 60s]
    #[arg(long, value_name = "TIME", hide_short_help = true)]
    rank_silence: Option<String>,
    /// Format of log lines [default: text]
    #[arg(long, value_name = "FORMAT", hide_short_help = true, value_parser = choices(["text", "json"]))]
    log_format: Option<String>,
    /// Log only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

/// Returns the log format as typed. Logging starts before settings are resolved, since their resolution may log.
pub(super) fn log_format(matches: &ArgMatches) -> LogFormat {
    match matches.try_get_one::<String>("log_format") {
        Ok(Some(format)) if format == "json" => LogFormat::Json,
        _ => LogFormat::Text,
    }
}

/// Returns whether `--quiet` was typed; see [`log_format`].
pub(super) fn is_quiet(matches: &ArgMatches) -> bool {
    matches.try_get_one::<bool>("quiet").ok().flatten().copied().unwrap_or(false)
}
