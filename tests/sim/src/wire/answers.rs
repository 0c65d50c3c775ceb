//! Answers as JSON, written straight into a buffer.
//!
//! It owns the recorded key order of both routes' answers and the faults that only change how an
//! answer is put down: reversed, missing and doubled choices.

use super::fields::Shape;
use super::logprobs;
use super::plan::Work;
use super::tools;
use crate::answer::{Answer, Finish, prompt_hash};
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
        let is_last = at + 1 == answers.len();
        let doubled = matches!(fault, Some(Fault::DoubledIndex)) && is_last;
        let index = if doubled { 0 } else { at };
        if matches!(fault, Some(Fault::Abort)) && is_last {
            aborted(&mut out, work, index, &answers[at]);
            continue;
        }
        choice(&mut out, work, head.profile.flavor, index, at, &answers[at]);
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

/// A choice that was given up after half of its text.
fn aborted(out: &mut Vec<u8>, work: &Work, index: usize, answer: &Answer) {
    let half: String = answer.text.chars().take(answer.text.chars().count() / 2).collect();
    put!(out, "{{\"index\":{index},");
    if work.shape == Shape::Completion {
        out.extend_from_slice(b"\"text\":");
        string(out, &half);
    } else {
        out.extend_from_slice(b"\"message\":{\"role\":\"assistant\",\"content\":");
        string(out, &half);
        out.push(b'}');
    }
    out.extend_from_slice(b",\"finish_reason\":\"abort\",\"stop_reason\":null}");
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
    let mut reason = answer.finish.reason();
    if work.shape == Shape::Completion {
        text(out, work, prompt, answer);
    } else if message(out, work, flavor, prompt, answer) {
        reason = "tool_calls";
    }
    if flavor == Flavor::Bare {
        put!(out, ",\"finish_reason\":\"{reason}\"}}");
        return;
    }
    out.extend_from_slice(b",\"logprobs\":");
    choice_logprobs(out, work, prompt, answer);
    put!(out, ",\"finish_reason\":\"{reason}\",\"stop_reason\":");
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

/// Appends the message; returns whether it calls tools.
fn message(out: &mut Vec<u8>, work: &Work, flavor: Flavor, prompt: &[Id], answer: &Answer) -> bool {
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
    let read = content.filter(|_| work.calls_tools).and_then(tools::read);
    let (said, calls) = match read {
        Some((before, calls)) => (before, calls),
        None => (content.filter(|_| !work.refuses), Vec::new()),
    };
    text_or_null(out, said);
    if flavor == Flavor::Bare {
        out.push(b'}');
        return false;
    }
    out.extend_from_slice(b",\"refusal\":");
    text_or_null(out, content.filter(|_| work.refuses));
    out.extend_from_slice(b",\"annotations\":null,\"audio\":null,\"function_call\":null");
    tool_calls(out, &calls, prompt, answer);
    out.extend_from_slice(b",\"reasoning\":");
    let names: &[&[u8]] = match flavor {
        Flavor::Older => &[b"", b",\"reasoning_content\":"],
        _ => &[b""],
    };
    for name in names {
        out.extend_from_slice(name);
        text_or_null(out, answer.reasoning().as_deref());
    }
    out.push(b'}');
    !calls.is_empty()
}

fn text_or_null(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends `,"tool_calls":[…]`, or nothing where there are none.
fn tool_calls(out: &mut Vec<u8>, calls: &[tools::Call], prompt: &[Id], answer: &Answer) {
    let hashes = (prompt_hash(prompt), prompt_hash(&answer.token_ids));
    for (at, call) in calls.iter().enumerate() {
        let opening: &[u8] = if at == 0 { b",\"tool_calls\":[" } else { b"," };
        out.extend_from_slice(opening);
        out.extend_from_slice(b"{\"id\":");
        string(out, &tools::id(hashes.0, hashes.1, at));
        out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
        string(out, &call.name);
        out.extend_from_slice(b",\"arguments\":");
        string(out, &call.arguments);
        out.extend_from_slice(b"}}");
    }
    if !calls.is_empty() {
        out.push(b']');
    }
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
