//! Row parsing: turns the bytes of a record into a prompt, or into the reason why it is invalid.
//!
//! Owns the form of a row in each format, with and without a prompt template. What concerns several rows (duplicate
//! ids, models, columns that no row has) is checked in `scan/`.

pub(crate) mod column_path;
pub(crate) mod conversation;
pub(crate) mod fields;
pub(crate) mod header;
pub(crate) mod images;
pub(crate) mod object;
pub(crate) mod params;
pub(crate) mod rules;
pub(crate) mod suggest;
pub(crate) mod template;

use std::{borrow::Cow, fmt::Write as _, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    InputFormat, PartitionColumn, RowLayout,
    partition::add_to_object,
    records::{InputRecord, split_fields},
};
use crate::domain::raw_json::{
    JsonMembers, RepairedJson, check_escapes, compact_json, decode_string, encode_string,
    json_kind, parse_string, repair_json, to_one_line,
};
use crate::domain::{Prompt, PromptId, PromptInput, Route, RowHash};
use column_path::{find_in_members, find_in_value, list_paths, path_splits};
use conversation::parse_messages;
use fields::{FieldPlace, FieldSink, is_request_field};
use images::RowImages;
use object::{
    BATCH_FIELDS, RowInput, RowRequest, drop_final_answer, is_openai_batch, parse_batch_row,
    parse_input, parse_object_row,
};
use params::RowOptions;
use rules::{InputColumns, InputRules, leads_through};
use template::{ITEM_COLUMN, PromptTemplate, TemplateFillError};

/// Beginning of the reason why a row is invalid that is not JSON at all.
pub(crate) const NOT_JSON: &str = "not JSON";

/// Beginning of the reason why a row is invalid that is not text.
pub(crate) const NOT_UTF8: &str = "not UTF-8";

/// Parser for the rows of one file.
pub(crate) struct RowParser<'f> {
    pub layout: RowLayout,
    /// Column names of a table.
    pub columns: &'f [String],
    /// Columns with one value for all rows of the file.
    pub partition: &'f [PartitionColumn],
    pub template: Option<&'f PromptTemplate>,
    pub rules: &'f InputRules,
    /// Whether the file is an OpenAI batch file, in which other rows are invalid.
    pub batch_file: bool,
}

/// A valid row, parsed but not yet numbered.
pub(crate) struct ParsedRow<'a> {
    /// The row's own id, if it has one.
    pub id: Option<RowId<'a>>,
    pub input: RowInput<'a>,
    pub images: RowImages<'a>,
    pub options: RowOptions<'a>,
    pub route: Option<Route>,
    /// The whole row as a JSON object, if it is kept for the answer.
    pub whole_row: Option<String>,
    /// Whether halves of surrogate pairs were replaced.
    pub has_surrogates: bool,
    /// Whether NaN or infinities were read as null.
    pub has_not_numbers: bool,
}

/// The id that a row gives itself.
#[derive(Clone)]
pub(crate) struct RowId<'a> {
    /// The id as text, by which ids are compared: the number 7 and the string "7" are the same id, as they are in a
    /// table.
    pub text: Cow<'a, str>,
    json: Option<Cow<'a, str>>,
}

/// An invalid row with the reason.
pub(crate) struct RejectedRow {
    /// The row's own id, if it could be parsed.
    pub id_text: Option<String>,
    pub id: Option<PromptId>,
    pub reason: String,
    /// Numbers of the template's placeholders for which the row has no column.
    pub missing: Vec<usize>,
}

