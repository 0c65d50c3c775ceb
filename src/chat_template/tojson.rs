//! Python's `json.dumps`, as the filter `tojson` of transformers calls it.
//!
//! Owns the exact JSON text of a value. Other ways in which templates print values are minijinja's.

use std::fmt::Write;

use minijinja::{
    Error, ErrorKind, Value,
    value::{Kwargs, ValueKind},
};

use super::python_methods::repeat_spaces;

/// Maximum nesting. It exceeds that of any parsed JSON; only a template can nest lists deeper.
const MAX_DEPTH: usize = 256;

/// Formatting options of `json.dumps`.
struct JsonStyle {
    ensure_ascii: bool,
    indent: Option<String>,
}

/// The filter `tojson` with Python's arguments `ensure_ascii` and `indent`.
///
/// Others (`separators`, `sort_keys`) are errors, so the server renders the conversation: templates use them for tools,
/// and conversations with tools are not rendered here.
pub(super) fn tojson_filter(value: &Value, named: Kwargs) -> Result<String, Error> {
    let ascii: Option<bool> = named.get("ensure_ascii")?;
    let indent: Option<Value> = named.get("indent")?;
    named.assert_all_used()?;

    let indent = match indent.filter(|indent| !indent.is_none()) {
        Some(indent) => Some(match (indent.as_str(), indent.as_i64()) {
            (Some(text), _) => text.to_owned(),
            (_, Some(number)) => repeat_spaces(number),
            _ => {
                return Err(invalid_operation(
                    "tojson: `indent` must be a number or a string".into(),
                ));
            }
        }),
        None => None,
    };
    let style = JsonStyle { ensure_ascii: ascii.unwrap_or(false), indent };
    let mut out = String::new();
    style.write_value(&mut out, value, 0)?;
    Ok(out)
}

impl JsonStyle {
    fn write_value(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid_operation(format!(
                "tojson: the value is nested more than {MAX_DEPTH} deep"
            )));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&format_number(value)),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(out, ['[', ']'], &items, depth, |out, item| {
                    self.write_value(out, item, depth + 1)
                })?;
            }
            // A slice of a list is a lazy iterable in minijinja, but a list in Python.
            ValueKind::Iterable if value.len().is_some() => {
                let items: Value = value.try_iter()?.collect();
                self.write_value(out, &items, depth)?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    items.push((key_text(&key)?, value.get_item(&key)?));
                }
                self.write_items(out, ['{', '}'], &items, depth, |out, (key, item)| {
                    self.write_string(out, key);
                    out.push_str(": ");
                    self.write_value(out, item, depth + 1)
                })?;
            }
            other => {
                return Err(invalid_operation(format!("tojson: cannot serialise {other}")));
            }
        }
        Ok(())
    }

    fn write_items<T>(
        &self,
        out: &mut String,
        [open, close]: [char; 2],
        items: &[T],
        depth: usize,
        mut write: impl FnMut(&mut String, &T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.push_str(if self.indent.is_some() { "," } else { ", " });
            }
            self.write_newline(out, depth + 1);
            write(out, item)?;
        }
        if !items.is_empty() {
            self.write_newline(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn write_newline(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn write_string(&self, out: &mut String, text: &str) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn key_text(key: &Value) -> Result<String, Error> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number => format_number(key),
        other => return Err(invalid_operation(format!("tojson: a key cannot be {other}"))),
    })
}

/// Formats a number as Python's `repr` does.
fn format_number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => format_float(float),
        _ => value.to_string(),
    }
}

fn format_float(float: f64) -> String {
    if float.is_nan() {
        return "NaN".into();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let short = format!("{float:e}");
    let (digits, exponent) = short.split_once('e').unwrap_or((&short, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 => format!("{float:?}"),
        small @ ..0 => format!("{digits}e-{:02}", small.unsigned_abs()),
        large => format!("{digits}e+{large:02}"),
    }
}

fn invalid_operation(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
