//! A batch as a request, and its reply as answers: the bodies of vLLM's two routes.
//!
//! Owns the JSON that goes out (written once, straight into its buffer) and how an answer finds its prompt: by `index`,
//! never by position. What a refusal means is `fault`'s.

use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Client, Fault, fault};
use crate::domain::{Answer, Choice, Input, Params, Prompt, Route, Url, Usage};

/// What all prompts of a request share.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shared {
    /// The route.
    pub route: Route,
    /// The served model's name.
    pub model: String,
    /// Everything but model and prompt.
    pub params: Params,
    /// Sequences a prompt.
    pub n: usize,
}

/// A reply, taken apart.
#[derive(Debug)]
pub struct Reply {
    /// A prompt's answer at the prompt's place; `None` where the reply has none, or two that claim the same place.
    pub answers: Vec<Option<Answer>>,
    /// From sending to the last byte.
    pub took: Duration,
}

/// Sends the prompts as one request and waits for the whole reply.
///
/// # Errors
/// Where there is no reply, or one that is a refusal or no answer at all.
pub async fn ask(
    client: &Client,
    url: &Url,
    shared: &Shared,
    prompts: &[&Prompt],
    system: Option<&str>,
    limit: Duration,
) -> Result<Reply, Fault> {
    let body = match shared.route {
        Route::Completions => completions_body(shared, prompts),
        Route::Chat => chat_body(shared, prompts, system),
    };
    let path = match shared.route {
        Route::Completions => "/v1/completions",
        Route::Chat => "/v1/chat/completions",
    };
    let sent = Instant::now();
    let answer = client.post(url, path, body, limit).await.map_err(Fault::from)?;
    if answer.status != 200 {
        return Err(fault::refusal(answer.status, answer.retry_after, &answer.body));
    }
    let answers = read_reply(&answer.body, prompts, shared.n)?;
    Ok(Reply { answers, took: sent.elapsed() })
}

fn head(shared: &Shared, room: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(room + 256);
    body.extend_from_slice(b"{\"model\":");
    write_text(&mut body, &shared.model);
    for (name, json) in shared.params.iter() {
        body.push(b',');
        write_text(&mut body, name);
        body.push(b':');
        body.extend_from_slice(json.as_bytes());
    }
    body
}

fn completions_body(shared: &Shared, prompts: &[&Prompt]) -> Vec<u8> {
    let room = prompts.iter().map(|prompt| text_of(prompt).len() + 8).sum();
    let mut body = head(shared, room);
    body.extend_from_slice(b",\"prompt\":");
    if let [prompt] = prompts {
        // A single prompt as a plain text: servers without lists take it too.
        write_text(&mut body, text_of(prompt));
    } else {
        body.push(b'[');
        for (place, prompt) in prompts.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            write_text(&mut body, text_of(prompt));
        }
        body.push(b']');
    }
    body.push(b'}');
    body
}

fn chat_body(shared: &Shared, prompts: &[&Prompt], system: Option<&str>) -> Vec<u8> {
    let mut body = head(shared, prompts.first().map_or(0, |prompt| text_of(prompt).len()));
    body.extend_from_slice(b",\"messages\":");
    if let Some(prompt) = prompts.first() {
        body.extend_from_slice(messages(&prompt.input, system).as_bytes());
    }
    body.push(b'}');
    body
}

/// The conversation: a row's own, or its text as one user message; the job's system message first, unless the row's own
/// conversation begins with one.
fn messages(input: &Input, system: Option<&str>) -> String {
    let system =
        system.map(|text| format!("{{\"role\":\"system\",\"content\":{}}}", json_text(text)));
    match input {
        Input::Text(text) => {
            let user = format!("{{\"role\":\"user\",\"content\":{}}}", json_text(text));
            let all: Vec<String> = system.into_iter().chain([user]).collect();
            format!("[{}]", all.join(","))
        }
        Input::Messages(own) => match system {
            Some(system) if !begins_with_system(own) => {
                let rest = own.trim_start().trim_start_matches('[');
                format!("[{system},{rest}")
            }
            _ => own.clone(),
        },
    }
}

