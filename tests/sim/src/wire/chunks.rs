//! Answers as server-sent events: what a stream sends as tokens come.
//!
//! It owns the recorded shape of chunks and remembers how much of each choice was sent.

use super::answers::{Letterhead, id_list, maybe_ids, put, stop_reason, string, usage};
use super::fields::Shape;
use super::logprobs;
use super::plan::Work;
use super::refusal::{ENGINE_DEAD, Refusal};
use crate::answer::Answer;
use crate::profile::Profile;
use crate::tokens;
use std::io::Write;

/// A stream on its way: the answers and how many tokens of each were sent.
pub struct Chunks {
    work: Work,
    answers: Vec<Answer>,
    ends: Vec<Vec<usize>>,
    sent: Vec<usize>,
    id: String,
    created: u64,
    fingerprint: String,
    unfinished: usize,
}

impl Chunks {
    /// A stream of which nothing was sent.
    #[must_use]
    pub fn new(work: Work, answers: Vec<Answer>, head: &Letterhead<'_>) -> Self {
        Self {
            ends: answers.iter().map(Answer::text_ends).collect(),
            sent: vec![0; answers.len()],
            unfinished: answers.len(),
            work,
            answers,
            id: head.id.to_owned(),
            created: head.created,
            fingerprint: head.fingerprint.to_owned(),
        }
    }

