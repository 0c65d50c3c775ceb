//! Row parsing: turns the bytes of a record into a prompt, or into the reason why it is invalid.
//!
//! Owns the form of a row in each format, with and without a prompt template. What concerns several rows (duplicate
//! ids, models, columns that no row has) is checked in `scan/`.

pub(crate) mod header;
pub(crate) mod object;
pub(crate) mod params;
pub(crate) mod rules;
pub(crate) mod suggest;
pub(crate) mod template;

use std::{borrow::Cow, fmt::Write as _};

use super::{
    InputFormat,
    records::{InputRecord, split_fields},
};
use crate::domain::raw_json::{
    JsonMembers, check_escapes, compact_json, decode_string, encode_string, json_kind,
    parse_string, to_one_line,
};
use crate::domain::{Prompt, PromptId, PromptInput, Route, RowHash};
use object::{
    BATCH_FIELDS, RowInput, RowRequest, is_openai_batch, parse_batch_row, parse_input,
    parse_messages, parse_object_row,
};
use params::{RowOptions, is_request_field};
use template::{ITEM_COLUMN, PromptTemplate, TemplateFillError};

/// Beginning of the reason why a row is invalid that is not JSON at all.
pub(crate) const NOT_JSON: &str = "not JSON";

/// Parser for the rows of one file.
pub(crate) struct RowParser<'f> {
    pub format: InputFormat,
    /// Column names of a table.
    pub columns: &'f [String],
    pub template: Option<&'f PromptTemplate>,
    pub keep_row: bool,
}

/// A valid row, parsed but not yet numbered.
pub(crate) struct ParsedRow<'a> {
    /// The row's own id, if it has one.
    pub id: Option<RowId<'a>>,
    pub input: RowInput<'a>,
    pub options: RowOptions<'a>,
    pub route: Option<Route>,
    /// The whole row as a JSON object, if it is kept for the answer.
    pub whole_row: Option<String>,
}

/// The id that a row gives itself.
#[derive(Clone)]
pub(crate) struct RowId<'a> {
    /// The id as text, by which ids are compared: the number 7 and the string "7" are the same id, as they are in a
    /// table.
    pub text: Cow<'a, str>,
    json: Option<&'a str>,
}

/// An invalid row with the reason.
pub(crate) struct RejectedRow {
    /// The row's own id, if it could be parsed.
    pub id_text: Option<String>,
    pub id: Option<PromptId>,
    pub reason: String,
    /// Numbers of the template's placeholders for which the row has no column.
    pub missing: Vec<usize>,
    pub columns: Vec<String>,
}

impl ParsedRow<'_> {
    pub(crate) fn into_prompt(self, index: u64, hash: RowHash) -> Prompt {
        Prompt {
            index,
            id: self.id.map_or_else(|| PromptId::from_index(index), RowId::into_id),
            input: match self.input {
                RowInput::Text(text) => PromptInput::Text(text.into_owned()),
                RowInput::Messages(json) => PromptInput::Messages(json.into_owned()),
            },
            params: self.options.params,
            route: self.route,
            priority: self.options.priority,
            row: self.whole_row,
            row_hash: hash,
        }
    }
}

impl<'a> RowId<'a> {
    fn parse(json: &'a str) -> Result<Self, String> {
        match json_kind(json) {
            "a string" => Ok(Self {
                text: decode_string(json).map_err(|reason| format!("`id`: {reason}"))?,
                json: Some(json),
            }),
            "a number" => Ok(Self { text: Cow::Borrowed(json), json: Some(json) }),
            other => Err(format!("`id` must be a string or a number, found {other}")),
        }
    }

    fn into_id(self) -> PromptId {
        PromptId::from_json(self.json.map_or_else(|| encode_string(&self.text), str::to_owned))
    }
}

/// Reason why a row is invalid, before its id is attached.
enum RowFault {
    Reason(String),
    MissingColumns(Vec<usize>, Vec<String>),
}

