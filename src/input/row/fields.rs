//! Request fields: the names that count as request parameters in rows, and those that look like them.
//!
//! Owns the table of vLLM's and OpenAI's request schemas, which a test compares with a recorded schema, and the names of
//! other interfaces that users mistake for them. Values are checked in `params.rs`; the fields of all rows are counted
//! in `scan/field_census.rs`.

use serde::{Deserialize, Serialize};

use crate::domain::Route;
use crate::domain::raw_json::{JsonMembers, json_kind};
use crate::settings::letter_distance;

/// Routes that know a field.
#[derive(Clone, Copy, PartialEq)]
enum FieldRoutes {
    Both,
    Completions,
    Chat,
}

/// All request fields, sorted by name. `prompt` and `messages` are not among them.
const REQUEST_FIELDS: [(&str, FieldRoutes); 82] = [
    ("add_generation_prompt", FieldRoutes::Chat),
    ("add_special_tokens", FieldRoutes::Both),
    ("allowed_token_ids", FieldRoutes::Both),
    ("audio", FieldRoutes::Chat),
    ("bad_words", FieldRoutes::Both),
    ("best_of", FieldRoutes::Completions),
    ("cache_salt", FieldRoutes::Both),
    ("chat_template", FieldRoutes::Chat),
    ("chat_template_kwargs", FieldRoutes::Chat),
    ("continue_final_message", FieldRoutes::Chat),
    ("documents", FieldRoutes::Chat),
    ("ec_transfer_params", FieldRoutes::Both),
    ("echo", FieldRoutes::Both),
    ("frequency_penalty", FieldRoutes::Both),
    ("function_call", FieldRoutes::Chat),
    ("functions", FieldRoutes::Chat),
    ("ignore_eos", FieldRoutes::Both),
    ("include_reasoning", FieldRoutes::Chat),
    ("include_stop_str_in_output", FieldRoutes::Both),
    ("kv_transfer_params", FieldRoutes::Both),
    ("length_penalty", FieldRoutes::Both),
    ("logit_bias", FieldRoutes::Both),
    ("logprob_token_ids", FieldRoutes::Both),
    ("logprobs", FieldRoutes::Both),
    ("max_completion_tokens", FieldRoutes::Chat),
    ("max_tokens", FieldRoutes::Both),
    ("media_io_kwargs", FieldRoutes::Chat),
    ("metadata", FieldRoutes::Chat),
    ("min_p", FieldRoutes::Both),
    ("min_tokens", FieldRoutes::Both),
    ("mm_payload", FieldRoutes::Both),
    ("mm_processor_kwargs", FieldRoutes::Chat),
    ("modalities", FieldRoutes::Chat),
    ("model", FieldRoutes::Both),
    ("n", FieldRoutes::Both),
    ("parallel_tool_calls", FieldRoutes::Chat),
    ("prediction", FieldRoutes::Chat),
    ("presence_penalty", FieldRoutes::Both),
    ("priority", FieldRoutes::Both),
    ("prompt_cache_key", FieldRoutes::Both),
    ("prompt_embeds", FieldRoutes::Completions),
    ("prompt_logprobs", FieldRoutes::Both),
    ("reasoning_effort", FieldRoutes::Chat),
    ("repetition_detection", FieldRoutes::Both),
    ("repetition_penalty", FieldRoutes::Both),
    ("request_id", FieldRoutes::Both),
    ("response_format", FieldRoutes::Both),
    ("return_mm_kwargs", FieldRoutes::Both),
    ("return_prompt_text", FieldRoutes::Chat),
    ("return_token_ids", FieldRoutes::Both),
    ("return_token_offsets", FieldRoutes::Both),
    ("return_tokens_as_token_ids", FieldRoutes::Both),
    ("routed_experts_prompt_start", FieldRoutes::Both),
    ("safety_identifier", FieldRoutes::Both),
    ("seed", FieldRoutes::Both),
    ("service_tier", FieldRoutes::Both),
    ("session_id", FieldRoutes::Both),
    ("skip_special_tokens", FieldRoutes::Both),
    ("spaces_between_special_tokens", FieldRoutes::Both),
    ("stop", FieldRoutes::Both),
    ("stop_token_ids", FieldRoutes::Both),
    ("store", FieldRoutes::Chat),
    ("stream", FieldRoutes::Both),
    ("stream_interval", FieldRoutes::Both),
    ("stream_options", FieldRoutes::Both),
    ("structured_outputs", FieldRoutes::Both),
    ("suffix", FieldRoutes::Completions),
    ("temperature", FieldRoutes::Both),
    ("thinking_token_budget", FieldRoutes::Both),
    ("tool_choice", FieldRoutes::Chat),
    ("tools", FieldRoutes::Chat),
    ("top_k", FieldRoutes::Both),
    ("top_logprobs", FieldRoutes::Chat),
    ("top_p", FieldRoutes::Both),
    ("truncate_prompt_tokens", FieldRoutes::Both),
    ("truncation_side", FieldRoutes::Both),
    ("use_beam_search", FieldRoutes::Both),
    ("user", FieldRoutes::Both),
    ("verbosity", FieldRoutes::Chat),
    ("vllm_xargs", FieldRoutes::Both),
    ("watermarking", FieldRoutes::Both),
    ("web_search_options", FieldRoutes::Chat),
];

