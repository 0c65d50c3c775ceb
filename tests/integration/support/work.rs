//! Prompts, simulated servers and answers: what a run is made of, and what must come out.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use aurora_swarm::internals::list_shard_files;
use serde_json::Value;
use tempfile::TempDir;
use vllm_sim::{
    AnswerPolicy, CostModel, Fleet, Params, Profile, Rendering, Turn, answer, render, tokens,
};

use super::Job;

/// The template of the simulated model, as its folder would have it.
pub const CHATML: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A folder with an input, and servers to ask.
pub struct Work {
    folder: TempDir,
    pub fleet: Fleet,
}

impl Work {
    /// With servers of these profiles.
    pub fn with(profiles: Vec<Profile>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, fleet: Fleet::start(profiles).expect("ports on loopback") }
    }

    /// With so many servers that answer at once.
    pub fn instant(servers: usize) -> Self {
        Self::with(vec![Profile::instant(); servers])
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder, as it stands in command lines.
    pub fn marker(&self) -> String {
        self.folder.path().to_string_lossy().into_owned()
    }

    /// Writes a file.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).expect("written");
        self.path(name).to_string_lossy().into_owned()
    }

    /// Writes these as the prompts of `prompts.jsonl`.
    pub fn prompts(&self, prompts: &[String]) -> String {
        let line = |prompt: &String| format!("{{\"prompt\":{}}}\n", Value::from(prompt.as_str()));
        self.file("prompts.jsonl", prompts.iter().map(line).collect::<String>())
    }

    /// Writes rows to a file, one JSON object a line.
    pub fn rows(&self, rows: &[Value]) -> String {
        let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
        self.file("prompts.jsonl", lines)
    }

    /// Requests that all servers have seen.
    pub fn requests(&self) -> u64 {
        (0..self.fleet.len()).map(|it| self.fleet.seen(it).requests).sum()
    }

    /// `run INPUT --output answers.jsonl` with all the servers, told to be patient for seconds only.
    pub fn run(&self, input: &str) -> Job {
        self.run_to(input, "answers.jsonl")
    }

    /// The same with another output.
    pub fn run_to(&self, input: &str, output: &str) -> Job {
        let output = self.path(output);
        let job = Job::of("run").args([input, "--output", &output.to_string_lossy()]);
        let job = job.args(["--ready-timeout", "5s", "--temperature", "0"]);
        self.fleet.urls().iter().fold(job, |job, url| job.args(["--endpoint", url]))
    }

    /// The lines of an output.
    pub fn answers(&self, output: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.path(output)).expect("the answers are there");
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }

    /// Is it there?
    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// The run's manifest.
    pub fn manifest(&self, output: &str) -> Value {
        let path = self.path(&format!("{output}.run/manifest.json"));
        serde_json::from_str(&fs::read_to_string(path).expect("a manifest")).expect("JSON")
    }

    /// submitted, answered, failed, open; which add up.
    #[track_caller]
    pub fn counts(&self, output: &str) -> [u64; 4] {
        let counts = &self.manifest(output)["counts"];
        let [submitted, answered, failed, open] = ["submitted", "answered", "failed", "open"]
            .map(|name| counts[name].as_u64().expect(name));
        assert_eq!(submitted, answered + failed + open);
        [submitted, answered, failed, open]
    }

    /// Prompts that were answered, all servers together.
    pub fn served(&self) -> u64 {
        (0..self.fleet.urls().len()).map(|server| self.fleet.seen(server).served).sum()
    }

    /// Outcome lines in all shard files.
    pub fn lines_on_disk(&self, output: &str) -> usize {
        let files = list_shard_files(&self.path(&format!("{output}.run/shards"))).expect("listed");
        let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
        files.iter().map(|file| lines(&file.path).saturating_sub(1)).sum()
    }
}

/// Asks a server directly and returns the body of its reply, which must have status 200.
pub fn ask_server(url: &str, path: &str, body: &Value) -> Value {
    let address = url.strip_prefix("http://").expect("an http URL");
    let mut stream = TcpStream::connect(address).expect("a server");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{reply}");
    serde_json::from_str(body).expect("JSON")
}

/// What the simulator says to a text, by chat.
pub fn by_chat(prompt: &str, max_tokens: usize) -> String {
    by_turns(&[Turn { role: "user", content: prompt }], max_tokens)
}

/// What it says to a conversation.
pub fn by_turns(turns: &[Turn<'_>], max_tokens: usize) -> String {
    by_completions(&render(turns, Rendering::default()), max_tokens)
}

/// What it says to a raw text.
pub fn by_completions(prompt: &str, max_tokens: usize) -> String {
    let params = Params { max_tokens: Some(max_tokens), ..Params::default() };
    answer(&AnswerPolicy::default(), &tokens::encode(prompt), &params).text
}

/// A server at which a step takes so many milliseconds: an answer of 8 tokens takes about eight of them.
pub fn slow(step_ms: f64) -> Profile {
    let cost =
        CostModel { step_base_us: 1_000.0 * step_ms, max_num_seqs: 16, ..CostModel::default() };
    Profile { cost, ..Profile::default() }
}

/// Every prompt has its own answer of at most 8 tokens, in order.
#[track_caller]
pub fn assert_right(answers: &[Value], prompts: &[String]) {
    assert_eq!(answers.len(), prompts.len());
    for (index, (answer, prompt)) in answers.iter().zip(prompts).enumerate() {
        assert_eq!(answer["index"], index);
        assert_eq!(answer["response"], by_chat(prompt, 8), "prompt {index}");
    }
}

/// Two runs are equal when their rows are, `served` and estimated `usage` left out.
#[track_caller]
pub fn assert_equal(one: &[Value], other: &[Value]) {
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(other) {
        assert_eq!(comparable(one), comparable(other));
    }
}

fn comparable(row: &Value) -> Value {
    let mut row = row.clone();
    let fields = row.as_object_mut().expect("an object");
    fields.remove("served");
    if fields["usage"]["estimated"] == true {
        fields.remove("usage");
    }
    row
}

/// Prompts of different lengths, all different.
pub fn made_up(count: usize) -> Vec<String> {
    let words = ["why", "how", "the", "rank", "sends", "a", "prompt", "to", "its", "node"];
    let text = |number: usize| {
        let length = 3 + number * 7 % 40;
        let words: Vec<&str> =
            (0..length).map(|at| words[(number + at * at) % words.len()]).collect();
        format!("{number}: {}", words.join(" "))
    };
    (0..count).map(text).collect()
}
