//! What the model says: a pure function of the prompt's token ids and the parameters.
//!
//! It owns that function and no state: never the time, the order of requests, the batch or the
//! server has a say, so a test can work out what each prompt must be answered. An answer begins
//! with eight letters of the prompt's hash and goes on in readable words.

use crate::cache::mix;
use crate::grammar::Constraint;
use crate::tokens::{self, EOS, Id};
use serde::{Deserialize, Serialize};

/// How long answers are when the model is free to end them, in tokens with the final EOS.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lengths {
    /// All the same.
    Fixed(usize),
    /// Heavy-tailed: log-normal over the prompts' hashes.
    LogNormal {
        /// Half of the answers are shorter.
        median: f64,
        /// The spread of the logarithm; 1 is a long tail.
        sigma: f64,
    },
    /// The prompt's length times this.
    OfPrompt(f64),
}

impl Lengths {
    fn of(&self, hash: u64, prompt_tokens: usize) -> usize {
        let tokens = match self {
            Self::Fixed(tokens) => return (*tokens).max(1),
            Self::LogNormal { median, sigma } => median * (sigma * normal(hash)).exp(),
            Self::OfPrompt(factor) => prompt_tokens as f64 * factor,
        };
        (tokens.round() as usize).max(1)
    }
}

/// A standard normal number out of a hash (Box and Muller).
fn normal(hash: u64) -> f64 {
    let unit = |h: u64| ((h >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let radius = (-2.0 * unit(mix(hash, 1)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(mix(hash, 2))).cos()
}

/// What becomes of a demand that answers have a structure (`response_format`, `structured_outputs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Structure {
    /// The server sees to it, as vLLM does.
    #[default]
    Enforced,
    /// The server does not know it; the model keeps to it in a conversation with an earlier answer of its own.
    WhenTold,
    /// The server does not know it, and the model does not care.
    Ignored,
    /// The server refuses the request.
    Refused,
}

/// The model's character: what an answer depends on beside the prompt and the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswerPolicy {
    /// The context: prompt and answer together are never longer.
    pub max_model_len: usize,
    /// How long answers are.
    pub lengths: Lengths,
    /// How long the model thinks before it answers; none for a model that does not.
    pub thinking: Option<Lengths>,
    /// What becomes of structured answers.
    pub structure: Structure,
}

impl Default for AnswerPolicy {
    fn default() -> Self {
        Self {
            max_model_len: 2048,
            lengths: Lengths::Fixed(64),
            thinking: None,
            structure: Structure::Enforced,
        }
    }
}

/// What of a request the answer depends on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Params {
    /// The most tokens; none means up to the context's end.
    pub max_tokens: Option<usize>,
    /// No EOS before so many tokens.
    pub min_tokens: usize,
    /// EOS does not end the answer.
    pub ignore_eos: bool,
    /// With 0 the seed and the sample have no effect.
    pub temperature: f64,
    /// The seed; none is as good as 0 here, although a real server draws one.
    pub seed: i64,
    /// Which of `n` samples this is.
    pub sample: u32,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// Tokens that end the answer.
    pub stop_token_ids: Vec<Id>,
    /// Whether the stop string stays in the text.
    pub include_stop: bool,
    /// The token a `logit_bias` of 100 forces at every place.
    pub forced: Option<Id>,
    /// Whether special tokens are shown as text.
    pub show_special: bool,
    /// What a structured answer must satisfy.
    pub constraint: Option<Constraint>,
    /// The shortest and longest pattern and its repetitions that end the answer.
    pub repetition: Option<(usize, usize, usize)>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finish {
    /// `max_tokens` or the context's end.
    Length,
    /// The model's EOS.
    Eos,
    /// A stop string.
    StopString(String),
    /// A stop token.
    StopToken(Id),
    /// The same again and again.
    Repetition,
}

impl Finish {
    /// The `finish_reason` on the wire.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Eos | Self::StopString(_) | Self::StopToken(_) => "stop",
            Self::Repetition => "repetition",
        }
    }
}

/// An answer of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The text as the completions route gives it, thinking included.
    pub text: String,
    /// Every generated id, with the EOS or stop token that ended it: its number is the usage.
    pub token_ids: Vec<Id>,
    /// Why it ended.
    pub finish: Finish,
    /// Where the thinking ends: ids and bytes of text up to and with `</think>` and its blank
    /// lines; none when the model did not think.
    pub thought: Option<Thought>,
    show_special: bool,
}

