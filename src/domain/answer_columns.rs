//! Columns of a table of answers: those that every table has, and those that depend on the answers, which are further
//! members of an answer and the fields of kept rows.
//!
//! Owns the names, order and types of the columns that depend on the answers. They must be known before the first row of
//! a table is written, although lines differ, so that all lines are surveyed first; surveys of ranks merge. Tables are
//! written in `output` and `parquet`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    merge::Merge,
    raw_json::{JsonMembers, decode_string},
};

/// Largest number of different fields of kept rows that become columns of their own.
const MAX_ROW_FIELDS: usize = 1000;
/// Prefix of the column of a row's field whose own name is that of another column.
const ROW_PREFIX: &str = "row_";
/// Largest integer up to which all integers are exact as floating-point numbers.
const MAX_EXACT_FLOAT: u64 = 1 << 53;
/// Digits that a floating-point number holds exactly.
const MAX_FLOAT_DIGITS: usize = 17;

/// Object of an answer's line that has a column's value as a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum LineSection {
    /// The answer itself.
    Answer,
    Usage,
    Error,
    Served,
    /// The kept row.
    Row,
}

impl LineSection {
    const ALL: [Self; 5] = [Self::Answer, Self::Usage, Self::Error, Self::Served, Self::Row];

    /// Returns the members that every table has.
    fn fixed_members(self) -> &'static [&'static str] {
        match self {
            Self::Answer => &[
                "id",
                "index",
                "prompt",
                "messages",
                "response",
                "responses",
                "reasoning",
                "model",
                "success",
                "error",
                "finish_reason",
                "usage",
                "params",
                "served",
                "row",
            ],
            Self::Usage => &["prompt_tokens", "completion_tokens", "estimated"],
            Self::Error => &["kind", "message", "status"],
            Self::Served => &["endpoint", "api", "host", "rank", "latency_s", "attempts", "row"],
            Self::Row => &[],
        }
    }

    /// Returns the section's own name in the line, which begins the names of its columns in a flat table.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::Answer => None,
            Self::Usage => Some("usage"),
            Self::Error => Some("error"),
            Self::Served => Some("served"),
            Self::Row => Some("row"),
        }
    }
}

/// Names of a flat table's columns that are not the name of a member with its section before it.
const FLAT_NAMES: [&str; 2] = ["prompt_tokens", "completion_tokens"];

/// An answer's line, parsed to raw values.
pub(crate) struct ParsedAnswer<'a>([JsonMembers<'a>; LineSection::ALL.len()]);

impl<'a> ParsedAnswer<'a> {
    /// Parses a line.
    ///
    /// # Errors
    /// The line is not a JSON object.
    pub(crate) fn parse_line(line: &'a [u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
        let answer = JsonMembers::parse(text)?;
        let mut sections = [Self::empty(), Self::empty(), Self::empty(), Self::empty()];
        for (section, members) in LineSection::ALL[1..].iter().zip(&mut sections) {
            let value = section.name().and_then(|name| answer.get(name));
            if let Some(object) = value.filter(|json| json.starts_with('{')) {
                *members = JsonMembers::parse(object)?;
            }
        }
        let [usage, error, served, row] = sections;
        Ok(Self([answer, usage, error, served, row]))
    }

    fn empty() -> JsonMembers<'a> {
        JsonMembers::default()
    }

    fn members(&self, section: LineSection) -> &JsonMembers<'a> {
        &self.0[section as usize]
    }

    /// Returns the name of a member that every answer has and this line lacks.
    pub(crate) fn missing_member(&self) -> Option<&'static str> {
        let lacks = |name: &&str| self.members(LineSection::Answer).value(name).is_none();
        ["id", "index", "success"].into_iter().find(|name| lacks(name))
    }

    /// Returns the raw value of a member, unless it is null. `position` is where in its object it is likely to be.
    pub(crate) fn value(
        &self,
        section: LineSection,
        member: &str,
        position: usize,
    ) -> Option<&'a str> {
        let members = self.members(section);
        members.get_near(member, position).filter(|json| *json != "null")
    }
}

