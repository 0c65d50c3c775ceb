//! Row hashes, by which an answer is matched with its row when the input has changed.
//!
//! Owns what is hashed: a row's bytes as they are in the file without the line end, the format, and the column names of
//! a table, since the same bytes under other names are another prompt. Rows are not parsed, so hashing runs at the
//! speed of reading. Matching answers with rows is in `job/resume/row_matching.rs`.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::domain::RowHash;
use crate::input::{
    InputError, InputSource, PartitionColumn, RowLayout, SourceFile,
    fingerprint::describe_partition,
    records::{InputRecord, RecordReader},
};

const READ_BUFFER_BYTES: usize = 1 << 20;

/// Hashes the rows of one file.
pub(crate) struct RowHasher {
    seed: u64,
}

impl RowHasher {
    pub(crate) fn for_file(file: &SourceFile) -> Self {
        Self::new(file.layout, &file.columns, &file.partition)
    }

    pub(crate) fn new(
        layout: RowLayout,
        columns: &[String],
        partition: &[PartitionColumn],
    ) -> Self {
        // Names are hashed with their lengths, since a name may contain any separator.
        let names = columns.iter().map(|name| format!("{} {name}\n", name.len()));
        let names = names.collect::<String>();
        let kind = format!("{}\n{names}{}", layout.hashed_name(), describe_partition(partition));
        Self { seed: xxh3_64(kind.as_bytes()) }
    }

    pub(crate) fn hash_record(&self, record: &InputRecord<'_>, own_id: bool) -> RowHash {
        RowHash::new(xxh3_64_with_seed(record.bytes, self.seed), own_id)
    }
}

/// Reads the input and calls `each` with the hash of every row, in order ([`RowHash::bytes_hash`]).
///
/// # Errors
/// A file that cannot be read, or that changed since the scan.
pub(crate) fn hash_rows(source: &InputSource, mut each: impl FnMut(u64)) -> Result<(), InputError> {
    for file in &source.files {
        let hasher = RowHasher::for_file(file);
        let changed = || InputError::Changed { path: file.path.clone() };
        let to_error = |source| {
            let path = file.path.clone();
            InputError::Io { action: "cannot read again", path, source }
        };
        let mut records = RecordReader::new(file.open()?, 0, file.layout, READ_BUFFER_BYTES);
        if file.layout.format.is_table() && file.layout.has_header {
            records.next_record().map_err(to_error)?;
        }
        records.expect_fields(file.columns.len());
        let mut rows = 0;
        while let Some(record) = records.next_record().map_err(to_error)? {
            rows += 1;
            each(hasher.hash_record(&record, false).bytes_hash());
        }
        if rows != file.rows {
            return Err(changed());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{InputFile, InputRules, PromptReader, RowLease, scan_files};

    fn scan_folder(
        files: &[(&str, &str)],
    ) -> (tempfile::TempDir, InputSource, Vec<RowHash>, Vec<u64>) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |(name, text): &(&str, &str)| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            InputFile::new(path.clone(), crate::input::tests::layout_of(&path))
        };
        let files: Vec<_> = files.iter().map(file).collect();
        let scanned = scan_files(&files, &InputRules::default()).expect("good rows");
        let source = scanned.source;
        let lease = RowLease { ranges: scanned.table.row_ranges(0, source.rows), text: None };
        let read = |lease: RowLease| -> Vec<RowHash> {
            let reader = PromptReader::new(&source, &InputRules::default(), std::iter::once(lease));
            reader.map(|prompt| prompt.expect("a prompt").row_hash).collect()
        };
        let of_prompts = read(lease.clone());
        let travelled = read(lease.with_text(&source).expect("text"));
        assert_eq!(of_prompts, travelled, "a rank that does not see the input hashes likewise");
        let mut of_rows = Vec::new();
        hash_rows(&source, |hash| of_rows.push(hash)).expect("hashed");
        (folder, source, of_prompts, of_rows)
    }

    #[test]
    fn prompts_and_rows_have_equal_hashes_with_any_line_ends_and_blank_lines() {
        let table = "\u{feff}id,prompt\r\na,\"x\ny\"\r\n,z\r\n";
        let lines =
            "{\"id\":77,\"prompt\":\"a\"}\n\n{\"prompt\":\"a\"}\r\n\"a\"\n{\"prompt\":\"a\"}";
        let (_folder, _, prompts, rows) =
            scan_folder(&[("1.csv", table), ("2.jsonl", lines), ("3.txt", "a\nb\n")]);
        assert_eq!(prompts.iter().map(|hash| hash.bytes_hash()).collect::<Vec<_>>(), rows);
        let own_ids: Vec<bool> = prompts.iter().map(|hash| hash.has_own_id()).collect();
        assert_eq!(own_ids, [true, false, true, false, false, false, false, false]);
        assert_eq!(rows[3], rows[5]);
        let different: std::collections::BTreeSet<_> = rows.iter().collect();
        assert_eq!(different.len(), 7, "{rows:x?}");
    }

    #[test]
    fn a_row_has_another_hash_under_another_header_or_in_another_format() {
        let of = |name: &str, text: &str| scan_folder(&[(name, text)]).3;
        let plain = of("a.csv", "prompt,n\nx,1\n");
        assert_eq!(plain, of("b.csv", "prompt,n\r\nx,1"));
        assert_ne!(plain, of("a.csv", "n,prompt\nx,1\n"));
        assert_ne!(plain, of("a.txt", "x,1\n"));
        assert_ne!(of("a.jsonl", "\"x\"\n"), of("a.txt", "\"x\"\n"));
    }

    #[test]
    fn an_input_that_changed_since_the_scan_is_an_error() {
        let (folder, source, ..) = scan_folder(&[("a.txt", "x\ny\n")]);
        std::fs::write(folder.path().join("a.txt"), "x\ny\nz\n").expect("written");
        assert!(matches!(hash_rows(&source, |_| ()), Err(InputError::Changed { .. })));
    }
}