/// Request fields whose names data sets use too. At a row's top level they count as parameters only with a value of the
/// request's type.
const DATA_LIKE: [&str; 16] = [
    "audio",
    "documents",
    "echo",
    "function_call",
    "functions",
    "metadata",
    "modalities",
    "prediction",
    "priority",
    "request_id",
    "session_id",
    "store",
    "suffix",
    "tools",
    "user",
    "verbosity",
];

/// Fields that servers have dropped or that belong to other interfaces, and what to use instead.
const REPLACED: [(&str, &str); 34] = [
    ("best_of", "`n`"),
    ("do_sample", "`temperature`"),
    ("early_stopping", "`use_beam_search` with `length_penalty`"),
    ("eos_token_id", "`stop_token_ids`"),
    ("function_call", "`tool_choice`"),
    ("functions", "`tools`"),
    ("guided_choice", "`structured_outputs` with `choice`"),
    ("guided_decoding", "`structured_outputs`"),
    ("guided_decoding_backend", "`structured_outputs`"),
    ("guided_grammar", "`structured_outputs` with `grammar`"),
    ("guided_json", "`structured_outputs` with `json`, or `response_format`"),
    ("guided_json_object", "`response_format`"),
    ("guided_options_request", "`structured_outputs`"),
    ("guided_regex", "`structured_outputs` with `regex`"),
    ("guided_whitespace_pattern", "`structured_outputs` with `whitespace_pattern`"),
    ("max_gen_len", "`max_tokens`"),
    ("max_gen_toks", "`max_tokens`"),
    ("max_length", "`max_tokens`"),
    ("max_new_tokens", "`max_tokens`"),
    ("max_output_tokens", "`max_tokens`"),
    ("max_tokens_to_sample", "`max_tokens`"),
    ("maximum_tokens", "`max_tokens`"),
    ("min_length", "`min_tokens`"),
    ("min_new_tokens", "`min_tokens`"),
    ("n_predict", "`max_tokens`"),
    ("num_beams", "`use_beam_search` with `n`"),
    ("num_predict", "`max_tokens`"),
    ("num_return_sequences", "`n`"),
    ("random_seed", "`seed`"),
    ("repeat_penalty", "`repetition_penalty`"),
    ("stop_sequences", "`stop`"),
    ("stop_strings", "`stop`"),
    ("structural_tag", "`structured_outputs` with `structural_tag`"),
    ("truncate", "`truncate_prompt_tokens`"),
];