    /// Whether every choice was sent to its end.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.unfinished == 0
    }

    /// The request and its answers.
    #[must_use]
    pub fn parts(&self) -> (&Work, &[Answer]) {
        (&self.work, &self.answers)
    }

    /// What a stream begins with: on chat a chunk with the role of each choice.
    #[must_use]
    pub fn opening(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.work.shape == Shape::Completion {
            return out;
        }
        for index in 0..self.answers.len() {
            self.open(&mut out);
            put!(out, "{{\"index\":{index},\"delta\":{{\"role\":");
            string(&mut out, &self.work.role);
            out.extend_from_slice(
                b",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}],\"prompt_token_ids\":",
            );
            let prompt = &self.work.prompts[index / self.work.n];
            maybe_ids(&mut out, self.work.return_token_ids, prompt);
            out.extend_from_slice(b",\"prompt_text\":null}\n\n");
        }
        out
    }

    /// The chunks that bring a choice up to so many tokens.
    #[must_use]
    pub fn up_to(&mut self, index: usize, tokens: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        let all = self.answers[index].token_ids.len();
        while self.sent[index] < tokens.min(all) {
            self.sent[index] += 1;
            self.piece(&mut out, index);
        }
        if tokens >= all {
            self.unfinished -= 1;
        }
        out
    }

    /// Everything of a choice that was not sent.
    #[must_use]
    pub fn rest(&mut self, index: usize) -> Vec<u8> {
        self.up_to(index, usize::MAX)
    }

    /// What a stream ends with: the usage if it was asked for, and the mark of the end.
    #[must_use]
    pub fn closing(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.wants_usage() {
            self.open(&mut out);
            out.push(b']');
            let prompt = self.work.prompts.iter().map(Vec::len).sum();
            let completion = self.answers.iter().map(|a| a.token_ids.len()).sum();
            usage(&mut out, prompt, completion, false);
            self.put_fingerprint(&mut out);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(DONE);
        out
    }

    /// What a stream ends with when the engine dies under it.
    #[must_use]
    pub fn broken() -> Vec<u8> {
        let mut out = b"data: ".to_vec();
        out.extend_from_slice(Refusal::internal(ENGINE_DEAD).body.as_bytes());
        out.extend_from_slice(b"\n\n");
        out.extend_from_slice(DONE);
        out
    }

    fn wants_usage(&self) -> bool {
        self.work.stream.is_some_and(|options| options.include_usage == Some(true))
    }

    fn open(&self, out: &mut Vec<u8>) {
        let object = match self.work.shape {
            Shape::Completion => "text_completion",
            _ => "chat.completion.chunk",
        };
        out.extend_from_slice(b"data: {\"id\":");
        string(out, &self.id);
        put!(out, ",\"object\":\"{object}\",\"created\":{},\"model\":", self.created);
        string(out, &self.work.model);
        out.extend_from_slice(b",\"choices\":[");
    }

    fn put_fingerprint(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"system_fingerprint\":");
        string(out, &self.fingerprint);
    }

    /// The chunk of the token that was counted last.
    fn piece(&self, out: &mut Vec<u8>, index: usize) {
        let answer = &self.answers[index];
        let token = self.sent[index] - 1;
        let ends = &self.ends[index];
        let start = if token == 0 { 0 } else { ends[token - 1] };
        let text = &answer.text[start..ends[token]];
        let last = token + 1 == answer.token_ids.len();
        self.open(out);
        put!(out, "{{\"index\":{index},");
        if self.work.shape == Shape::Completion {
            self.completion_piece(out, index, token, text, last);
        } else {
            self.chat_piece(out, index, token, text, last);
        }
        out.push(b']');
        if self.work.stream.is_some_and(|o| o.continuous_usage_stats == Some(true)) {
            let prompt = self.work.prompts[index / self.work.n].len();
            usage(out, prompt, token + 1, false);
        }
        // With a last chunk for the usage the fingerprint comes there.
        if last && !self.wants_usage() {
            self.put_fingerprint(out);
        }
        out.extend_from_slice(b"}\n\n");
    }

    fn finish_reason(&self, out: &mut Vec<u8>, index: usize, last: bool) {
        if last {
            put!(out, ",\"finish_reason\":\"{}\"", self.answers[index].finish.reason());
        } else {
            out.extend_from_slice(b",\"finish_reason\":null");
        }
    }

    fn completion_piece(
        &self,
        out: &mut Vec<u8>,
        index: usize,
        token: usize,
        text: &str,
        last: bool,
    ) {
        let (work, answer) = (&self.work, &self.answers[index]);
        let prompt = &work.prompts[index / work.n];
        let first = token == 0;
        out.extend_from_slice(b"\"text\":");
        if work.echo && first {
            let said = if work.silent { "" } else { text };
            string(out, &(tokens::decode(prompt, true) + said));
        } else {
            string(out, text);
        }
        out.extend_from_slice(b",\"logprobs\":");
        match work.logprobs {
            Some(top) => {
                let ids = &answer.token_ids[token..=token];
                put!(out, "{}", logprobs::completion(&[], ids, top, work.tokens_as_ids));
            }
            None => out.extend_from_slice(b"null"),
        }
        self.finish_reason(out, index, last);
        out.extend_from_slice(b",\"stop_reason\":");
        if last {
            stop_reason(out, &answer.finish)
        } else {
            out.extend_from_slice(b"null")
        }
        out.extend_from_slice(b",\"prompt_token_ids\":");
        // An echo brings the prompt's ids without being asked for them.
        maybe_ids(out, first && (work.return_token_ids || work.echo), prompt);
        out.extend_from_slice(b",\"token_ids\":");
        maybe_ids(out, work.return_token_ids, &answer.token_ids[token..=token]);
        out.push(b'}');
    }

    fn chat_piece(&self, out: &mut Vec<u8>, index: usize, token: usize, text: &str, last: bool) {
        let (work, answer) = (&self.work, &self.answers[index]);
        let thinking = answer.thought.is_some_and(|thought| token < thought.tokens);
        let name = if thinking { "reasoning" } else { "content" };
        put!(out, "\"delta\":{{\"{name}\":");
        let tag = answer.thought.is_some_and(|thought| thinking && !thought.speaks(token));
        string(out, if tag { "" } else { text });
        out.extend_from_slice(b"},\"logprobs\":");
        match work.logprobs {
            Some(top) => {
                let ids = &answer.token_ids[token..=token];
                put!(out, "{}", logprobs::chat(ids, top, work.tokens_as_ids));
            }
            None => out.extend_from_slice(b"null"),
        }
        self.finish_reason(out, index, last);
        if last {
            out.extend_from_slice(b",\"stop_reason\":");
            stop_reason(out, &answer.finish);
        }
        out.extend_from_slice(b",\"token_ids\":");
        if work.return_token_ids {
            id_list(out, &answer.token_ids[token..=token]);
        } else {
            out.extend_from_slice(b"null");
        }
        out.push(b'}');
    }
}

/// The mark of a stream's end.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// The fingerprint of a server's settings.
#[must_use]
pub fn fingerprint(profile: &Profile) -> String {
    // Only what the model and the server are: a slow or faulty endpoint is the same server.
    let Profile { models, root, version, policy, .. } = profile;
    let settings = format!("{models:?} {root} {version} {}", policy.max_model_len);
    let hash = settings.bytes().fold(1, |hash, b| crate::cache::mix(hash, u64::from(b)));
    match profile.flavor {
        crate::profile::Flavor::Bare => "fp_ollama".to_owned(),
        _ => format!("vllm-{}-{:08x}", profile.version, hash as u32),
    }
}
