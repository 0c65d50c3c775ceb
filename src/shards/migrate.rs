//! Migration of answers to a changed input: the same lines under new indices, in a shard file of their own.
//!
//! Owns which lines can be migrated and how a migrated line looks. Which row an answer belongs to now is decided in
//! `job/resume/row_matching.rs`.

use std::{
    error::Error,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{LineGrade, ShardError, ShardFile, ShardHeader, reader::read_entry_lines};
use crate::{
    domain::{
        BitSet, PromptId, RowHash,
        raw_json::{JsonMembers, encode_string},
    },
    new_file::create_new_file,
};

#[derive(Deserialize)]
struct HashedLine {
    served: HashedServed,
}

#[derive(Deserialize)]
struct HashedServed {
    #[serde(default)]
    row: RowHash,
}

/// Reads the answers of files given in order of session and rank, and calls `each` for the answer that counts of each
/// prompt: with its index, its row's hash (unknown if an earlier version of the program wrote the line), and the line.
///
/// # Errors
/// Fails if a file cannot be read or `each` fails.
pub(crate) fn read_answers<'f>(
    files: impl IntoIterator<Item = &'f ShardFile>,
    fingerprint: &str,
    rows: u64,
    mut each: impl FnMut(u64, RowHash, &[u8]) -> Result<(), ShardError>,
) -> Result<(), ShardError> {
    let files: Vec<_> = files.into_iter().collect();
    let mut best_grades = vec![LineGrade::FAILED; usize::try_from(rows).unwrap_or_default()];
    for file in &files {
        read_entry_lines(file, fingerprint, |entry, _| {
            if let Some(best) = best_grades.get_mut(entry.index as usize) {
                *best = entry.grade.min(*best);
            }
            Ok(())
        })?;
    }
    let mut seen = BitSet::new(rows);
    let mut read_file = |file: &ShardFile, latest: bool| {
        read_entry_lines(file, fingerprint, |entry, line| {
            let is_best = best_grades.get(entry.index as usize) == Some(&entry.grade);
            let is_wanted = entry.grade.is_answered() && entry.grade.prefers_latest() == latest;
            if !is_best || !is_wanted || !seen.insert(entry.index) {
                return Ok(());
            }
            let hashed = serde_json::from_slice::<HashedLine>(line);
            each(entry.index, hashed.map_or(RowHash::UNKNOWN, |line| line.served.row), line)
        })
    };
    // Of equal answers the first counts in the order of the files, or, if they are cut, in the reverse order.
    for file in &files {
        read_file(file, false)?;
    }
    if best_grades.iter().any(|grade| grade.prefers_latest()) {
        for file in files.iter().rev() {
            read_file(file, true)?;
        }
    }
    Ok(())
}

/// Returns the fingerprint of the input that a shard file answers; `None` if the file has no complete header.
///
/// # Errors
/// Fails if the file cannot be read.
pub(crate) fn read_fingerprint(file: &ShardFile) -> Result<Option<String>, ShardError> {
    let error = || ShardError::at_path("cannot read the shard file", &file.path);
    let mut line = Vec::new();
    let opened = File::open(&file.path).map_err(error())?;
    BufReader::new(opened).read_until(b'\n', &mut line).map_err(error())?;
    Ok(serde_json::from_slice::<ShardHeader>(&line).ok().map(|header| header.fingerprint))
}

/// Writer of a migrated shard file. The file is written completely before the caller moves it into place.
#[derive(Debug)]
pub(crate) struct MigratedFile {
    file: BufWriter<File>,
    path: PathBuf,
    buffer: Vec<u8>,
}

impl MigratedFile {
    /// Creates the file with its header. An existing file of this name is the rest of an interrupted migration and is
    /// replaced.
    ///
    /// # Errors
    /// Fails if the file cannot be created or written.
    pub(crate) fn create(path: &Path, header: &ShardHeader) -> Result<Self, ShardError> {
        let error = || ShardError::at_path("cannot write kept answers to", path);
        let file = BufWriter::with_capacity(1 << 20, create_new_file(path).map_err(error())?);
        let mut migrated = Self { file, path: path.to_owned(), buffer: Vec::new() };
        serde_json::to_writer(&mut migrated.buffer, header)
            .map_err(|json_error| error()(json_error.into()))?;
        migrated.buffer.push(b'\n');
        migrated.file.write_all(&migrated.buffer).map_err(error())?;
        Ok(migrated)
    }

    /// Appends an answer's line under its new index. With `own_id` the id stays, since the row itself names it.
    ///
    /// # Errors
    /// Fails if the line is not an answer or cannot be written.
    pub(crate) fn append_line(
        &mut self,
        line: &[u8],
        index: u64,
        keep_id: bool,
    ) -> Result<(), ShardError> {
        self.buffer.clear();
        rewrite_line(line, index, keep_id, &mut self.buffer)
            .and_then(|()| self.file.write_all(&self.buffer))
            .map_err(ShardError::at_path("cannot write kept answers to", &self.path))
    }

    /// Flushes the file and syncs it to disk.
    ///
    /// # Errors
    /// Fails if the data cannot be written or synced.
    pub(crate) fn sync_and_close(mut self) -> Result<(), ShardError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(ShardError::at_path("cannot write kept answers to", &self.path))
    }
}

