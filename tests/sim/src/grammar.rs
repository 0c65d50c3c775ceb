//! Structured answers: texts that satisfy what a request demands of them.
//!
//! It owns the reading of such demands (JSON schema, any JSON object, a regular expression, a
//! choice) with the server's complaints about them, and makes the shortest sensible text from a
//! hash. It covers what schemas of batch jobs use, not the whole of JSON schema.

use crate::cache::mix;
use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Map, Value, json};

/// What a structured answer must satisfy.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// A JSON value of this schema.
    Schema(Value),
    /// Any JSON object.
    Object,
    /// A text that matches this.
    Regex(Hir),
    /// One of these texts.
    Choice(Vec<String>),
    /// A call of one of these tools, each with the schema of its arguments.
    Call(Vec<(String, Value)>),
}

/// What opens a tool call in the model's text.
pub const TOOL_CALL: &str = "<tool_call>";
/// What closes it.
pub const TOOL_CALL_END: &str = "</tool_call>";

const TYPES: [&str; 7] = ["object", "array", "string", "integer", "number", "boolean", "null"];

impl Constraint {
    /// Reads a JSON schema, or says what is wrong with it in the server's words.
    pub fn schema(schema: Value) -> Result<Self, String> {
        match schema.get("type").and_then(Value::as_str) {
            Some(kind) if !TYPES.contains(&kind) => {
                Err(format!("Grammar error: Invalid type: {kind}"))
            }
            _ => Ok(Self::Schema(schema)),
        }
    }

    /// Reads a regular expression, or says what is wrong with it in the server's words.
    pub fn regex(pattern: &str) -> Result<Self, String> {
        regex_syntax::parse(pattern).map(Self::Regex).map_err(|e| {
            let grammar = format!("   1 | start: /{pattern}/\n              ^");
            format!(
                "Grammar error: at 1(8): invalid regex \"{pattern}\" (in regex): {e}\n{grammar}"
            )
        })
    }

    /// A text that satisfies it, chosen by the hash.
    #[must_use]
    pub fn satisfy(&self, hash: u64) -> String {
        match self {
            Self::Schema(schema) => instance(schema, schema, hash, 0).to_string(),
            Self::Object => json!({ "answer": word(hash), "n": hash % 1000 }).to_string(),
            Self::Choice(of) => match of.len() {
                0 => String::new(),
                many => of[(mix(hash, 5) % many as u64) as usize].clone(),
            },
            Self::Call(tools) => match tools.len() {
                0 => String::new(),
                many => {
                    let (name, schema) = &tools[(mix(hash, 17) % many as u64) as usize];
                    let arguments = instance(schema, schema, hash, 0);
                    let call = json!({ "name": name, "arguments": arguments });
                    format!("{TOOL_CALL}\n{call}\n{TOOL_CALL_END}")
                }
            },
            Self::Regex(hir) => {
                let mut text = String::new();
                matching(hir, &mut mix(hash, 6), &mut text);
                text
            }
        }
    }
}

fn word(hash: u64) -> String {
    format!("{:08x}", mix(hash, 7) as u32)
}

/// How deep a schema is followed: one that refers to itself has no end.
const DEPTH: usize = 12;

fn instance(schema: &Value, root: &Value, hash: u64, depth: usize) -> Value {
    if depth > DEPTH {
        return Value::Null;
    }
    if let Some(fixed) = schema.get("const") {
        return fixed.clone();
    }
    if let Some(of) = schema.get("enum").and_then(Value::as_array).filter(|a| !a.is_empty()) {
        return of[(hash % of.len() as u64) as usize].clone();
    }
    if let Some(path) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(path.trim_start_matches('#')).unwrap_or(&Value::Null);
        return instance(target, root, hash, depth + 1);
    }
    for either in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema.get(either).and_then(|of| of.get(0)) {
            return instance(first, root, hash, depth + 1);
        }
    }
    of_type(schema, root, hash, depth)
}

