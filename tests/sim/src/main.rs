//! The program: endpoints on consecutive ports, with flags for what they are like.
//!
//! It owns flags, signals and the `ready` lines; everything else is the library's.

use clap::Parser;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use vllm_sim::{
    AnswerPolicy, CostModel, Death, Flavor, Fleet, Lengths, Oddity, OnTerm, Profile, Rule, Script,
    Structure,
};

const EXAMPLES: &str = "Examples:
  vllm-sim --port 8000
  vllm-sim --port 0 --endpoints 4 --lognormal 200:1.0 --max-num-seqs 64 --slow 3=2.5
  vllm-sim --port 0 --instant --fault status=503,p=0.1 --fault eof,from=100,count=3
  vllm-sim --port 0 --endpoints 2 --die 1@5s --on-term drain

Faults: status=N, cut-body, hang, eof, stream-error, slow-first-byte=MS, gateway-timeout=MS,
reverse-choices, missing-choice, doubled-index, abort, error-under-200, engine-death, stall; conditions after a comma:
p=SHARE, from=REQUEST, count=TIMES, after=SECONDS, containing=TEXT.
Oddities: list-joined, list-refused=STATUS (0 cuts), index-zero, index-missing, index-null, one-sequence,
sequences-refused, usage-of-first, other-model=NAME, thinking, thinking=closed, denied=STATUS:TEXT,
garbled=TEXT, field-refused=NAME.
Endpoints are counted from 0. Each ready endpoint is one line on stdout: ready URL
With --tell-seen each endpoint, dead ones too, is another one at the end: seen URL JSON";