impl ParsedRow<'_> {
    fn into_owned(self) -> ParsedRow<'static> {
        let Self { id, input, images, options, route, whole_row, .. } = self;
        let Self { has_surrogates, has_not_numbers, .. } = self;
        let id = id.map(|id| RowId {
            text: Cow::Owned(id.text.into_owned()),
            json: id.json.map(|json| Cow::Owned(json.into_owned())),
        });
        ParsedRow {
            id,
            input: input.into_owned(),
            images: images.into_owned(),
            options: options.into_owned(),
            route,
            whole_row,
            has_surrogates,
            has_not_numbers,
        }
    }

    /// Whether the row's conversation ends with the assistant's message and the row does not say what to do with it.
    pub(crate) fn ends_with_answer(&self) -> bool {
        let ends = matches!(&self.input, RowInput::Messages(messages) if messages.ends_with_answer);
        ends && !self.options.continues_answer()
    }

    /// Reads the row's images, whose paths are relative to `folder`, and returns the prompt at this index. `model` is the
    /// row's model, unless it is ignored.
    pub(crate) fn into_prompt(
        self,
        index: u64,
        hash: RowHash,
        model: Option<Arc<str>>,
        folder: &Path,
    ) -> Prompt {
        Prompt {
            index,
            id: self.id.map_or_else(|| PromptId::from_index(index), RowId::into_id),
            input: match self.input {
                RowInput::Text(text) => PromptInput::Text(text.into_owned()),
                RowInput::Messages(messages) => PromptInput::Messages(messages.json.into_owned()),
                RowInput::TokenIds(ids) => PromptInput::TokenIds(ids.into_owned()),
            },
            images: self.images.load(folder),
            params: self.options.params,
            model,
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
                json: Some(Cow::Borrowed(json)),
            }),
            "a number" => Ok(Self { text: Cow::Borrowed(json), json: Some(Cow::Borrowed(json)) }),
            other => Err(format!("`id` must be a string or a number, found {other}")),
        }
    }

    fn into_id(self) -> PromptId {
        PromptId::from_json(self.json.map_or_else(|| encode_string(&self.text), Cow::into_owned))
    }
}

