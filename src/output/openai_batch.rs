//! Lines as OpenAI's batch API and `vllm run-batch` write them, converted from the answers' lines. Pure.
//!
//! A run with this output keeps each reply as the server sent it, and that is the body. Other runs keep the fields of a
//! reply without their places in it: their bodies are put together again here.

use serde::{Deserialize, Serialize};

use crate::domain::{
    LINE_NAMES, RENAMED_PREFIX, THINKING_MARKS,
    raw_json::{JsonMembers, encode_string, list_elements},
};

/// A run, as far as the lines of its output name it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RunIdentity {
    /// Unique id of the run.
    pub id: String,
    /// Start of the run's latest session, in seconds since 1970. A body without a time of its own gets it.
    pub began: u64,
}

/// Fields of a chat choice's message.
const MESSAGE_FIELDS: [&str; 9] = [
    "annotations",
    "audio",
    "function_call",
    "images",
    "reasoning_content",
    "reasoning_details",
    "refusal",
    "role",
    "tool_calls",
];

/// Fields that describe a reply as a whole.
const REPLY_FIELDS: [&str; 6] = [
    "ec_transfer_params",
    "kv_transfer_params",
    "metrics",
    "prompt_text",
    "service_tier",
    "timings",
];

/// Fields without which a line is no answer.
const REQUIRED_FIELDS: [&str; 3] = ["id", "index", "success"];

/// Fields that the chat route writes once per reply, and the completions route once per choice.
const PROMPT_FIELDS: [&str; 2] = ["prompt_logprobs", "prompt_token_ids"];

/// Converts an answer's line, with its newline.
pub(super) fn to_batch_line(line: &[u8], run: &RunIdentity) -> Result<String, String> {
    let line = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let answer = BatchAnswer { line: JsonMembers::parse(line)?, run };
    if let Some(missing) = REQUIRED_FIELDS.iter().find(|name| answer.line.value(name).is_none()) {
        return Err(format!("an answer without `{missing}`"));
    }
    let unique = format!("{}_{}", run.id, answer.field("index"));
    let mut written = ObjectWriter::default();
    written.add("id", &encode_string(&format!("batch_req_{unique}")));
    written.add("custom_id", answer.field("id"));
    let is_answered = answer.field("success") == "true";
    // An answer that was not valid is the server's all the same, beside the error.
    if is_answered || answer.line.get("raw_response").is_some() {
        let mut response = ObjectWriter::default();
        response.add("status_code", "200");
        response.add("request_id", &encode_string(&format!("req_{unique}")));
        response.add("body", &answer.body());
        written.add("response", &response.finish());
    } else {
        written.add("response", "null");
    }
    if is_answered {
        written.add("error", "null");
    } else {
        let failure = JsonMembers::parse(answer.field("error")).ok();
        let failure_field = |name| failure.as_ref().and_then(|it| it.get(name)).unwrap_or("null");
        let mut error = ObjectWriter::default();
        error.add("code", failure_field("kind"));
        error.add("message", failure_field("message"));
        written.add("error", &error.finish());
    }
    Ok(written.finish() + "\n")
}

/// An answer's line while it is converted.
struct BatchAnswer<'a> {
    line: JsonMembers<'a>,
    run: &'a RunIdentity,
}