impl From<String> for RowFault {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

impl From<&str> for RowFault {
    fn from(reason: &str) -> Self {
        Self::Reason(reason.to_owned())
    }
}

impl RowParser<'_> {
    /// Parses a record of the file.
    pub(crate) fn parse_record<'a>(
        &self,
        record: &InputRecord<'a>,
    ) -> Result<ParsedRow<'a>, RejectedRow> {
        let text = std::str::from_utf8(record.bytes).map_err(|error| {
            self.reject_row(
                None,
                format!("not UTF-8 at byte {} of the row", error.valid_up_to() + 1).into(),
            )
        })?;
        match self.format {
            InputFormat::Text => {
                self.parse_text(text.into()).map_err(|fault| self.reject_row(None, fault))
            }
            InputFormat::Jsonl | InputFormat::Parquet => self.parse_json(text.trim_ascii()),
            InputFormat::Csv | InputFormat::Tsv if !record.quotes_closed => {
                Err(self.reject_row(None, "a quote that opens in this row is never closed".into()))
            }
            InputFormat::Csv | InputFormat::Tsv => {
                self.parse_table_record(split_fields(text, self.format))
            }
        }
    }

    fn reject_row(&self, name: Option<RowId<'_>>, fault: RowFault) -> RejectedRow {
        let text = name.as_ref().map(|name| name.text.to_string());
        let id = name.map(RowId::into_id);
        match fault {
            RowFault::Reason(reason) => {
                RejectedRow { id_text: text, id, reason, missing: Vec::new(), columns: Vec::new() }
            }
            RowFault::MissingColumns(missing_columns, columns) => {
                let names =
                    self.template.map(PromptTemplate::placeholder_names).unwrap_or_default();
                let missing_names: Vec<_> = missing_columns
                    .iter()
                    .filter_map(|&at| names.get(at))
                    .map(|name| format!("{name:?}"))
                    .collect();
                let what = match self.format {
                    InputFormat::Parquet => "no value in column",
                    _ => "no column",
                };
                let reason =
                    format!("{what} {}, which the template uses", missing_names.join(", "));
                RejectedRow { id_text: text, id, reason, missing: missing_columns, columns }
            }
        }
    }

    /// Parses a row that is a bare text: a line of a `.txt` file, or a JSON string.
    fn parse_text<'a>(&self, text: Cow<'a, str>) -> Result<ParsedRow<'a>, RowFault> {
        let whole_row = self.keep_row.then(|| format!("{{\"prompt\":{}}}", encode_string(&text)));
        let column = |name: &str| {
            Ok(matches!(name, ITEM_COLUMN | "prompt").then_some(Cow::Borrowed(text.as_ref())))
        };
        let input = match self.fill_template(column, || vec![ITEM_COLUMN.to_owned()])? {
            Some(prompt) => Cow::Owned(prompt),
            None => text,
        };
        Ok(ParsedRow { whole_row, ..ParsedRow::from_input(RowInput::Text(input)) })
    }

    fn parse_json<'a>(&self, text: &'a str) -> Result<ParsedRow<'a>, RejectedRow> {
        let reject = |fault: RowFault| self.reject_row(None, fault);
        if text.starts_with('"') {
            let text = parse_string(text).map_err(|reason| reject(reason.into()))?;
            return self.parse_text(text.into()).map_err(reject);
        }
        if !text.starts_with('{') {
            return Err(reject(describe_non_row(text).into()));
        }
        let members = JsonMembers::parse(text).map_err(|reason| reject(reason.into()))?;
        let is_table = self.format == InputFormat::Parquet;
        let is_batch = self.template.is_none() && !is_table && is_openai_batch(&members);
        let name =
            members.get(if is_batch { "custom_id" } else { "id" }).map(RowId::parse).transpose();
        let name = name.map_err(|reason| reject(reason.into()))?;
        let row = match self.template {
            Some(_) => self.parse_template_object(text, &members),
            None if is_batch => {
                parse_batch_row(&members).map(ParsedRow::from).map_err(RowFault::Reason)
            }
            None if is_table => self.parse_table_object(&members),
            None => parse_object_row(&members).map(ParsedRow::from).map_err(RowFault::Reason),
        };
        // A kept row goes into the answer as raw JSON, where an unpaired surrogate would make the whole line invalid.
        let whole_row = || check_escapes(text).map(|()| to_one_line(text).into_owned());
        let whole_row =
            self.keep_row.then(whole_row).transpose().map_err(|reason| reject(reason.into()))?;
        match row {
            Ok(row) => Ok(ParsedRow { id: name, whole_row, ..row }),
            Err(fault) => Err(self.reject_row(name, fault)),
        }
    }

    /// Parses a row of a Parquet table. A column called `temperature` may be data, so parameters come from `params`
    /// only.
    fn parse_table_object<'a>(&self, members: &JsonMembers<'a>) -> Result<ParsedRow<'a>, RowFault> {
        let options = self.parse_params(members)?;
        let input = match members.get("messages") {
            // An answers table written as Parquet has conversations as JSON text.
            Some(text) if json_kind(text) == "a string" && members.get("prompt").is_none() => {
                let json = decode_string(text).map_err(|reason| format!("`messages`: {reason}"))?;
                RowInput::Messages(parse_messages(json.trim())?.into_owned().into())
            }
            _ => parse_input(members, "the row")?,
        };
        Ok(ParsedRow { options, ..ParsedRow::from_input(input) })
    }

    /// Parses `params`: a JSON object, or its text in a table.
    fn parse_params<'a>(&self, members: &JsonMembers<'a>) -> Result<RowOptions<'a>, RowFault> {
        match members.get("params") {
            Some(text) if self.format == InputFormat::Parquet && json_kind(text) == "a string" => {
                let json = decode_string(text).map_err(|reason| format!("`params`: {reason}"))?;
                Ok(parse_options(Some(json.trim()).filter(|json| !json.is_empty()))?.into_owned())
            }
            params => parse_options(params),
        }
    }

    fn parse_template_object<'a>(
        &self,
        text: &'a str,
        members: &JsonMembers<'a>,
    ) -> Result<ParsedRow<'a>, RowFault> {
        let is_table = self.format == InputFormat::Parquet;
        if !is_table && members.get("messages").is_some() {
            return Err("the row has `messages`, which cannot be combined with a template".into());
        }
        if !is_table && BATCH_FIELDS.iter().all(|name| members.get(name).is_some()) {
            return Err("an OpenAI batch row cannot be combined with a template".into());
        }
        let options = self.parse_params(members)?;
        // NaN in a table becomes null in JSON, which counts as a missing value.
        let is_present = |json: &&str| !(is_table && json_kind(json) == "null");
        let value = |name: &str| members.get(name).filter(is_present).map(display_text).transpose();
        let item = || match ["prompt", "text"].iter().find_map(|name| members.get(name)) {
            Some(json) if json.starts_with('"') => decode_string(json),
            _ => Ok(compact_json(text)),
        };
        let column = |name: &str| match value(name)? {
            None if name == ITEM_COLUMN => item().map(Some),
            value => Ok(value),
        };
        let prompt = self.fill_template(column, || members.member_names())?.unwrap_or_default();
        Ok(ParsedRow { options, ..ParsedRow::from_input(RowInput::Text(Cow::Owned(prompt))) })
    }

    fn parse_table_record<'a>(
        &self,
        values: Vec<Cow<'a, str>>,
    ) -> Result<ParsedRow<'a>, RejectedRow> {
        let position = |name: &str| self.columns.iter().position(|column| column == name);
        let name = position("id").and_then(|at| values.get(at)).filter(|text| !text.is_empty());
        let name = name.map(|text| RowId { text: text.clone(), json: None });
        let reject = |fault: RowFault| self.reject_row(name.clone(), fault);
        if values.len() != self.columns.len() {
            let (found, expected) = (values.len(), self.columns.len());
            let fields = if found == 1 { "field" } else { "fields" };
            let reason = format!("the row has {found} {fields}, but the header has {expected}");
            return Err(reject(reason.into()));
        }
        let params = position("params").map(|at| values[at].trim()).filter(|json| !json.is_empty());
        let options = parse_options(params).map_err(reject)?.into_owned();
        let whole_row = self.keep_row.then(|| encode_object(self.columns, &values));
        let value = |name: &str| position(name).map(|at| Cow::Borrowed(values[at].as_ref()));
        // A table without any of these columns shows its whole row as an object, like a JSON row.
        let item = || ["item", "prompt", "text"].iter().find_map(|name| value(name));
        let column = |name: &str| {
            Ok(match value(name) {
                None if name == ITEM_COLUMN => {
                    item().or_else(|| Some(encode_object(self.columns, &values).into()))
                }
                value => value,
            })
        };
        let prompt = match self.fill_template(column, || self.columns.to_vec()).map_err(reject)? {
            Some(prompt) => prompt.into(),
            None => position("prompt").map(|at| values[at].clone()).unwrap_or_default(),
        };
        Ok(ParsedRow {
            id: name,
            options,
            whole_row,
            ..ParsedRow::from_input(RowInput::Text(prompt))
        })
    }

    /// Returns the names of the columns that are neither prompt, id, parameters nor used by the template.
    pub(crate) fn data_columns(&self, record: &InputRecord<'_>) -> Vec<String> {
        let names = match (self.format, std::str::from_utf8(record.bytes)) {
            (InputFormat::Jsonl | InputFormat::Parquet, Ok(text)) => {
                JsonMembers::parse(text.trim_ascii())
                    .map(|members| members.member_names())
                    .unwrap_or_default()
            }
            (InputFormat::Csv | InputFormat::Tsv, _) => self.columns.to_vec(),
            _ => Vec::new(),
        };
        let is_used = |name: &str| match self.template {
            Some(template) => template.placeholder_names().iter().any(|used| used == name),
            None if self.format == InputFormat::Jsonl => {
                is_request_field(name)
                    || BATCH_FIELDS.contains(&name)
                    || matches!(name, "prompt" | "messages")
            }
            None => name == "prompt" || (name == "messages" && self.format == InputFormat::Parquet),
        };
        names
            .into_iter()
            .filter(|name| !matches!(name.as_str(), "id" | "params") && !is_used(name))
            .collect()
    }

    /// Fills the template with these columns. Returns `None` without a template.
    fn fill_template<'v>(
        &self,
        column: impl FnMut(&str) -> Result<Option<Cow<'v, str>>, String>,
        columns: impl FnOnce() -> Vec<String>,
    ) -> Result<Option<String>, RowFault> {
        let filled = self.template.map(|template| template.render(column)).transpose();
        filled.map_err(|error| match error {
            TemplateFillError::MissingColumns(missing_columns) => {
                RowFault::MissingColumns(missing_columns, columns())
            }
            TemplateFillError::UnusableColumn(reason) => RowFault::Reason(reason),
        })
    }
}