/// A simulator of a vLLM server: continuous batching by a cost model, answers that are a pure
/// function of the prompt, and faults on demand.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Flags {
    /// The first port; 0 takes free ones.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// How many endpoints, on consecutive ports.
    #[arg(long, default_value_t = 1)]
    endpoints: u16,
    /// Threads for all endpoints together.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// A name the model is served under; the first one given is the default.
    #[arg(long, default_value = "tiny")]
    model: Vec<String>,
    /// The root path of `/v1/models`.
    #[arg(long, default_value = "/models/tiny")]
    root: String,
    /// The version of `/version`; 0.15.1 with --older.
    #[arg(long)]
    server_version: Option<String>,
    /// The context length.
    #[arg(long, default_value_t = 2048)]
    max_model_len: usize,
    /// Be a vLLM of about 0.15.
    #[arg(long, conflicts_with = "bare")]
    older: bool,
    /// Be a plain OpenAI route like Ollama's.
    #[arg(long)]
    bare: bool,
    /// Think so many tokens before each answer.
    #[arg(long, num_args = 0..=1, default_missing_value = "24", value_name = "TOKENS")]
    reasoning: Option<usize>,
    /// What becomes of response_format and structured_outputs.
    #[arg(long, default_value = "enforced")]
    structure: StructureFlag,
    /// Answers of so many tokens, the end included.
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    output: usize,
    /// Answers of log-normal length.
    #[arg(long, value_name = "MEDIAN:SIGMA", value_parser = pair, conflicts_with = "of_prompt")]
    lognormal: Option<(f64, f64)>,
    /// Answers as long as the prompt times this.
    #[arg(long, value_name = "FACTOR")]
    of_prompt: Option<f64>,
    /// Answer at once, without the engine.
    #[arg(long)]
    instant: bool,
    /// The fixed cost of a step in microseconds.
    #[arg(long, default_value_t = 5000.0)]
    step_base_us: f64,
    /// The cost of each running sequence in a step.
    #[arg(long, default_value_t = 20.0)]
    per_seq_us: f64,
    /// The cost of each prompt token that is not cached.
    #[arg(long, default_value_t = 5.0)]
    per_prefill_token_us: f64,
    /// The slots of the engine.
    #[arg(long, default_value_t = 128)]
    max_num_seqs: usize,
    /// The most tokens of a step.
    #[arg(long, default_value_t = 8192)]
    max_batched_tokens: usize,
    /// The tokens that the KV cache holds for running sequences; 0 is without limit. What does not fit is preempted.
    #[arg(long, default_value_t = 0)]
    memory_tokens: usize,
    /// The API server's time for a request, in microseconds.
    #[arg(long, default_value_t = 0.0)]
    api_us_per_request: f64,
    /// The API server's time for each prompt.
    #[arg(long, default_value_t = 0.0)]
    api_us_per_prompt: f64,
    /// Make endpoint K slower by this factor.
    #[arg(long, value_name = "K=FACTOR", value_parser = slow)]
    slow: Vec<(usize, f64)>,
    /// Tokens in a block of the prefix cache.
    #[arg(long, default_value_t = 16)]
    block_size: usize,
    /// Blocks of the prefix cache; 0 is none.
    #[arg(long, default_value_t = 32_768)]
    cache_blocks: usize,
    /// The most prompts in a list.
    #[arg(long, default_value_t = 1024)]
    max_list: usize,
    /// Refuse with 503 when more prompts than this would be in the engine.
    #[arg(long, value_name = "N")]
    max_queued: Option<usize>,
    /// The key that requests must bear.
    #[arg(long)]
    api_key: Option<String>,
    /// Seconds an idle connection is kept.
    #[arg(long, default_value_t = 5.0)]
    keep_alive: f64,
    /// Seconds the ports are bound but refuse.
    #[arg(long, default_value_t = 0.0)]
    loading: f64,
    /// What SIGTERM and SIGINT do; a second one always ends the program.
    #[arg(long, default_value = "exit")]
    on_term: Term,
    /// Kill endpoint K after a time (2@5s) or a number of prompts (2@1000p).
    #[arg(long, value_name = "K@WHEN", value_parser = die)]
    die: Vec<(usize, Death)>,
    /// Serve a model that sees images.
    #[arg(long)]
    multimodal: bool,
    /// A text that makes any prompt bad that contains it.
    #[arg(long, value_name = "TEXT")]
    poison: Option<String>,
    /// Call the tools that a request brings, as with --enable-auto-tool-choice.
    #[arg(long)]
    tools: bool,
    /// A text in a conversation that is answered with a refusal.
    #[arg(long, value_name = "TEXT")]
    refuse: Option<String>,
    /// Something that other servers do and vLLM does not; may be given several times.
    #[arg(long, value_name = "ODDITY", value_parser = Oddity::parse)]
    oddity: Vec<Oddity>,
    /// A fault with its conditions; may be given several times.
    #[arg(long, value_name = "FAULT", value_parser = Rule::parse)]
    fault: Vec<Rule>,
    /// The seed that faults are drawn from; endpoint K takes this plus K.
    #[arg(long, default_value_t = 0)]
    fault_seed: u64,
    /// Say at the end what each endpoint has seen, as `/sim/seen` would.
    #[arg(long)]
    tell_seen: bool,
    /// End when the parent does. The kernel watches the thread that started this program.
    #[arg(long)]
    exit_with_parent: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Term {
    Hang,
    Drain,
    Exit,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum StructureFlag {
    Enforced,
    WhenTold,
    Ignored,
    Refused,
}

fn pair(text: &str) -> Result<(f64, f64), String> {
    let (median, sigma) = text.split_once(':').ok_or("wanted is MEDIAN:SIGMA")?;
    let read = |t: &str| t.parse::<f64>().map_err(|_| format!("`{t}` is no number"));
    Ok((read(median)?, read(sigma)?))
}

fn slow(text: &str) -> Result<(usize, f64), String> {
    let read = || {
        let (at, factor) = text.split_once('=')?;
        Some((at.parse().ok()?, factor.parse().ok().filter(|f| *f > 0.0)?))
    };
    read().ok_or_else(|| "wanted is ENDPOINT=FACTOR, as in 3=2.5".to_owned())
}

fn die(text: &str) -> Result<(usize, Death), String> {
    let read = || {
        let (at, when) = text.split_once('@')?;
        let death = match when.strip_suffix('p') {
            Some(prompts) => Death::Prompts(prompts.parse().ok()?),
            None => Death::After(when.strip_suffix('s').unwrap_or(when).parse().ok()?),
        };
        Some((at.parse().ok()?, death))
    };
    read().ok_or_else(|| "wanted is ENDPOINT@SECONDSs or ENDPOINT@PROMPTSp".to_owned())
}

impl Flags {
    fn profile(&self, at: usize) -> Profile {
        let of_this = |(k, _): &&(usize, f64)| *k == at;
        Profile {
            flavor: match (self.older, self.bare) {
                (true, _) => Flavor::Older,
                (_, true) => Flavor::Bare,
                _ => Flavor::Vllm,
            },
            models: self.model.clone(),
            root: self.root.clone(),
            version: self
                .server_version
                .clone()
                .unwrap_or_else(|| if self.older { "0.15.1" } else { "0.32.0" }.to_owned()),
            policy: AnswerPolicy {
                max_model_len: self.max_model_len.max(2),
                lengths: self.lengths(),
                thinking: self.reasoning.map(Lengths::Fixed),
                structure: match self.structure {
                    StructureFlag::Enforced => Structure::Enforced,
                    StructureFlag::WhenTold => Structure::WhenTold,
                    StructureFlag::Ignored => Structure::Ignored,
                    StructureFlag::Refused => Structure::Refused,
                },
            },
            cost: CostModel {
                step_base_us: self.step_base_us,
                per_seq_us: self.per_seq_us,
                per_prefill_token_us: self.per_prefill_token_us,
                max_num_seqs: self.max_num_seqs,
                max_batched_tokens: self.max_batched_tokens,
                memory_tokens: self.memory_tokens,
                slow: self.slow.iter().find(of_this).map_or(1.0, |(_, factor)| *factor),
                api_us_per_request: self.api_us_per_request,
                api_us_per_prompt: self.api_us_per_prompt,
            },
            instant: self.instant,
            block_size: self.block_size,
            cache_blocks: self.cache_blocks,
            max_list: Some(self.max_list),
            max_queued: self.max_queued,
            api_key: self.api_key.clone(),
            keep_alive: seconds(self.keep_alive),
            loading: seconds(self.loading),
            on_term: match self.on_term {
                Term::Hang => OnTerm::Hang,
                Term::Drain => OnTerm::Drain,
                Term::Exit => OnTerm::Exit,
            },
            die: self.die.iter().find(|(k, _)| *k == at).map(|(_, death)| *death),
            multimodal: self.multimodal,
            poison: self.poison.clone(),
            calls_tools: self.tools,
            refuse: self.refuse.clone(),
            oddities: self.oddity.clone(),
            // Each endpoint draws for itself: they do not all fail at their tenth request.
            script: Script {
                seed: self.fault_seed.wrapping_add(at as u64),
                rules: self.fault.clone(),
            },
            port: if self.port == 0 { 0 } else { self.port.saturating_add(at as u16) },
        }
    }

    fn lengths(&self) -> Lengths {
        match (self.lognormal, self.of_prompt) {
            (Some((median, sigma)), _) => Lengths::LogNormal { median, sigma },
            (None, Some(factor)) => Lengths::OfPrompt(factor),
            (None, None) => Lengths::Fixed(self.output),
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn main() -> ExitCode {
    match run(&Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vllm-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> io::Result<()> {
    if flags.exit_with_parent {
        let kill = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(kill)?;
    }
    let profiles = (0..usize::from(flags.endpoints)).map(|at| flags.profile(at)).collect();
    let fleet = Fleet::on_threads(profiles, flags.threads)?;
    let endpoints = fleet.endpoints().to_vec();
    let witnesses: Vec<_> = fleet.urls().into_iter().zip(endpoints.clone()).collect();
    let (watching, is_watching) = mpsc::channel();
    std::thread::spawn(move || watch_signals(&endpoints, &watching));
    // Who reads `ready` may send a signal at once: it must find its handler.
    is_watching.recv().map_err(|_| io::Error::other("the signal handlers cannot be set"))?;
    let mut out = io::stdout().lock();
    for url in fleet.urls() {
        writeln!(out, "ready {url}")?;
    }
    out.flush()?;
    drop(out);
    fleet.wait()?;
    if flags.tell_seen {
        let mut out = io::stdout().lock();
        for (url, endpoint) in witnesses {
            writeln!(out, "seen {url} {}", serde_json::to_string(&endpoint.tally.seen())?)?;
        }
    }
    Ok(())
}

/// The first signal does what the endpoints' profiles say, the second ends the program. Says
/// so once the handlers are set.
fn watch_signals(endpoints: &[std::sync::Arc<vllm_sim::Endpoint>], watching: &mpsc::Sender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        let (Ok(mut term), Ok(mut int)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        let _ = watching.send(());
        let mut times = 0;
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            times += 1;
            for endpoint in endpoints {
                if times == 1 {
                    endpoint.terminate()
                } else {
                    endpoint.enter(vllm_sim::Phase::Gone)
                }
            }
        }
    });
}