fn of_type(schema: &Value, root: &Value, hash: u64, depth: usize) -> Value {
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None => schema.get("properties").map(|_| "object"),
    };
    match kind.unwrap_or("object") {
        "string" => Value::String(text_between(schema, hash)),
        "integer" => json!(number_between(schema, hash) as i64),
        "number" => json!(number_between(schema, hash)),
        "boolean" => Value::Bool(hash & 1 == 1),
        "null" => Value::Null,
        "array" => array(schema, root, hash, depth),
        _ => object(schema, root, hash, depth),
    }
}

fn object(schema: &Value, root: &Value, hash: u64, depth: usize) -> Value {
    let mut members = Map::new();
    for (at, (name, of)) in
        schema.get("properties").and_then(Value::as_object).into_iter().flatten().enumerate()
    {
        let hash = mix(hash, at as u64 + 11);
        members.insert(name.clone(), instance(of, root, hash, depth + 1));
    }
    Value::Object(members)
}

fn array(schema: &Value, root: &Value, hash: u64, depth: usize) -> Value {
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(1).min(64);
    let items = schema.get("items").unwrap_or(&Value::Null);
    let item = |at| instance(items, root, mix(hash, at + 31), depth + 1);
    Value::Array((0..least).map(item).collect())
}

fn number_between(schema: &Value, hash: u64) -> f64 {
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    let least = limit("minimum").or_else(|| limit("exclusiveMinimum").map(|x| x + 1.0));
    let most = limit("maximum").unwrap_or(f64::INFINITY);
    (least.unwrap_or(0.0) + (hash % 100) as f64).min(most)
}

fn text_between(schema: &Value, hash: u64) -> String {
    let length = |name: &str| schema.get(name).and_then(Value::as_u64).map(|n| n as usize);
    let mut text = word(hash);
    while text.len() < length("minLength").unwrap_or(0).min(4096) {
        text.push_str(&word(mix(hash, text.len() as u64)));
    }
    text.truncate(length("maxLength").unwrap_or(text.len()));
    text
}

/// Appends a text that matches, with every repetition as short as it may be.
fn matching(hir: &Hir, hash: &mut u64, text: &mut String) {
    *hash = mix(*hash, 13);
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => text.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(class) => text.push(one_of(class, *hash)),
        HirKind::Repetition(repetition) => {
            for _ in 0..repetition.min.min(4096) {
                matching(&repetition.sub, hash, text);
            }
        }
        HirKind::Capture(capture) => matching(&capture.sub, hash, text),
        HirKind::Concat(parts) => parts.iter().for_each(|part| matching(part, hash, text)),
        HirKind::Alternation(of) => {
            let at = (*hash % of.len() as u64) as usize;
            matching(&of[at], hash, text);
        }
    }
}

fn one_of(class: &Class, hash: u64) -> char {
    let ranges: Vec<(u32, u32)> = match class {
        Class::Unicode(class) => {
            class.ranges().iter().map(|r| (r.start() as u32, r.end() as u32)).collect()
        }
        Class::Bytes(class) => {
            class.ranges().iter().map(|r| (u32::from(r.start()), u32::from(r.end()))).collect()
        }
    };
    let Some((start, end)) = ranges.get((hash % ranges.len().max(1) as u64) as usize) else {
        return ' ';
    };
    let code = start + (mix(hash, 17) % u64::from(end - start + 1)) as u32;
    char::from_u32(code).unwrap_or('x')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_filled_with_all_its_properties() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"},
            "ok": {"type": "boolean"}}, "required": ["n", "ok"]});
        let text = Constraint::schema(schema).expect("a good schema").satisfy(1);
        let value: Value = serde_json::from_str(&text).expect("JSON");
        assert!(value["n"].is_i64() && value["ok"].is_boolean(), "{text}");
    }

    #[test]
    fn a_schema_that_refers_to_itself_comes_to_an_end() {
        let schema = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});
        assert!(Constraint::Schema(schema).satisfy(1).starts_with('{'));
    }

    #[test]
    fn a_regex_is_matched_and_a_bad_one_named() {
        let text = Constraint::regex("[0-9]{4}(-(a|b))?").expect("good").satisfy(3);
        assert!(text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit()), "{text}");
        let error = Constraint::regex("([unclosed").expect_err("bad");
        assert!(error.contains("unclosed character class"), "{error}");
    }
}