/// Objects in which other interfaces hold request parameters.
const CONTAINERS: [&str; 21] = [
    "config",
    "decoding_params",
    "extra_body",
    "gen_config",
    "gen_kwargs",
    "generate_kwargs",
    "generation_config",
    "generation_kwargs",
    "generation_params",
    "inference_params",
    "llm_params",
    "model_kwargs",
    "model_params",
    "options",
    "param",
    "parameters",
    "request",
    "request_params",
    "sampling_parameters",
    "sampling_params",
    "vllm_params",
];

/// Shortest name, without underscores, in which one and two letters may differ from a request field's.
const MIN_LETTERS_FOR_TYPO: [usize; 2] = [6, 8];

/// Part of a row in which a field stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FieldPlace {
    /// The top level of a JSON row, where request fields are parameters.
    Row,
    /// A column of a table, or of a row that fills a template, where all fields are data.
    Column,
    /// An OpenAI batch row, beside its body.
    BatchRow,
    /// The object `params`.
    Params,
    /// The body of an OpenAI batch row.
    Body,
}

/// Use that a row makes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FieldUse {
    /// It is sent as a request parameter.
    Parameter,
    /// It is no request field: data at the top level, and sent as it is elsewhere.
    Unknown,
    /// It has the name of a request field, and a value that makes it data.
    UnfitValue,
    /// It is a field of the other route only.
    OtherRoute,
    /// It is an object of request parameters where none is read.
    Container,
}

/// Receiver of the fields that rows have.
pub(crate) trait FieldSink {
    /// Whether fields are received at all; readers of leases have no use for them.
    const IS_ACTIVE: bool;

    fn note_field(&mut self, place: FieldPlace, name: &str, field_use: FieldUse);

    /// Notes a field that is sent. `route` is the request's route, if the row names one.
    fn note_sent(&mut self, place: FieldPlace, name: &str, json: &str, route: Option<Route>) {
        if Self::IS_ACTIVE && json != "null" {
            self.note_field(place, name, sent_field_use(name, json, route));
        }
    }

    /// Notes a field that is data whatever its name.
    fn note_data(&mut self, place: FieldPlace, name: &str, json: &str) {
        if Self::IS_ACTIVE {
            self.note_field(place, name, unknown_field_use(name, json));
        }
    }
}

impl FieldSink for () {
    const IS_ACTIVE: bool = false;

    fn note_field(&mut self, _: FieldPlace, _: &str, _: FieldUse) {}
}

/// Whether a field of this name is a request parameter.
pub(crate) fn is_request_field(name: &str) -> bool {
    routes_of(name).is_some()
}

fn routes_of(name: &str) -> Option<FieldRoutes> {
    let found = REQUEST_FIELDS.binary_search_by_key(&name, |(field, _)| field).ok()?;
    Some(REQUEST_FIELDS[found].1)
}

/// Returns the use of a field at a row's top level; `None` for data that the sink has no use for.
pub(crate) fn row_field_use<S: FieldSink>(
    members: &JsonMembers<'_>,
    name: &str,
    json: &str,
    _: &S,
) -> Option<FieldUse> {
    if is_request_field(name) {
        let is_parameter = !DATA_LIKE.contains(&name) || has_request_type(members, name, json);
        return Some(if is_parameter { FieldUse::Parameter } else { FieldUse::UnfitValue });
    }
    S::IS_ACTIVE.then(|| unknown_field_use(name, json))
}

/// Returns the use of a field inside `params` or a batch body, all of which is sent. `route` is the request's route, if
/// the row names one.
fn sent_field_use(name: &str, json: &str, route: Option<Route>) -> FieldUse {
    match (route, routes_of(name)) {
        (Some(Route::Completions), Some(FieldRoutes::Chat))
        | (Some(Route::Chat), Some(FieldRoutes::Completions)) => FieldUse::OtherRoute,
        (_, Some(_)) => FieldUse::Parameter,
        (_, None) => unknown_field_use(name, json),
    }
}

