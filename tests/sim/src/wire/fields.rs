//! The slow way: what to make of a body that the typed request did not fit.
//!
//! It owns the server's schema validation, in the words of its library: numbers in strings are
//! taken, the rest is complained of field by field. No request of a well-made client gets here.

use super::refusal::Refusal;
use super::unions;
use serde_json::{Map, Value};

/// The shapes of body that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `/v1/completions`
    Completion,
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/chat/completions/batch`
    ChatBatch,
}

/// One thing that is wrong with a body.
pub struct Complaint {
    kind: &'static str,
    place: String,
    message: String,
    input: String,
    context: Option<String>,
}

impl Complaint {
    /// A complaint about the value at a place.
    #[must_use]
    pub fn new(kind: &'static str, place: &str, message: &str, input: &Value) -> Self {
        let input = match input {
            Value::Null => "None".to_owned(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            // A whole number too large for 64 bits has become a float here; Python shows it whole.
            Value::Number(n) => match n.as_f64().filter(|x| n.is_f64() && x.fract() == 0.0) {
                Some(whole) => format!("{whole:.0}"),
                None => n.to_string(),
            },
            Value::String(text) => text.clone(),
            Value::Array(items) => format!("<list of {} items>", items.len()),
            Value::Object(fields) => format!("<dict of {} items>", fields.len()),
        };
        let (place, message) = (place.to_owned(), message.to_owned());
        Self { kind, place, message, input, context: None }
    }

    /// Adds what the library calls the context.
    #[must_use]
    pub fn with(self, context: &str) -> Self {
        Self { context: Some(context.to_owned()), ..self }
    }
}

/// A string as Python shows it.
#[must_use]
pub fn shown(text: &str) -> String {
    if text.contains('\'') && !text.contains('"') {
        return format!("\"{text}\"");
    }
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n"))
}

/// The longest list of complaints that is shown in full.
const SHOWN: usize = 10;

/// All complaints in one refusal.
#[must_use]
pub fn refuse(complaints: &[Complaint]) -> Refusal {
    let s = if complaints.len() == 1 { "" } else { "s" };
    let mut message = format!("{} validation error{s}:", complaints.len());
    for one in complaints.iter().take(SHOWN) {
        let (place, text, input) = (shown(&one.place), shown(&one.message), shown(&one.input));
        message += &format!(
            "\n  {{'type': '{}', 'loc': {place}, 'msg': {text}, 'input': {input}",
            one.kind
        );
        if let Some(context) = &one.context {
            message += &format!(", 'ctx': {context}");
        }
        message.push('}');
    }
    if let Some(more) = complaints.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        message += &format!("\n  ...and {more} more errors");
    }
    Refusal::schema(&message, complaints.first().map(|c| c.place.as_str()))
}

/// A body that can be read after all, or the refusal.
pub fn mend(shape: Shape, bytes: &[u8]) -> Result<Value, Refusal> {
    let value = parse(bytes)?;
    let fields = match value {
        Value::Object(fields) => fields,
        Value::Null => return Err(refuse(&[missing_body()])),
        other => {
            let message = "Input should be a valid dictionary or object to extract fields from";
            return Err(refuse(&[Complaint::new(
                "model_attributes_type",
                "body",
                message,
                &other,
            )]));
        }
    };
    let body = Value::Object(fields.clone());
    let mut fields = fields;
    let mut complaints = match shape {
        Shape::Completion => fields.get("prompt").map(unions::prompt).unwrap_or_default(),
        Shape::Chat => unions::messages(fields.get("messages"), &body),
        Shape::ChatBatch => unions::conversations(fields.get("messages"), &body),
    };
    scalars(&mut fields, &mut complaints);
    if complaints.is_empty() { Ok(Value::Object(fields)) } else { Err(refuse(&complaints)) }
}

/// The refusal of a body that the typed request does not fit for a reason not known here.
#[must_use]
pub fn unexplained(error: &serde_json::Error) -> Refusal {
    Refusal::schema(&format!("1 validation error:\n  {error}"), Some("body"))
}

fn missing_body() -> Complaint {
    Complaint::new("missing", "body", "Field required", &Value::Null)
}

fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    if bytes.is_empty() {
        return Err(refuse(&[missing_body()]));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let at = offset(bytes, &error);
        let text = error.to_string();
        if text.contains("surrogate") || text.contains("hex escape") {
            return Refusal::bad(
                "TextEncodeInput must be Union[TextInputSequence, \
                 Tuple[InputSequence, InputSequence]]",
            );
        }
        if let Some(refusal) = not_a_number(bytes) {
            return refusal;
        }
        let why =
            if text.contains("trailing characters") { "Extra data" } else { "Expecting value" };
        let nothing = Value::Object(Map::new());
        let complaint =
            Complaint::new("json_invalid", &format!("body.{at}"), "JSON decode error", &nothing)
                .with(&format!("{{'error': '{why}'}}"));
        refuse(&[complaint])
    })
}

/// Python reads NaN, and the checks then refuse it where it matters.
fn not_a_number(bytes: &[u8]) -> Option<Refusal> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (before, _) = text.split_once("NaN")?;
    let field = before.trim_end_matches([':', ' ']).trim_end_matches('"').rsplit('"').next()?;
    let message = format!("{field} must be a finite number, got nan.");
    Some(Refusal::bad_param(&message, field, Some("nan")))
}

fn offset(bytes: &[u8], error: &serde_json::Error) -> usize {
    let lines = bytes.split_inclusive(|b| *b == b'\n').take(error.line().saturating_sub(1));
    lines.map(<[u8]>::len).sum::<usize>() + error.column()
}

const INTEGERS: [&str; 11] = [
    "max_tokens",
    "max_completion_tokens",
    "min_tokens",
    "n",
    "seed",
    "top_k",
    "top_logprobs",
    "prompt_logprobs",
    "truncate_prompt_tokens",
    "priority",
    "stream_interval",
];
const NUMBERS: [&str; 6] = [
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
];

fn scalars(fields: &mut Map<String, Value>, complaints: &mut Vec<Complaint>) {
    for (name, value) in fields.iter_mut() {
        let place = format!("body.{name}");
        let mended = match name.as_str() {
            name if INTEGERS.contains(&name) => integer(&place, value),
            name if NUMBERS.contains(&name) => number(&place, value),
            "stop" => stop(&place, value),
            _ => Ok(None),
        };
        match mended {
            Ok(Some(better)) => *value = better,
            Ok(None) => {}
            Err(found) => complaints.extend(found),
        }
    }
}

type Mended = Result<Option<Value>, Vec<Complaint>>;

fn integer(place: &str, value: &Value) -> Mended {
    const WHOLE: &str = "Input should be a valid integer";
    let refused = |kind, message: &str| Err(vec![Complaint::new(kind, place, message, value)]);
    match value {
        Value::Null => Ok(None),
        Value::Number(n) if n.as_i64().is_some() => Ok(None),
        Value::Number(n) => match n.as_f64() {
            Some(x) if x.fract() != 0.0 => refused(
                "int_from_float",
                "Input should be a valid integer, got a number with a fractional part",
            ),
            Some(x) if x.abs() < i64::MAX as f64 => Ok(Some(Value::from(x as i64))),
            _ => {
                let message = format!("Input should be less than or equal to {}", i64::MAX);
                let context = format!("{{'le': {}}}", i64::MAX);
                Err(vec![Complaint::new("less_than_equal", place, &message, value).with(&context)])
            }
        },
        Value::String(text) => match text.trim().parse::<i64>() {
            Ok(n) => Ok(Some(Value::from(n))),
            Err(_) => refused(
                "int_parsing",
                "Input should be a valid integer, unable to parse string as an integer",
            ),
        },
        Value::Bool(yes) => Ok(Some(Value::from(i64::from(*yes)))),
        _ => refused("int_type", WHOLE),
    }
}

fn number(place: &str, value: &Value) -> Mended {
    let refused = |kind, message: &str| Err(vec![Complaint::new(kind, place, message, value)]);
    match value {
        Value::Null | Value::Number(_) => Ok(None),
        Value::String(text) => match text.trim().parse::<f64>() {
            Ok(x) => Ok(Some(Value::from(x))),
            Err(_) => refused(
                "float_parsing",
                "Input should be a valid number, unable to parse string as a number",
            ),
        },
        _ => refused("float_type", "Input should be a valid number"),
    }
}

/// At most four stop strings.
pub const MOST_STOPS: usize = 4;

fn stop(place: &str, value: &Value) -> Mended {
    let text = || Complaint::new("string_type", place, "Input should be a valid string", value);
    match value {
        Value::Null | Value::String(_) => Ok(None),
        Value::Array(items) if items.len() > MOST_STOPS => {
            let found = items.len();
            let message = format!(
                "List should have at most {MOST_STOPS} items after validation, not {found}"
            );
            let context = format!(
                "{{'field_type': 'List', 'max_length': {MOST_STOPS}, 'actual_length': {found}}}"
            );
            let list = Complaint::new("too_long", place, &message, value).with(&context);
            Err(vec![text(), list])
        }
        Value::Array(items) if items.iter().all(Value::is_string) => Ok(None),
        _ => Err(vec![text()]),
    }
}