/// The thinking part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thought {
    /// The ids that belong to it.
    pub tokens: usize,
    /// Whether `</think>` was reached.
    pub closed: bool,
    /// How many of them open the thinking: the tag.
    opening: usize,
    /// Where the thinking proper ends and the closing tag begins.
    spoken: usize,
}

impl Thought {
    /// Whether the token at this place is thinking proper and not part of a tag.
    #[must_use]
    pub fn speaks(&self, token: usize) -> bool {
        (self.opening..self.spoken).contains(&token)
    }
}

/// What opens the model's thinking.
pub const THINK: &str = "<think>\n";
/// What closes it.
pub const END_THINK: &str = "\n</think>\n\n";

impl Answer {
    /// The generated text in front of the answer proper, without the tags: what chat gives as
    /// `reasoning`.
    #[must_use]
    pub fn reasoning(&self) -> Option<String> {
        let Thought { opening, spoken, .. } = self.thought?;
        let end = spoken.min(self.token_ids.len());
        Some(tokens::decode(self.token_ids.get(opening..end).unwrap_or_default(), true))
    }

    /// What chat gives as `content`; none when the answer ended before the thinking did.
    #[must_use]
    pub fn content(&self) -> Option<&str> {
        let Some(thought) = self.thought else { return Some(&self.text) };
        let end = if thought.closed { self.text.find(END_THINK) } else { None };
        end.map(|end| &self.text[end + END_THINK.len()..]).filter(|text| !text.is_empty())
    }

    /// Where the text ends after each token, in bytes: what a stream has sent by then. A
    /// character that is not whole yet is held back.
    #[must_use]
    pub fn text_ends(&self) -> Vec<usize> {
        let mut bytes = Vec::new();
        let mut ends: Vec<usize> = Vec::with_capacity(self.token_ids.len());
        for id in &self.token_ids {
            tokens::push_piece(*id, !self.show_special, &mut bytes);
            let mut end = bytes.len().min(self.text.len());
            while !self.text.is_char_boundary(end) {
                end -= 1;
            }
            ends.push(end);
        }
        if let Some(last) = ends.last_mut() {
            *last = self.text.len();
        }
        ends
    }
}

/// The hash of a prompt: what tells one prompt from another everywhere in the simulator.
#[must_use]
pub fn prompt_hash(prompt: &[Id]) -> u64 {
    prompt.iter().fold(0xA11CE, |hash, id| mix(hash, u64::from(*id)))
}

/// The answer to a prompt.
#[must_use]
pub fn answer(policy: &AnswerPolicy, prompt: &[Id], params: &Params) -> Answer {
    let mut hash = prompt_hash(prompt);
    if params.temperature > 0.0 {
        hash = mix(mix(hash, params.seed as u64), u64::from(params.sample));
    }
    let room = policy.max_model_len.saturating_sub(prompt.len()).max(1);
    let limit = params.max_tokens.unwrap_or(room).clamp(1, room);
    let said = say(policy, prompt, params, hash, limit);
    finish(said, params, limit)
}

/// The ids before any limit but the model's own end; `ended` when an EOS is due after them.
struct Said {
    ids: Vec<Id>,
    ended: bool,
    thinking: Option<usize>,
}

fn say(policy: &AnswerPolicy, prompt: &[Id], params: &Params, hash: u64, limit: usize) -> Said {
    if let Some(id) = params.forced {
        return Said { ids: vec![id; limit], ended: false, thinking: None };
    }
    let mut ids = think(policy, prompt, hash);
    let thinking = (!ids.is_empty()).then_some(ids.len());
    if let Some(constraint) = params.constraint.as_ref().filter(|_| keeps_to_it(policy, prompt)) {
        ids.extend(tokens::encode(&constraint.satisfy(hash)));
        return Said { ids, ended: true, thinking };
    }
    let wanted = policy.lengths.of(hash, prompt.len()).max(params.min_tokens + 1) - 1;
    let wanted = if params.ignore_eos { limit } else { wanted.min(limit) };
    let words = wanted.saturating_sub(if params.ignore_eos { ids.len() } else { 0 });
    speak(hash, words, &mut ids);
    Said { ids, ended: !params.ignore_eos, thinking }
}

