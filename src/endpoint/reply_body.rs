//! Bodies of replies as the server sent them, one per prompt, for outputs that pass them on.
//!
//! The reply to a single prompt is kept verbatim. The reply to a batch is taken apart: each prompt gets the body that
//! it would have got alone, with an id and token counts of its own.

use serde_json::value::RawValue;

use super::reply_shape::ExpectedReply;
use crate::domain::{
    PromptAnswer, TokenUsage,
    raw_json::{JsonMembers, decode_string, encode_string, list_elements},
    to_stored_json,
};

/// Adds its body to each answer. A reply that was parsed before has the shape that is assumed here.
pub(super) fn attach_bodies(
    body: &[u8],
    expected: ExpectedReply<'_>,
    answers: &mut [Option<PromptAnswer>],
) {
    let Ok(whole) = serde_json::from_slice::<&RawValue>(body) else { return };
    // Token ids that only this program asked for are no part of the reply to the prompt.
    let is_verbatim = answers.len() == 1 && !expected.is_rendered && expected.keep_token_ids;
    if let ([Some(answer)], true) = (&mut *answers, is_verbatim) {
        answer.body = Some(to_stored_json(whole));
        return;
    }
    let Ok(members) = JsonMembers::parse(whole.get()) else { return };
    let elements = members.get("choices").and_then(|choices| list_elements(choices).ok());
    let choices: Vec<_> = elements
        .unwrap_or_default()
        .into_iter()
        .filter_map(|choice| JsonMembers::parse(choice).ok())
        .collect();
    let is_batch = answers.len() > 1;
    for (prompt, answer) in answers.iter_mut().enumerate() {
        let Some(answer) = answer else { continue };
        let mut own: Vec<_> = choices
            .iter()
            .filter_map(|choice| {
                let index = choice_index(choice);
                // All choices of the reply to a single prompt are its own, whatever their indexes are.
                (!is_batch || index / expected.n == prompt).then_some((index % expected.n, choice))
            })
            .collect();
        own.sort_by_key(|(sequence, _)| *sequence);
        let place = BodyPlace {
            position: is_batch.then_some(prompt),
            usage: answer.usage,
            is_rendered: expected.is_rendered,
            keep_token_ids: expected.keep_token_ids,
        };
        let text = place.write_body(&members, &own);
        answer.body = RawValue::from_string(text).ok().map(|body| to_stored_json(&body));
    }
}

fn choice_index(choice: &JsonMembers<'_>) -> usize {
    choice.get("index").and_then(|index| index.parse().ok()).unwrap_or_default()
}

/// Place of a prompt's body in a reply.
struct BodyPlace {
    /// Position in the batch; `None` for a single prompt.
    position: Option<usize>,
    usage: Option<TokenUsage>,
    is_rendered: bool,
    keep_token_ids: bool,
}

