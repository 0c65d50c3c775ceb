//! The sampling parameters: their ranges, and what of them the answer depends on.
//!
//! It owns the checks of numbers in their recorded words, biases, constraints and logarithms; it
//! never sees a prompt.

use super::fields::Shape;
use super::refusal::Refusal;
use super::request::{Logprobs, Request, Stop};
use crate::answer::{Params, Structure};
use crate::grammar::Constraint;
use crate::profile::{Flavor, Profile};
use crate::tokens::{Id, VOCABULARY};
use serde_json::Value;

/// What the answers depend on, or the first parameter that is out of range.
pub fn sampling(shape: Shape, profile: &Profile, request: &Request<'_>) -> Result<Params, Refusal> {
    let max_tokens = match shape {
        Shape::Completion => Some(request.max_tokens.unwrap_or(16)),
        _ => request.max_completion_tokens.or(request.max_tokens),
    };
    let echoed = shape == Shape::Completion && request.echo == Some(true);
    let at_least = |what: &str, least: i64, got: Option<i64>| match got {
        Some(got) if got < least => {
            Err((format!("{what} must be at least {least}, got {got}."), got))
        }
        _ => Ok(()),
    };
    at_least("max_tokens", i64::from(!echoed), max_tokens).map_err(|(message, got)| {
        Refusal::bad_param(&message, "max_tokens", Some(&got.to_string()))
    })?;
    at_least("n", 1, request.n).map_err(|(message, _)| Refusal::bad(&message))?;
    if let Some(n) = request.n.filter(|n| *n > 16384) {
        return Err(Refusal::bad(&format!(
            "n must be at most 16384, got {n}. To increase this limit, set the \
             VLLM_MAX_N_SEQUENCES environment variable."
        )));
    }
    let temperature = request.temperature.unwrap_or(1.0);
    in_range(request)?;
    let limit = profile.policy.max_model_len as i64;
    if let Some(max) = max_tokens.filter(|max| *max > limit && profile.flavor == Flavor::Vllm) {
        let message = format!(
            "max_tokens={max} cannot be greater than max_model_len={limit}. Please request fewer \
             output tokens."
        );
        return Err(Refusal::bad_param(&message, "max_tokens", Some(&max.to_string())));
    }
    let min_tokens = request.min_tokens.unwrap_or(0);
    if let Some(max) = max_tokens.filter(|max| min_tokens > *max) {
        return Err(Refusal::bad(&format!(
            "min_tokens must be less than or equal to max_tokens={max}, got {min_tokens}."
        )));
    }
    let repetition = request.repetition_detection;
    Ok(Params {
        max_tokens: max_tokens.map(|max| max.max(1) as usize),
        min_tokens: min_tokens.max(0) as usize,
        ignore_eos: request.ignore_eos == Some(true),
        temperature,
        seed: request.seed.unwrap_or(0),
        sample: 0,
        stop: match &request.stop {
            None => Vec::new(),
            Some(Stop::One(one)) => vec![one.clone()],
            Some(Stop::Many(many)) => many.clone(),
        },
        stop_token_ids: request.stop_token_ids.clone().unwrap_or_default(),
        include_stop: request.include_stop_str_in_output == Some(true),
        forced: forced(request)?,
        show_special: request.skip_special_tokens == Some(false),
        constraint: constraint(profile, request)?,
        repetition: repetition.map(|r| (r.min_pattern_size, r.max_pattern_size, r.min_count)),
    })
}

fn in_range(request: &Request<'_>) -> Result<(), Refusal> {
    let refused = |name: &str, rule: &str, got: f64| {
        let message = format!("{name} must be {rule}, got {got:?}.");
        Err(Refusal::bad_param(&message, name, Some(&format!("{got:?}"))))
    };
    match (request.temperature, request.top_p) {
        (Some(t), _) if t < 0.0 => refused("temperature", "non-negative", t),
        (Some(t), _) if t > 2.0 => refused("temperature", "in [0, 2]", t),
        (_, Some(p)) if p <= 0.0 || p > 1.0 => refused("top_p", "in (0, 1]", p),
        _ => Ok(()),
    }
}

