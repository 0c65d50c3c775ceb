//! A Parquet file's rows as lines of JSON, as a stream.
//!
//! Owns what becomes of the types of columns. A null is left out, at any depth: a row has no such column then. Memory is a
//! page of every column and a few rows, however large the file is.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_json::LineDelimitedWriter;
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
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

use crate::domain::contain;

/// Rows that are decoded at a time, at most: text that repeats is small in the file and large in memory.
const ROWS: usize = 256;
/// And about so many bytes of the file's.
const BYTES: u64 = 1 << 20;

/// The rows of a file, to be read as bytes: a line a row.
pub struct Rows {
    batches: ParquetRecordBatchReader,
    /// What they are made to be.
    schema: SchemaRef,
    columns: Vec<String>,
    left_out: Vec<String>,
    lines: Vec<u8>,
    read: usize,
}

impl Rows {
    /// Of this file, which may be damaged in any way. Columns of bytes (pictures, vectors) are left out, unless they are `needed`: then they have to be
    /// UTF-8, as old writers store texts.
    ///
    /// # Errors
    /// A file that cannot be read, or is not Parquet.
    pub fn open(path: &Path, needed: impl Fn(&str) -> bool) -> io::Result<Self> {
        contained(|| Self::open_trusting(path, needed))
    }

    fn open_trusting(path: &Path, needed: impl Fn(&str) -> bool) -> io::Result<Self> {
        let file = File::open(path)?;
        let facts = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()).map_err(broken)?;
        let fields = facts.schema().fields();
        let (kept, dropped): (Vec<usize>, Vec<usize>) = (0..fields.len())
            .partition(|&at| needed(fields[at].name()) || !has_bytes(fields[at].data_type()));
        let schema = Schema::new(kept.iter().map(|&at| as_text(&fields[at])).collect::<Fields>());
        let mask = ProjectionMask::roots(facts.parquet_schema(), kept.iter().copied());
        let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(file, facts.clone())
            .with_projection(mask)
            .with_batch_size(rows_at_a_time(facts.metadata()))
            .build()
            .map_err(broken)?;
        let names = |these: Vec<usize>| these.iter().map(|&at| fields[at].name().clone()).collect();
        Ok(Self {
            batches,
            schema: Arc::new(schema),
            columns: names(kept),
            left_out: names(dropped),
            lines: Vec::new(),
            read: 0,
        })
    }

    /// The names of the columns that rows have.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The names of the columns that are bytes and not text.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Takes in the next rows, or tells that there are none.
    fn fill(&mut self) -> io::Result<bool> {
        let Some(batch) = self.batches.next() else { return Ok(false) };
        let batch = self.with_texts(&batch.map_err(broken)?)?;
        self.lines.clear();
        let mut writer = LineDelimitedWriter::new(std::mem::take(&mut self.lines));
        writer.write(&batch).and_then(|()| writer.finish()).map_err(broken)?;
        (self.lines, self.read) = (writer.into_inner(), 0);
        Ok(true)
    }
}

impl Rows {
    /// The same with texts for bytes. The reader could be asked for texts at once, but would not look whether they are
    /// UTF-8.
    fn with_texts(&self, batch: &RecordBatch) -> io::Result<RecordBatch> {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        let cast = |(column, field): (&ArrayRef, &FieldRef)| match field.data_type() {
            same if same == column.data_type() => Ok(column.clone()),
            text => cast_with_options(column, text, &strict).map_err(|error| {
                let what = format!("the column {:?} is bytes and not text: {error}", field.name());
                io::Error::new(io::ErrorKind::InvalidData, what)
            }),
        };
        let columns = batch.columns().iter().zip(self.schema.fields()).map(cast);
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(
            self.schema.clone(),
            columns.collect::<Result<_, _>>()?,
            &rows,
        )
        .map_err(broken)
    }
}

impl Read for Rows {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.read == self.lines.len() {
            if !contained(|| self.fill())? {
                return Ok(0);
            }
        }
        let left = &self.lines[self.read..];
        let now = left.len().min(to.len());
        to[..now].copy_from_slice(&left[..now]);
        self.read += now;
        Ok(now)
    }
}

/// The crates below panic on some damaged files.
fn contained<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    contain(work).unwrap_or_else(|words| Err(io::Error::new(io::ErrorKind::InvalidData, words)))
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn rows_at_a_time(facts: &ParquetMetaData) -> usize {
    let bytes_a_row = |rows: i64, bytes: i64| bytes.unsigned_abs() / rows.unsigned_abs().max(1);
    let groups = facts.row_groups().iter();
    let widest = groups.map(|it| bytes_a_row(it.num_rows(), it.total_byte_size())).max();
    let rows = BYTES / widest.unwrap_or(0).max(1);
    usize::try_from(rows).unwrap_or(ROWS).clamp(1, ROWS)
}

