//! The Parquet reader: a stream of a file's rows as lines of JSON.
//!
//! Owns the conversion of column types. Nulls are left out, at any depth, so a row lacks such columns. Memory is one
//! page per column and a few rows, whatever the file's size.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use arrow_array::{
    Array as _, ArrayRef, RecordBatch, RecordBatchOptions, StringArray, cast::AsArray as _,
};
use arrow_cast::{CastOptions, can_cast_types, cast_with_options};
use arrow_json::LineDelimitedWriter;
use arrow_schema::{DataType, FieldRef, Fields, Schema, SchemaRef};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder,
        },
    },
    file::metadata::ParquetMetaData,
};

use super::{
    images::encode_images,
    types::{bytes_as_text, dates_as_text, has_bytes, images_as_text, in_utc},
};
use crate::domain::catch_panic;

/// Maximum number of rows decoded at a time: repeated text is small in the file and large in memory.
const MAX_BATCH_ROWS: usize = 256;
/// Bytes of the file decoded at a time, approximately.
const BATCH_BYTES: u64 = 1 << 20;

/// The rows of a file as a byte stream, one line of JSON per row.
pub struct ParquetReader {
    batches: ParquetRecordBatchReader,
    /// Schemas to which each batch is cast, one after the other.
    schemas: [SchemaRef; 3],
    /// Columns whose binary values are images.
    images: Vec<String>,
    columns: Vec<String>,
    omitted: Vec<String>,
    lines: Vec<u8>,
    position: usize,
}

impl ParquetReader {
    /// Opens a file, which may be damaged in any way. Binary columns (images, vectors) and columns without a JSON form
    /// are omitted unless `needed`; needed binary columns must be UTF-8, since old writers store text that way. In the
    /// columns `images` binary values become base64.
    ///
    /// # Errors
    /// A file that cannot be read, or is not a Parquet file.
    pub fn open(path: &Path, needed: impl Fn(&str) -> bool, images: &[String]) -> io::Result<Self> {
        catch_panics(|| Self::open_uncaught(path, needed, images))
    }

    fn open_uncaught(
        path: &Path,
        needed: impl Fn(&str) -> bool,
        images: &[String],
    ) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata =
            ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(invalid_data)?;
        let fields = metadata.schema().fields();
        let (kept, dropped): (Vec<usize>, Vec<usize>) = (0..fields.len()).partition(|&at| {
            let field = &fields[at];
            needed(field.name()) || images.contains(field.name()) || has_json_form(field)
        });
        let (mut utc, mut text, mut dates) = (Vec::new(), Vec::new(), Vec::new());
        for field in kept.iter().map(|&at| &fields[at]) {
            let encoded = match images.contains(field.name()) {
                true => images_as_text(field),
                false => field.clone(),
            };
            let field = &encoded;
            utc.push(in_utc(field));
            text.push(bytes_as_text(&in_utc(field)));
            dates.push(dates_as_text(&bytes_as_text(&in_utc(field))));
        }
        let schemas = [utc, text, dates].map(|fields| Arc::new(Schema::new(Fields::from(fields))));
        // Omitted columns are not decoded: images would take most of the time and memory.
        let mask = ProjectionMask::roots(metadata.parquet_schema(), kept.iter().copied());
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
            .with_projection(mask)
            .with_batch_size(batch_rows(metadata.metadata()))
            .build()
            .map_err(invalid_data)?;
        let names = |these: Vec<usize>| these.iter().map(|&at| fields[at].name().clone()).collect();
        Ok(Self {
            batches,
            schemas,
            images: images.to_vec(),
            columns: names(kept),
            omitted: names(dropped),
            lines: Vec::new(),
            position: 0,
        })
    }

    /// Returns the names of the columns in the rows.
    #[must_use]
    pub fn column_names(&self) -> &[String] {
        &self.columns
    }

    /// Returns the names of the omitted columns, which are binary or have no JSON form.
    #[must_use]
    pub fn omitted_columns(&self) -> &[String] {
        &self.omitted
    }

    fn encode_image_columns(&self, batch: RecordBatch) -> io::Result<RecordBatch> {
        if self.images.is_empty() {
            return Ok(batch);
        }
        let schema = batch.schema();
        let is_image = |field: &FieldRef| self.images.contains(field.name());
        let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| {
            if is_image(field) { encode_images(column) } else { Ok(column.clone()) }
        });
        let columns = columns.collect::<Result<Vec<_>, _>>().map_err(invalid_data)?;
        let field =
            |field: &FieldRef| if is_image(field) { images_as_text(field) } else { field.clone() };
        let fields: Fields = schema.fields().iter().map(field).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(invalid_data)
    }

    /// Decodes the next batch. Returns false at the end of the file.
    fn decode_batch(&mut self) -> io::Result<bool> {
        let Some(batch) = self.batches.next() else { return Ok(false) };
        let mut batch = self.encode_image_columns(batch.map_err(invalid_data)?)?;
        for schema in &self.schemas {
            batch = cast_batch(&batch, schema)?;
        }
        self.lines.clear();
        let mut writer = LineDelimitedWriter::new(std::mem::take(&mut self.lines));
        writer.write(&batch).and_then(|()| writer.finish()).map_err(invalid_data)?;
        (self.lines, self.position) = (writer.into_inner(), 0);
        Ok(true)
    }
}