fn begins_with_system(messages: &str) -> bool {
    #[derive(Deserialize)]
    struct Message {
        role: Option<String>,
    }
    let messages: Vec<Message> = serde_json::from_str(messages).unwrap_or_default();
    let first = messages.first().and_then(|message| message.role.as_deref());
    matches!(first, Some("system" | "developer"))
}

fn text_of(prompt: &Prompt) -> &str {
    match &prompt.input {
        Input::Text(text) | Input::Messages(text) => text,
    }
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn write_text(body: &mut Vec<u8>, text: &str) {
    // Writing a str into memory cannot fail.
    let _ = serde_json::to_writer(body, text);
}

#[derive(Deserialize)]
struct Body {
    choices: Vec<WireChoice>,
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct WireChoice {
    #[serde(default)]
    index: usize,
    text: Option<String>,
    message: Option<WireMessage>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct WireMessage {
    content: Option<String>,
    reasoning: Option<String>,
    /// Its name before vLLM 0.12.
    reasoning_content: Option<String>,
}

#[derive(Deserialize, Clone, Copy)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
}

fn read_reply(body: &[u8], prompts: &[&Prompt], n: usize) -> Result<Vec<Option<Answer>>, Fault> {
    let body: Body = serde_json::from_slice(body).map_err(|error| Fault::Passing {
        what: format!("the reply is no answer ({error})"),
        status: None,
    })?;
    let mut places: Vec<Vec<Option<Choice>>> = vec![vec![None; n]; prompts.len()];
    let mut doubled = vec![false; prompts.len()];
    for choice in body.choices {
        let (prompt, sequence) = (choice.index / n, choice.index % n);
        let Some(place) = places.get_mut(prompt).map(|it| &mut it[sequence]) else { continue };
        doubled[prompt] |= place.is_some();
        *place = Some(choice.into_choice());
    }
    let complete = |(choices, doubled): (Vec<Option<Choice>>, bool)| {
        let choices: Option<Vec<Choice>> = choices.into_iter().collect();
        choices.filter(|_| !doubled).map(|choices| Answer { choices, usage: None })
    };
    let mut answers: Vec<Option<Answer>> = places.into_iter().zip(doubled).map(complete).collect();
    if let Some(usage) = body.usage {
        share(usage, prompts, &mut answers);
    }
    Ok(answers)
}

impl WireChoice {
    fn into_choice(self) -> Choice {
        let finish_reason = self.finish_reason;
        match self.message {
            Some(message) => Choice {
                text: message.content.unwrap_or_default(),
                reasoning: message.reasoning.or(message.reasoning_content),
                finish_reason,
            },
            None => Choice { text: self.text.unwrap_or_default(), reasoning: None, finish_reason },
        }
    }
}

/// A list's usage is one sum: a prompt's share goes by length. A single's is exact.
fn share(usage: WireUsage, prompts: &[&Prompt], answers: &mut [Option<Answer>]) {
    let asked: Vec<u64> = prompts.iter().map(|prompt| text_of(prompt).len() as u64 + 1).collect();
    let length = |answer: &Option<Answer>| {
        let choices = answer.iter().flat_map(|answer| &answer.choices);
        choices
            .map(|it| {
                it.text.len() as u64 + it.reasoning.as_ref().map_or(0, |it| it.len() as u64) + 1
            })
            .sum()
    };
    let told: Vec<u64> = answers.iter().map(length).collect();
    let (all_asked, all_told) = (asked.iter().sum::<u64>(), told.iter().sum::<u64>());
    // From one mark of the whole to the next, so that the shares add up to it.
    let mark = |sum: u64, upto: u64, all: u64| {
        u64::try_from(u128::from(sum) * u128::from(upto) / u128::from(all.max(1))).unwrap_or(sum)
    };
    let (mut upto_asked, mut upto_told) = (0, 0);
    for ((answer, asked), told) in answers.iter_mut().zip(asked).zip(told) {
        let part = |sum, upto, mine, all| mark(sum, upto + mine, all) - mark(sum, upto, all);
        if let Some(answer) = answer {
            answer.usage = Some(Usage {
                prompt_tokens: part(usage.prompt_tokens, upto_asked, asked, all_asked),
                completion_tokens: part(usage.completion_tokens, upto_told, told, all_told),
                estimated: prompts.len() > 1,
            });
        }
        upto_asked += asked;
        upto_told += told;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Id;

    fn prompt(text: &str) -> Prompt {
        Prompt {
            index: 0,
            id: Id::of_index(0),
            input: Input::Text(text.into()),
            params: Params::default(),
            route: None,
            priority: 0,
            row: None,
        }
    }

    fn shared(route: Route) -> Shared {
        let mut params = Params::default();
        params.set("max_tokens", "5");
        Shared { route, model: "m".into(), params, n: 1 }
    }

    #[test]
    fn bodies_are_what_vllm_takes() {
        let (a, b) = (prompt("say \"hi\""), prompt("ho"));
        let body = |prompts: &[&Prompt]| {
            String::from_utf8(completions_body(&shared(Route::Completions), prompts))
        };
        assert_eq!(body(&[&a]).unwrap(), r#"{"model":"m","max_tokens":5,"prompt":"say \"hi\""}"#);
        assert_eq!(
            body(&[&a, &b]).unwrap(),
            r#"{"model":"m","max_tokens":5,"prompt":["say \"hi\"","ho"]}"#
        );
        let chat =
            String::from_utf8(chat_body(&shared(Route::Chat), &[&b], Some("be brief"))).unwrap();
        assert_eq!(
            chat,
            r#"{"model":"m","max_tokens":5,"messages":[{"role":"system","content":"be brief"},{"role":"user","content":"ho"}]}"#
        );
    }

    #[test]
    fn the_system_message_does_not_double_a_rows_own() {
        let own = |text: &str| messages(&Input::Messages(text.into()), Some("s"));
        let with = r#"[{"role":"system","content":"mine"},{"role":"user","content":"x"}]"#;
        assert_eq!(own(with), with);
        assert_eq!(
            own(r#" [{"role":"user","content":"x"}]"#),
            r#"[{"role":"system","content":"s"},{"role":"user","content":"x"}]"#
        );
    }

    #[test]
    fn answers_find_their_prompts_by_index() {
        let (a, b) = (prompt("one"), prompt("two"));
        let read = |text: &str| read_reply(text.as_bytes(), &[&a, &b], 1).expect("a reply");
        let texts = |text: &str| {
            let answers = read(text);
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
            "doubled, and one of nobody"
        );
        assert!(read_reply(b"{\"error\":\"x\"}", &[&a], 1).is_err());
        assert!(read_reply(b"{\"choices\":[{\"index\":0,", &[&a], 1).is_err());
    }

    #[test]
    fn a_lists_usage_is_shared_and_says_so() {
        let (a, b) = (prompt("123"), prompt("1234567"));
        let reply = r#"{"choices":[{"index":0,"text":"xxx"},{"index":1,"text":"xxx"}],"usage":{"prompt_tokens":12,"completion_tokens":6}}"#;
        let answers = read_reply(reply.as_bytes(), &[&a, &b], 1).expect("a reply");
        let usage: Vec<_> =
            answers.into_iter().filter_map(|it| it.and_then(|it| it.usage)).collect();
        assert_eq!(usage[0], Usage { prompt_tokens: 4, completion_tokens: 3, estimated: true });
        assert_eq!(usage[1].prompt_tokens, 8);
    }

    #[test]
    fn thinking_is_kept_apart() {
        let a = prompt("q");
        let reply = r#"{"choices":[{"index":0,"message":{"content":null,"reasoning":"hmm"},"finish_reason":"length"}]}"#;
        let answers = read_reply(reply.as_bytes(), &[&a], 1).expect("a reply");
        let choice = &answers[0].as_ref().expect("answered").choices[0];
        assert_eq!((choice.text.as_str(), choice.reasoning.as_deref()), ("", Some("hmm")));
    }
}
