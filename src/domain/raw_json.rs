//! Raw JSON: an object's members with their raw text, because rows pass through unchanged.
//!
//! Owns what is borrowed and what is decoded. A generic JSON value would cost three allocations per field and lose the
//! order of a schema's properties. Which members have a meaning is decided in `input/row/`.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Members of an object in their order, with values as raw JSON.
#[derive(Default)]
pub(crate) struct JsonMembers<'a>(Vec<(Cow<'a, str>, &'a str)>);

impl<'a> JsonMembers<'a> {
    /// Parses a text that must be a JSON object.
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| describe_error(&error, text))
    }

    /// Makes an object of members whose values are JSON.
    pub(crate) fn from_members(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self(members.into_iter().map(|(name, json)| (Cow::Borrowed(name), json)).collect())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        self.0.iter().map(|(name, json)| (name.as_ref(), *json))
    }

    /// Returns the raw JSON of the member with this name; of several the last, as in most JSON parsers.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().rev().find(|(known, _)| known == name).map(|(_, json)| *json)
    }

    /// Returns the raw JSON of the member with this name, unless it is null: in rows a null means that a value is absent.
    pub(crate) fn value(&self, name: &str) -> Option<&'a str> {
        self.get(name).filter(|json| *json != "null")
    }

    /// Like [`get`](Self::get), and fast for a member that is at this position.
    pub(crate) fn get_near(&self, name: &str, position: usize) -> Option<&'a str> {
        match self.0.get(position) {
            Some((known, json)) if known == name => Some(json),
            _ => self.get(name),
        }
    }

    pub(crate) fn member_names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.to_string()).collect()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonMembers<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = JsonMembers<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(4);
                while let Some(MemberName(name)) = map.next_key()? {
                    members.push((name, map.next_value::<&RawValue>()?.get()));
                }
                Ok(JsonMembers(members))
            }
        }
        from.deserialize_map(MembersVisitor)
    }
}

/// Name of a member: borrowed unless it has escapes, which serde's own `Cow` would not be.
#[derive(Deserialize)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

/// Returns the elements of a list as raw JSON.
pub(crate) fn list_elements(list: &str) -> Result<Vec<&str>, String> {
    let elements: Vec<&RawValue> =
        serde_json::from_str(list).map_err(|error| describe_error(&error, list))?;
    Ok(elements.into_iter().map(RawValue::get).collect())
}

/// Decodes a JSON string that came out of a parser.
pub(crate) fn decode_string(string: &str) -> Result<Cow<'_, str>, String> {
    let inner = string.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        // It has been validated, so without a backslash it is its own text.
        Some(inner) if !inner.contains('\\') => Ok(Cow::Borrowed(inner)),
        _ => parse_string(string).map(Cow::Owned),
    }
}

/// Decodes a JSON string that has not been validated yet.
pub(crate) fn parse_string(string: &str) -> Result<String, String> {
    serde_json::from_str(string).map_err(|error| describe_error(&error, string))
}

pub(crate) fn encode_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Removes the white space between tokens: the result is one line, and equal values more often have equal text.
pub(crate) fn compact_json(json: &str) -> Cow<'_, str> {
    if !json.contains([' ', '\n', '\r', '\t']) {
        return Cow::Borrowed(json);
    }
    let (mut quoted, mut escaped) = (false, false);
    let keep = |c: &char| {
        let keep = quoted || !matches!(c, ' ' | '\n' | '\r' | '\t');
        (quoted, escaped) = match (quoted, escaped, c) {
            (true, false, '\\') => (true, true),
            (true, false, '"') => (false, false),
            (false, _, '"') => (true, false),
            (quoted, ..) => (quoted, false),
        };
        keep
    };
    Cow::Owned(json.chars().filter(keep).collect())
}

/// A carriage return is a blank in JSON, and a line's end to some of those who will read the answers.
pub(crate) fn to_one_line(json: &str) -> Cow<'_, str> {
    // Each search is a memchr, which a search for two characters is not.
    let bytes = json.as_bytes();
    let has_line_end = bytes.contains(&b'\n') || bytes.contains(&b'\r');
    if has_line_end { compact_json(json) } else { Cow::Borrowed(json) }
}

