//! Image columns of a Parquet file: their bytes become base64, which JSON can hold.
//!
//! Owns the conversion of values. The types that result are in `types.rs`; whether the bytes are an image is checked in
//! `input`.

use std::sync::Arc;

use arrow_array::{
    Array as _, ArrayRef, LargeBinaryArray, LargeListArray, ListArray, StructArray,
    builder::LargeStringBuilder, cast::AsArray as _,
};
use arrow_cast::cast;
use arrow_schema::{ArrowError, DataType};

use super::types::{image_fields, images_as_text, is_binary};
use crate::domain::image::{encode_base64, image_type};

/// Longest binary value that may be a path or a URL: old writers store text as binary.
const MAX_PATH_BYTES: usize = 4096;

/// Converts the values of an image column to the type that [`images_as_text`] says.
pub(super) fn encode_images(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(match column.data_type() {
        kind if is_binary(kind) => Arc::new(wrap_bytes(&binary_values(column)?)?),
        DataType::List(inner) => {
            let list = column.as_list::<i32>();
            let (values, offsets) = (encode_images(list.values())?, list.offsets().clone());
            let nulls = list.nulls().cloned();
            Arc::new(ListArray::try_new(images_as_text(inner), offsets, values, nulls)?)
        }
        DataType::LargeList(inner) => {
            let list = column.as_list::<i64>();
            let (values, offsets) = (encode_images(list.values())?, list.offsets().clone());
            let nulls = list.nulls().cloned();
            Arc::new(LargeListArray::try_new(images_as_text(inner), offsets, values, nulls)?)
        }
        DataType::Struct(fields) => {
            let members = column.as_struct();
            let member = |(field, values): (&Arc<_>, &ArrayRef)| {
                let field: &arrow_schema::FieldRef = field;
                if !is_binary(field.data_type()) {
                    return Ok(values.clone());
                }
                let mut texts = LargeStringBuilder::new();
                for bytes in &binary_values(values)? {
                    texts.append_option(bytes.map(encode_base64));
                }
                Ok(Arc::new(texts.finish()) as ArrayRef)
            };
            let columns = fields.iter().zip(members.columns()).map(member);
            let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
            let field = arrow_schema::Field::new("", column.data_type().clone(), true);
            let DataType::Struct(fields) = images_as_text(&Arc::new(field)).data_type().clone()
            else {
                return Ok(column.clone());
            };
            Arc::new(StructArray::try_new(fields, columns, members.nulls().cloned())?)
        }
        _ => column.clone(),
    })
}

fn binary_values(column: &ArrayRef) -> Result<LargeBinaryArray, ArrowError> {
    Ok(cast(column, &DataType::LargeBinary)?.as_binary::<i64>().clone())
}

/// Returns the structs that stand for binary values: with their base64, or as a path.
fn wrap_bytes(values: &LargeBinaryArray) -> Result<StructArray, ArrowError> {
    let (mut bytes, mut paths) = (LargeStringBuilder::new(), LargeStringBuilder::new());
    for value in values {
        let path = value.filter(|value| image_type(value).is_none()).and_then(path_text);
        bytes.append_option(value.filter(|_| path.is_none()).map(encode_base64));
        paths.append_option(path);
    }
    let columns: Vec<ArrayRef> = vec![Arc::new(bytes.finish()), Arc::new(paths.finish())];
    StructArray::try_new(image_fields(), columns, values.nulls().cloned())
}

fn path_text(bytes: &[u8]) -> Option<&str> {
    let is_short = (1..=MAX_PATH_BYTES).contains(&bytes.len());
    let text = std::str::from_utf8(bytes).ok().filter(|_| is_short)?;
    (!text.contains(char::is_control)).then_some(text)
}