/// Are there bytes in it of which nobody says that they are text? Those of one length (UUIDs, hashes) are short.
fn has_bytes(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => true,
        DataType::Dictionary(_, of) => has_bytes(of),
        _ => inner(kind).iter().any(|field| has_bytes(field.data_type())),
    }
}

/// The same with texts for bytes.
fn as_text(field: &FieldRef) -> FieldRef {
    let one = |field: &FieldRef| as_text(field);
    let kind = match field.data_type() {
        DataType::Binary => DataType::Utf8,
        DataType::LargeBinary => DataType::LargeUtf8,
        DataType::BinaryView => DataType::Utf8View,
        DataType::List(of) => DataType::List(one(of)),
        DataType::LargeList(of) => DataType::LargeList(one(of)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(one).collect()),
        DataType::Dictionary(_, of) if has_bytes(of) => DataType::Utf8,
        _ => return field.clone(),
    };
    Arc::new(Field::clone(field).with_data_type(kind))
}

fn inner(kind: &DataType) -> Vec<&FieldRef> {
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

#[cfg(test)]
mod tests {
    use arrow_array::{
        BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray, TimestampNanosecondArray,
    };
    use parquet::arrow::ArrowWriter;

    use super::*;

    fn file(columns: Vec<(&str, ArrayRef)>) -> tempfile::NamedTempFile {
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

    fn text(rows: io::Result<Rows>) -> Result<String, String> {
        let mut text = String::new();
        rows.and_then(|mut rows| rows.read_to_string(&mut text))
            .map_err(|error| error.to_string())?;
        Ok(text)
    }

    #[test]
    fn values_become_json_and_nulls_are_left_out() {
        let file = file(vec![
            ("prompt", Arc::new(StringArray::from(vec![Some("a\n\"b\""), None]))),
            ("n", Arc::new(Int64Array::from(vec![Some(i64::MAX), Some(-1)]))),
            ("x", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN)]))),
            ("yes", Arc::new(BooleanArray::from(vec![Some(true), None]))),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![Some(1_500_000_000), None]))),
        ]);
        let text = text(Rows::open(file.path(), |_| true)).expect("rows");
        assert_eq!(
            text,
            "{\"prompt\":\"a\\n\\\"b\\\"\",\"n\":9223372036854775807,\"x\":0.1,\"yes\":true,\"at\":\"1970-01-01T00:00:01.500\"}\n\
             {\"n\":-1,\"x\":null}\n"
        );
    }

    #[test]
    fn bytes_are_text_where_they_are_needed_and_left_out_elsewhere() {
        let make = |bytes: &[u8]| {
            let one: ArrayRef = Arc::new(BinaryArray::from(vec![bytes]));
            file(vec![("prompt", one.clone()), ("picture", one)])
        };
        let (good, bad) = (make("é".as_bytes()), make(b"\xff"));
        let rows = Rows::open(good.path(), |name| name == "prompt").expect("rows");
        assert_eq!(
            (rows.columns(), rows.left_out()),
            (&["prompt".to_owned()][..], &["picture".to_owned()][..])
        );
        assert_eq!(text(Ok(rows)).expect("rows"), "{\"prompt\":\"é\"}\n");
        let error = text(Rows::open(bad.path(), |name| name == "prompt")).expect_err("no UTF-8");
        assert!(error.contains("the column \"prompt\" is bytes and not text"), "{error}");
        assert_eq!(text(Rows::open(bad.path(), |_| false)).expect("rows"), "{}\n");
    }

    proptest::proptest! {
        #[test]
        fn a_damaged_file_is_an_error_or_other_rows(at in 0.0..1.0_f64, bits in 1_u8.., more in 0.0..1.0_f64) {
            let words = ["a", "bc", "def"].into_iter().cycle().take(300);
            let file = file(vec![
                ("prompt", Arc::new(words.map(Some).collect::<StringArray>())),
                ("n", Arc::new((0..300_i64).map(|n| (n % 7 > 0).then_some(n)).collect::<Int64Array>())),
            ]);
            let mut bytes = std::fs::read(file.path()).expect("there");
            for place in [at, more] {
                let place = (place * bytes.len() as f64) as usize;
                bytes[place] ^= bits;
            }
            std::fs::write(file.path(), &bytes).expect("written");
            let _ = text(Rows::open(file.path(), |_| true));
        }
    }

    #[test]
    fn many_rows_come_in_their_order_and_a_cut_file_is_an_error() {
        let file = file(vec![("n", Arc::new((0..100_000_i64).collect::<Int64Array>()))]);
        let text = text(Rows::open(file.path(), |_| false)).expect("rows");
        let numbers = text.lines().map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["n"].as_i64()
        });
        assert!(numbers.eq((0..100_000).map(Some)));
        let whole = std::fs::read(file.path()).expect("there");
        for cut in [0, 3, 12, whole.len() / 2, whole.len() - 1] {
            std::fs::write(file.path(), &whole[..cut]).expect("cut");
            assert!(Rows::open(file.path(), |_| false).is_err(), "{cut} bytes");
        }
    }
}
