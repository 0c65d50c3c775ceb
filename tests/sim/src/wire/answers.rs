//! Answers as JSON, written straight into a buffer.
//!
//! It owns the recorded key order of both routes' answers and the faults that only change how an
//! answer is put down: reversed, missing and doubled choices.

use super::fields::Shape;
use super::logprobs;
use super::plan::Work;
use crate::answer::{Answer, Finish};
use crate::profile::{Flavor, Profile};
use crate::script::Fault;
use crate::tokens::{self, Id};
use std::io::Write;

/// The parts of an answer that no prompt has a say in.
pub struct Letterhead<'a> {
    /// The id with its prefix.
    pub id: &'a str,
    /// Seconds since 1970.
    pub created: u64,
    /// The server.
    pub profile: &'a Profile,
    /// The config's fingerprint.
    pub fingerprint: &'a str,
}

/// Appends a number or anything else whose display is JSON.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {
        // Writing to a Vec cannot fail.
        let _ = write!($out, $($arg)*);
    };
}
pub(super) use put;

/// Appends a string with quotes.
pub fn string(out: &mut Vec<u8>, text: &str) {
    let plain = |b: u8| b >= 0x20 && b != b'"' && b != b'\\';
    if text.bytes().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        let _ = serde_json::to_writer(out, text);
    }
}

/// Appends a list of ids.
pub fn id_list(out: &mut Vec<u8>, ids: &[Id]) {
    out.push(b'[');
    for (at, id) in ids.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        put!(out, "{id}");
    }
    out.push(b']');
}

/// Appends `ids`, or null when they were not asked for.
pub fn maybe_ids(out: &mut Vec<u8>, asked: bool, ids: &[Id]) {
    if asked { id_list(out, ids) } else { out.extend_from_slice(b"null") }
}

/// Appends the `stop_reason`.
pub fn stop_reason(out: &mut Vec<u8>, finish: &Finish) {
    match finish {
        Finish::Length | Finish::Eos => out.extend_from_slice(b"null"),
        Finish::StopString(text) => string(out, text),
        Finish::StopToken(id) => {
            put!(out, "{id}");
        }
        Finish::Repetition => string(out, "repetition_detected"),
    }
}

/// The whole answer to a request that does not stream.
#[must_use]
pub fn write(
    work: &Work,
    answers: &[Answer],
    head: &Letterhead<'_>,
    fault: Option<&Fault>,
) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(answers.iter().map(|a| a.text.len() + 260).sum::<usize>() + 400);
    let object =
        if work.shape == Shape::Completion { "text_completion" } else { "chat.completion" };
    out.extend_from_slice(b"{\"id\":");
    string(&mut out, head.id);
    put!(out, ",\"object\":\"{object}\",\"created\":{},\"model\":", head.created);
    string(&mut out, &work.model);
    out.extend_from_slice(b",\"choices\":[");
    for (place, at) in order(answers.len(), fault).enumerate() {
        if place > 0 {
            out.push(b',');
        }
        let doubled = matches!(fault, Some(Fault::DoubledIndex)) && at + 1 == answers.len();
        choice(&mut out, work, head.profile.flavor, if doubled { 0 } else { at }, at, &answers[at]);
    }
    out.push(b']');
    tail(&mut out, work, answers, head);
    out
}

fn order(count: usize, fault: Option<&Fault>) -> impl Iterator<Item = usize> + use<> {
    let reversed = matches!(fault, Some(Fault::ReverseChoices));
    let given = if matches!(fault, Some(Fault::MissingChoice)) { count - 1 } else { count };
    (0..given).map(move |place| if reversed { count - 1 - place } else { place })
}

fn choice(
    out: &mut Vec<u8>,
    work: &Work,
    flavor: Flavor,
    index: usize,
    at: usize,
    answer: &Answer,
) {
    let prompt = &work.prompts[at / work.n];
    put!(out, "{{\"index\":{index},");
    if work.shape == Shape::Completion {
        text(out, work, prompt, answer);
    } else {
        message(out, work, flavor, answer);
    }
    if flavor == Flavor::Bare {
        put!(out, ",\"finish_reason\":\"{}\"}}", answer.finish.reason());
        return;
    }
    out.extend_from_slice(b",\"logprobs\":");
    choice_logprobs(out, work, prompt, answer);
    put!(out, ",\"finish_reason\":\"{}\",\"stop_reason\":", answer.finish.reason());
    stop_reason(out, &answer.finish);
    out.extend_from_slice(b",\"token_ids\":");
    maybe_ids(out, work.return_token_ids, &answer.token_ids);
    if work.shape == Shape::Completion {
        out.extend_from_slice(b",\"prompt_logprobs\":");
        prompt_logprobs(out, work, prompt);
        out.extend_from_slice(b",\"prompt_token_ids\":");
        maybe_ids(out, work.return_token_ids, prompt);
    }
    out.extend_from_slice(b",\"routed_experts\":null}");
}

