//! Conversions of column types that have no JSON form of their own (pure).
//!
//! Owns the choice: binary becomes text, dates become text, map keys become names, and a named time zone becomes UTC.
//! The values are cast in `parquet/reader.rs`, which may still fail.

use std::{str::FromStr as _, sync::Arc};

use arrow_array::timezone::Tz;
use arrow_schema::{DataType, Field, FieldRef, Fields};

/// Whether a type contains variable-length binary. Fixed-size binary (UUIDs, hashes) is short and does not count.
pub(super) fn has_bytes(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, inner) => has_bytes(inner),
        _ => child_fields(kind).iter().any(|field| has_bytes(field.data_type())),
    }
}

/// Replaces named time zones by UTC, because no time zone database is built in. The instants stay the same.
pub(super) fn in_utc(field: &FieldRef) -> FieldRef {
    replace_types(field, &|kind| match kind {
        DataType::Timestamp(unit, Some(zone)) if Tz::from_str(zone).is_err() => {
            Some(DataType::Timestamp(*unit, Some("+00:00".into())))
        }
        DataType::Dictionary(_, inner) => {
            let plain: FieldRef = Arc::new(Field::new("", inner.as_ref().clone(), true));
            let utc = in_utc(&plain);
            (utc != plain).then(|| utc.data_type().clone())
        }
        _ => None,
    })
}

/// Replaces binary, and any type of map keys, by text.
pub(super) fn bytes_as_text(field: &FieldRef) -> FieldRef {
    replace_types(field, &|kind| match kind {
        DataType::Binary => Some(DataType::Utf8),
        DataType::LargeBinary => Some(DataType::LargeUtf8),
        DataType::BinaryView => Some(DataType::Utf8View),
        DataType::Dictionary(_, inner) if has_bytes(inner) => Some(DataType::Utf8),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(pair) = entries.data_type() else { return None };
            let [key, value] = pair.as_ref() else { return None };
            let key = match key.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => key.clone(),
                _ => with_type(key, DataType::Utf8),
            };
            let pair = DataType::Struct([key, bytes_as_text(value)].into_iter().collect());
            Some(DataType::Map(with_type(entries, pair), *sorted))
        }
        _ => None,
    })
}

/// Replaces dates and times by text. A date outside the calendar is an error then, instead of an error text in the
/// data.
pub(super) fn dates_as_text(field: &FieldRef) -> FieldRef {
    replace_types(field, &|kind| kind.is_temporal().then_some(DataType::Utf8))
}

/// Replaces the binary values of an image column by what rows hold of them: a struct with the bytes as base64, or with
/// the path if the bytes are a text. In a struct only the bytes themselves are replaced.
pub(super) fn images_as_text(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        kind if is_binary(kind) => DataType::Struct(image_fields()),
        DataType::List(inner) => DataType::List(images_as_text(inner)),
        DataType::LargeList(inner) => DataType::LargeList(images_as_text(inner)),
        DataType::Struct(fields) => {
            let member = |field: &FieldRef| match is_binary(field.data_type()) {
                true => with_type(field, DataType::LargeUtf8),
                false => field.clone(),
            };
            DataType::Struct(fields.iter().map(member).collect())
        }
        _ => return field.clone(),
    };
    with_type(field, kind)
}

/// Returns the members of the struct that stands for an image in a row.
pub(super) fn image_fields() -> Fields {
    let member = |name| Field::new(name, DataType::LargeUtf8, true);
    Fields::from(vec![member("bytes"), member("path")])
}

pub(super) fn is_binary(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, inner) => is_binary(inner),
        _ => false,
    }
}

fn with_type(field: &FieldRef, kind: DataType) -> FieldRef {
    Arc::new(Field::clone(field).with_data_type(kind))
}

/// Replaces types for which `by` returns another, at any depth.
fn replace_types(field: &FieldRef, by: &dyn Fn(&DataType) -> Option<DataType>) -> FieldRef {
    let one = |field: &FieldRef| replace_types(field, by);
    let kind = by(field.data_type()).unwrap_or_else(|| match field.data_type() {
        DataType::List(inner) => DataType::List(one(inner)),
        DataType::LargeList(inner) => DataType::LargeList(one(inner)),
        DataType::FixedSizeList(inner, length) => DataType::FixedSizeList(one(inner), *length),
        DataType::Map(inner, sorted) => DataType::Map(one(inner), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(one).collect()),
        other => other.clone(),
    });
    if kind == *field.data_type() { field.clone() } else { with_type(field, kind) }
}

fn child_fields(kind: &DataType) -> Vec<&FieldRef> {
    match kind {
        DataType::List(inner)
        | DataType::LargeList(inner)
        | DataType::ListView(inner)
        | DataType::LargeListView(inner)
        | DataType::FixedSizeList(inner, _)
        | DataType::Map(inner, _) => vec![inner],
        DataType::Struct(fields) => fields.iter().collect(),
        _ => Vec::new(),
    }
}