impl BodyPlace {
    fn write_body(
        &self,
        members: &JsonMembers<'_>,
        choices: &[(usize, &JsonMembers<'_>)],
    ) -> String {
        write_object(members.iter().map(|(name, json)| {
            let json = match name {
                "id" => self.reply_id(json),
                "object" if self.is_rendered => encode_string("chat.completion"),
                "choices" => {
                    let choices = choices
                        .iter()
                        .map(|(sequence, choice)| self.write_choice(*sequence, choice));
                    format!("[{}]", choices.collect::<Vec<_>>().join(","))
                }
                "usage" if self.position.is_some() => self.share_of_usage(),
                "prompt_token_ids" if !self.keep_token_ids => "null".to_owned(),
                _ => json.to_owned(),
            };
            (name.to_owned(), json)
        }))
    }

    /// Returns an id that no other prompt of the batch has.
    fn reply_id(&self, json: &str) -> String {
        let Ok(id) = decode_string(json) else { return json.to_owned() };
        let id = match id.strip_prefix("cmpl-") {
            Some(rest) if self.is_rendered => format!("chatcmpl-{rest}"),
            _ => id.into_owned(),
        };
        match self.position {
            Some(position) => encode_string(&format!("{id}-{position}")),
            None => encode_string(&id),
        }
    }

    fn share_of_usage(&self) -> String {
        let Some(usage) = self.usage else { return "null".to_owned() };
        let TokenUsage { prompt_tokens, completion_tokens, .. } = usage;
        let total_tokens = prompt_tokens + completion_tokens;
        format!(
            "{{\"prompt_tokens\":{prompt_tokens},\"total_tokens\":{total_tokens},\
             \"completion_tokens\":{completion_tokens}}}"
        )
    }

    fn write_choice(&self, sequence: usize, choice: &JsonMembers<'_>) -> String {
        write_object(choice.iter().filter_map(|(name, json)| {
            let field = match name {
                "index" => (name.to_owned(), sequence.to_string()),
                "text" if self.is_rendered => {
                    let message =
                        format!("{{\"role\":\"assistant\",\"content\":{json},\"refusal\":null}}");
                    ("message".to_owned(), message)
                }
                "prompt_logprobs" | "prompt_token_ids" if self.is_rendered => return None,
                "token_ids" | "prompt_token_ids" if !self.keep_token_ids => {
                    (name.to_owned(), "null".to_owned())
                }
                _ => (name.to_owned(), json.to_owned()),
            };
            Some(field)
        }))
    }
}

fn write_object(members: impl Iterator<Item = (String, String)>) -> String {
    let members = members.map(|(name, json)| format!("{}:{json}", encode_string(&name)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::endpoint::reply::parse_reply;

    const LIST: &str = r#"{"id":"cmpl-7","object":"text_completion","created":5,"model":"m","choices":[
        {"index":1,"text":"b","logprobs":null,"finish_reason":"stop","token_ids":[4],"prompt_token_ids":[5]},
        {"index":0,"text":"a\n","logprobs":null,"finish_reason":"length","token_ids":[1,2],"prompt_token_ids":[3]}],
        "usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}"#;

    fn bodies(reply: &str, prompts: usize, n: usize, ours: bool, is_rendered: bool) -> Vec<Value> {
        let expected = ExpectedReply {
            prompt_lengths: &vec![3; prompts],
            n,
            model: "m",
            is_rendered,
            keep_token_ids: !ours,
            keep_body: true,
            split_thinking: false,
        };
        let answers = parse_reply(reply.as_bytes(), expected).expect("a reply").answers;
        let body = |answer: Option<PromptAnswer>| answer.expect("an answer").body.expect("a body");
        answers
            .into_iter()
            .map(|answer| {
                let body = body(answer);
                assert!(!body.get().contains('\n'), "{body}");
                serde_json::from_str(body.get()).expect("JSON")
            })
            .collect()
    }

    #[test]
    fn the_body_of_a_single_prompt_is_verbatim() {
        let sent: Value = serde_json::from_str(LIST).expect("JSON");
        assert_eq!(bodies(LIST, 1, 2, false, false), [sent]);
    }

    #[test]
    fn a_batch_is_taken_apart_into_bodies_as_of_single_prompts() {
        let choice = |text: &str, reason: &str, ids: Value, prompt: Value| json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": reason, "token_ids": ids, "prompt_token_ids": prompt}]);
        let found = bodies(LIST, 2, 1, false, false);
        assert_eq!(found[0]["choices"], choice("a\n", "length", json!([1, 2]), json!([3])));
        assert_eq!(found[1]["choices"], choice("b", "stop", json!([4]), json!([5])));
        assert_eq!((&found[0]["id"], &found[1]["id"]), (&json!("cmpl-7-0"), &json!("cmpl-7-1")));
        assert_eq!(
            found[1]["usage"],
            json!({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
        );
        assert_eq!((&found[1]["created"], &found[1]["model"]), (&json!(5), &json!("m")));
    }

    #[test]
    fn token_ids_of_this_program_are_null_and_rendered_conversations_get_messages() {
        let found = bodies(LIST, 2, 1, true, true);
        assert_eq!(
            found[0]["choices"],
            json!([{"index": 0, "message": {"role": "assistant", "content": "a\n", "refusal": null},
                "logprobs": null, "finish_reason": "length", "token_ids": null}])
        );
        assert_eq!(found[0]["id"], "chatcmpl-7-0");
        assert_eq!(found[0]["object"], "chat.completion");
        let one = bodies(LIST, 1, 2, true, false);
        assert_eq!(one[0]["choices"][0]["token_ids"], Value::Null);
        assert_eq!(one[0]["id"], "cmpl-7");
        assert_eq!(one[0]["usage"]["total_tokens"], 5);
    }
}