/// Copies a line with another index and, unless the row has an id of its own, with the id of that index. All other
/// fields stay as they are, byte for byte and in their order.
fn rewrite_line(line: &[u8], index: u64, keep_id: bool, into: &mut Vec<u8>) -> io::Result<()> {
    let line = std::str::from_utf8(line).map_err(invalid_data)?;
    let members = JsonMembers::parse(line).map_err(invalid_data)?;
    let id = PromptId::from_index(index);
    for (at, (name, value)) in members.iter().enumerate() {
        into.push(if at == 0 { b'{' } else { b',' });
        into.extend(encode_string(name).bytes());
        into.push(b':');
        match name {
            "index" => into.extend(index.to_string().bytes()),
            "id" if !keep_id => into.extend(id.as_json().bytes()),
            _ => into.extend(value.bytes()),
        }
    }
    into.extend(b"}\n");
    Ok(())
}

fn invalid_data(reason: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{FailureKind, Outcome},
        shards::{
            ShardWriter,
            answer_line::tests::{line_style, prompt_result},
            list_shard_files,
        },
    };

    fn rewritten_text(line: &[u8], index: u64, keep_id: bool) -> String {
        let mut into = Vec::new();
        rewrite_line(line, index, keep_id, &mut into).expect("JSON");
        String::from_utf8(into).expect("UTF-8")
    }

    #[test]
    fn only_the_index_and_an_id_that_is_the_index_change() {
        let line = r#"{"id":"3","index":3,"prompt":"say \"index\":3\u00e9","params":{"id":"3", "x":1.50},"new \"\n":[1, 2],"served":{"row":"0a"}}"#;
        let expected = line.replacen(r#""id":"3","index":3"#, r#""id":"17","index":17"#, 1) + "\n";
        assert_eq!(rewritten_text(format!("{line}\n").as_bytes(), 17, false), expected);
        let expected = line.replacen(r#""index":3"#, r#""index":17"#, 1) + "\n";
        assert_eq!(rewritten_text(line.as_bytes(), 17, true), expected);
        assert!(rewrite_line(b"[1]", 1, true, &mut Vec::new()).is_err());
    }

    #[test]
    fn the_latest_of_cut_answers_and_any_whole_one_is_migrated() {
        let folder = tempfile::tempdir().expect("a folder");
        for (start, outcomes) in [
            (1, [(0, "length"), (1, "length")]),
            (2, [(0, "length"), (1, "stop")]),
            (3, [(0, "length"), (1, "length")]),
        ] {
            let header = ShardHeader::new(start, 0, "n1", "f");
            let mut writer =
                ShardWriter::create(folder.path(), &header, line_style()).expect("a file");
            let cut = outcomes.map(|(index, end)| {
                let mut result = prompt_result(index, Ok("text"));
                let Outcome::Answered(answer) = &mut result.outcome else { unreachable!() };
                answer.choices[0].text = format!("session {start}");
                answer.choices[0].finish_reason = Some(end.into());
                result
            });
            writer.append_results(&cut).expect("written");
        }
        let files = list_shard_files(folder.path()).expect("listed");
        let mut seen = Vec::new();
        read_answers(&files, "f", 2, |index, _, line| {
            let value: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            seen.push((index, value["response"].as_str().expect("text").to_owned()));
            Ok(())
        })
        .expect("read");
        seen.sort();
        assert_eq!(seen, [(0, "session 3".to_owned()), (1, "session 2".to_owned())]);
    }

    #[test]
    fn the_answer_that_counts_of_each_prompt_is_migrated_to_another_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |start: u32, outcomes: &[(u64, Result<&str, FailureKind>)]| {
            let header = ShardHeader::new(start, 0, "n1", "old");
            let mut writer =
                ShardWriter::create(folder.path(), &header, line_style()).expect("a file");
            let outcomes: Vec<_> =
                outcomes.iter().map(|&(index, outcome)| prompt_result(index, outcome)).collect();
            writer.append_results(&outcomes).expect("written");
        };
        write(1, &[(4, Err(FailureKind::Exhausted)), (2, Ok("two")), (9, Ok("beyond"))]);
        write(2, &[(4, Ok("four")), (2, Ok("again")), (5, Err(FailureKind::TooLong))]);
        let files = list_shard_files(folder.path()).expect("listed");
        let path = folder.path().join("0003-00000.jsonl");
        let mut migrated =
            MigratedFile::create(&path, &ShardHeader::new(3, 0, "n1", "new")).expect("made");
        let mut seen = Vec::new();
        read_answers(&files, "old", 9, |index, hash, line| {
            assert_eq!(hash, RowHash::new(0xab2 + 2 * index, false));
            let value: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            seen.push((index, value["response"].as_str().expect("text").to_owned()));
            migrated.append_line(line, index + 100, hash.has_own_id())
        })
        .expect("read");
        migrated.sync_and_close().expect("on disk");
        assert_eq!(seen, [(2, "two".into()), (4, "four".into())]);

        let file = list_shard_files(folder.path()).expect("listed").pop().expect("the new one");
        assert_eq!(read_fingerprint(&file).expect("read").as_deref(), Some("new"));
        assert_eq!(read_fingerprint(&files[0]).expect("read").as_deref(), Some("old"));
        let mut again = Vec::new();
        read_answers([&file], "new", 1000, |index, hash, line| {
            let value: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            assert_eq!(value["id"], index.to_string());
            again.push((index, hash));
            Ok(())
        })
        .expect("read");
        let hash = |index: u64| RowHash::new(0xab2 + 2 * index, false);
        assert_eq!(again, [(102, hash(2)), (104, hash(4))]);
    }
}
