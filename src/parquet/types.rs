//! The types of columns that do not become JSON by themselves, and what they are made first. Pure.
//!
//! Owns the choice: bytes become text, dates what they say, the keys of maps names, and a zone that is known by its name
//! becomes UTC. Refuses to know values: casting them may still fail.

use std::{str::FromStr as _, sync::Arc};

use arrow_array::timezone::Tz;
use arrow_schema::{DataType, Field, FieldRef};

/// Are there bytes in it of which nobody says that they are text? Those of one length (UUIDs, hashes) are short.
pub(super) fn has_bytes(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, of) => has_bytes(of),
        _ => child_fields(kind).iter().any(|field| has_bytes(field.data_type())),
    }
}

/// The same with UTC for zones that have a name: a table of names and their history is not built in. The instants stay.
pub(super) fn in_utc(field: &FieldRef) -> FieldRef {
    replace_types(field, &|kind| match kind {
        DataType::Timestamp(unit, Some(zone)) if Tz::from_str(zone).is_err() => {
            Some(DataType::Timestamp(*unit, Some("+00:00".into())))
        }
        DataType::Dictionary(_, of) => {
            let plain: FieldRef = Arc::new(Field::new("", of.as_ref().clone(), true));
            let utc = in_utc(&plain);
            (utc != plain).then(|| utc.data_type().clone())
        }
        _ => None,
    })
}

/// The same with texts for bytes, and for whatever is the key of a map.
pub(super) fn bytes_as_text(field: &FieldRef) -> FieldRef {
    replace_types(field, &|kind| match kind {
        DataType::Binary => Some(DataType::Utf8),
        DataType::LargeBinary => Some(DataType::LargeUtf8),
        DataType::BinaryView => Some(DataType::Utf8View),
        DataType::Dictionary(_, of) if has_bytes(of) => Some(DataType::Utf8),
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

/// The same with texts for dates and times: one that no calendar has is an error then, and not a word in the text.
pub(super) fn dates_as_text(field: &FieldRef) -> FieldRef {
    replace_types(field, &|kind| kind.is_temporal().then_some(DataType::Utf8))
}

fn with_type(field: &FieldRef, kind: DataType) -> FieldRef {
    Arc::new(Field::clone(field).with_data_type(kind))
}

/// The field with other types where `by` gives them, at any depth.
fn replace_types(field: &FieldRef, by: &dyn Fn(&DataType) -> Option<DataType>) -> FieldRef {
    let one = |field: &FieldRef| replace_types(field, by);
    let kind = by(field.data_type()).unwrap_or_else(|| match field.data_type() {
        DataType::List(of) => DataType::List(one(of)),
        DataType::LargeList(of) => DataType::LargeList(one(of)),
        DataType::FixedSizeList(of, length) => DataType::FixedSizeList(one(of), *length),
        DataType::Map(of, sorted) => DataType::Map(one(of), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(one).collect()),
        other => other.clone(),
    });
    if kind == *field.data_type() { field.clone() } else { with_type(field, kind) }
}

fn child_fields(kind: &DataType) -> Vec<&FieldRef> {
    match kind {
        DataType::List(of)
        | DataType::LargeList(of)
        | DataType::ListView(of)
        | DataType::LargeListView(of)
        | DataType::FixedSizeList(of, _)
        | DataType::Map(of, _) => vec![of],
        DataType::Struct(fields) => fields.iter().collect(),
        _ => Vec::new(),
    }
}