/// Returns the text of a raw value: that of a string, else its JSON. A string that has no text, because half of a
/// surrogate pair is in it, keeps its JSON.
pub(crate) fn plain_text(json: &str) -> std::borrow::Cow<'_, str> {
    match json.starts_with('"') {
        true => decode_string(json).unwrap_or(json.into()),
        false => json.into(),
    }
}

/// Type of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ColumnType {
    Boolean,
    /// 64-bit integers.
    Integer,
    /// 64-bit floating-point numbers.
    Float,
    /// Text: of strings as they are, of other values their JSON.
    Text,
}

/// A column that not every table has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundColumn {
    pub section: LineSection,
    /// Name of the member in its section.
    pub member: String,
    /// Position in its section where the member was first found.
    pub position: usize,
    /// Name in a flat table.
    pub name: String,
    pub column_type: ColumnType,
}

/// The columns of a table that not every table has, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FoundColumns {
    pub columns: Vec<FoundColumn>,
    /// True if kept rows have too many different fields: they are one column of JSON then.
    pub keeps_rows_whole: bool,
}

/// What all lines have in common: the members that were found, with the types of their values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ColumnSurvey {
    found: BTreeMap<LineSection, BTreeMap<String, MemberFacts>>,
    has_too_many_fields: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MemberFacts {
    /// Index of the prompt, and position in its object, where the member was first found.
    first: (u64, u32),
    kinds: u8,
}

/// Kinds of values, as bits.
mod kinds {
    pub(super) const BOOLEAN: u8 = 1;
    /// Integers that a floating-point number holds exactly.
    pub(super) const SMALL_INTEGER: u8 = 2;
    /// Other integers of 64 bits.
    pub(super) const INTEGER: u8 = 4;
    pub(super) const FLOAT: u8 = 8;
    /// Texts, lists, objects, and numbers that no 64-bit type holds exactly.
    pub(super) const OTHER: u8 = 16;
}

/// Returns the kind of a raw value, 0 for null.
fn value_kind(json: &str) -> u8 {
    match json.as_bytes().first() {
        Some(b'n') => 0,
        Some(b't' | b'f') => kinds::BOOLEAN,
        Some(b'-' | b'0'..=b'9') => number_kind(json),
        _ => kinds::OTHER,
    }
}

fn number_kind(json: &str) -> u8 {
    if let Ok(integer) = json.parse::<i64>() {
        let is_small = integer.unsigned_abs() <= MAX_EXACT_FLOAT;
        return if is_small { kinds::SMALL_INTEGER } else { kinds::INTEGER };
    }
    let is_integer = json.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    let mantissa = json.split(['e', 'E']).next().unwrap_or_default();
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).skip_while(|digit| *digit == b'0');
    let is_exact = digits.count() <= MAX_FLOAT_DIGITS
        && json.parse().is_ok_and(|number: f64| number.is_finite());
    if is_exact && !is_integer { kinds::FLOAT } else { kinds::OTHER }
}

fn column_type(found: u8) -> ColumnType {
    let only = |allowed: u8| found != 0 && found & !allowed == 0;
    if only(kinds::BOOLEAN) {
        ColumnType::Boolean
    } else if only(kinds::SMALL_INTEGER | kinds::INTEGER) {
        ColumnType::Integer
    } else if only(kinds::SMALL_INTEGER | kinds::FLOAT) {
        ColumnType::Float
    } else {
        ColumnType::Text
    }
}

impl ColumnSurvey {
    /// Adds a line. One that cannot be parsed adds nothing.
    pub(crate) fn add_line(&mut self, index: u64, line: &[u8]) {
        let Ok(answer) = ParsedAnswer::parse_line(line) else { return };
        for section in LineSection::ALL {
            if section == LineSection::Row && self.has_too_many_fields {
                continue;
            }
            let fixed = section.fixed_members();
            for (position, (name, json)) in (0..).zip(answer.members(section).iter()) {
                if !fixed.contains(&name) {
                    let facts = MemberFacts { first: (index, position), kinds: value_kind(json) };
                    self.add_member(section, name, facts);
                }
            }
        }
        self.limit_fields();
    }