/// Replaces escapes that are half of a surrogate pair, and so no character, by that of U+FFFD.
pub(crate) fn replace_lone_surrogates(json: &str) -> Cow<'_, str> {
    if !has_surrogate_escape(json) {
        return Cow::Borrowed(json);
    }
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut whole, mut copied, mut at) = (String::with_capacity(json.len()), 0, 0);
    // A backslash stands in strings only, and each begins an escape.
    while let Some(found) = json[at..].find('\\') {
        at += found;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => 12,
            (Some(0xd800..0xe000), _) => {
                whole.push_str(&json[copied..at]);
                whole.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            _ => 2,
        };
        // (never in JSON, in which an escape is ASCII)
        if !json.is_char_boundary(at) {
            break;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    whole.push_str(&json[copied..]);
    Cow::Owned(whole)
}

fn has_surrogate_escape(json: &str) -> bool {
    let surrogate =
        |at: usize| json.as_bytes().get(at + 2).is_some_and(|c| matches!(c, b'd' | b'D'));
    json.match_indices("\\u").any(|(at, _)| surrogate(at))
}

/// Does every escape in it stand for a character? The fast path skips over values, and half of a surrogate pair would
/// come up only when it is too late.
pub(crate) fn check_escapes(json: &str) -> Result<(), String> {
    if has_surrogate_escape(json) {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(json);
        return parsed.map(|_| ()).map_err(|error| describe_error(&error, json));
    }
    Ok(())
}

/// JSON as Python's `json.dumps` writes it, made valid.
#[derive(Debug, PartialEq)]
pub(crate) struct RepairedJson {
    pub text: String,
    /// Whether halves of surrogate pairs were replaced by U+FFFD.
    pub has_surrogates: bool,
    /// Names of the members, at the top level, that are or hold NaN or an infinity, which became null.
    pub not_numbers: Vec<String>,
}

/// Replaces halves of surrogate pairs by U+FFFD, and NaN, Infinity and -Infinity by null. Returns `None` if there are
/// none. Other errors stay as they are.
pub(crate) fn repair_json(json: &str) -> Option<RepairedJson> {
    let (text, not_numbers) = replace_not_numbers(json);
    let whole = replace_lone_surrogates(&text);
    let has_surrogates = matches!(whole, Cow::Owned(_));
    (has_surrogates || !not_numbers.is_empty()).then(|| RepairedJson {
        text: whole.into_owned(),
        has_surrogates,
        not_numbers,
    })
}

/// Replaces NaN and infinities by null, and returns the names of the members, at the top level, that are or hold them.
fn replace_not_numbers(json: &str) -> (Cow<'_, str>, Vec<String>) {
    let bytes = json.as_bytes();
    let (mut text, mut not_numbers) = (String::new(), Vec::new());
    let (mut at, mut copied, mut depth) = (0, 0, 0_u32);
    let (mut string, mut member) = ((0, 0), (0, 0));
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let begin = at;
                at += 1;
                while at < bytes.len() && bytes[at] != b'"' {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                string = (begin, (at + 1).min(bytes.len()));
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' if depth == 1 => member = string,
            _ => {
                if let Some(length) = not_a_number(&bytes[at..]) {
                    text.push_str(&json[copied..at]);
                    text.push_str("null");
                    (copied, at) = (at + length, at + length - 1);
                    let name = json.get(member.0..member.1).unwrap_or_default();
                    not_numbers.push(parse_string(name).unwrap_or_default());
                }
            }
        }
        at += 1;
    }
    if not_numbers.is_empty() {
        return (Cow::Borrowed(json), not_numbers);
    }
    text.push_str(json.get(copied..).unwrap_or_default());
    (Cow::Owned(text), not_numbers)
}

/// Returns the length of `NaN`, `Infinity` or `-Infinity` at the beginning of these bytes.
fn not_a_number(bytes: &[u8]) -> Option<usize> {
    let words: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    words.into_iter().find(|word| bytes.starts_with(word)).map(<[u8]>::len)
}

/// Returns the kind of a raw value, with its article, for error messages.
pub(crate) fn json_kind(json: &str) -> &'static str {
    match json.trim_ascii_start().bytes().next() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ => "invalid JSON",
    }
}