/// Reason why a row is invalid, before its id is attached.
enum RowFault {
    Reason(String),
    MissingColumns(Vec<usize>),
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
        self.parse_record_into(record, &mut ())
    }

    /// Parses a record of the file and notes its fields.
    pub(crate) fn parse_record_into<'a>(
        &self,
        record: &InputRecord<'a>,
        sink: &mut impl FieldSink,
    ) -> Result<ParsedRow<'a>, RejectedRow> {
        let row = self.parse_row(record, sink)?;
        if self.rules.image_columns.is_empty() {
            return Ok(row);
        }
        let checked = row.images.check_places(&self.rules.image_columns, &row.input);
        match checked {
            Ok(()) if row.route == Some(Route::Completions) && !row.images.is_empty() => {
                let reason = "`url` is for texts, but the row has an image";
                Err(self.reject_row(row.id, reason.into()))
            }
            Ok(()) => Ok(row),
            Err(reason) => Err(self.reject_row(row.id, reason.into())),
        }
    }

    fn parse_row<'a>(
        &self,
        record: &InputRecord<'a>,
        sink: &mut impl FieldSink,
    ) -> Result<ParsedRow<'a>, RejectedRow> {
        if let Some(fault) = record.fault {
            return Err(self.reject_row(None, fault.to_string().into()));
        }
        let text = std::str::from_utf8(record.bytes).map_err(|error| {
            self.reject_row(
                None,
                format!("{NOT_UTF8} at byte {} of the row", error.valid_up_to() + 1).into(),
            )
        })?;
        let row = match self.layout.format {
            InputFormat::Text => {
                self.parse_text(text.into()).map_err(|fault| self.reject_row(None, fault))
            }
            InputFormat::Jsonl | InputFormat::Parquet => self.parse_json(text.trim_ascii(), sink),
            InputFormat::Csv | InputFormat::Tsv => {
                self.parse_table_record(split_fields(text, self.layout, self.columns.len()), sink)
            }
        };
        row.map(|row| self.add_partition(row))
    }

    /// Adds the columns that folders name to the row that is kept.
    fn add_partition<'a>(&self, row: ParsedRow<'a>) -> ParsedRow<'a> {
        match row.whole_row {
            Some(object) if !self.partition.is_empty() => {
                let names = JsonMembers::parse(&object).map(|members| members.member_names());
                let names = names.unwrap_or_default();
                let has = |name: &str| names.iter().any(|known| known == name);
                ParsedRow { whole_row: Some(add_to_object(object, self.partition, has)), ..row }
            }
            whole_row => ParsedRow { whole_row, ..row },
        }
    }

    fn reject_row(&self, name: Option<RowId<'_>>, fault: RowFault) -> RejectedRow {
        let id_text = name.as_ref().map(|name| name.text.to_string());
        let id = name.map(RowId::into_id);
        match fault {
            RowFault::Reason(reason) => RejectedRow { id_text, id, reason, missing: Vec::new() },
            RowFault::MissingColumns(missing) => {
                let names =
                    self.template.map(PromptTemplate::placeholder_names).unwrap_or_default();
                let missing_names: Vec<_> = missing
                    .iter()
                    .filter_map(|&at| names.get(at))
                    .map(|name| format!("{name:?}"))
                    .collect();
                let reason = format!(
                    "no value in column {}, which the template uses",
                    missing_names.join(", ")
                );
                RejectedRow { id_text, id, reason, missing }
            }
        }
    }

    /// Parses a row that is a bare text: a line of a `.txt` file, or a JSON string.
    fn parse_text<'a>(&self, text: Cow<'a, str>) -> Result<ParsedRow<'a>, RowFault> {
        let whole_row =
            self.rules.keep_row.then(|| format!("{{\"prompt\":{}}}", encode_string(&text)));
        let column = |name: &str| {
            Ok(matches!(name, ITEM_COLUMN | "prompt").then_some(Cow::Borrowed(text.as_ref())))
        };
        let input = match self.fill_template(column)? {
            Some(prompt) => Cow::Owned(prompt),
            None => text,
        };
        Ok(ParsedRow { whole_row, ..ParsedRow::from_input(RowInput::Text(input)) })
    }

    /// Parses a row of JSON. A row that is invalid only by what Python's `json.dumps` writes is repaired.
    fn parse_json<'a>(
        &self,
        text: &'a str,
        sink: &mut impl FieldSink,
    ) -> Result<ParsedRow<'a>, RejectedRow> {
        let rejected = match self.parse_valid_json(text, sink) {
            Ok(row) => return Ok(row),
            Err(rejected) => rejected,
        };
        let Some(RepairedJson { text, has_surrogates, not_numbers }) = repair_json(text) else {
            return Err(rejected);
        };
        // Without a value that is no number, the first attempt has noted the fields.
        let row = match not_numbers.is_empty() {
            true => self.parse_valid_json(&text, &mut ()),
            false => self.parse_valid_json(&text, sink),
        };
        if let Some(name) = not_numbers.iter().find(|name| self.is_needed(name)) {
            let reason =
                format!("`{name}` is or holds NaN or Infinity; JSON has neither, write null");
            let id = row.ok().and_then(|row| row.id);
            return Err(self.reject_row(id, reason.into()));
        }
        let row = row?.into_owned();
        Ok(ParsedRow { has_surrogates, has_not_numbers: !not_numbers.is_empty(), ..row })
    }

    /// Whether a field decides what is sent, apart from the columns of the template, of which none may be null.
    fn is_needed(&self, name: &str) -> bool {
        match (self.template, self.layout.format) {
            (Some(_), _) => name == "params",
            (None, InputFormat::Jsonl) if is_request_field(name) => true,
            _ => matches!(name, "params" | "body") || self.rules.uses_column(name),
        }
    }

    fn parse_valid_json<'a>(
        &self,
        text: &'a str,
        sink: &mut impl FieldSink,
    ) -> Result<ParsedRow<'a>, RejectedRow> {
        let reject = |fault: RowFault| self.reject_row(None, fault);
        if text.starts_with('"') {
            let text = parse_string(text).map_err(|reason| reject(reason.into()))?;
            return self.parse_text(text.into()).map_err(reject);
        }
        if !text.starts_with('{') {
            return Err(reject(describe_non_row(text).into()));
        }
        let members = JsonMembers::parse(text).map_err(|reason| reject(reason.into()))?;
        let is_table = self.layout.format == InputFormat::Parquet;
        let may_be_batch = self.template.is_none() && !is_table && !self.rules.names_columns();
        let is_batch = may_be_batch && (self.batch_file || is_openai_batch(&members));
        let name = match members.value("custom_id").filter(|_| is_batch) {
            None => members.value("id"),
            custom_id => custom_id,
        };
        let name = name.map(RowId::parse).transpose().map_err(|reason| reject(reason.into()))?;
        let images = match RowImages::from_members(&self.rules.image_columns, &members) {
            Ok(images) => images,
            Err(reason) => return Err(self.reject_row(name, reason.into())),
        };
        let text = self.hide_images(text, &members, &images);
        let row = match self.template {
            Some(_) => self.parse_template_object(&text, &members, &images, sink),
            None if is_batch => {
                let row = parse_batch_row(&members, self.rules, sink).map(ParsedRow::from);
                row.map_err(|reason| self.describe_batch_fault(&members, reason))
            }
            None if is_table => self.parse_table_object(&members, sink),
            None => parse_object_row(&members, self.rules, sink)
                .map(ParsedRow::from)
                .map_err(RowFault::Reason),
        };
        // A kept row goes into the answer as raw JSON, where an unpaired surrogate would make the whole line invalid.
        let whole_row = || check_escapes(&text).map(|()| to_one_line(&text).into_owned());
        let whole_row = self.rules.keep_row.then(whole_row).transpose();
        match (row, whole_row) {
            (Ok(row), Ok(whole_row)) => Ok(ParsedRow { id: name, whole_row, images, ..row }),
            (Err(fault), _) => Err(self.reject_row(name, fault)),
            (_, Err(reason)) => Err(self.reject_row(name, reason.into())),
        }
    }

    fn image_column(&self, name: &str) -> Option<usize> {
        self.rules.image_columns.iter().position(|column| column == name)
    }

    /// Returns the row's JSON with short texts instead of images, where the row itself is shown.
    fn hide_images<'a>(
        &self,
        text: &'a str,
        members: &JsonMembers<'_>,
        images: &RowImages<'_>,
    ) -> Cow<'a, str> {
        let is_shown = self.template.is_some() || self.rules.keep_row;
        if self.rules.image_columns.is_empty() || !is_shown {
            return Cow::Borrowed(text);
        }
        let fields = members.iter().map(|(name, json)| {
            let json = match self.image_column(name) {
                Some(column) => images.column_json(column).into(),
                None => Cow::Borrowed(json),
            };
            format!("{}:{json}", encode_string(name))
        });
        Cow::Owned(format!("{{{}}}", fields.collect::<Vec<_>>().join(",")))
    }

    /// Adds to the reason why a batch row is invalid that the file's other rows make it one.
    fn describe_batch_fault(&self, members: &JsonMembers<'_>, reason: String) -> RowFault {
        if self.batch_file && !is_openai_batch(members) {
            format!("the file is an OpenAI batch file, and this row is not: {reason}").into()
        } else {
            reason.into()
        }
    }

    /// Parses a row of a Parquet table. A column called `temperature` may be data, so parameters come from `params`
    /// only.
    fn parse_table_object<'a>(
        &self,
        members: &JsonMembers<'a>,
        sink: &mut impl FieldSink,
    ) -> Result<ParsedRow<'a>, RowFault> {
        self.note_columns(members.iter(), sink);
        let options = self.parse_params(members, sink)?;
        let input = parse_input(members, self.rules.input_columns(), "the row")?;
        let input = drop_final_answer(input, &options, self.rules)?;
        Ok(ParsedRow { options, ..ParsedRow::from_input(input) })
    }

    /// Parses `params`: a JSON object, or its text in a table.
    fn parse_params<'a>(
        &self,
        members: &JsonMembers<'a>,
        sink: &mut impl FieldSink,
    ) -> Result<RowOptions<'a>, RowFault> {
        match members.value("params") {
            Some(text)
                if self.layout.format == InputFormat::Parquet && json_kind(text) == "a string" =>
            {
                let json = decode_string(text).map_err(|reason| format!("`params`: {reason}"))?;
                let json = Some(json.trim()).filter(|json| !json.is_empty());
                Ok(parse_options(json, sink)?.into_owned())
            }
            params => parse_options(params, sink),
        }
    }

    fn parse_template_object<'a>(
        &self,
        text: &str,
        members: &JsonMembers<'a>,
        images: &RowImages<'_>,
        sink: &mut impl FieldSink,
    ) -> Result<ParsedRow<'a>, RowFault> {
        let is_table = self.layout.format == InputFormat::Parquet;
        if !is_table && members.value("messages").is_some() && !self.is_used("messages") {
            return Err("the row has `messages`, which cannot be combined with a template".into());
        }
        if !is_table && BATCH_FIELDS.iter().all(|name| members.value(name).is_some()) {
            return Err("an OpenAI batch row cannot be combined with a template".into());
        }
        self.note_columns(members.iter(), sink);
        let options = self.parse_params(members, sink)?;
        let item = || match ["prompt", "text"].iter().find_map(|name| members.value(name)) {
            Some(json) if json.starts_with('"') => decode_string(json),
            _ => Ok(compact_json(text)),
        };
        let column = |name: &str| {
            if let Some(column) = self.image_column(name) {
                return Ok(Some(images.column_marks(column).into()));
            }
            match find_in_members(members, name)? {
                Some(json) => display_text(json).map(Some),
                None if name == ITEM_COLUMN => item().map(Some),
                None => {
                    let path = item_path(name).map(|path| find_in_members(members, path));
                    match path.transpose()? {
                        Some(Some(json)) => display_text(json).map(Some),
                        _ => Ok(None),
                    }
                }
            }
        };
        let prompt = self.fill_template(column)?.unwrap_or_default();
        Ok(ParsedRow { options, ..ParsedRow::from_input(RowInput::Text(Cow::Owned(prompt))) })
    }

    fn parse_table_record<'a>(
        &self,
        values: Vec<Cow<'a, str>>,
        sink: &mut impl FieldSink,
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
        self.note_columns(self.columns.iter().map(|name| (name.as_str(), "")), sink);
        let params = position("params").map(|at| values[at].trim()).filter(|json| !json.is_empty());
        let options = parse_options(params, sink).map_err(reject)?.into_owned();
        let field = |name: &str| position(name).map(|at| values[at].clone());
        let images = RowImages::from_fields(&self.rules.image_columns, field)
            .map_err(|reason| reject(reason.into()))?;
        let shown = || self.shown_fields(&values, &images);
        let whole_row = self.rules.keep_row.then(shown);
        let table_row = TableRow { columns: self.columns, values: &values };
        let column = |name: &str| {
            if let Some(column) = self.image_column(name) {
                return Ok(Some(images.column_marks(column).into()));
            }
            match table_row.find_text(name)? {
                // A table without any of these columns shows its whole row as an object, like a JSON row.
                None if name == ITEM_COLUMN => Ok(["prompt", "text"]
                    .iter()
                    .find_map(|name| position(name).map(|at| Cow::Borrowed(values[at].as_ref())))
                    .or_else(|| Some(shown().into()))),
                None => match item_path(name) {
                    Some(path) => table_row.find_text(path),
                    None => Ok(None),
                },
                value => Ok(value),
            }
        };
        let input = match self.fill_template(column).map_err(reject)? {
            Some(prompt) => RowInput::Text(prompt.into()),
            None => {
                table_row.parse_input(self.rules.input_columns()).map_err(|it| reject(it.into()))?
            }
        };
        let input =
            drop_final_answer(input, &options, self.rules).map_err(|it| reject(it.into()))?;
        Ok(ParsedRow { id: name, images, options, whole_row, ..ParsedRow::from_input(input) })
    }

    /// Returns a table's row as an object, with short texts instead of images.
    fn shown_fields(&self, values: &[Cow<'_, str>], images: &RowImages<'_>) -> String {
        if self.rules.image_columns.is_empty() {
            return encode_object(self.columns, values);
        }
        let shown = self.columns.iter().zip(values).map(|(name, value)| {
            let column = self.image_column(name);
            column.map_or(value.clone(), |column| images.column_labels(column).join(", ").into())
        });
        encode_object(self.columns, &shown.collect::<Vec<_>>())
    }

    /// Notes the columns of a row that are data, whatever their names.
    fn note_columns<'m>(
        &self,
        columns: impl Iterator<Item = (&'m str, &'m str)>,
        sink: &mut impl FieldSink,
    ) {
        for (name, json) in columns {
            if !matches!(name, "id" | "params") && !self.is_used(name) {
                sink.note_data(FieldPlace::Column, name, json);
            }
        }
    }

    /// Whether the template, or without one the prompt, is made of this column.
    fn is_used(&self, name: &str) -> bool {
        if self.image_column(name).is_some() {
            return true;
        }
        match self.template {
            Some(template) => {
                template.placeholder_names().iter().any(|used| leads_through(used, name))
            }
            None => self.rules.uses_column(name),
        }
    }

    /// Returns the columns of a row, and the paths into it, for suggestions.
    pub(crate) fn column_paths(&self, record: &InputRecord<'_>) -> ColumnNames {
        let mut names = self.own_column_paths(record);
        let added = || self.partition.iter().map(|column| column.name.clone());
        names.columns.extend(added());
        names.paths.extend(added());
        names
    }

    fn own_column_paths(&self, record: &InputRecord<'_>) -> ColumnNames {
        let is_json = matches!(self.layout.format, InputFormat::Jsonl | InputFormat::Parquet);
        let text = std::str::from_utf8(record.bytes).unwrap_or_default().trim_ascii();
        if !is_json {
            let columns = match self.layout.format {
                InputFormat::Text => vec![ITEM_COLUMN.to_owned()],
                _ => self.columns.to_vec(),
            };
            return ColumnNames { paths: columns.clone(), columns };
        }
        let text = repair_json(text).map_or(Cow::Borrowed(text), |repaired| repaired.text.into());
        match JsonMembers::parse(&text) {
            Ok(members) => {
                ColumnNames { columns: members.member_names(), paths: list_paths(&members) }
            }
            Err(_) => ColumnNames {
                columns: vec![ITEM_COLUMN.to_owned()],
                paths: vec![ITEM_COLUMN.to_owned()],
            },
        }
    }

    /// Fills the template with these columns. Returns `None` without a template.
    fn fill_template<'v>(
        &self,
        mut column: impl FnMut(&str) -> Result<Option<Cow<'v, str>>, String>,
    ) -> Result<Option<String>, RowFault> {
        let column = |name: &str| match column(name)? {
            None => Ok(self.partition_value(name).map(|value| Cow::Owned(value.to_owned()))),
            value => Ok(value),
        };
        let filled = self.template.map(|template| template.render(column)).transpose();
        filled.map_err(|error| match error {
            TemplateFillError::MissingColumns(missing) => RowFault::MissingColumns(missing),
            TemplateFillError::UnusableColumn(reason) => RowFault::Reason(reason),
        })
    }

    fn partition_value(&self, name: &str) -> Option<&str> {
        let column = self.partition.iter().find(|column| column.name == name)?;
        column.value.as_deref()
    }
}

