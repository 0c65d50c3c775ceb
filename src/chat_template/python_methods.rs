//! Python's methods of strings and lists, where minijinja-contrib's differ or are missing.
//!
//! Owns Python's definition of white space.

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Kwargs, Tuple, ValueKind, from_args},
};

use super::jinja2_compat::SLICE_METHOD;

/// Calls a method that minijinja does not know.
pub(super) fn call_method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if name == SLICE_METHOD {
        return slice_value(value, args);
    }
    match value.as_str().map(|text| call_str_method(text, name, args)) {
        Some(Ok(Some(value))) => Ok(value),
        Some(Err(error)) => Err(error),
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Whether Python treats a character as white space. Rust does so for all but four of them.
pub(super) fn is_python_whitespace(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `str.strip`, `str.lstrip` and `str.rstrip`.
pub(super) fn str_strip<'t>(
    text: &'t str,
    chars: Option<&str>,
    left: bool,
    right: bool,
) -> &'t str {
    let cut = |c: char| chars.map_or_else(|| is_python_whitespace(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(cut) } else { text };
    if right { text.trim_end_matches(cut) } else { text }
}

fn call_str_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let stripped = |left, right| {
        let (chars,): (Option<&str>,) = from_args(args)?;
        Ok(Some(Value::from(str_strip(text, chars, left, right))))
    };
    let cut = |at: Option<usize>, separator: &str, at_end: bool| match at {
        Some(at) => partition_tuple([&text[..at], separator, &text[at + separator.len()..]]),
        None if at_end => partition_tuple(["", "", text]),
        None => partition_tuple([text, "", ""]),
    };
    Ok(Some(match name {
        "strip" => return stripped(true, true),
        "lstrip" => return stripped(true, false),
        "rstrip" => return stripped(false, true),
        "split" => str_split(text, args, false)?,
        "rsplit" => str_split(text, args, true)?,
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = keep
                .map_or_else(|| named.get::<Option<bool>>("keepends"), |value| Ok(Some(value)))?;
            named.assert_all_used()?;
            split_lines(text, keep.unwrap_or(false)).into_iter().map(Value::from).collect()
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            cut(text.find(check_separator(separator)?), separator, false)
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            cut(text.rfind(check_separator(separator)?), separator, true)
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        _ => return Ok(None),
    }))
}

fn partition_tuple(parts: [&str; 3]) -> Value {
    Value::from(Tuple::from(parts.map(Value::from).to_vec()))
}

fn check_separator(separator: &str) -> Result<&str, Error> {
    if separator.is_empty() { Err(invalid_operation("empty separator")) } else { Ok(separator) }
}

/// Python's `str.split`, or `str.rsplit` if `from_right`.
fn str_split(text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (separator, limit, named): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator =
        separator.map_or_else(|| named.get::<Option<&str>>("sep"), |value| Ok(Some(value)))?;
    let limit =
        limit.map_or_else(|| named.get::<Option<i64>>("maxsplit"), |value| Ok(Some(value)))?;
    named.assert_all_used()?;
    // A negative maximum means no limit.
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX - 1);
    let mut parts: Vec<&str> = match (separator, from_right) {
        (Some(separator), false) => text.splitn(limit + 1, check_separator(separator)?).collect(),
        (Some(separator), true) => text.rsplitn(limit + 1, check_separator(separator)?).collect(),
        (None, _) => split_words(text, limit, from_right),
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Splits at white space, at most `limit` times.
fn split_words(text: &str, limit: usize, from_right: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = str_strip(text, None, !from_right, from_right);
    while !rest.is_empty() {
        let at = if from_right {
            rest.rfind(is_python_whitespace)
        } else {
            rest.find(is_python_whitespace)
        };
        let (Some(at), true) = (at, words.len() < limit) else {
            words.push(rest);
            break;
        };
        if from_right {
            let blank = rest[at..].chars().next().map_or(1, char::len_utf8);
            words.push(&rest[at + blank..]);
            rest = str_strip(&rest[..at], None, false, true);
        } else {
            words.push(&rest[..at]);
            rest = str_strip(&rest[at..], None, true, false);
        }
    }
    words
}

/// Python's `str.splitlines`, which has more line ends than `\n` and `\r`.
fn split_lines(text: &str, keep: bool) -> Vec<&str> {
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let at = rest.find(ends).unwrap_or(rest.len());
        let end = match &rest[at..] {
            both if both.starts_with("\r\n") => 2,
            one => one.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..if keep { at + end } else { at }]);
        rest = &rest[at + end..];
    }
    lines
}

/// jinja2's filter `indent`. minijinja's own drops the last line end.
pub(super) fn indent_filter(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width =
        width.map_or_else(|| named.get::<Option<Value>>("width"), |value| Ok(Some(value)))?;
    let first =
        first.map_or_else(|| named.get::<Option<bool>>("first"), |value| Ok(Some(value)))?;
    let blank =
        blank.map_or_else(|| named.get::<Option<bool>>("blank"), |value| Ok(Some(value)))?;
    named.assert_all_used()?;
    let width = width.unwrap_or_else(|| Value::from(4));
    let indent = match (width.as_str(), width.as_i64()) {
        (Some(text), _) => text.to_owned(),
        (_, Some(number)) => repeat_spaces(number),
        _ => return Err(invalid_operation("indent: `width` must be a number or a string")),
    };
    let mut out = if first.unwrap_or(false) { indent.clone() } else { String::new() };
    // The added line end gives a text that ends with one an empty last line, as in jinja2.
    let whole = format!("{text}\n");
    for (at, line) in split_lines(&whole, false).into_iter().enumerate() {
        if at > 0 {
            out.push('\n');
            if blank.unwrap_or(false) || !line.is_empty() {
                out.push_str(&indent);
            }
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Returns `number` spaces, at most 1000.
pub(super) fn repeat_spaces(number: i64) -> String {
    " ".repeat(usize::try_from(number).unwrap_or(0).min(1000))
}

/// Slices a string, list or tuple, as Python's `value[start:stop:step]`.
fn slice_value(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (start, stop, step): (Option<i64>, Option<i64>, Option<i64>) = from_args(args)?;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(invalid_operation("slice step cannot be zero"));
    }
    if let Some(text) = value.as_str() {
        let chars: Vec<char> = text.chars().collect();
        return Ok(Value::from(
            slice_items(&chars, start, stop, step).into_iter().collect::<String>(),
        ));
    }
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Err(invalid_operation(&format!("{} cannot be sliced", value.kind())));
    }
    let all: Vec<Value> = value.try_iter()?.collect();
    let picked = slice_items(&all, start, stop, step);
    Ok(if value.is_tuple() { Value::from(Tuple::from(picked)) } else { Value::from(picked) })
}

/// Slices as Python does: bounds are clamped to the list, negative ones count from the end.
fn slice_items<T: Clone>(all: &[T], start: Option<i64>, stop: Option<i64>, step: i64) -> Vec<T> {
    let len = i64::try_from(all.len()).unwrap_or(i64::MAX);
    let (lowest, highest) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |index: i64| {
        if index < 0 { index.saturating_add(len) } else { index }.clamp(lowest, highest)
    };
    let (first, last) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (mut at, stop) = (start.map_or(first, clamp), stop.map_or(last, clamp));
    let mut picked = Vec::new();
    while (step > 0 && at < stop) || (step < 0 && at > stop) {
        picked.extend(usize::try_from(at).ok().and_then(|at| all.get(at)).cloned());
        at = at.saturating_add(step);
    }
    picked
}

fn invalid_operation(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.to_owned())
}
