//! Partition columns: the values that a folder named `key=value` gives to all rows of its files, as Hive and Spark write
//! them.
//!
//! Owns the names of such folders. Which folders of a path count is decided in `discover.rs`.

use serde::{Deserialize, Serialize};

use crate::domain::raw_json::encode_string;

/// Value of a folder whose rows have none.
const NULL_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";

/// A column that has one value for all rows of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionColumn {
    pub name: String,
    /// The value as text; `None` is null.
    pub value: Option<String>,
}

impl PartitionColumn {
    /// Parses the name of a folder, which has this form only if it is no partition.
    #[must_use]
    pub(super) fn parse(folder: &str) -> Option<Self> {
        let (name, value) = folder.split_once('=')?;
        let name = decode_percent(name);
        let value = (value != NULL_VALUE).then(|| decode_percent(value));
        (!name.is_empty()).then_some(Self { name, value })
    }
}

/// Adds the columns to a JSON object that lacks them. Nulls are absent.
pub(super) fn add_to_object(
    object: String,
    columns: &[PartitionColumn],
    has: impl Fn(&str) -> bool,
) -> String {
    let mut added = String::new();
    for PartitionColumn { name, value } in columns.iter().filter(|column| !has(&column.name)) {
        if let Some(value) = value {
            added.push_str(&format!("{}:{},", encode_string(name), encode_string(value)));
        }
    }
    let Some(rest) = object.strip_prefix('{').filter(|_| !added.is_empty()) else { return object };
    if rest.trim_start() == "}" {
        added.pop();
    }
    format!("{{{added}{rest}")
}

/// Decodes `%3A` and the like; what is no valid escape stays as it is.
fn decode_percent(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped.filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_are_decoded() {
        let parse = |folder: &str| PartitionColumn::parse(folder).map(|it| (it.name, it.value));
        let column = |name: &str, value: &str| Some((name.to_owned(), Some(value.to_owned())));
        assert_eq!(parse("day=2024-01-01 00%3A00"), column("day", "2024-01-01 00:00"));
        assert_eq!(parse("a%3Db=caf%C3%A9"), column("a=b", "café"));
        assert_eq!(parse("share=100%25%"), column("share", "100%%"));
        assert_eq!(parse("raw=%ff"), column("raw", "%ff"));
        assert_eq!(parse("empty="), column("empty", ""));
        assert_eq!(parse("x=__HIVE_DEFAULT_PARTITION__"), Some(("x".into(), None)));
        assert_eq!((parse("plain"), parse("=x")), (None, None));
    }

    #[test]
    fn columns_are_added_to_objects_that_lack_them() {
        let columns = ["a=1", "b=\"", "c=__HIVE_DEFAULT_PARTITION__"];
        let columns: Vec<_> = columns.iter().filter_map(|it| PartitionColumn::parse(it)).collect();
        let add = |object: &str| {
            add_to_object(object.into(), &columns, |name| object.contains(&format!("\"{name}\"")))
        };
        assert_eq!(add("{\"x\":2}"), "{\"a\":\"1\",\"b\":\"\\\"\",\"x\":2}");
        assert_eq!(add("{\"a\":2}"), "{\"b\":\"\\\"\",\"a\":2}");
        assert_eq!(add("{ }"), "{\"a\":\"1\",\"b\":\"\\\"\" }");
    }
}