impl Read for ParquetReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.position == self.lines.len() {
            if !catch_panics(|| self.decode_batch())? {
                return Ok(0);
            }
        }
        let left = &self.lines[self.position..];
        let now = left.len().min(to.len());
        to[..now].copy_from_slice(&left[..now]);
        self.position += now;
        Ok(now)
    }
}

/// Converts a panic of the Parquet crates, which some damaged files cause, to an error.
fn catch_panics<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_panic(work)
        .unwrap_or_else(|message| Err(io::Error::new(io::ErrorKind::InvalidData, message)))
}

fn invalid_data(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Casts the columns to the schema's types. The reader could return strings directly, but would not check that they are
/// UTF-8.
fn cast_batch(batch: &RecordBatch, schema: &SchemaRef) -> io::Result<RecordBatch> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let cast = |(column, field): (&ArrayRef, &FieldRef)| {
        match field.data_type() {
        same if same == column.data_type() => Ok(column.clone()),
        other => cast_with_options(column, other, &strict).or_else(|error| {
            if column.data_type().is_temporal() && *other == DataType::Utf8 {
                return Ok(cast_dates_or_null(column, &strict));
            }
            let (name, is_binary) = (field.name(), has_bytes(column.data_type()));
            let message = if is_binary {
                format!("column `{name}` is binary and not UTF-8: {error}\nhint: images are sent with --image-column {name}")
            } else {
                format!("column `{name}` has no JSON form: {error}")
            };
            // Not `InvalidData`, which stands for a damaged file.
            Err(io::Error::new(io::ErrorKind::Unsupported, message))
        }),
    }
    };
    let columns = batch.columns().iter().zip(schema.fields()).map(cast);
    let columns = columns.collect::<Result<_, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &rows).map_err(invalid_data)
}

/// Casts dates to text, and dates outside the calendar to null: databases write "infinity" as such.
fn cast_dates_or_null(column: &ArrayRef, strict: &CastOptions<'_>) -> ArrayRef {
    let text = |at| {
        let one = cast_with_options(&column.slice(at, 1), &DataType::Utf8, strict).ok()?;
        one.is_valid(0).then(|| one.as_string::<i32>().value(0).to_owned())
    };
    Arc::new((0..column.len()).map(text).collect::<StringArray>())
}

/// Whether a column has a JSON form, without looking at binary values.
fn has_json_form(field: &FieldRef) -> bool {
    let utc = in_utc(field);
    !has_bytes(field.data_type())
        && can_cast_types(field.data_type(), utc.data_type())
        && can_cast_types(utc.data_type(), bytes_as_text(&utc).data_type())
}

fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let bytes_per_row = |rows: i64, bytes: i64| bytes.unsigned_abs() / rows.unsigned_abs().max(1);
    let groups = metadata.row_groups().iter();
    let widest = groups.map(|group| bytes_per_row(group.num_rows(), group.total_byte_size())).max();
    let rows = BATCH_BYTES / widest.unwrap_or(0).max(1);
    usize::try_from(rows).unwrap_or(MAX_BATCH_ROWS).clamp(1, MAX_BATCH_ROWS)
}

#[cfg(test)]
mod tests {
    use arrow_array::{
        BinaryArray, BooleanArray, Date32Array, Float64Array, Int64Array, MapArray, StringArray,
        TimestampMicrosecondArray, TimestampNanosecondArray,
        builder::{
            Int32Builder, Int64Builder, ListBuilder, MapBuilder, StringBuilder, StructBuilder,
        },
    };
    use arrow_schema::Field;
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn parquet_file(columns: Vec<(&str, ArrayRef)>) -> tempfile::NamedTempFile {
        let batch = RecordBatch::try_from_iter_with_nullable(
            columns.into_iter().map(|(name, column)| (name, column, true)),
        )
        .expect("columns of one length");
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut writer =
            ArrowWriter::try_new(file.reopen().expect("open"), batch.schema(), None).expect("made");
        writer.write(&batch).expect("written");
        writer.close().expect("closed");
        file
    }

