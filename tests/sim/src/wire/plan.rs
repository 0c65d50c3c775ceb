//! From a body to the work it asks for, or to the refusal.
//!
//! It owns the order of the checks and the making of prompts: tokenizing, rendering, truncating;
//! the sampling parameters are `sampling`'s. What it returns owns its data, so that the body can
//! go. Time, queues and faults come later.

use super::fields::{self, MOST_STOPS, Shape};
use super::refusal::Refusal;
use super::request::{Item, Message, Prompts, Request, Stop, StreamOptions};
use super::sampling::{logprobs, sampling};
use super::tools;
use crate::answer::Params;
use crate::grammar::Constraint;
use crate::profile::{Flavor, Profile};
use crate::template::{self, Rendering, Turn};
use crate::tokens::{self, Id, VOCABULARY};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// What a request asks for.
pub struct Work {
    /// Which route it came by.
    pub shape: Shape,
    /// The model by the name it was asked for.
    pub model: String,
    /// The prompts in their order.
    pub prompts: Vec<Vec<Id>>,
    /// How many answers to each.
    pub n: usize,
    /// What the answers depend on.
    pub params: Params,
    /// Whether and how to stream.
    pub stream: Option<StreamOptions>,
    /// Whether the text begins with the prompt's.
    pub echo: bool,
    /// Whether nothing is to be generated (`max_tokens` 0 with `echo`).
    pub silent: bool,
    /// Whether ids are sent along.
    pub return_token_ids: bool,
    /// How many alternatives each token's logarithm comes with.
    pub logprobs: Option<usize>,
    /// The same for the prompt's tokens.
    pub prompt_logprobs: Option<usize>,
    /// Whether tokens are named by their ids there.
    pub tokens_as_ids: bool,
    /// The id the client wants its answer to have.
    pub request_id: Option<String>,
    /// Keeps what it leaves in the prefix cache from requests with another.
    pub cache_salt: Option<String>,
    /// The role of a chat's answer.
    pub role: String,
    /// Whether tool calls are read from the answer's text.
    pub calls_tools: bool,
    /// Whether the answer is a refusal.
    pub refuses: bool,
}

/// What a model says that refuses.
const REFUSAL: &str = "I cannot help with that.";

/// Reads a body of the given shape.
pub fn plan(shape: Shape, profile: &Profile, body: &[u8]) -> Result<Work, Refusal> {
    if let Ok(request) = serde_json::from_slice::<Request<'_>>(body)
        && well_formed(shape, &request)
    {
        return checked(shape, profile, &request);
    }
    if profile.flavor == Flavor::Bare && shape == Shape::Completion && is_list_prompt(body) {
        return Err(Refusal::go_no_lists());
    }
    let mended = fields::mend(shape, body)?;
    match Request::deserialize(&mended) {
        Ok(request) => checked(shape, profile, &request),
        Err(error) => Err(fields::unexplained(&error)),
    }
}

fn is_list_prompt(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|v| v["prompt"].is_array())
}

/// What the types alone do not tell.
fn well_formed(shape: Shape, request: &Request<'_>) -> bool {
    let few_stops = !matches!(&request.stop, Some(Stop::Many(of)) if of.len() > MOST_STOPS);
    let items = request.messages.as_deref();
    few_stops
        && match shape {
            Shape::Completion => true,
            Shape::Chat => {
                let fits = |i: &Item<'_>| matches!(i, Item::Message(m) if m.may_be_null());
                items.is_some_and(|all| all.iter().all(fits))
            }
            Shape::ChatBatch => items.is_some_and(|all| {
                let full = |i: &Item<'_>| match i {
                    Item::Conversation(c) => !c.is_empty() && c.iter().all(Message::may_be_null),
                    Item::Message(_) => false,
                };
                !all.is_empty() && all.iter().all(full)
            }),
        }
}