    fn add_member(&mut self, section: LineSection, name: &str, facts: MemberFacts) {
        let found = self.found.entry(section).or_default();
        match found.get_mut(name) {
            Some(known) => {
                known.first = known.first.min(facts.first);
                known.kinds |= facts.kinds;
            }
            None => {
                found.insert(name.to_owned(), facts);
            }
        }
    }

    /// Forgets the fields of rows if there are too many, so that memory stays bounded.
    fn limit_fields(&mut self) {
        let fields = self.found.get(&LineSection::Row).map_or(0, BTreeMap::len);
        self.has_too_many_fields |= fields > MAX_ROW_FIELDS;
        if self.has_too_many_fields {
            self.found.remove(&LineSection::Row);
        }
    }

    /// Returns the columns: first members of the answer, then fields of rows, each in the order in which they are first
    /// found in the input's order.
    pub(crate) fn into_columns(self) -> FoundColumns {
        let mut taken: BTreeSet<String> = FLAT_NAMES.iter().map(|&name| name.to_owned()).collect();
        for section in LineSection::ALL {
            let flat = |member: &&str| flat_name(section, member);
            taken.extend(section.fixed_members().iter().map(flat));
        }
        let mut columns = Vec::new();
        for (section, members) in self.found {
            let mut members: Vec<_> = members.into_iter().collect();
            members.sort_by_key(|(_, facts)| facts.first);
            // Fields of rows whose own name is free keep it, whatever comes before them.
            let is_free = |name: &str| !name.is_empty() && !taken.contains(name);
            let free: BTreeSet<String> =
                members.iter().map(|(name, _)| name.clone()).filter(|it| is_free(it)).collect();
            for (member, facts) in members {
                let mut name = flat_name(section, &member);
                if section == LineSection::Row && !free.contains(&name) {
                    while name.is_empty() || taken.contains(&name) || free.contains(&name) {
                        name.insert_str(0, ROW_PREFIX);
                    }
                }
                taken.insert(name.clone());
                let column_type = match &*member {
                    // The server's: a text or a number.
                    "stop_reason" if section == LineSection::Answer => ColumnType::Text,
                    _ => column_type(facts.kinds),
                };
                let position = facts.first.1 as usize;
                columns.push(FoundColumn { section, member, position, name, column_type });
            }
        }
        FoundColumns { columns, keeps_rows_whole: self.has_too_many_fields }
    }
}

/// Returns the name of a member's column in a flat table.
fn flat_name(section: LineSection, member: &str) -> String {
    match section {
        LineSection::Answer | LineSection::Row => member.to_owned(),
        _ => format!("{}_{member}", section.name().unwrap_or_default()),
    }
}