/// Returns the rest of a path that begins with the row itself, as `{{item.title}}` does.
fn item_path(path: &str) -> Option<&str> {
    path.strip_prefix(ITEM_COLUMN)?.strip_prefix('.')
}

/// The names of a row's columns, and the paths into it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ColumnNames {
    pub columns: Vec<String>,
    /// The columns and the paths inside them.
    pub paths: Vec<String>,
}

/// The fields of a table's row, all of them texts.
struct TableRow<'r, 'a> {
    columns: &'r [String],
    values: &'r [Cow<'a, str>],
}

impl<'r, 'a> TableRow<'r, 'a> {
    fn value(&self, name: &str) -> Option<&'r Cow<'a, str>> {
        self.values.get(self.columns.iter().position(|column| column == name)?)
    }

    /// Returns a column's text, or the text at a path into a column of JSON.
    fn find_text(&self, path: &str) -> Result<Option<Cow<'r, str>>, String> {
        if let Some(text) = self.value(path) {
            return Ok(Some(Cow::Borrowed(text.as_ref())));
        }
        for (name, rest) in path_splits(path) {
            let json = self.value(name).map(|text| text.trim()).filter(|json| !json.is_empty());
            if let Some(json) = json
                && let Some(found) = find_in_value(json, rest)?
            {
                return display_text(found).map(Some);
            }
        }
        Ok(None)
    }

    /// Parses the prompt or the conversation. An empty conversation counts as absent, an empty prompt does not.
    fn parse_input(&self, columns: InputColumns<'_>) -> Result<RowInput<'a>, String> {
        let messages = match columns.messages {
            Some(path) => self.find_text(path)?.map(|text| (path, text)),
            None => None,
        };
        let messages = messages.filter(|(_, text)| !text.trim().is_empty());
        let prompt = match columns.prompt {
            Some(path) => match self.value(path) {
                Some(text) => Some(text.clone()),
                None => self.find_text(path)?.map(|text| Cow::Owned(text.into_owned())),
            },
            None => None,
        };
        match (prompt, messages) {
            (Some(prompt), None) => Ok(RowInput::Text(prompt)),
            (prompt, Some((name, text))) if prompt.as_ref().is_none_or(|it| it.is_empty()) => {
                Ok(RowInput::Messages(parse_messages(text.trim(), name)?.into_owned()))
            }
            (Some(_), Some(_)) => Err(format!(
                "the row has both {}, but must have one of them",
                columns.either().replace(" or ", " and ")
            )),
            (None, _) => Err(format!("the row has no {}", columns.either())),
        }
    }
}

impl<'a> From<RowRequest<'a>> for ParsedRow<'a> {
    fn from(RowRequest { input, options, route }: RowRequest<'a>) -> Self {
        ParsedRow { options, route, ..ParsedRow::from_input(input) }
    }
}

impl<'a> ParsedRow<'a> {
    fn from_input(input: RowInput<'a>) -> Self {
        Self {
            id: None,
            input,
            images: RowImages::default(),
            options: RowOptions::default(),
            route: None,
            whole_row: None,
            has_surrogates: false,
            has_not_numbers: false,
        }
    }
}

fn parse_options<'a>(
    params: Option<&'a str>,
    sink: &mut impl FieldSink,
) -> Result<RowOptions<'a>, RowFault> {
    let mut options = RowOptions::default();
    if let Some(params) = params {
        options.put_params(params, sink)?;
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