impl<'a> From<RowRequest<'a>> for ParsedRow<'a> {
    fn from(RowRequest { input, options, route }: RowRequest<'a>) -> Self {
        ParsedRow { options, route, ..ParsedRow::from_input(input) }
    }
}

impl<'a> ParsedRow<'a> {
    fn from_input(input: RowInput<'a>) -> Self {
        Self { id: None, input, options: RowOptions::default(), route: None, whole_row: None }
    }
}

fn parse_options(params: Option<&str>) -> Result<RowOptions<'_>, RowFault> {
    let mut options = RowOptions::default();
    if let Some(params) = params {
        options.put_params(params)?;
    }
    options.check_consistency()?;
    Ok(options)
}

/// Returns a value as a template shows it: a string's text, anything else as JSON.
fn display_text(json: &str) -> Result<Cow<'_, str>, String> {
    if json_kind(json) == "a string" {
        decode_string(json)
    } else {
        check_escapes(json).map(|()| compact_json(json))
    }
}

/// Describes a row that is neither an object nor a string.
fn describe_non_row(text: &str) -> String {
    match json_kind(text) {
        "invalid JSON" => {
            let start: String = text.chars().take(24).collect();
            let more = if start.len() < text.len() { "…" } else { "" };
            format!("{NOT_JSON}: {start:?}{more}")
        }
        kind => format!("a row must be an object or a string, found {kind}"),
    }
}

fn encode_object(columns: &[String], values: &[Cow<'_, str>]) -> String {
    let mut object = String::from("{");
    for (column, value) in columns.iter().zip(values) {
        let comma = if object.len() > 1 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(object, "{comma}{}:{}", encode_string(column), encode_string(value));
    }
    object.push('}');
    object
}
