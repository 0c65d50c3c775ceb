//! Parsing of replies: assigns each choice to its prompt and counts the tokens.
//!
//! Owns how an answer finds its prompt (by `index`, never by position) and how tokens are counted per prompt although
//! vLLM reports one sum per batch. Replies with another status than 200 are classified in `fault.rs`.

use std::time::Duration;

use serde::{Deserialize, de::IgnoredAny};

use super::{RequestFault, wire};
use crate::domain::{AnswerChoice, PromptAnswer, TokenUsage};

/// Parsed reply to a batch of prompts.
#[derive(Debug)]
pub(crate) struct ServerReply {
    /// Answers in the order of the prompts; `None` where the reply has no answer, or two for the same prompt.
    pub answers: Vec<Option<PromptAnswer>>,
    /// Time from sending the request to the last byte of the reply.
    pub elapsed: Duration,
}

#[derive(Deserialize)]
struct ReplyBody {
    choices: Vec<ReplyChoice>,
    /// Parsed separately, so that invalid counts cost no answer.
    usage: Option<serde_json::Value>,
    /// Present for a conversation if `return_token_ids` was set.
    #[serde(default)]
    prompt_token_ids: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct ReplyChoice {
    #[serde(default)]
    index: usize,
    text: Option<String>,
    message: Option<ReplyMessage>,
    finish_reason: Option<String>,
    /// Only counted, so the ids are not stored.
    #[serde(default)]
    token_ids: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    prompt_token_ids: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct ReplyMessage {
    content: Option<String>,
    reasoning: Option<String>,
    /// Name of `reasoning` before vLLM 0.12.
    reasoning_content: Option<String>,
}

#[derive(Deserialize, Clone, Copy)]
struct ReplyUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

impl ReplyUsage {
    /// More tokens than any reply can have are a bug of the server, and sums of such counts would overflow.
    fn is_plausible(&self) -> bool {
        self.prompt_tokens.max(self.completion_tokens) < 1 << 40
    }
}

/// Choices found for one prompt of the batch, and the tokens counted by their ids.
#[derive(Clone, Default)]
struct PromptReplySlot {
    choices: Vec<Option<AnswerChoice>>,
    is_duplicate: bool,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// Parses the reply to a batch of prompts with these lengths in bytes, each with `n` sequences.
pub(super) fn parse_reply(
    body: &[u8],
    lengths: &[u64],
    n: usize,
) -> Result<Vec<Option<PromptAnswer>>, RequestFault> {
    let read: ReplyBody =
        serde_json::from_slice(body).map_err(|error| classify_non_answer(body, &error))?;
    let empty = PromptReplySlot { choices: vec![None; n], ..PromptReplySlot::default() };
    let mut slots = vec![empty; lengths.len()];
    for choice in read.choices {
        // vLLM numbers choices prompt by prompt, with `n` sequences each.
        let (prompt, sequence) = (choice.index / n, choice.index % n);
        let Some(slot) = slots.get_mut(prompt) else { continue };
        let count = |ids: &Option<Vec<IgnoredAny>>| ids.as_ref().map(|ids| ids.len() as u64);
        slot.prompt_tokens = count(&choice.prompt_token_ids).or(slot.prompt_tokens);
        if let Some(completion_tokens) = count(&choice.token_ids) {
            slot.completion_tokens =
                Some(slot.completion_tokens.unwrap_or_default() + completion_tokens);
        }
        slot.is_duplicate |= slot.choices[sequence].is_some();
        slot.choices[sequence] = Some(choice.into_choice());
    }
    if let (Some(ids), [slot]) = (&read.prompt_token_ids, slots.as_mut_slice()) {
        slot.prompt_tokens = Some(ids.len() as u64);
    }
    let exact: Vec<_> =
        slots.iter().map(|slot| slot.prompt_tokens.zip(slot.completion_tokens)).collect();
    let complete = |slot: PromptReplySlot| {
        let choices: Option<Vec<AnswerChoice>> = slot.choices.into_iter().collect();
        choices.filter(|_| !slot.is_duplicate).map(|choices| PromptAnswer { choices, usage: None })
    };
    let mut answers: Vec<Option<PromptAnswer>> = slots.into_iter().map(complete).collect();
    let usage = read.usage.and_then(|usage| ReplyUsage::deserialize(usage).ok());
    if let Some(usage) = usage.filter(ReplyUsage::is_plausible) {
        apportion_usage(usage, lengths, &mut answers);
    }
    for (answer, exact) in answers.iter_mut().zip(exact) {
        if let (Some(answer), Some((prompt_tokens, completion_tokens))) = (answer, exact) {
            answer.usage = Some(TokenUsage { prompt_tokens, completion_tokens, estimated: false });
        }
    }
    Ok(answers)
}

/// Classifies a body with status 200 that is not an answer: garbage, or an error object.
fn classify_non_answer(body: &[u8], error: &serde_json::Error) -> RequestFault {
    let is_error = serde_json::from_slice::<InBandError>(body).is_ok();
    let what = if is_error {
        format!("error in a reply with status 200: {}", wire::error_message(body))
    } else {
        format!("invalid reply ({error})")
    };
    RequestFault::Transient { message: what, status: None }
}

#[derive(Deserialize)]
struct InBandError {
    #[serde(rename = "error")]
    _error: IgnoredAny,
}

impl ReplyChoice {
    fn into_choice(self) -> AnswerChoice {
        let finish_reason = self.finish_reason;
        match self.message {
            Some(message) => AnswerChoice {
                text: message.content.unwrap_or_default(),
                reasoning: message.reasoning.or(message.reasoning_content),
                finish_reason,
            },
            None => {
                AnswerChoice { text: self.text.unwrap_or_default(), reasoning: None, finish_reason }
            }
        }
    }
}

/// Splits the usage of a batch, which vLLM reports as one sum, over its prompts in proportion to their lengths. The
/// usage of a single prompt is exact.
fn apportion_usage(usage: ReplyUsage, lengths: &[u64], answers: &mut [Option<PromptAnswer>]) {
    // Plus one, so that empty texts have a share too.
    let prompt_weights: Vec<u64> = lengths.iter().map(|length| length + 1).collect();
    let answer_weights: Vec<u64> = answers.iter().map(answer_weight).collect();
    let prompt_shares = proportional_shares(usage.prompt_tokens, &prompt_weights);
    let answer_shares = proportional_shares(usage.completion_tokens, &answer_weights);
    let shares = prompt_shares.zip(answer_shares);
    for (answer, (prompt_tokens, completion_tokens)) in answers.iter_mut().zip(shares) {
        if let Some(answer) = answer {
            let estimated = lengths.len() > 1;
            answer.usage = Some(TokenUsage { prompt_tokens, completion_tokens, estimated });
        }
    }
}

fn answer_weight(answer: &Option<PromptAnswer>) -> u64 {
    let choices = answer.iter().flat_map(|answer| &answer.choices);
    choices
        .map(|choice| choice.text.len() + choice.reasoning.as_ref().map_or(0, String::len) + 1)
        .sum::<usize>() as u64
}

/// Splits a sum in proportion to weights. Each share is the difference of two rounded prefix sums, so that the shares
/// add up to the sum.
fn proportional_shares(sum: u64, weights: &[u64]) -> impl Iterator<Item = u64> {
    let total = u128::from(weights.iter().sum::<u64>().max(1));
    let share_up_to = move |weight: u64| {
        u64::try_from(u128::from(sum) * u128::from(weight) / total).unwrap_or(sum)
    };
    let mut before = 0;
    let share = move |weight: &u64| {
        let share = share_up_to(before + weight) - share_up_to(before);
        before += weight;
        share
    };
    weights.iter().map(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_token_counts_cost_no_answer() {
        for usage in [
            "null",
            "7",
            r#"{"prompt_tokens":null,"completion_tokens":1}"#,
            r#"{"prompt_tokens":3.5,"completion_tokens":-5}"#,
            r#"{"prompt_tokens":18446744073709551615,"completion_tokens":1}"#,
        ] {
            let reply = format!(r#"{{"choices":[{{"index":0,"text":"a"}}],"usage":{usage}}}"#);
            let answers = parse_reply(reply.as_bytes(), &[3], 1).expect("a reply");
            let answer = answers[0].as_ref().expect("an answer");
            assert_eq!((answer.choices[0].text.as_str(), answer.usage), ("a", None), "{usage}");
        }
    }

    #[test]
    fn answers_find_their_prompts_by_index() {
        let texts = |text: &str| {
            let answers = parse_reply(text.as_bytes(), &[3, 3], 1).expect("a reply");
            answers
                .into_iter()
                .map(|it| it.map(|it| it.choices[0].text.clone()))
                .collect::<Vec<_>>()
        };
        let (first, second) = (Some("A".to_owned()), Some("B".to_owned()));
        assert_eq!(
            texts(r#"{"choices":[{"index":1,"text":"B"},{"index":0,"text":"A"}]}"#),
            [first, second.clone()]
        );
        assert_eq!(
            texts(r#"{"choices":[{"index":1,"text":"B"}]}"#),
            [None, second.clone()],
            "missing"
        );
        assert_eq!(
            texts(
                r#"{"choices":[{"index":0,"text":"A"},{"index":0,"text":"x"},{"index":1,"text":"B"},{"index":9,"text":"?"}]}"#
            ),
            [None, second],
            "a duplicate, and an index without a prompt"
        );
        let fault = parse_reply(b"{\"error\":\"x\"}", &[3], 1).expect_err("no answer");
        assert!(format!("{fault:?}").contains("with status 200: x"), "{fault:?}");
        assert!(parse_reply(b"{\"choices\":[{\"index\":0,", &[3], 1).is_err());
    }

    #[test]
    fn a_batchs_usage_is_split_by_length_and_marked_as_estimated() {
        let reply = r#"{"choices":[{"index":0,"text":"xxx"},{"index":1,"text":"xxx"}],"usage":{"prompt_tokens":12,"completion_tokens":6}}"#;
        let answers = parse_reply(reply.as_bytes(), &[3, 7], 1).expect("a reply");
        let usage: Vec<_> =
            answers.into_iter().filter_map(|it| it.and_then(|it| it.usage)).collect();
        assert_eq!(
            usage[0],
            TokenUsage { prompt_tokens: 4, completion_tokens: 3, estimated: true }
        );
        assert_eq!(usage[1].prompt_tokens, 8);
    }

    #[test]
    fn reasoning_is_kept_apart_from_the_text() {
        let reply = r#"{"choices":[{"index":0,"message":{"content":null,"reasoning":"hmm"},"finish_reason":"length"}]}"#;
        let answers = parse_reply(reply.as_bytes(), &[1], 1).expect("a reply");
        let choice = &answers[0].as_ref().expect("answered").choices[0];
        assert_eq!((choice.text.as_str(), choice.reasoning.as_deref()), ("", Some("hmm")));
    }

    #[test]
    fn token_ids_give_exact_counts() {
        let reply = r#"{"choices":[{"index":0,"text":"a","token_ids":[5,6],"prompt_token_ids":[1,2,3]},
            {"index":1,"text":"b","token_ids":[7],"prompt_token_ids":[4]}],"usage":{"prompt_tokens":4,"completion_tokens":3}}"#;
        let answers = parse_reply(reply.as_bytes(), &[30, 3], 1).expect("a reply");
        let usage: Vec<_> = answers.into_iter().filter_map(|it| it?.usage).collect();
        assert_eq!(
            usage[0],
            TokenUsage { prompt_tokens: 3, completion_tokens: 2, estimated: false }
        );
        assert_eq!(
            usage[1],
            TokenUsage { prompt_tokens: 1, completion_tokens: 1, estimated: false }
        );
        let chat = r#"{"choices":[{"index":0,"message":{"content":"x"},"token_ids":[9,9]}],"prompt_token_ids":[1,2]}"#;
        let answers = parse_reply(chat.as_bytes(), &[3], 1).expect("a reply");
        let usage = answers[0].as_ref().expect("answered").usage.expect("counted");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.estimated), (2, 2, false));
    }
}