    fn read_text(rows: io::Result<ParquetReader>) -> Result<String, String> {
        let mut text = String::new();
        rows.and_then(|mut rows| rows.read_to_string(&mut text))
            .map_err(|error| error.to_string())?;
        Ok(text)
    }

    #[test]
    fn values_become_json_and_nulls_are_left_out() {
        let file = parquet_file(vec![
            ("prompt", Arc::new(StringArray::from(vec![Some("a\n\"b\""), None]))),
            ("n", Arc::new(Int64Array::from(vec![Some(i64::MAX), Some(-1)]))),
            ("x", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN)]))),
            ("yes", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![Some(1_500_000_000), None]))),
        ]);
        let text = read_text(ParquetReader::open(file.path(), |_| true, &[])).expect("rows");
        assert_eq!(
            text,
            "{\"prompt\":\"a\\n\\\"b\\\"\",\"n\":9223372036854775807,\"x\":0.1,\"yes\":true,\"at\":\"1970-01-01T00:00:01.500\"}\n\
             {\"n\":-1,\"x\":null}\n"
        );
    }

    #[test]
    fn binary_columns_are_text_if_needed_and_omitted_otherwise() {
        let make = |bytes: &[u8]| {
            let one: ArrayRef = Arc::new(BinaryArray::from(vec![bytes]));
            parquet_file(vec![("prompt", one.clone()), ("picture", one)])
        };
        let (good, bad) = (make("é".as_bytes()), make(b"\xff"));
        let rows = ParquetReader::open(good.path(), |name| name == "prompt", &[]).expect("rows");
        assert_eq!(
            (rows.column_names(), rows.omitted_columns()),
            (&["prompt".to_owned()][..], &["picture".to_owned()][..])
        );
        assert_eq!(read_text(Ok(rows)).expect("rows"), "{\"prompt\":\"é\"}\n");
        let error = read_text(ParquetReader::open(bad.path(), |name| name == "prompt", &[]))
            .expect_err("no UTF-8");
        assert!(error.contains("column `prompt` is binary and not UTF-8"), "{error}");
        assert_eq!(
            read_text(ParquetReader::open(bad.path(), |_| false, &[])).expect("rows"),
            "{}\n"
        );
    }

    #[test]
    fn images_become_base64_at_any_place_and_texts_in_binary_become_paths() {
        let gif = b"GIF89a\x01\0\x01\0\0\0\0;";
        let bytes: ArrayRef =
            Arc::new(BinaryArray::from(vec![Some(&gif[..]), Some(b"a/b.png"), None, Some(b"")]));
        let paths: ArrayRef = Arc::new(StringArray::from(vec![Some("x.gif"), None, None, None]));
        let fields = ["bytes", "path"].map(String::from);
        let types = [DataType::Binary, DataType::Utf8];
        let fields: Fields = fields
            .into_iter()
            .zip(types)
            .map(|(name, kind)| Field::new(name, kind, true))
            .collect();
        let structs = arrow_array::StructArray::new(fields, vec![bytes.clone(), paths], None);
        let mut lists = ListBuilder::new(arrow_array::builder::BinaryBuilder::new());
        for _ in 0..4 {
            lists.values().append_value(gif);
            lists.append(true);
        }
        let file = parquet_file(vec![
            ("one", bytes),
            ("hf", Arc::new(structs)),
            ("all", Arc::new(lists.finish())),
        ]);
        let columns = ["one", "hf", "all"].map(String::from);
        let text = read_text(ParquetReader::open(file.path(), |_| false, &columns)).expect("rows");
        let all = r#""all":[{"bytes":"R0lGODlhAQABAAAAADs="}]}"#;
        let rows = [
            r#"{"one":{"bytes":"R0lGODlhAQABAAAAADs="},"hf":{"bytes":"R0lGODlhAQABAAAAADs=","path":"x.gif"},"#,
            r#"{"one":{"path":"a/b.png"},"hf":{"bytes":"YS9iLnBuZw=="},"#,
            r#"{"hf":{},"#,
            r#"{"one":{"bytes":""},"hf":{"bytes":""},"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), rows.map(|row| format!("{row}{all}")));
        let rows = ParquetReader::open(file.path(), |_| false, &columns[..1]).expect("rows");
        assert_eq!(rows.omitted_columns(), ["hf", "all"]);
    }

    /// Spark, Polars and DuckDB write times in UTC, pandas with named zones.
    #[test]
    fn times_in_named_zones_become_utc_at_any_depth() {
        let times =
            |zone: &str| TimestampMicrosecondArray::from(vec![1_500_000]).with_timezone(zone);
        let mut list = ListBuilder::new(times("Europe/Berlin").into_builder().expect("alone"));
        list.append(true);
        let file = parquet_file(vec![
            ("utc", Arc::new(times("UTC"))),
            ("offset", Arc::new(times("+05:30"))),
            ("berlin", Arc::new(list.finish())),
        ]);
        let text = read_text(ParquetReader::open(file.path(), |_| false, &[])).expect("rows");
        assert_eq!(
            text,
            "{\"utc\":\"1970-01-01T00:00:01.500Z\",\"offset\":\"1970-01-01T05:30:01.500+05:30\",\
             \"berlin\":[\"1970-01-01T00:00:01.500Z\"]}\n"
        );
    }

    #[test]
    fn a_date_outside_the_calendar_becomes_null() {
        let file = parquet_file(vec![
            ("day", Arc::new(Date32Array::from(vec![i32::MAX, 1]))),
            (
                "at",
                Arc::new(TimestampMicrosecondArray::from(vec![2, i64::MAX]).with_timezone("UTC")),
            ),
        ]);
        let text = read_text(ParquetReader::open(file.path(), |_| true, &[])).expect("rows");
        assert_eq!(text, "{\"at\":\"1970-01-01T00:00:00.000002Z\"}\n{\"day\":\"1970-01-02\"}\n");
    }

    #[test]
    fn map_keys_become_text_and_columns_without_a_json_form_are_omitted() {
        let mut numbers = MapBuilder::new(None, Int64Builder::new(), StringBuilder::new());
        numbers.keys().append_value(-7);
        numbers.values().append_value("a");
        numbers.append(true).expect("a pair");
        let key = Field::new("a", DataType::Int32, false);
        let key = StructBuilder::new(vec![key], vec![Box::new(Int32Builder::new())]);
        let mut structs = MapBuilder::new(None, key, Int32Builder::new());
        structs.append(true).expect("no pair");
        let (numbers, structs): (MapArray, MapArray) = (numbers.finish(), structs.finish());
        let file =
            parquet_file(vec![("numbers", Arc::new(numbers)), ("structs", Arc::new(structs))]);
        let rows = ParquetReader::open(file.path(), |_| false, &[]).expect("rows");
        assert_eq!(rows.omitted_columns(), ["structs"]);
        assert_eq!(read_text(Ok(rows)).expect("rows"), "{\"numbers\":{\"-7\":\"a\"}}\n");
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_file_is_an_error_or_gives_other_rows(at in 0.0..1.0_f64, bits in 1_u8.., more in 0.0..1.0_f64) {
            let words = ["a", "bc", "def"].into_iter().cycle().take(300);
            let file = parquet_file(vec![
                ("prompt", Arc::new(words.map(Some).collect::<StringArray>())),
                ("n", Arc::new((0..300_i64).map(|n| (n % 7 > 0).then_some(n)).collect::<Int64Array>())),
            ]);
            let mut bytes = std::fs::read(file.path()).expect("there");
            for place in [at, more] {
                let place = (place * bytes.len() as f64) as usize;
                bytes[place] ^= bits;
            }
            std::fs::write(file.path(), &bytes).expect("written");
            let _ = read_text(ParquetReader::open(file.path(), |_| true, &[]));
        }
    }

    #[test]
    fn rows_keep_their_order_and_a_truncated_file_is_an_error() {
        let file = parquet_file(vec![("n", Arc::new((0..100_000_i64).collect::<Int64Array>()))]);
        let text = read_text(ParquetReader::open(file.path(), |_| false, &[])).expect("rows");
        let numbers = text.lines().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["n"].as_i64()
        });
        assert!(numbers.eq((0..100_000).map(Some)));
        let whole = std::fs::read(file.path()).expect("there");
        for cut in [0, 3, 12, whole.len() / 2, whole.len() - 1] {
            std::fs::write(file.path(), &whole[..cut]).expect("cut");
            assert!(ParquetReader::open(file.path(), |_| false, &[]).is_err(), "{cut} bytes");
        }
    }
}