impl<'a> BatchAnswer<'a> {
    fn field(&self, name: &str) -> &'a str {
        self.line.get(name).unwrap_or("null")
    }

    fn is_chat(&self) -> bool {
        let served = JsonMembers::parse(self.field("served")).ok();
        served.is_some_and(|served| served.get("api") == Some("\"chat\""))
    }

    /// Returns the fields that the types of the openai package demand of a body.
    fn body_head(&self) -> [(&'static str, String); 4] {
        let (prefix, object) = if self.is_chat() {
            ("chatcmpl", "\"chat.completion\"")
        } else {
            ("cmpl", "\"text_completion\"")
        };
        [
            ("id", encode_string(&format!("{prefix}-{}-{}", self.run.id, self.field("index")))),
            ("object", object.to_owned()),
            ("created", self.run.began.to_string()),
            ("model", self.field("model").to_owned()),
        ]
    }

    /// Returns the body: as the server sent it, or put together from the line's fields.
    fn body(&self) -> String {
        let Ok(sent) = JsonMembers::parse(self.field("body")) else { return self.rebuilt_body() };
        let is_sent = |name: &str| sent.get(name).is_some_and(|json| json != "null");
        let missing: Vec<_> =
            self.body_head().into_iter().filter(|(name, _)| !is_sent(name)).collect();
        if missing.is_empty() {
            return self.field("body").to_owned();
        }
        let mut body = ObjectWriter::default();
        missing.iter().for_each(|(name, json)| body.add(name, json));
        let is_missing = |name: &str| missing.iter().any(|(other, _)| *other == name);
        let others = sent.iter().filter(|(name, _)| !is_missing(name));
        others.for_each(|(name, json)| body.add(name, json));
        body.finish()
    }

    fn rebuilt_body(&self) -> String {
        let (is_chat, sequences) = (self.is_chat(), self.sequences());
        let mut body = ObjectWriter::default();
        self.body_head().iter().for_each(|(name, json)| body.add(name, json));
        let choices: Vec<String> = sequences
            .iter()
            .enumerate()
            .map(|(index, sequence)| rebuilt_choice(index, sequence, is_chat))
            .collect();
        body.add("choices", &format!("[{}]", choices.join(",")));
        body.add("usage", &rebuilt_usage(self.field("usage")));
        let is_of_reply = |name| is_reply_field(name, is_chat) || sequences.len() > 1;
        let fields = self.line.iter().filter(|(name, _)| !LINE_NAMES.contains(name));
        for (name, json) in fields.filter(|(name, _)| *name != "content" && is_of_reply(name)) {
            body.add(original_name(name), json);
        }
        body.finish()
    }

    /// Returns the fields of each sequence.
    fn sequences(&self) -> Vec<JsonMembers<'_>> {
        let elements = |name| self.line.get(name).and_then(|list| list_elements(list).ok());
        if let Some(choices) = elements("choices") {
            return choices.into_iter().filter_map(|it| JsonMembers::parse(it).ok()).collect();
        }
        // Lines of earlier versions have the texts of several sequences, and the end of the first alone.
        let others = elements("responses").into_iter().flatten().skip(1);
        let others = others.map(|text| JsonMembers::from_members([("response", text)]));
        std::iter::once(JsonMembers::from_members(self.line.iter())).chain(others).collect()
    }
}

fn is_reply_field(name: &str, is_chat: bool) -> bool {
    REPLY_FIELDS.contains(&name) || is_chat && PROMPT_FIELDS.contains(&name)
}

/// Undoes the renaming of a field whose name an answer line uses itself.
fn original_name(name: &str) -> &str {
    name.strip_prefix(RENAMED_PREFIX).filter(|name| LINE_NAMES.contains(name)).unwrap_or(name)
}

fn rebuilt_choice(index: usize, sequence: &JsonMembers<'_>, is_chat: bool) -> String {
    let field = |name| sequence.get(name).unwrap_or("null");
    // Of a prompt without a valid answer the line has the raw text.
    let text = Some(field("response")).filter(|text| *text != "null");
    let with_thinking = text_with_thinking(sequence);
    let text = with_thinking.as_deref().or(text).unwrap_or(field("raw_response"));
    let is_message_field = |name| is_chat && MESSAGE_FIELDS.contains(&name);
    let others = || {
        let is_other = |name| !LINE_NAMES.contains(&name) && !is_reply_field(name, is_chat);
        sequence.iter().filter(move |(name, _)| is_other(*name))
    };
    let mut choice = ObjectWriter::default();
    choice.add("index", &index.to_string());
    if is_chat {
        let mut message = ObjectWriter::default();
        if sequence.get("role").is_none() {
            message.add("role", "\"assistant\"");
        }
        message.add("content", sequence.get("content").unwrap_or(text));
        if sequence.get("refusal").is_none() {
            message.add("refusal", "null");
        }
        for (name, json) in others().filter(|(name, _)| is_message_field(*name)) {
            message.add(name, json);
        }
        if let Some(reasoning) = sequence.get("reasoning").filter(|_| with_thinking.is_none()) {
            message.add("reasoning", reasoning);
        }
        choice.add("message", &message.finish());
    } else {
        choice.add("text", text);
    }
    choice.add("logprobs", field("logprobs"));
    choice.add("finish_reason", field("finish_reason"));
    let written = ["content", "logprobs", THINKING_MARKS];
    for (name, json) in others().filter(|(name, _)| !is_message_field(*name)) {
        if !written.contains(&name) {
            choice.add(original_name(name), json);
        }
    }
    choice.finish()
}

