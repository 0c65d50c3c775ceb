//! Parsing of replies: assigns each choice to its prompt and counts the tokens.
//!
//! Owns how an answer finds its prompt (in the reply to a list by `index`, never by position), when a reply to a list is
//! believed at all, which choices are not answers, and how tokens are counted per prompt although vLLM reports one sum
//! per batch. The shapes of replies are in `reply_shape.rs`. Replies with another status than 200 are classified in
//! `fault.rs`.

use std::time::Duration;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    RequestFault,
    reply_body::attach_bodies,
    reply_shape::{ExpectedReply, ReplyBody, ReplyChoice, ReplyUsage, count_ids},
    wire,
};
use crate::domain::{AnswerChoice, PromptAnswer, TokenUsage, raw_json::replace_lone_surrogates};

/// Parsed reply to a batch of prompts.
#[derive(Debug)]
pub(crate) struct ServerReply {
    /// Answers in the order of the prompts, and the reason for those that are missing.
    pub answers: ReplyAnswers,
    /// Time from sending the request to the last byte of the reply.
    pub elapsed: Duration,
}

/// Answers of a reply in the order of the prompts.
#[derive(Debug)]
pub(crate) struct ReplyAnswers {
    /// One entry per prompt; `None` where the reply has no complete answer, or two for the same prompt.
    pub answers: Vec<Option<PromptAnswer>>,
    /// Reason of the server for a missing answer, if it gives one.
    pub missing_reason: Option<String>,
}

/// Choices found for one prompt of the batch, and the tokens counted by their ids.
#[derive(Clone, Default)]
struct PromptReplySlot {
    /// By sequence; `None` where the server gave up the sequence.
    choices: Vec<Option<AnswerChoice>>,
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

impl PromptReplySlot {
    fn add_choice(
        &mut self,
        sequence: usize,
        choice: ReplyChoice<'_>,
        expected: ExpectedReply<'_>,
    ) {
        self.prompt_tokens = choice.prompt_token_ids.map(count_ids).or(self.prompt_tokens);
        if let Some(ids) = choice.token_ids {
            self.completion_tokens =
                Some(self.completion_tokens.unwrap_or_default() + count_ids(ids));
        }
        self.choices[sequence] =
            Some(choice.into_choice(expected.keep_token_ids, expected.split_thinking));
    }