fn checked(shape: Shape, profile: &Profile, request: &Request<'_>) -> Result<Work, Refusal> {
    let model = model(profile, request)?;
    let role = role(shape, request);
    if shape == Shape::Completion {
        completion_fields(profile, request)?;
    } else {
        chat_fields(shape, profile, request)?;
    }
    let mut sampling = sampling(shape, profile, request)?;
    let calls_tools = shape == Shape::Chat && profile.calls_tools && tools::wanted(request);
    let is_required = request.tool_choice.as_ref().is_some_and(|choice| choice != "auto");
    if calls_tools && (is_required || sampling.constraint.is_none()) {
        sampling.constraint = Some(tools::constraint(request));
    }
    let refuses = shape == Shape::Chat && refuses(profile, request);
    if refuses {
        sampling.constraint = Some(Constraint::Choice(vec![REFUSAL.to_owned()]));
    }
    let prompts = prompts(shape, profile, request)?;
    if let (Flavor::Older, Some(max)) = (profile.flavor, sampling.max_tokens) {
        older_room(profile, &prompts, max)?;
    }
    let n = request.n.unwrap_or(1);
    if n > 1 && sampling.temperature == 0.0 {
        let message = format!("n must be 1 when using greedy sampling, got {n}.");
        return Err(Refusal::bad(&message));
    }
    let echo = shape == Shape::Completion && request.echo == Some(true);
    let (logprobs, prompt_logprobs) = logprobs(shape, request, echo)?;
    let bare = profile.flavor == Flavor::Bare;
    Ok(Work {
        shape,
        model,
        n: n.max(1) as usize,
        silent: echo && request.max_tokens == Some(0),
        params: sampling,
        stream: (request.stream == Some(true)).then(|| request.stream_options.unwrap_or_default()),
        echo,
        return_token_ids: request.return_token_ids == Some(true) && !bare,
        logprobs,
        prompt_logprobs,
        tokens_as_ids: request.return_tokens_as_token_ids == Some(true),
        request_id: request.request_id.clone(),
        cache_salt: request.cache_salt.clone(),
        role,
        calls_tools,
        refuses,
        prompts,
    })
}

/// Whether a message contains the text that the model answers with a refusal.
fn refuses(profile: &Profile, request: &Request<'_>) -> bool {
    let Some(refused) = &profile.refuse else { return false };
    let says = |item: &Item<'_>| match item {
        Item::Message(message) => {
            message.content.text().is_some_and(|text| text.contains(refused.as_str()))
        }
        Item::Conversation(_) => false,
    };
    request.messages.iter().flatten().any(says)
}

fn model(profile: &Profile, request: &Request<'_>) -> Result<String, Refusal> {
    let asked = request.model.as_ref().map_or("", |m| &*m.0);
    let first = profile.models.first().cloned().unwrap_or_default();
    match asked {
        "" => Ok(first),
        name if profile.models.iter().any(|m| m == name) => Ok(name.to_owned()),
        name => Err(Refusal::no_model(name, &profile.models)),
    }
}