/// Returns the use of a field that is no request field.
fn unknown_field_use(name: &str, json: &str) -> FieldUse {
    let holds_parameters = || {
        let members = JsonMembers::parse(json).ok();
        let is_parameter = |name: &str| is_request_field(name) && !DATA_LIKE.contains(&name);
        members.is_some_and(|members| members.iter().any(|(name, _)| is_parameter(name)))
    };
    if CONTAINERS.contains(&name) && json.starts_with('{') && holds_parameters() {
        FieldUse::Container
    } else {
        FieldUse::Unknown
    }
}

/// Whether the value of a data-like field has the type that the request has.
fn has_request_type(members: &JsonMembers<'_>, name: &str, json: &str) -> bool {
    let kind = json_kind(json);
    let list_of = |kind: &str| {
        json.strip_prefix('[').is_some_and(|rest| {
            let first = rest.trim_start();
            first.starts_with(']') || json_kind(first) == kind
        })
    };
    match name {
        "documents" | "functions" | "tools" => list_of("an object"),
        "modalities" => list_of("a string"),
        "audio" | "prediction" => kind == "an object",
        "function_call" => matches!(kind, "an object" | "a string"),
        // Servers take it only together with `store`.
        "metadata" => kind == "an object" && members.value("store") == Some("true"),
        "echo" | "store" => kind == "true or false",
        "priority" => kind == "a number",
        _ => kind == "a string",
    }
}

/// Returns why a field would have no effect although it looks like a request parameter, as a sentence that begins with
/// its name; `None` if it does not.
pub(crate) fn describe_doubt(place: FieldPlace, name: &str, field_use: FieldUse) -> Option<String> {
    let shown = match place {
        FieldPlace::Params => format!("`params.{name}`"),
        FieldPlace::Body => format!("`body.{name}`"),
        _ => format!("`{name}`"),
    };
    let effect = match place {
        FieldPlace::Params | FieldPlace::Body => "servers ignore unknown fields",
        _ => "it counts as data and is not sent",
    };
    let own_name = match place {
        FieldPlace::Column => "; in tables and with --template, parameters are read from `params`",
        _ => "",
    };
    match field_use {
        FieldUse::OtherRoute => {
            let is_chat = routes_of(name) == Some(FieldRoutes::Chat);
            let route = if is_chat { "chat completions" } else { "completions" };
            Some(format!(
                "{shown} is a parameter of {route} only, and this row's `url` is the other route"
            ))
        }
        FieldUse::UnfitValue => Some(format!(
            "{shown} counts as data here and is not sent, since its value is not {}",
            expected_value(name)
        )),
        FieldUse::Container => Some(format!(
            "{shown} holds request parameters and is not read; put them {}",
            match place {
                FieldPlace::Body => "directly into `body`",
                FieldPlace::Params => "directly into `params`",
                FieldPlace::BatchRow => "into `body`",
                FieldPlace::Column => "into `params`",
                FieldPlace::Row => "into `params` or at the top level",
            }
        )),
        FieldUse::Parameter | FieldUse::Unknown => {
            let is_field = is_request_field(name);
            if place == FieldPlace::BatchRow && is_field && field_use == FieldUse::Unknown {
                return Some(format!(
                    "{shown} stands beside `body` and is not sent; put it into `body`"
                ));
            }
            if place == FieldPlace::Column && is_field {
                return is_distinctive(name)
                    .then(|| format!("{shown} counts as data and is not sent{own_name}"));
            }
            if let Some((_, other)) = REPLACED.iter().find(|(known, _)| *known == name) {
                return Some(format!("{shown} is not a parameter of vLLM; use {other}{own_name}"));
            }
            if is_field {
                return None;
            }
            let meant = misspelt_field(name)?;
            if place == FieldPlace::Column && !is_distinctive(meant) {
                return None;
            }
            Some(format!("{shown} looks like `{meant}`; {effect}{own_name}"))
        }
    }
}

fn expected_value(name: &str) -> &'static str {
    match name {
        "documents" | "functions" | "tools" => "a list of objects",
        "modalities" => "a list of strings",
        "audio" | "prediction" => "an object",
        "function_call" => "an object or a string",
        "metadata" => "an object beside `\"store\": true`",
        "echo" | "store" => "true or false",
        "priority" => "a number",
        _ => "a string",
    }
}

