//! Simulated servers as a process of their own: what they are like, their start and their end.
//!
//! It owns the program `vllm-sim`: one description gives its flags and the model that the bound
//! is worked out with, so that the two cannot differ.

use crate::child::ends_within;
use crate::scenario::{Bench, Broken};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use vllm_sim::{AnswerPolicy, CostModel, Lengths, Seen};

/// The context: larger than anything asked for, since no scenario is about it.
const CONTEXT: usize = 8192;

/// Endpoints of one process.
#[derive(Clone, Debug)]
pub struct Servers {
    /// How many times slower than the model each endpoint is; as many as there are endpoints.
    pub slow: Vec<f64>,
    pub cost: CostModel,
    pub lengths: Lengths,
    /// Blocks of an endpoint's prefix cache; none means the program's default.
    pub cache_blocks: Option<usize>,
    /// Answers cost no time at all.
    pub instant: bool,
    /// Faults and the like, as the program takes them.
    pub more: Vec<&'static str>,
}

impl Servers {
    /// Equal endpoints of the default cost.
    pub fn even(endpoints: usize, lengths: Lengths) -> Self {
        Self {
            slow: vec![1.0; endpoints],
            cost: CostModel::default(),
            lengths,
            cache_blocks: None,
            instant: false,
            more: Vec::new(),
        }
    }

    /// How they answer.
    pub fn policy(&self) -> AnswerPolicy {
        let lengths = self.lengths.clone();
        AnswerPolicy { max_model_len: CONTEXT, lengths, ..AnswerPolicy::default() }
    }

    /// The flags that make the program so.
    pub fn args(&self) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut say = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
        say("--port", "0".to_owned());
        say("--endpoints", self.slow.len().to_string());
        say("--max-model-len", CONTEXT.to_string());
        match self.lengths {
            Lengths::Fixed(tokens) => say("--output", tokens.to_string()),
            Lengths::LogNormal { median, sigma } => say("--lognormal", format!("{median}:{sigma}")),
            Lengths::OfPrompt(factor) => say("--of-prompt", factor.to_string()),
        }
        say("--step-base-us", self.cost.step_base_us.to_string());
        say("--per-seq-us", self.cost.per_seq_us.to_string());
        say("--per-prefill-token-us", self.cost.per_prefill_token_us.to_string());
        say("--max-num-seqs", self.cost.max_num_seqs.to_string());
        say("--memory-tokens", self.cost.memory_tokens.to_string());
        for (at, slow) in self.slow.iter().enumerate().filter(|(_, slow)| **slow != 1.0) {
            say("--slow", format!("{at}={slow}"));
        }
        if let Some(blocks) = self.cache_blocks {
            say("--cache-blocks", blocks.to_string());
        }
        args.extend(self.instant.then(|| "--instant".to_owned()));
        args.extend(self.more.iter().map(|flag| (*flag).to_owned()));
        args
    }

    /// Starts them and returns when all are ready.
    pub fn start(&self, bench: &Bench) -> Result<Running, Broken> {
        let mut child = Command::new(bench.programs.join("vllm-sim"))
            .args(self.args())
            .args(["--tell-seen", "--exit-with-parent"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Broken::at("vllm-sim cannot be started"))?;
        let out = child.stdout.take().ok_or_else(|| Broken("vllm-sim has no stdout".to_owned()))?;
        let mut running = Running { child, out: BufReader::new(out), urls: Vec::new() };
        while running.urls.len() < self.slow.len() {
            let mut line = String::new();
            let read = running.out.read_line(&mut line);
            match line.trim().strip_prefix("ready ") {
                Some(url) => running.urls.push(url.to_owned()),
                None => return Err(Broken(format!("vllm-sim said {line:?} ({read:?})"))),
            }
        }
        Ok(running)
    }
}

/// Servers that run; dropped, they are killed.
pub struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    /// Where they are.
    pub urls: Vec<String>,
}

impl Running {
    /// Ends them and returns what each has seen.
    pub fn finish(mut self) -> Result<Vec<Seen>, Broken> {
        let pid = Pid::from_child(&self.child);
        let end = || {
            let fd = pidfd_open(pid, PidfdFlags::empty())?;
            kill_process(pid, Signal::TERM)?;
            ends_within(&fd, Duration::from_secs(10))
        };
        match end() {
            Ok(true) => {}
            Ok(false) => return Err(Broken("vllm-sim does not end".to_owned())),
            Err(error) => return Err(Broken(format!("vllm-sim cannot be ended: {error}"))),
        }
        let mut text = String::new();
        self.out.read_to_string(&mut text).map_err(Broken::at("reading what vllm-sim has seen"))?;
        let seen = text.lines().filter_map(seen).collect::<Vec<_>>();
        if seen.len() == self.urls.len() {
            Ok(seen)
        } else {
            Err(Broken(format!("vllm-sim told at its end: {text:?}")))
        }
    }
}

/// What stands in a line `seen URL JSON`.
fn seen(line: &str) -> Option<Seen> {
    let (_, json) = line.strip_prefix("seen ")?.split_once(' ')?;
    serde_json::from_str(json).ok()
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_read_back() {
        let wanted = Seen { served: 7, last_answer_us: 9, ..Seen::default() };
        let json = serde_json::to_string(&wanted).unwrap();
        assert_eq!(seen(&format!("seen http://127.0.0.1:1 {json}")), Some(wanted));
        assert_eq!(seen("ready http://127.0.0.1:1"), None);
    }

    #[test]
    fn flags_say_what_the_model_says() {
        let mut servers = Servers::even(3, Lengths::LogNormal { median: 64.0, sigma: 1.0 });
        servers.slow[2] = 2.5;
        servers.more = vec!["--die", "1@400p"];
        let args = servers.args().join(" ");
        assert!(args.contains("--endpoints 3 ") && args.contains("--lognormal 64:1"), "{args}");
        assert!(args.contains("--slow 2=2.5") && args.ends_with("--die 1@400p"), "{args}");
    }
}