fn role(shape: Shape, request: &Request<'_>) -> String {
    let last = match (shape, request.messages.as_deref().and_then(<[Item<'_>]>::last)) {
        (Shape::Chat, Some(Item::Message(last))) => Some(&*last.role.0),
        _ => None,
    };
    let opened = request.add_generation_prompt != Some(false);
    last.filter(|_| !opened).unwrap_or("assistant").to_owned()
}

fn completion_fields(profile: &Profile, request: &Request<'_>) -> Result<(), Refusal> {
    let missing = match &request.prompt {
        None => true,
        Some(Prompts::One(text)) => text.0.is_empty(),
        Some(_) => false,
    };
    if missing {
        let message = "Either prompt or prompt_embeds must be provided and non-empty.";
        return Err(Refusal::bad_param(message, "prompt", None));
    }
    if request.stream_options.is_some() && request.stream != Some(true) {
        let message = "Stream options can only be defined when `stream=True`.";
        return Err(Refusal::bad_param(message, "stream_options", None));
    }
    if request.cache_salt.as_deref() == Some("") {
        let message = "Parameter 'cache_salt' must be a non-empty string if provided.";
        return Err(Refusal::bad_param(message, "cache_salt", None));
    }
    if request.suffix.is_some() {
        let message = "suffix is only supported for models with FIM completion rendering";
        return Err(Refusal::new(400, "BadRequestError", message, Some("suffix")));
    }
    let count = match &request.prompt {
        Some(Prompts::Texts(all)) => all.len(),
        Some(Prompts::IdLists(all)) => all.len(),
        _ => 1,
    };
    match profile.max_list.filter(|_| profile.flavor != Flavor::Older) {
        _ if count == 0 => Err(Refusal::bad("You must pass at least one prompt")),
        Some(most) if count > most => {
            let message = format!(
                "prompt list length {count} exceeds the maximum allowed count of {most}. To \
                 increase this limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable."
            );
            Err(Refusal::bad_param(&message, "prompt", None))
        }
        _ => Ok(()),
    }
}

fn chat_fields(shape: Shape, profile: &Profile, request: &Request<'_>) -> Result<(), Refusal> {
    if shape == Shape::ChatBatch {
        return match request.n {
            Some(n) if n > 1 => {
                let message = "Batch chat completions do not support `n > 1`. Please set `n` to 1.";
                Err(Refusal::bad_param(message, "n", Some(&n.to_string())))
            }
            _ => Ok(()),
        };
    }
    if let Some(tools) = request.tools.as_ref().filter(|tools| !tools.is_null()) {
        if !profile.calls_tools {
            tool_choice(tools, request.tool_choice.as_ref())?;
        } else if request.structured_outputs.is_some()
            && request.tool_choice.as_ref().is_some_and(Value::is_object)
        {
            return Err(Refusal::bad(
                "You can only either use constraints for structured outputs or tools, not both.",
            ));
        }
    }
    if request.chat_template.is_some() {
        return Err(Refusal::bad(
            "Chat template is passed with request, but --trust-request-chat-template is not \
             set. Refused request with untrusted chat template.",
        ));
    }
    if request.continue_final_message == Some(true) && request.add_generation_prompt != Some(false)
    {
        return Err(Refusal::bad(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
        ));
    }
    if request.messages.as_ref().is_some_and(Vec::is_empty) {
        return Err(Refusal::bad(
            "Cannot apply chat template to an empty conversation. Provide at least one message.",
        ));
    }
    Ok(())
}

fn tool_choice(tools: &Value, choice: Option<&Value>) -> Result<(), Refusal> {
    let quoted = |what: &str| format!("tool_choice={what} requires --tool-call-parser to be set");
    match choice {
        _ if tools.as_array().is_some_and(Vec::is_empty) => Ok(()),
        Some(Value::String(word)) if word == "none" => Ok(()),
        Some(Value::String(word)) if word == "required" => {
            Err(Refusal::bad(&quoted("\"required\"")))
        }
        Some(Value::Object(named)) => {
            let name = named.get("function").and_then(|f| f["name"].as_str()).unwrap_or_default();
            Err(Refusal::bad(&quoted(&format!("function \"{name}\""))))
        }
        _ => Err(Refusal::bad(
            "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser \
             to be set",
        )),
    }
}

fn prompts(
    shape: Shape,
    profile: &Profile,
    request: &Request<'_>,
) -> Result<Vec<Vec<Id>>, Refusal> {
    let limit = Limit { profile, truncate: request.truncate_prompt_tokens };
    if shape == Shape::Completion {
        return match &request.prompt {
            Some(Prompts::One(text)) => Ok(vec![limit.text(&text.0)?]),
            Some(Prompts::Texts(_)) if profile.flavor == Flavor::Bare => {
                Err(Refusal::go_no_lists())
            }
            Some(Prompts::Texts(all)) => all.iter().map(|text| limit.text(&text.0)).collect(),
            Some(Prompts::Ids(ids)) => Ok(vec![limit.ids(ids.clone())?]),
            Some(Prompts::IdLists(all)) => all.iter().map(|ids| limit.ids(ids.clone())).collect(),
            None => Ok(Vec::new()),
        };
    }
    let rendering = Rendering {
        add_generation_prompt: request.add_generation_prompt != Some(false),
        continue_final_message: request.continue_final_message == Some(true),
        enable_thinking: request
            .chat_template_kwargs
            .as_ref()
            .and_then(|kwargs| kwargs["enable_thinking"].as_bool()),
    };
    let items = request.messages.as_deref().unwrap_or_default();
    if shape == Shape::Chat {
        let turns = items.iter().filter_map(|item| match item {
            Item::Message(message) => Some(message),
            Item::Conversation(_) => None,
        });
        return Ok(vec![limit.chat(turns, rendering)?]);
    }
    let conversations = items.iter().filter_map(|item| match item {
        Item::Conversation(turns) => Some(turns),
        Item::Message(_) => None,
    });
    conversations.map(|turns| limit.chat(turns.iter(), rendering)).collect()
}

/// How long a prompt may be, and what is done about one that is longer.
struct Limit<'p> {
    profile: &'p Profile,
    truncate: Option<i64>,
}

impl Limit<'_> {
    fn text(&self, text: &str) -> Result<Vec<Id>, Refusal> {
        let most = self.profile.policy.max_model_len;
        let bound = most * tokens::LONGEST_TOKEN;
        if self.profile.poison.as_ref().is_some_and(|p| text.contains(p.as_str())) {
            return Err(Refusal::bad("The prompt could not be processed."));
        }
        if self.truncate.is_none() && text.len() > bound {
            let found = text.chars().count();
            if found > bound {
                return Err(Refusal::too_many_characters(most, bound, found));
            }
        }
        let mut ids = Vec::with_capacity(text.len().min(bound) / 3 + 4);
        let counted = self.truncate.is_some() || self.profile.flavor == Flavor::Older;
        tokens::encode_into(text, if counted { usize::MAX } else { most + 1 }, &mut ids);
        self.ids(ids)
    }

    fn ids(&self, mut ids: Vec<Id>) -> Result<Vec<Id>, Refusal> {
        let most = self.profile.policy.max_model_len;
        if ids.is_empty() {
            return Err(Refusal::bad("The decoder prompt cannot be empty"));
        }
        if let Some(id) = ids.iter().find(|id| **id >= VOCABULARY) {
            return Err(Refusal::bad(&format!("Token id {id} is out of vocabulary")));
        }
        if let Some(keep) = self.truncate {
            let keep = usize::try_from(keep).unwrap_or(most - 1);
            ids.drain(..ids.len().saturating_sub(keep));
        }
        match self.profile.flavor {
            Flavor::Older if ids.len() >= most => Err(Refusal::older_too_long(most, ids.len())),
            Flavor::Bare => {
                // Such a server cuts the prompt and says nothing.
                ids.drain(..ids.len().saturating_sub(most - 1));
                Ok(ids)
            }
            _ if ids.len() > most => Err(Refusal::too_many_tokens(most)),
            _ => Ok(ids),
        }
    }

    fn chat<'m>(
        &self,
        messages: impl Iterator<Item = &'m Message<'m>>,
        rendering: Rendering,
    ) -> Result<Vec<Id>, Refusal> {
        let sees = self.profile.multimodal;
        let content = |m: &'m Message<'m>| match sees {
            true => m.content.text_with_images().map_err(|reason| Refusal::bad(&reason)),
            false => Ok(m.content.text()),
        };
        let texts: Vec<Option<(&str, Cow<'_, str>)>> = messages
            .map(|m| Ok(content(m)?.map(|text| (&*m.role.0, text))))
            .collect::<Result<_, Refusal>>()?;
        let texts: Option<Vec<(&str, Cow<'_, str>)>> = texts.into_iter().collect();
        let Some(texts) = texts else {
            let model = self.profile.models.first().map_or("", String::as_str);
            return Err(Refusal::bad(&format!("{model} is not a multimodal model")));
        };
        let turns: Vec<Turn<'_>> =
            texts.iter().map(|(role, content)| Turn { role, content }).collect();
        self.text(&template::render(&turns, rendering))
    }
}

fn older_room(profile: &Profile, prompts: &[Vec<Id>], max: usize) -> Result<(), Refusal> {
    let limit = profile.policy.max_model_len;
    match prompts.iter().find(|prompt| prompt.len() + max > limit) {
        Some(prompt) => Err(Refusal::older_no_room(limit, prompt.len(), max)),
        None => Ok(()),
    }
}