/// The token that the strongest bias of 100 forces; smaller ones have no effect here.
fn forced(request: &Request<'_>) -> Result<Option<Id>, Refusal> {
    let biases = request.logit_bias.as_ref().and_then(Value::as_object);
    let biases = biases.into_iter().flatten();
    let biases: Vec<(Id, f64)> =
        biases.filter_map(|(id, bias)| Some((id.parse().ok()?, bias.as_f64()?))).collect();
    let unknown: Vec<String> =
        biases.iter().filter(|(id, _)| *id >= VOCABULARY).map(|(id, _)| id.to_string()).collect();
    if !unknown.is_empty() {
        let list = format!("[{}]", unknown.join(", "));
        let message = format!(
            "token_id(s) {list} in logit_bias contain out-of-vocab token ids. Vocabulary size: \
             {VOCABULARY}"
        );
        return Err(Refusal::bad_param(&message, "logit_bias", Some(&list)));
    }
    Ok(biases.into_iter().find(|(_, bias)| *bias >= 100.0).map(|(id, _)| id))
}

fn constraint(profile: &Profile, request: &Request<'_>) -> Result<Option<Constraint>, Refusal> {
    if profile.policy.structure == Structure::Refused {
        let given = [
            ("response_format", request.response_format.is_some()),
            ("structured_outputs", request.structured_outputs.is_some()),
        ];
        if let Some((name, _)) = given.iter().find(|(_, given)| *given) {
            let message = format!("Unrecognized request argument supplied: {name}");
            return Err(Refusal::bad_param(&message, name, None));
        }
    }
    let read = |made: Result<Constraint, String>| made.map(Some).map_err(|e| Refusal::bad(&e));
    if let Some(outputs) = request.structured_outputs.as_ref().and_then(Value::as_object) {
        let kinds = ["json", "regex", "choice", "grammar", "json_object", "structural_tag"];
        let given = |kind: &&str| outputs.get(*kind).is_some_and(|v| !v.is_null());
        if kinds.iter().filter(|kind| given(kind)).count() > 1 {
            let message = "You can only use one kind of constraints for structured outputs \
                           ('json', 'regex' or 'choice').";
            return Err(Refusal::bad_param(message, "structured_outputs", None));
        }
        if let Some(schema) = outputs.get("json").filter(|v| !v.is_null()) {
            return read(Constraint::schema(schema.clone()));
        }
        if let Some(pattern) = outputs.get("regex").and_then(Value::as_str) {
            return read(Constraint::regex(pattern));
        }
        if let Some(of) = outputs.get("choice").and_then(Value::as_array) {
            let texts = of.iter().filter_map(Value::as_str).map(str::to_owned);
            return Ok(Some(Constraint::Choice(texts.collect())));
        }
    }
    let format = request.response_format.as_ref();
    match format.and_then(|f| f["type"].as_str()) {
        Some("json_object") => Ok(Some(Constraint::Object)),
        Some("json_schema") => {
            let schema = format.map_or(Value::Null, |f| f["json_schema"]["schema"].clone());
            read(Constraint::schema(schema))
        }
        _ => Ok(None),
    }
}

/// Of the answer and of the prompt.
pub type Pair = (Option<usize>, Option<usize>);

/// How many alternatives the answer's and the prompt's tokens come with.
pub fn logprobs(shape: Shape, request: &Request<'_>, echo: bool) -> Result<Pair, Refusal> {
    let prompt = request.prompt_logprobs.map(|n| n.max(0) as usize);
    if shape != Shape::Completion {
        let wanted = request.logprobs == Some(Logprobs::Flag(true));
        if request.top_logprobs.is_some_and(|top| top > 0) && !wanted {
            let message = "when using `top_logprobs`, `logprobs` must be set to true.";
            return Err(Refusal::bad_param(message, "top_logprobs", None));
        }
        let top = request.top_logprobs.unwrap_or(0).max(0) as usize;
        // Chat has an echo, too: it comes as the prompt's logarithms.
        let prompt = prompt.or((request.echo == Some(true)).then_some(top));
        return Ok((wanted.then_some(top), prompt));
    }
    let Some(Logprobs::Number(n)) = request.logprobs else { return Ok((None, prompt)) };
    if n > 20 {
        let message =
            format!("Requested sample logprobs of {n}, which is greater than max allowed: 20");
        return Err(Refusal::bad_param(&message, "logprobs", Some(&n.to_string())));
    }
    let n = n.max(0) as usize;
    Ok((Some(n), prompt.or(echo.then_some(n))))
}