    fn into_answer(self) -> Option<PromptAnswer> {
        let choices: Option<Vec<AnswerChoice>> = self.choices.into_iter().collect();
        let choices = choices.filter(|choices| !choices.is_empty())?;
        Some(PromptAnswer { choices, ..PromptAnswer::default() })
    }
}

/// The place of each choice of a reply, counted prompt by prompt with `n` sequences each, as vLLM numbers them.
enum ChoicePlaces {
    /// Each choice says its own place.
    ByIndex,
    /// All choices are of the one prompt, and not all of them say which sequence they are.
    InOrder,
}

impl ChoicePlaces {
    /// Finds the places in a reply to `prompts` prompts. A reply to a list has to have exactly one choice for each
    /// sequence of each prompt and to say which it is. Otherwise none of its choices is believed: servers that know no
    /// lists join the prompts, answer the first one only, or number all answers 0.
    fn find(choices: &[ReplyChoice<'_>], prompts: usize, n: usize) -> Result<Self, String> {
        if prompts == 1 {
            // The order matters only among several sequences, which are alike.
            let is_ordered = n == 1 || choices.len() > n || has_duplicates(choices, n);
            return Ok(if is_ordered { Self::InOrder } else { Self::ByIndex });
        }
        let expected = prompts.saturating_mul(n);
        if choices.len() != expected {
            let found = choices.len();
            let plural = if found == 1 { "" } else { "s" };
            return Err(format!(
                "the reply to a list of {prompts} prompts has {found} answer{plural} instead of {expected}"
            ));
        }
        if has_duplicates(choices, expected) {
            let error = "the reply to a list does not say which answer belongs to which prompt";
            return Err(error.to_owned());
        }
        Ok(Self::ByIndex)
    }
}

/// Returns whether a choice has no index below `bound`, or the index of another choice.
fn has_duplicates(choices: &[ReplyChoice<'_>], bound: usize) -> bool {
    let mut is_taken = vec![false; bound.min(choices.len().max(1))];
    let mut take = |index: Option<usize>| {
        let place = index.and_then(|index| is_taken.get_mut(index));
        place.is_none_or(|place| std::mem::replace(place, true))
    };
    choices.iter().any(|choice| take(choice.index))
}

/// Reason why a body with status 200 is not an answer.
enum ReplyFault {
    Invalid(serde_json::Error),
    /// The server reports an error of its own.
    Server(String),
    /// The reply to a list is not believed.
    List(String),
}

/// Parses the reply to a batch of prompts.
pub(super) fn parse_reply(
    body: &[u8],
    expected: ExpectedReply<'_>,
) -> Result<ReplyAnswers, RequestFault> {
    let parsed = match parse_answers(body, expected) {
        // Python writes halves of surrogate pairs as escapes, which stand for no character in a `String`.
        Err(ReplyFault::Invalid(error)) if error.to_string().contains("hex escape") => {
            let text = String::from_utf8_lossy(body);
            parse_answers(replace_lone_surrogates(&text).as_bytes(), expected)
        }
        parsed => parsed,
    };
    parsed.map_err(|fault| match fault {
        ReplyFault::Invalid(error) => classify_non_answer(body, &error),
        ReplyFault::Server(message) => RequestFault::Transient { message, status: Some(200) },
        ReplyFault::List(message) => RequestFault::UnusableList { message },
    })
}

fn parse_answers(body: &[u8], expected: ExpectedReply<'_>) -> Result<ReplyAnswers, ReplyFault> {
    let ExpectedReply { prompt_lengths, n, keep_token_ids, .. } = expected;
    let mut reply: ReplyBody<'_> = serde_json::from_slice(body).map_err(ReplyFault::Invalid)?;
    if let Some(error) = reply.error {
        return Err(ReplyFault::Server(describe_server_error("a reply", error)));
    }
    let choices = reply.choices.take().unwrap_or_default();
    let places = ChoicePlaces::find(&choices, prompt_lengths.len(), n).map_err(ReplyFault::List)?;
    // Servers that make only one sequence whatever `n` is leave the others out.
    let sequences = n.min(choices.len());
    let empty = PromptReplySlot { choices: vec![None; sequences], ..PromptReplySlot::default() };
    let mut slots = vec![empty; prompt_lengths.len()];
    let mut missing_reason = None;
    let is_single = prompt_lengths.len() == 1;
    let (mut filled, limit) = (0, if is_single { sequences } else { usize::MAX });
    for choice in choices.into_iter().take(limit) {
        let place = match places {
            ChoicePlaces::ByIndex => choice.index.unwrap_or_default(),
            ChoicePlaces::InOrder => filled,
        };
        filled += 1;
        let (prompt, sequence) = if is_single { (0, place) } else { (place / n, place % n) };
        match generation_fault(&choice) {
            Some(fault) => missing_reason = missing_reason.or(Some(fault)),
            None => slots[prompt].add_choice(sequence, choice, expected),
        }
    }
    if let (Some(ids), [slot]) = (reply.prompt_token_ids, slots.as_mut_slice()) {
        slot.prompt_tokens = Some(count_ids(ids));
    }
    let exact: Vec<_> =
        slots.iter().map(|slot| slot.prompt_tokens.zip(slot.completion_tokens)).collect();
    let mut answers: Vec<Option<PromptAnswer>> =
        slots.into_iter().map(PromptReplySlot::into_answer).collect();
    if let Some(reason) = missing_reason.take_if(|_| answers.iter().all(Option::is_none)) {
        return Err(ReplyFault::Server(reason));
    }
    let usage = reply.usage.and_then(ReplyUsage::parse);
    if let Some(usage) = &usage {
        apportion_usage(usage, prompt_lengths, &mut answers);
    }
    for (answer, exact) in answers.iter_mut().zip(exact) {
        if let (Some(answer), Some((prompt_tokens, completion_tokens))) = (answer, exact) {
            let details = answer.usage.filter(|usage| !usage.estimated).unwrap_or_default();
            answer.usage = Some(TokenUsage { prompt_tokens, completion_tokens, ..details });
        }
    }
    if let [Some(answer)] = answers.as_mut_slice() {
        add_reply_fields(answer, &reply, usage.as_ref(), keep_token_ids);
    }
    if let Some(model) = reply.model.filter(|model| !model.is_empty() && *model != expected.model) {
        answers.iter_mut().flatten().for_each(|answer| answer.model = Some(model.as_ref().into()));
    }
    if expected.keep_body {
        attach_bodies(body, expected, &mut answers);
    }
    Ok(ReplyAnswers { answers, missing_reason })
}

/// Adds what the reply says as a whole. In the reply to a batch it belongs to no single prompt.
fn add_reply_fields(
    answer: &mut PromptAnswer,
    reply: &ReplyBody<'_>,
    usage: Option<&ReplyUsage<'_>>,
    keep_token_ids: bool,
) {
    reply.other.copy_to(&mut answer.fields);
    if let Some(ids) = reply.prompt_token_ids.filter(|_| keep_token_ids) {
        answer.fields.push("prompt_token_ids", ids);
    }
    if let Some(usage) = usage {
        usage.other.copy_to(&mut answer.usage_fields);
    }
}

/// Returns why a choice is not an answer: the server gave up the sequence, such as when its engine is paused.
fn generation_fault(choice: &ReplyChoice<'_>) -> Option<String> {
    if let Some(error) = choice.error {
        return Some(describe_server_error("a choice", error));
    }
    let reason = choice.finish_reason.as_deref()?;
    matches!(reason, "abort" | "error")
        .then(|| format!("generation ended early with finish_reason \"{reason}\""))
}

fn describe_server_error(place: &str, error: &RawValue) -> String {
    let message = wire::error_message(format!("{{\"error\":{error}}}").as_bytes());
    format!("error in {place} with status 200: {message}")
}

/// Classifies a body with status 200 that is not an answer: garbage, or an error object.
fn classify_non_answer(body: &[u8], error: &serde_json::Error) -> RequestFault {
    let is_error = serde_json::from_slice::<InBandError>(body).is_ok();
    let what = if is_error {
        format!("error in a reply with status 200: {}", wire::error_message(body))
    } else {
        format!("invalid reply ({error})")
    };
    RequestFault::Transient { message: what, status: Some(200) }
}

#[derive(Deserialize)]
struct InBandError {
    #[serde(rename = "error")]
    _error: IgnoredAny,
}

/// Splits the usage of a batch, which vLLM reports as one sum, over its prompts in proportion to their lengths. The
/// usage of a single prompt is exact.
fn apportion_usage(usage: &ReplyUsage<'_>, lengths: &[u64], answers: &mut [Option<PromptAnswer>]) {
    // Plus one, so that empty texts have a share too.
    let prompt_weights: Vec<u64> = lengths.iter().map(|length| length + 1).collect();
    let answer_weights: Vec<u64> = answers.iter().map(answer_weight).collect();
    let shares = |sum: Option<u64>, weights| {
        let shares = proportional_shares(sum.unwrap_or_default(), weights);
        shares.map(move |share| sum.map(|_| share))
    };
    let prompt_shares = proportional_shares(usage.prompt_tokens, &prompt_weights)
        .zip(shares(usage.cached_tokens, &prompt_weights));
    let answer_shares = proportional_shares(usage.completion_tokens, &answer_weights)
        .zip(shares(usage.reasoning_tokens, &answer_weights));
    let estimated = lengths.len() > 1;
    for ((answer, prompt), completion) in answers.iter_mut().zip(prompt_shares).zip(answer_shares) {
        let ((prompt_tokens, cached_tokens), (completion_tokens, reasoning_tokens)) =
            (prompt, completion);
        if let Some(answer) = answer {
            answer.usage = Some(TokenUsage {
                prompt_tokens,
                completion_tokens,
                estimated,
                cached_tokens,
                reasoning_tokens,
            });
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

    fn expected(prompt_lengths: &[u64], n: usize) -> ExpectedReply<'_> {
        ExpectedReply {
            prompt_lengths,
            n,
            model: "m",
            is_rendered: false,
            keep_token_ids: true,
            keep_body: false,
            split_thinking: true,
        }
    }

    fn parse(reply: &str, lengths: &[u64], n: usize) -> Vec<Option<PromptAnswer>> {
        parse_reply(reply.as_bytes(), expected(lengths, n)).expect("a reply").answers
    }

    /// Parses the reply to a single prompt.
    fn parse_one(reply: &str, n: usize) -> PromptAnswer {
        parse(reply, &[3], n).remove(0).expect("an answer")
    }

    fn fault_of(reply: &str, lengths: &[u64]) -> RequestFault {
        parse_reply(reply.as_bytes(), expected(lengths, 1)).expect_err("no answer")
    }

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
            let answers = parse(&reply, &[3], 1);
            let answer = answers[0].as_ref().expect("an answer");
            assert_eq!((answer.choices[0].text.as_str(), answer.usage), ("a", None), "{usage}");
        }
    }

    #[test]
    fn answers_find_their_prompts_by_index() {
        let texts = |text: &str| {
            let answers = parse(text, &[3, 3], 1);
            answers
                .into_iter()
                .map(|it| it.map(|it| it.choices[0].text.clone()))
                .collect::<Vec<_>>()
        };
        let (first, second) = (Some("A".to_owned()), Some("B".to_owned()));
        assert_eq!(
            texts(r#"{"choices":[{"index":1,"text":"B"},{"index":0,"text":"A"}]}"#),
            [first, second]
        );
        fault_of(r#"{"choices":[{"index":0,"#, &[3]);
    }

    #[test]
    fn a_reply_to_a_list_is_believed_as_a_whole_or_not_at_all() {
        for choices in [
            r#"{"index":0,"text":"AB"}"#,
            r#"{"index":1,"text":"B"}"#,
            "",
            r#"{"index":0,"text":"A"},{"index":1,"text":"B"},{"index":2,"text":"?"}"#,
            r#"{"index":0,"text":"A"},{"index":0,"text":"B"}"#,
            r#"{"index":0,"text":"A"},{"text":"B"}"#,
            r#"{"index":0,"text":"A"},{"index":null,"text":"B"}"#,
            r#"{"index":0,"text":"A"},{"index":-1,"text":"B"}"#,
            r#"{"index":1,"text":"A"},{"index":2,"text":"B"}"#,
            r#"{"text":"A"},{"text":"B"}"#,
        ] {
            let fault = fault_of(&format!(r#"{{"choices":[{choices}]}}"#), &[3, 3]);
            assert!(matches!(fault, RequestFault::UnusableList { .. }), "{choices}: {fault:?}");
        }
        let four = |indexes: [u8; 4]| {
            let choice = |index| format!(r#"{{"index":{index},"text":"{index}"}}"#);
            let reply = format!(r#"{{"choices":[{}]}}"#, indexes.map(choice).join(","));
            parse_reply(reply.as_bytes(), expected(&[3, 3], 2)).map(|reply| reply.answers)
        };
        let answers = four([2, 0, 3, 1]).expect("whole");
        let second = answers[1].as_ref().expect("an answer");
        assert_eq!(second.choices.iter().map(|it| &*it.text).collect::<Vec<_>>(), ["2", "3"]);
        assert!(four([0, 1, 2, 2]).is_err());
    }

    #[test]
    fn a_single_prompt_needs_no_index() {
        for index in ["", r#""index":null,"#, r#""index":7,"#, r#""index":"0","#, r#""index":0.0,"#]
        {
            let reply = format!(r#"{{"choices":[{{{index}"text":"a"}}]}}"#);
            assert_eq!(parse_one(&reply, 1).choices[0].text, "a", "{index}");
            let reply = format!(r#"{{"choices":[{{{index}"text":"a"}},{{{index}"text":"b"}}]}}"#);
            let choices = parse_one(&reply, 2).choices;
            assert_eq!((&*choices[0].text, &*choices[1].text), ("a", "b"), "{index}");
            assert_eq!(parse_one(&reply, 1).choices.len(), 1, "more than were asked for");
            assert_eq!(parse_one(&reply, 3).choices.len(), 2, "fewer than were asked for");
        }
        assert_eq!(parse(r#"{"choices":[]}"#, &[3], 1), [None]);
    }

    #[test]
    fn single_odd_fields_cost_no_answer() {
        for field in [
            r#""finish_reason":7"#,
            r#""finish_reason":{"type":"stop"}"#,
            r#""logprobs":"none""#,
            r#""index":[]"#,
            r#""error":false"#,
            r#""stop_reason":{}"#,
        ] {
            let reply = format!(
                r#"{{"id":7,"created":"now","model":[1],"object":null,"choices":[{{"text":"a",{field}}}],"usage":"none"}}"#
            );
            assert_eq!(parse_one(&reply, 1).choices[0].text, "a", "{field}");
        }
        for (message, text) in [
            (r#"{"content":"a","role":7,"tool_calls":{},"reasoning":5}"#, "a"),
            (r#"{"content":{"type":"text","text":"a"}}"#, "a"),
            (r#"{"content":["a",{"text":"b"},3]}"#, "ab"),
            (r#"{"content":42}"#, ""),
        ] {
            let reply = format!(r#"{{"choices":[{{"index":0,"message":{message}}}]}}"#);
            let choice = parse_one(&reply, 1).choices.remove(0);
            assert_eq!(choice.text, text, "{message}");
            if text.is_empty() {
                assert_eq!(field_list(&choice.fields), [("content", "42")]);
            }
        }
    }

    #[test]
    fn thinking_without_a_parser_is_no_part_of_the_text() {
        let thought = r#"<think>\nhm\n</think>\n\nsix"#;
        for choice in [
            format!(r#"{{"index":0,"text":"{thought}"}}"#),
            format!(r#"{{"index":0,"message":{{"content":"{thought}"}}}}"#),
        ] {
            let reply = format!(r#"{{"choices":[{choice}]}}"#);
            let choice = parse_one(&reply, 1).choices.remove(0);
            assert_eq!((&*choice.text, choice.reasoning.as_deref()), ("six", Some("hm")));
            let marks = [("thinking_marks", r#"["<think>\n","\n</think>\n\n",""]"#)];
            assert_eq!(field_list(&choice.fields), marks);
            let off = ExpectedReply { split_thinking: false, ..expected(&[3], 1) };
            let answers = parse_reply(reply.as_bytes(), off).expect("a reply").answers;
            let raw = &answers[0].as_ref().expect("an answer").choices[0];
            assert_eq!((&*raw.text, &raw.reasoning), ("<think>\nhm\n</think>\n\nsix", &None));
        }
        let parsed = r#"{"choices":[{"message":{"content":"<think>a</think>b","reasoning":"r"}}]}"#;
        let choice = parse_one(parsed, 1).choices.remove(0);
        assert_eq!(choice.text, "<think>a</think>b", "the server has separated the thinking");
    }

    #[test]
    fn a_batchs_usage_is_split_by_length_and_marked_as_estimated() {
        let reply = r#"{"choices":[{"index":0,"text":"xxx"},{"index":1,"text":"xxx"}],"usage":{"prompt_tokens":12,"completion_tokens":6}}"#;
        let answers = parse(reply, &[3, 7], 1);
        let usage: Vec<_> =
            answers.into_iter().filter_map(|it| it.and_then(|it| it.usage)).collect();
        assert_eq!(
            usage[0],
            TokenUsage {
                prompt_tokens: 4,
                completion_tokens: 3,
                estimated: true,
                ..TokenUsage::default()
            }
        );
        assert_eq!(usage[1].prompt_tokens, 8);
    }

    #[test]
    fn reasoning_is_kept_apart_from_the_text() {
        let reply = r#"{"choices":[{"index":0,"message":{"content":null,"reasoning":"hmm"},"finish_reason":"length"}]}"#;
        let answers = parse(reply, &[1], 1);
        let choice = &answers[0].as_ref().expect("answered").choices[0];
        assert_eq!((choice.text.as_str(), choice.reasoning.as_deref()), ("", Some("hmm")));
    }

    #[test]
    fn token_ids_give_exact_counts() {
        let reply = r#"{"choices":[{"index":0,"text":"a","token_ids":[5,6],"prompt_token_ids":[1,2,3]},
            {"index":1,"text":"b","token_ids":[7],"prompt_token_ids":[4]}],"usage":{"prompt_tokens":4,"completion_tokens":3}}"#;
        let answers = parse(reply, &[30, 3], 1);
        let usage: Vec<_> = answers.into_iter().filter_map(|it| it?.usage).collect();
        assert_eq!(
            usage[0],
            TokenUsage {
                prompt_tokens: 3,
                completion_tokens: 2,
                estimated: false,
                ..TokenUsage::default()
            }
        );
        assert_eq!(
            usage[1],
            TokenUsage {
                prompt_tokens: 1,
                completion_tokens: 1,
                estimated: false,
                ..TokenUsage::default()
            }
        );
        let chat = r#"{"choices":[{"index":0,"message":{"content":"x"},"token_ids":[9,9]}],"prompt_token_ids":[1,2]}"#;
        let answers = parse(chat, &[3], 1);
        let usage = answers[0].as_ref().expect("answered").usage.expect("counted");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.estimated), (2, 2, false));
    }

    /// Names and JSON of the fields that pass through.
    fn field_list(fields: &crate::domain::ReplyFields) -> Vec<(&str, &str)> {
        fields.iter().map(|(name, json)| (name, json.get())).collect()
    }

    #[test]
    fn every_field_of_a_message_a_choice_and_a_reply_passes_through_unless_it_is_null() {
        let reply = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","system_fingerprint":"f",
            "choices":[{"index":0,"message":{"role":"assistant","content":null,"refusal":"I cannot","audio":null,
            "tool_calls":[{"id":"c","function":{"name":"f","arguments":"{}"}}],"annotations":[]},
            "logprobs":{"content":[ {"token":"a"} ]},"finish_reason":"tool_calls","stop_reason":7,"matched_stop":1.50}],
            "prompt_logprobs":[null],"service_tier":null,"metrics":{"a":1}}"#;
        let answer = parse_one(reply, 1);
        assert_eq!(
            field_list(&answer.choices[0].fields),
            [
                ("content", "null"),
                ("refusal", "\"I cannot\""),
                ("tool_calls", r#"[{"id":"c","function":{"name":"f","arguments":"{}"}}]"#),
                ("logprobs", r#"{"content":[ {"token":"a"} ]}"#),
                ("stop_reason", "7"),
                ("matched_stop", "1.50"),
            ]
        );
        assert_eq!(
            field_list(&answer.fields),
            [("prompt_logprobs", "[null]"), ("metrics", r#"{"a":1}"#)]
        );
        assert_eq!((answer.choices[0].text.as_str(), answer.model), ("", None));
    }

    #[test]
    fn an_ordinary_reply_has_no_other_fields() {
        for case in ["chat-single", "completions-single", "completions-list3", "chat-n2"] {
            let path = format!("{}/tests/data/vllm-wire/{case}.json", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).expect("a recording");
            let recorded: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let body = recorded["response"]["body"].to_string();
            let prompts = if case == "completions-list3" { 3 } else { 1 };
            let n = if case == "chat-n2" { 2 } else { 1 };
            let lengths = vec![3; prompts];
            let tiny = ExpectedReply { model: "tiny", ..expected(&lengths, n) };
            let answers = parse_reply(body.as_bytes(), tiny).expect("a reply").answers;
            for answer in answers.into_iter().map(|answer| answer.expect("an answer")) {
                assert!(answer.fields.is_empty() && answer.usage_fields.is_empty(), "{case}");
                assert!(answer.choices.iter().all(|choice| choice.fields.is_empty()), "{case}");
                assert_eq!((answer.model, answer.choices.len()), (None, n), "{case}");
            }
        }
    }

    #[test]
    fn each_sequence_keeps_its_own_end_reasoning_and_fields() {
        let reply = r#"{"choices":[
            {"index":1,"message":{"content":"b","reasoning":"y"},"finish_reason":"stop","stop_reason":"x"},
            {"index":0,"message":{"content":"a","reasoning_content":"z"},"finish_reason":"length"}]}"#;
        let choices = parse_one(reply, 2).choices;
        let told: Vec<_> = choices
            .iter()
            .map(|it| (it.text.as_str(), it.reasoning.as_deref(), it.finish_reason.as_deref()))
            .collect();
        assert_eq!(told, [("a", Some("z"), Some("length")), ("b", Some("y"), Some("stop"))]);
        assert_eq!(field_list(&choices[1].fields), [("stop_reason", "\"x\"")]);
        assert!(choices[0].fields.is_empty());
        assert_eq!(parse_one(reply, 3).choices.len(), 2, "a missing sequence is not made up");
    }

    #[test]
    fn texts_in_parts_other_roles_and_two_reasonings_lose_nothing() {
        let reply = r#"{"choices":[{"index":null,"message":{"role":"user","reasoning":"new","reasoning_content":"old",
            "content":[{"type":"text","text":"one "},{"type":"image_url"},{"type":"text","text":"two"}]}}]}"#;
        let choice = parse_one(reply, 1).choices.remove(0);
        assert_eq!((choice.text.as_str(), choice.reasoning.as_deref()), ("one two", Some("new")));
        let fields = field_list(&choice.fields);
        assert_eq!(fields[0], ("role", "\"user\""));
        assert_eq!(
            fields[1].1,
            r#"[{"type":"text","text":"one "},{"type":"image_url"},{"type":"text","text":"two"}]"#
        );
        assert_eq!(fields[2], ("reasoning_content", "\"old\""));
        let same =
            r#"{"choices":[{"message":{"content":"","reasoning":"r","reasoning_content":"r"}}]}"#;
        assert!(parse_one(same, 1).choices[0].fields.is_empty());
    }

    #[test]
    fn halves_of_surrogate_pairs_cost_no_answer() {
        let reply =
            r#"{"choices":[{"index":0,"text":"a\ud83db","logprobs":{"tokens":["\udc00"]}}]}"#;
        let choice = parse_one(reply, 1).choices.remove(0);
        assert_eq!(choice.text, "a\u{fffd}b");
        assert_eq!(field_list(&choice.fields), [("logprobs", r#"{"tokens":["\ufffd"]}"#)]);
    }

    #[test]
    fn aborted_sequences_and_errors_beside_or_inside_choices_are_no_answers() {
        for (reply, message) in [
            (r#"{"error":"x"}"#, "reply with status 200: x"),
            (r#"{"choices":[{"index":0,"text":"a"}],"error":{"message":"y"}}"#, "200: y"),
            (
                r#"{"choices":[{"index":0,"text":"a","error":{"message":"z"}}]}"#,
                "choice with status 200: z",
            ),
            (r#"{"choices":[{"index":0,"text":"a","finish_reason":"abort"}]}"#, "\"abort\""),
            (
                r#"{"choices":[{"index":0,"message":{"content":"a"},"finish_reason":"error"}]}"#,
                "\"error\"",
            ),
        ] {
            let RequestFault::Transient { message: found, .. } = fault_of(reply, &[3]) else {
                panic!("{reply}")
            };
            assert!(found.contains(message), "{found}");
        }
        let list = r#"{"choices":[{"index":0,"text":"a","finish_reason":"abort"},
            {"index":1,"text":"b","finish_reason":"stop","error":null}],"error":null}"#;
        let reply = parse_reply(list.as_bytes(), expected(&[3, 3], 1)).expect("a reply");
        assert!(reply.answers[0].is_none() && reply.answers[1].is_some());
        assert!(reply.missing_reason.expect("a reason").contains("abort"));
        assert_eq!(
            parse_one(r#"{"choices":[{"text":"a","error":""}],"error":false}"#, 1).choices[0].text,
            "a"
        );
    }

    #[test]
    fn token_ids_are_kept_only_if_they_were_asked_for() {
        let reply = r#"{"choices":[{"index":0,"message":{"content":"x"},"token_ids":[9, 9]}],"prompt_token_ids":[]}"#;
        let answer = parse_one(reply, 1);
        assert_eq!(field_list(&answer.choices[0].fields), [("token_ids", "[9, 9]")]);
        assert_eq!(field_list(&answer.fields), [("prompt_token_ids", "[]")]);
        let counted = ExpectedReply { keep_token_ids: false, ..expected(&[3], 1) };
        let answers = parse_reply(reply.as_bytes(), counted).expect("a reply").answers;
        let answer = answers[0].as_ref().expect("an answer");
        assert!(answer.choices[0].fields.is_empty() && answer.fields.is_empty());
        let usage = answer.usage.expect("counted");
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (0, 2));
    }

    #[test]
    fn details_of_the_usage_are_kept() {
        let reply = r#"{"choices":[{"text":"a"}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,
            "prompt_tokens_details":{"cached_tokens":8,"audio_tokens":null},
            "completion_tokens_details":{"reasoning_tokens":1,"accepted_prediction_tokens":0},"cost":0.5,"x":null}}"#;
        let answer = parse_one(reply, 1);
        let usage = answer.usage.expect("counted");
        assert_eq!((usage.cached_tokens, usage.reasoning_tokens), (Some(8), Some(1)));
        assert_eq!(
            field_list(&answer.usage_fields),
            [
                (
                    "completion_tokens_details",
                    r#"{"reasoning_tokens":1,"accepted_prediction_tokens":0}"#
                ),
                ("cost", "0.5"),
            ]
        );
        let list = r#"{"choices":[{"index":0,"text":"a"},{"index":1,"text":"a"}],
            "usage":{"prompt_tokens":8,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#;
        let usage: Vec<_> =
            parse(list, &[1, 1], 1).into_iter().filter_map(|it| it?.usage).collect();
        assert_eq!(usage.iter().map(|it| it.cached_tokens).collect::<Vec<_>>(), [Some(2), Some(2)]);
        assert!(usage.iter().all(|it| it.estimated && it.reasoning_tokens.is_none()));
    }

    #[test]
    fn the_model_is_kept_if_it_is_not_the_requested_one() {
        let model =
            |name| parse_one(&format!(r#"{{"model":{name},"choices":[{{"text":"a"}}]}}"#), 1).model;
        assert_eq!(model("\"small\"").as_deref(), Some("small"));
        assert_eq!([model("\"m\""), model("null"), model("\"\"")], [None, None, None]);
    }
}