/// Returns the text as the server sent it, as JSON, if the thinking in it has been moved to `reasoning`.
fn text_with_thinking(sequence: &JsonMembers<'_>) -> Option<String> {
    let marks: [String; 3] = serde_json::from_str(sequence.get(THINKING_MARKS)?).ok()?;
    let text = |name| serde_json::from_str::<String>(sequence.get(name)?).ok();
    let [before, between, after] = &marks;
    let (thinking, answer) = (text("reasoning")?, text("response")?);
    Some(encode_string(&format!("{before}{thinking}{between}{answer}{after}")))
}

/// Returns the token counts in the server's shape; `null` if there are none.
fn rebuilt_usage(usage: &str) -> String {
    let Ok(counts) = JsonMembers::parse(usage) else { return "null".to_owned() };
    let count =
        |name| counts.get(name).and_then(|json| json.parse::<u64>().ok()).unwrap_or_default();
    let total = count("prompt_tokens") + count("completion_tokens");
    let mut written = ObjectWriter::default();
    written.add("prompt_tokens", &count("prompt_tokens").to_string());
    written.add("total_tokens", &total.to_string());
    written.add("completion_tokens", &count("completion_tokens").to_string());
    for (name, json) in counts.iter() {
        let details = match name {
            "prompt_tokens" | "completion_tokens" | "estimated" => continue,
            "cached_tokens" => "prompt_tokens_details",
            "reasoning_tokens" => "completion_tokens_details",
            _ => {
                written.add(name, json);
                continue;
            }
        };
        // Details that have more than this count are among the fields, as a whole.
        if counts.get(details).is_none() {
            written.add(details, &format!("{{\"{name}\":{json}}}"));
        }
    }
    written.finish()
}

/// A JSON object while it is written, from values that are JSON already.
#[derive(Default)]
struct ObjectWriter(String);