fn text(out: &mut Vec<u8>, work: &Work, prompt: &[Id], answer: &Answer) {
    out.extend_from_slice(b"\"text\":");
    if work.echo {
        let mut whole = tokens::decode(prompt, true);
        if !work.silent {
            whole.push_str(&answer.text);
        }
        string(out, &whole);
    } else {
        string(out, &answer.text);
    }
}

fn message(out: &mut Vec<u8>, work: &Work, flavor: Flavor, answer: &Answer) {
    out.extend_from_slice(b"\"message\":{\"role\":");
    string(out, &work.role);
    out.extend_from_slice(b",\"content\":");
    let last_piece;
    let content = if work.shape == Shape::ChatBatch && work.stream.is_some() {
        let ends = answer.text_ends();
        let start = ends.len().checked_sub(2).map_or(0, |at| ends[at]);
        last_piece = answer.text[start..].to_owned();
        Some(last_piece.as_str())
    } else {
        answer.content()
    };
    match content {
        Some(content) => string(out, content),
        None => out.extend_from_slice(b"null"),
    }
    if flavor == Flavor::Bare {
        out.push(b'}');
        return;
    }
    out.extend_from_slice(b",\"refusal\":null,\"annotations\":null,\"audio\":null");
    out.extend_from_slice(b",\"function_call\":null,\"reasoning\":");
    let names: &[&[u8]] = match flavor {
        Flavor::Older => &[b"", b",\"reasoning_content\":"],
        _ => &[b""],
    };
    for name in names {
        out.extend_from_slice(name);
        match answer.reasoning() {
            Some(text) => string(out, &text),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

fn choice_logprobs(out: &mut Vec<u8>, work: &Work, prompt: &[Id], answer: &Answer) {
    let Some(top) = work.logprobs else { return out.extend_from_slice(b"null") };
    let value = if work.shape == Shape::Completion {
        let echoed = if work.echo { prompt } else { &[] };
        let said = if work.silent { &[] } else { answer.token_ids.as_slice() };
        logprobs::completion(echoed, said, top, work.tokens_as_ids)
    } else {
        logprobs::chat(&answer.token_ids, top, work.tokens_as_ids)
    };
    put!(out, "{value}");
}

fn prompt_logprobs(out: &mut Vec<u8>, work: &Work, prompt: &[Id]) {
    match work.prompt_logprobs {
        Some(top) => {
            put!(out, "{}", logprobs::prompt(prompt, top));
        }
        None => out.extend_from_slice(b"null"),
    }
}

fn tail(out: &mut Vec<u8>, work: &Work, answers: &[Answer], head: &Letterhead<'_>) {
    let bare = head.profile.flavor == Flavor::Bare;
    if !bare {
        out.extend_from_slice(b",\"service_tier\":null");
    }
    out.extend_from_slice(b",\"system_fingerprint\":");
    string(out, head.fingerprint);
    let prompt: usize = work.prompts.iter().map(Vec::len).sum();
    let mut completion: usize = answers.iter().map(|a| a.token_ids.len()).sum();
    if work.shape == Shape::ChatBatch && work.stream.is_some() {
        // The real server counts only the last piece of each, too.
        completion = answers.len();
    }
    usage(out, prompt, completion, !bare);
    if bare {
        out.push(b'}');
        return;
    }
    if work.shape != Shape::Completion {
        let first = work.prompts.first().map_or(&[][..], Vec::as_slice);
        out.extend_from_slice(b",\"prompt_logprobs\":");
        prompt_logprobs(out, work, first);
        out.extend_from_slice(b",\"prompt_token_ids\":");
        maybe_ids(out, work.return_token_ids, first);
        out.extend_from_slice(b",\"prompt_text\":null");
    }
    out.extend_from_slice(
        b",\"kv_transfer_params\":null,\"ec_transfer_params\":null,\"metrics\":null}",
    );
}

/// Appends `,"usage":{…}`; the details are there in whole answers and not in chunks.
pub fn usage(out: &mut Vec<u8>, prompt: usize, completion: usize, details: bool) {
    let total = prompt + completion;
    put!(
        out,
        ",\"usage\":{{\"prompt_tokens\":{prompt},\"total_tokens\":{total},\
         \"completion_tokens\":{completion}"
    );
    if details {
        out.extend_from_slice(
            b",\"prompt_tokens_details\":null,\"completion_tokens_details\":null",
        );
    }
    out.push(b'}');
}