impl Merge for ColumnSurvey {
    fn merge(&mut self, other: Self) {
        self.has_too_many_fields |= other.has_too_many_fields;
        for (section, members) in other.found {
            for (name, facts) in members {
                self.add_member(section, &name, facts);
            }
        }
        self.limit_fields();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn survey(lines: &[(u64, &str)]) -> ColumnSurvey {
        let mut survey = ColumnSurvey::default();
        lines.iter().for_each(|(index, line)| survey.add_line(*index, line.as_bytes()));
        survey
    }

    fn names(survey: ColumnSurvey) -> Vec<String> {
        survey.into_columns().columns.into_iter().map(|column| column.name).collect()
    }

    #[test]
    fn every_member_that_is_not_fixed_has_a_column() {
        let lines = [
            (
                2,
                r#"{"id":1,"tool_calls":[],"usage":{"prompt_tokens":1,"cached_tokens":2},"row":{"b":1,"a":null}}"#,
            ),
            (1, r#"{"id":2,"refusal":"no","served":{"row":"h","zone":"z"},"row":{"c":[1],"a":2}}"#),
            (0, r#"{"id":3,"usage":null,"error":{"kind":"x","code":"y"}}"#),
            (3, "no line"),
        ];
        let expected = [
            "refusal",
            "tool_calls",
            "usage_cached_tokens",
            "error_code",
            "served_zone",
            "c",
            "a",
            "b",
        ];
        assert_eq!(names(survey(&lines)), expected);
        assert!(names(survey(&lines[3..])).is_empty());
    }

    #[test]
    fn fields_of_rows_keep_their_names_unless_another_column_has_it() {
        let line = r#"{"row":{"prompt":1,"row_prompt":2,"error_kind":3,"":4,"model":5,"row_row_prompt":6,"x":7}}"#;
        let expected = [
            "row_row_row_prompt",
            "row_prompt",
            "row_error_kind",
            "row_",
            "row_model",
            "row_row_prompt",
            "x",
        ];
        assert_eq!(names(survey(&[(0, line)])), expected);
        assert_eq!(
            names(survey(&[(0, r#"{"y":1,"row":{"y":1,"prompt_tokens":2}}"#)])),
            ["y", "row_y", "row_prompt_tokens"]
        );
    }

    #[test]
    fn a_type_holds_all_values_exactly() {
        use ColumnType::{Boolean, Float, Integer, Text};
        for (values, expected) in [
            (&["true", "null", "false"][..], Boolean),
            (&["1", "-9223372036854775808", "9223372036854775807"], Integer),
            (&["1", "2.5", "1e-3", "-0.0", "0.1234567890123456"], Float),
            (&["null"], Text),
            (&["1", "\"1\""], Text),
            (&["true", "1"], Text),
            (&["9223372036854775808"], Text),
            (&["9007199254740993", "0.5"], Text),
            (&["1e400"], Text),
            (&["0.12345678901234567890"], Text),
            (&["[1]"], Text),
            (&["{}", "null"], Text),
        ] {
            let lines: Vec<String> =
                values.iter().map(|it| format!("{{\"row\":{{\"x\":{it}}}}}")).collect();
            let lines: Vec<(u64, &str)> = (0..).zip(lines.iter().map(String::as_str)).collect();
            let columns = survey(&lines).into_columns().columns;
            assert_eq!(columns[0].column_type, expected, "{values:?}");
        }
    }

    #[test]
    fn rows_with_too_many_fields_stay_whole() {
        let row = |from: usize, to: usize| {
            let fields: Vec<String> = (from..to).map(|at| format!("\"f{at}\":1")).collect();
            format!("{{\"row\":{{{}}}}}", fields.join(","))
        };
        let (one, other) = (row(0, MAX_ROW_FIELDS), row(1, MAX_ROW_FIELDS + 1));
        assert_eq!(names(survey(&[(0, &one)])).len(), MAX_ROW_FIELDS);
        let whole = survey(&[(0, &one), (1, &other)]).into_columns();
        assert!(whole.keeps_rows_whole && whole.columns.is_empty());
        let mut merged = survey(&[(0, &one)]);
        merged.merge(survey(&[(1, &other)]));
        assert_eq!(merged.into_columns(), whole);
    }

    #[test]
    fn half_a_surrogate_pair_keeps_its_json() {
        assert_eq!(plain_text(r#""a\ud83d""#), r#""a\ud83d""#);
        assert_eq!(plain_text(r#""a\n""#), "a\n");
        assert_eq!(plain_text("1.50"), "1.50");
    }

    proptest! {
        #[test]
        fn surveys_of_parts_merge_to_the_survey_of_all(
            rows in prop::collection::vec(prop::collection::vec(("[a-d]", prop::sample::select(
                vec!["1", "2.5", "null", "true", "\"x\"", "[]"])), 0..4), 0..8),
            cut in 0usize..8,
        ) {
            let lines: Vec<String> = rows.iter().map(|row| {
                let members: Vec<String> = row.iter().map(|(name, json)| format!("\"{name}\":{json}")).collect();
                format!("{{\"row\":{{{}}}}}", members.join(","))
            }).collect();
            let lines: Vec<(u64, &str)> = (0..).zip(lines.iter().map(String::as_str)).collect();
            let (one, other) = lines.split_at(cut.min(lines.len()));
            let mut merged = survey(other);
            merged.merge(survey(one));
            prop_assert_eq!(merged.into_columns(), survey(&lines).into_columns());
        }
    }
}