/// Whether a request field's name is hardly ever one of a data column.
fn is_distinctive(name: &str) -> bool {
    name.contains('_') && !DATA_LIKE.contains(&name)
}

/// Returns the request field that a name is likely to stand for. Short names are words of data sets too, so they count
/// only in another spelling.
fn misspelt_field(name: &str) -> Option<&'static str> {
    let letters = |name: &str| -> String {
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let given = letters(name);
    let distance = |field: &str| {
        let field = letters(field);
        if field == given {
            return Some(0);
        }
        let distance = letter_distance(&field, &given);
        let allowed = MIN_LETTERS_FOR_TYPO
            .iter()
            .filter(|&&least| field.len().min(given.len() + 1) >= least)
            .count();
        let begins_alike = field.bytes().next() == given.bytes().next();
        let is_typo = distance <= allowed && begins_alike;
        // (`stopp` and `sotp`, and no other word of four letters)
        let is_slip = distance == 1
            && given.len() >= 4
            && (is_swapped(&field, &given) || is_doubled(&field, &given));
        (is_typo || is_slip).then_some(distance)
    };
    let fields = REQUEST_FIELDS.iter().map(|(field, _)| *field);
    fields
        .filter(|field| !DATA_LIKE.contains(field))
        .filter_map(|field| Some((distance(field)?, field)))
        .min()
        .map(|(_, field)| field)
}

/// Whether two names of one length have the same letters.
fn is_swapped(one: &str, other: &str) -> bool {
    let sorted = |name: &str| {
        let mut letters: Vec<u8> = name.bytes().collect();
        letters.sort_unstable();
        letters
    };
    sorted(one) == sorted(other)
}