impl ObjectWriter {
    fn add(&mut self, name: &str, json: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&encode_string(name));
        self.0.push(':');
        self.0.push_str(json);
    }

    fn finish(mut self) -> String {
        self.0.push_str(if self.0.is_empty() { "{}" } else { "}" });
        self.0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn batch_line(line: &Value) -> Value {
        let run = RunIdentity { id: "r1".into(), began: 5 };
        let text = to_batch_line(line.to_string().as_bytes(), &run).expect("a line");
        assert!(text.ends_with("}\n") && text.matches('\n').count() == 1);
        let order = ["\"id\":", "\"custom_id\":", "\"response\":", "\"error\":"];
        let places: Vec<_> = order.iter().map(|name| text.find(name).expect("a field")).collect();
        assert!(places.is_sorted(), "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    fn answer(api: &str, more: &Value) -> Value {
        let mut line = json!({"id": "a", "index": 3, "prompt": "x", "response": "ho", "model": "m",
            "success": true, "error": null, "finish_reason": "stop", "params": {}, "served": {"api": api},
            "usage": {"prompt_tokens": 2, "completion_tokens": 3, "estimated": false}});
        for (name, value) in more.as_object().expect("an object") {
            line[name] = value.clone();
        }
        line
    }

    #[test]
    fn the_body_is_what_the_server_sent() {
        let body = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 9, "model": "n", "choices": [], "x": [1]});
        let line = batch_line(&answer("chat", &json!({"body": body, "tool_calls": [1]})));
        assert_eq!(
            line,
            json!({"id": "batch_req_r1_3", "custom_id": "a", "error": null,
                "response": {"status_code": 200, "request_id": "req_r1_3", "body": body}})
        );
        let bare = json!({"choices": [], "id": null});
        let line = batch_line(&answer("completions", &json!({"body": bare})));
        assert_eq!(
            line["response"]["body"],
            json!({"id": "cmpl-r1-3", "object": "text_completion", "created": 5, "model": "m", "choices": []})
        );
    }

    #[test]
    fn a_failed_row_has_no_response() {
        let line = json!({"id": 7, "index": 4, "response": null, "success": false,
            "error": {"kind": "too_long", "message": "no", "status": 400}});
        assert_eq!(
            batch_line(&line),
            json!({"id": "batch_req_r1_4", "custom_id": 7, "response": null,
                "error": {"code": "too_long", "message": "no"}})
        );
    }

    #[test]
    fn an_invalid_answer_is_written_beside_its_error() {
        let line = json!({"id": 7, "index": 4, "response": null, "raw_response": "no", "success": false,
            "finish_reason": "stop", "error": {"kind": "invalid", "message": "it is not JSON", "status": 200}});
        let written = batch_line(&line);
        assert_eq!(written["response"]["status_code"], 200);
        assert_eq!(written["response"]["body"]["choices"][0]["text"], "no");
        assert_eq!(written["error"], json!({"code": "invalid", "message": "it is not JSON"}));
    }

    #[test]
    fn fields_of_a_line_go_back_to_their_places() {
        let more = json!({"content": null, "response": "", "finish_reason": "tool_calls", "reasoning": "hm",
            "tool_calls": [{"id": "c"}], "logprobs": {"content": []}, "stop_reason": 7, "reply_row": 1,
            "prompt_logprobs": [null], "kv_transfer_params": {}, "row": {"label": 1},
            "usage": {"prompt_tokens": 2, "completion_tokens": 3, "estimated": false, "cached_tokens": 1,
                "reasoning_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 2, "x": 1}}});
        assert_eq!(
            batch_line(&answer("chat", &more))["response"]["body"],
            json!({"id": "chatcmpl-r1-3", "object": "chat.completion", "created": 5, "model": "m",
                "choices": [{"index": 0, "finish_reason": "tool_calls", "logprobs": {"content": []},
                    "stop_reason": 7, "row": 1, "message": {"role": "assistant", "content": null,
                    "refusal": null, "tool_calls": [{"id": "c"}], "reasoning": "hm"}}],
                "usage": {"prompt_tokens": 2, "total_tokens": 5, "completion_tokens": 3,
                    "prompt_tokens_details": {"cached_tokens": 1},
                    "completion_tokens_details": {"reasoning_tokens": 2, "x": 1}},
                "prompt_logprobs": [null], "kv_transfer_params": {}})
        );
        let text = batch_line(&answer("completions", &json!({"prompt_logprobs": [null]})));
        assert_eq!(
            text["response"]["body"]["choices"],
            json!([{"index": 0, "text": "ho", "logprobs": null, "finish_reason": "stop", "prompt_logprobs": [null]}])
        );
    }

    #[test]
    fn each_sequence_is_a_choice_with_its_own_end() {
        let more = json!({"responses": ["ho", "hi"], "choices": [
            {"response": "ho", "finish_reason": "stop"},
            {"response": "hi", "finish_reason": "length", "reasoning": "r", "stop_reason": 1}],
            "prompt_token_ids": [1]});
        let body = batch_line(&answer("chat", &more))["response"]["body"].take();
        assert_eq!(
            body["choices"][1],
            json!({"index": 1, "logprobs": null, "finish_reason": "length", "stop_reason": 1,
                "message": {"role": "assistant", "content": "hi", "refusal": null, "reasoning": "r"}})
        );
        assert_eq!(
            (&body["choices"][0]["finish_reason"], &body["prompt_token_ids"]),
            (&json!("stop"), &json!([1]))
        );
        // A line of an earlier version does not say how the others ended.
        let old = answer("completions", &json!({"responses": ["ho", "hi"]}));
        let body = batch_line(&old)["response"]["body"].take();
        assert_eq!(
            body["choices"],
            json!([{"index": 0, "text": "ho", "logprobs": null, "finish_reason": "stop"},
                {"index": 1, "text": "hi", "logprobs": null, "finish_reason": null}])
        );
    }
}