/// Whether the answer has the structure that is asked for.
fn keeps_to_it(policy: &AnswerPolicy, prompt: &[Id]) -> bool {
    match policy.structure {
        Structure::Enforced => true,
        // The last of them is the one that is to come.
        Structure::WhenTold => {
            tokens::decode(prompt, false).matches("<|im_start|>assistant").count() > 1
        }
        Structure::Ignored | Structure::Refused => false,
    }
}

/// The thinking's ids, tags included; none when the prompt says that it has been done.
fn think(policy: &AnswerPolicy, prompt: &[Id], hash: u64) -> Vec<Id> {
    let Some(lengths) = &policy.thinking else { return Vec::new() };
    if prompt.ends_with(&tokens::encode("</think>\n\n")) {
        return Vec::new();
    }
    let mut ids = tokens::encode(THINK);
    speak(mix(hash, 0x7417), lengths.of(mix(hash, 3), prompt.len()), &mut ids);
    ids.extend(tokens::encode(END_THINK));
    ids
}

/// Appends so many tokens of readable noise, the hash first.
fn speak(hash: u64, count: usize, ids: &mut Vec<Id>) {
    let mut state = hash;
    for at in 0..count {
        if at < 4 {
            ids.push(tokens::letter_pair(state));
            state /= 676;
        } else {
            if at == 4 {
                state = mix(hash, 4);
            }
            ids.push(tokens::spaced_word(state >> 8));
            state = mix(state, at as u64);
        }
    }
}

/// Cuts what was said where the request wants it cut.
fn finish(said: Said, params: &Params, limit: usize) -> Answer {
    let Said { mut ids, ended, thinking } = said;
    let mut finish = Finish::Length;
    if ended && ids.len() < limit {
        ids.push(EOS);
        finish = Finish::Eos;
    }
    ids.truncate(limit);
    if let Some((at, why)) = stopping_token(&ids, params) {
        ids.truncate(at + 1);
        finish = why;
    }
    let silent = usize::from(matches!(finish, Finish::Eos | Finish::StopToken(_)));
    let mut text = tokens::decode(&ids[..ids.len() - silent], !params.show_special);
    if let Some((tokens, end, stop)) = stopping_text(&ids, &text, params) {
        ids.truncate(tokens);
        text.truncate(end);
        finish = Finish::StopString(stop);
    }
    let thought = thinking.map(|tokens| Thought {
        tokens: tokens.min(ids.len()),
        closed: ids.len() >= tokens,
        opening: tokens::encode(THINK).len(),
        spoken: tokens - tokens::encode(END_THINK).len(),
    });
    Answer { text, token_ids: ids, finish, thought, show_special: params.show_special }
}

fn stopping_token(ids: &[Id], params: &Params) -> Option<(usize, Finish)> {
    if params.forced.is_none() && params.stop_token_ids.is_empty() && params.repetition.is_none() {
        return None;
    }
    ids.iter().enumerate().skip(params.min_tokens).find_map(|(at, id)| {
        if *id == EOS && !params.ignore_eos {
            Some((at, Finish::Eos))
        } else if params.stop_token_ids.contains(id) {
            Some((at, Finish::StopToken(*id)))
        } else {
            repeats(&ids[..=at], params.repetition?).then_some((at, Finish::Repetition))
        }
    })
}

fn repeats(ids: &[Id], (min, max, count): (usize, usize, usize)) -> bool {
    (min.max(1)..=max).any(|size| {
        let Some(start) = ids.len().checked_sub(size * count) else { return false };
        let tail = &ids[start..];
        count > 1 && tail.iter().zip(&tail[size..]).all(|(a, b)| a == b)
    })
}

/// The first stop string: the number of tokens up to the one that completes it, where the text
/// is cut, and the string.
fn stopping_text(ids: &[Id], text: &str, params: &Params) -> Option<(usize, usize, String)> {
    let found = params.stop.iter().filter(|s| !s.is_empty());
    let found = found.filter_map(|s| text.find(s.as_str()).map(|at| (at + s.len(), at, s)));
    let (end, start, stop) = found.min_by_key(|(end, start, _)| (*end, *start))?;
    let mut bytes = Vec::new();
    let tokens = ids.iter().position(|id| {
        tokens::push_piece(*id, !params.show_special, &mut bytes);
        bytes.len() >= end
    });
    let cut = if params.include_stop { end } else { start };
    Some((tokens.map_or(ids.len(), |at| at + 1), cut, stop.clone()))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