/// Whether two names differ only in how often letters are repeated.
fn is_doubled(one: &str, other: &str) -> bool {
    let once = |name: &str| {
        let mut letters: Vec<u8> = name.bytes().collect();
        letters.dedup();
        letters
    };
    once(one) == once(other)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    struct Noted;

    impl FieldSink for Noted {
        const IS_ACTIVE: bool = true;

        fn note_field(&mut self, _: FieldPlace, _: &str, _: FieldUse) {}
    }

    fn doubt(place: FieldPlace, name: &str) -> Option<String> {
        describe_doubt(place, name, FieldUse::Unknown)
    }

    #[test]
    fn every_field_of_the_recorded_schemas_is_a_request_field_of_its_route() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/vllm-wire/request-fields.json");
        let recorded: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let fields = |schema: &str| -> BTreeSet<&str> {
            let names = recorded[schema].as_object().unwrap().keys().map(String::as_str);
            names.filter(|name| !matches!(*name, "prompt" | "messages")).collect()
        };
        let (completions, chat) = (fields("CompletionRequest"), fields("ChatCompletionRequest"));
        for name in completions.union(&chat) {
            let routes = (completions.contains(name), chat.contains(name));
            let known = match routes_of(name).expect(name) {
                FieldRoutes::Both => (true, true),
                FieldRoutes::Completions => (true, false),
                FieldRoutes::Chat => (false, true),
            };
            assert_eq!(routes, known, "{name}");
        }
        assert!(REQUEST_FIELDS.is_sorted_by(|(one, _), (next, _)| one < next));
        assert!(DATA_LIKE.iter().all(|name| is_request_field(name)));
    }

    #[test]
    fn misspelt_names_are_recognised_and_words_of_data_sets_are_not() {
        for (name, field) in [
            ("max_token", "max_tokens"),
            ("maxTokens", "max_tokens"),
            ("Max-Tokens", "max_tokens"),
            ("temprature", "temperature"),
            ("tempreature", "temperature"),
            ("topP", "top_p"),
            ("Top_K", "top_k"),
            ("stopp", "stop"),
            ("sotp", "stop"),
            ("logprob", "logprobs"),
            ("presense_penalty", "presence_penalty"),
            ("chat_template_kwarg", "chat_template_kwargs"),
            ("tool_choise", "tool_choice"),
            ("responce_format", "response_format"),
        ] {
            assert_eq!(misspelt_field(name), Some(field), "{name}");
        }
        for name in [
            "id",
            "text",
            "topic",
            "score",
            "step",
            "title",
            "question",
            "answer",
            "document",
            "user_id",
            "tool",
            "models",
            "n_tokens",
            "num_tokens",
            "tokens",
            "response",
            "message",
            "label",
            "split",
            "source",
            "predictions",
            "top",
            "spot",
            "seeds",
            "language",
            "completion",
            "chosen",
            "rejected",
        ] {
            assert_eq!(doubt(FieldPlace::Row, name), None, "{name}");
        }
    }

    #[test]
    fn a_doubt_says_what_is_meant_and_what_becomes_of_the_field() {
        use FieldPlace::*;
        for (place, name, expected) in [
            (
                Row,
                "max_token",
                "`max_token` looks like `max_tokens`; it counts as data and is not sent",
            ),
            (
                Params,
                "temprature",
                "`params.temprature` looks like `temperature`; servers ignore unknown fields",
            ),
            (
                Body,
                "guided_json",
                "`body.guided_json` is not a parameter of vLLM; use `structured_outputs` with `json`",
            ),
            (
                Row,
                "max_new_tokens",
                "`max_new_tokens` is not a parameter of vLLM; use `max_tokens`",
            ),
            (
                BatchRow,
                "max_tokens",
                "`max_tokens` stands beside `body` and is not sent; put it into `body`",
            ),
            (Column, "max_tokens", "`max_tokens` counts as data and is not sent; in tables"),
            (
                Column,
                "max_token",
                "`max_token` looks like `max_tokens`; it counts as data and is not sent; in tables",
            ),
        ] {
            let told = doubt(place, name).unwrap_or_default();
            assert!(told.starts_with(expected), "{told}");
        }
        for name in ["temperature", "user", "temperatures", "n"] {
            assert_eq!(doubt(Column, name), None, "{name}");
        }
        assert_eq!(describe_doubt(Row, "max_tokens", FieldUse::Parameter), None);
        assert!(describe_doubt(Body, "best_of", FieldUse::Parameter).unwrap().ends_with("use `n`"));
    }

    #[test]
    fn data_like_names_are_parameters_only_with_the_type_of_the_request() {
        let use_of = |row: &str, name: &str| {
            let members = JsonMembers::parse(row).unwrap();
            let sink = &mut Noted;
            row_field_use(&members, name, members.get(name).unwrap(), sink).unwrap()
        };
        for (row, name) in [
            (r#"{"documents": [{"text": "x"}]}"#, "documents"),
            (r#"{"user": "u1"}"#, "user"),
            (r#"{"tools": []}"#, "tools"),
            (r#"{"store": true, "metadata": {}}"#, "metadata"),
            (r#"{"priority": 3}"#, "priority"),
            (r#"{"temperature": "hot"}"#, "temperature"),
        ] {
            assert_eq!(use_of(row, name), FieldUse::Parameter, "{row}");
        }
        for (row, name) in [
            (r#"{"documents": "one text"}"#, "documents"),
            (r#"{"documents": ["one text"]}"#, "documents"),
            (r#"{"user": {"id": 3}}"#, "user"),
            (r#"{"tools": "[]"}"#, "tools"),
            (r#"{"metadata": {"source": "web"}}"#, "metadata"),
            (r#"{"priority": "high"}"#, "priority"),
        ] {
            assert_eq!(use_of(row, name), FieldUse::UnfitValue, "{row}");
        }
        assert_eq!(use_of(r#"{"extra_body": {"top_k": 1}}"#, "extra_body"), FieldUse::Container);
        assert_eq!(use_of(r#"{"options": {"a": "red"}}"#, "options"), FieldUse::Unknown);
        assert_eq!(use_of(r#"{"config": "default"}"#, "config"), FieldUse::Unknown);
    }
}