/// Describes a parser error without its line number, since a row is a single line.
fn describe_error(error: &serde_json::Error, text: &str) -> String {
    let whole = error.to_string();
    let what = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(what, _)| what);
    let hint = match text.get(error.column().saturating_sub(2)..) {
        Some(rest) if rest.trim_start_matches([' ', ':', '-']).starts_with(['N', 'I']) => {
            "; JSON has no NaN or Infinity, write null"
        }
        _ => "",
    };
    format!("not valid JSON at byte {}: {what}{hint}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn members_are_borrowed_and_keep_their_order() {
        let members =
            JsonMembers::parse(r#"{"b": 1.50, "\u0061": {"z":1,"a":[ ]}, "b": null}"#).unwrap();
        assert_eq!(
            members.iter().collect::<Vec<_>>(),
            [("b", "1.50"), ("a", r#"{"z":1,"a":[ ]}"#), ("b", "null")]
        );
        assert_eq!((members.get("b"), members.value("b")), (Some("null"), None));
        assert_eq!(compact_json(r#"{ "a b" : [ 1 , "\" \\" , 2 ] }"#), r#"{"a b":[1,"\" \\",2]}"#);
    }

    #[test]
    fn parser_errors_have_a_byte_and_no_line() {
        let error = |text| JsonMembers::parse(text).err().unwrap();
        assert_eq!(error(r#"{"a": 1"#), "not valid JSON at byte 7: EOF while parsing an object");
        assert!(error(r#"{"a": NaN}"#).ends_with("write null"), "{}", error(r#"{"a": NaN}"#));
        assert!(decode_string(r#""\ud800""#).is_err() && check_escapes(r#"["\uD800"]"#).is_err());
        assert!(check_escapes(r#"["\ud83d\ude00 \u00e9"]"#).is_ok());
    }

    #[test]
    fn halves_of_surrogate_pairs_become_replacement_characters() {
        for (json, whole) in [
            (r#""\ud83d\ude00 \u00e9 \\ud83d""#, r#""\ud83d\ude00 \u00e9 \\ud83d""#),
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""a\uDC00\uD800\uD83D\uDE00\n""#, r#""a\ufffd\ufffd\uD83D\uDE00\n""#),
            (r#""\\\ud83d\u0041""#, r#""\\\ufffd\u0041""#),
        ] {
            assert_eq!(replace_lone_surrogates(json), whole);
            assert!(parse_string(whole).is_ok(), "{whole}");
        }
    }

    #[test]
    fn halves_of_surrogate_pairs_and_values_that_are_no_numbers_are_repaired() {
        let repaired =
            |json: &str| repair_json(json).map(|it| (it.text, it.has_surrogates, it.not_numbers));
        let whole = r#"{"a": "\ud83d\ude00 NaN \\ud800", "b": [1, -1.5e3, "Infinity"]}"#;
        assert_eq!(repaired(whole), None);
        assert_eq!(
            repaired(r#"{"a": "x\ud83d", "b": "\uDE00\ud83d\ud83d\ude00"}"#),
            Some((r#"{"a": "x\ufffd", "b": "\ufffd\ufffd\ud83d\ude00"}"#.into(), true, vec![]))
        );
        assert_eq!(
            repaired(r#"{"a":NaN,"b":{"c":[-Infinity,Infinity]},"d":1}"#),
            Some((
                r#"{"a":null,"b":{"c":[null,null]},"d":1}"#.into(),
                false,
                vec!["a".into(), "b".into(), "b".into()]
            ))
        );
    }

    proptest! {
        #[test]
        fn repairs_leave_valid_json_alone_and_never_fail(text in "\\PC*|[\\\\\"ud8NaN{}:,]*") {
            prop_assert_eq!(repair_json(&format!("{{\"a\":{}}}", encode_string(&text))), None);
            if let Some(repaired) = repair_json(&text) {
                prop_assert_eq!(repair_json(&repaired.text), None);
            }
        }

        #[test]
        fn decoding_undoes_encoding_and_compacting_changes_nothing(text in "\\PC*|[\\\\\" \n\t{}]*") {
            let json = encode_string(&text);
            prop_assert_eq!(decode_string(&json).unwrap(), text.as_str());
            let spaced = format!("[ {json} ,\n {json} ]");
            prop_assert_eq!(compact_json(&spaced), format!("[{json},{json}]"));
            let _ = (compact_json(&text), replace_lone_surrogates(&text), check_escapes(&text), json_kind(&text), JsonMembers::parse(&text).is_ok());
        }
    }
}
