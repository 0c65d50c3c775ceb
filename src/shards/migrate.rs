//! Answers that go from one input to another: the same lines under new indices, in a shard file of their own.
//!
//! Owns which lines can go and how a line looks after it. Does not know which row an answer belongs to now: who matches
//! rows says it.

use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{IndexSet, ShardError, ShardFile, ShardHeader, reader::read_entry_lines};
use crate::domain::{PromptId, RowHash};

#[derive(Deserialize)]
struct HashedLine {
    served: Served,
}

#[derive(Deserialize)]
struct Served {
    #[serde(default)]
    row: RowHash,
}

/// Tells `each` the answers of files that stand in order of start and rank: of each prompt the one that counts, with its
/// index, its row's hash (unknown where an earlier version of the program wrote it), and its line.
///
/// # Errors
/// Where a file cannot be read, and those of `each`.
pub fn read_answers<'f>(
    files: impl IntoIterator<Item = &'f ShardFile>,
    fingerprint: &str,
    rows: u64,
    mut each: impl FnMut(u64, RowHash, &[u8]) -> Result<(), ShardError>,
) -> Result<(), ShardError> {
    let mut seen = IndexSet::new(rows);
    for file in files {
        read_entry_lines(file, fingerprint, |entry, line| {
            if !entry.success || entry.index >= rows || seen.contains(entry.index) {
                return Ok(());
            }
            seen.insert(entry.index);
            let hashed = serde_json::from_slice::<HashedLine>(line);
            each(entry.index, hashed.map_or(RowHash::UNKNOWN, |it| it.served.row), line)
        })?;
    }
    Ok(())
}

/// The fingerprint of the input that a shard file answers; none where the file has no whole header.
///
/// # Errors
/// Where the file cannot be read.
pub fn read_fingerprint(file: &ShardFile) -> Result<Option<String>, ShardError> {
    let error = || ShardError::of("cannot read the shard file", &file.path);
    let mut line = Vec::new();
    let opened = File::open(&file.path).map_err(error())?;
    BufReader::new(opened).read_until(b'\n', &mut line).map_err(error())?;
    Ok(serde_json::from_slice::<ShardHeader>(&line).ok().map(|header| header.fingerprint))
}

/// A shard file that is written whole, beside where it will lie.
#[derive(Debug)]
pub struct MigratedFile {
    file: BufWriter<File>,
    path: PathBuf,
    line: Vec<u8>,
}

impl MigratedFile {
    /// Begins it. What is there under this name is nothing yet, and is written over.
    ///
    /// # Errors
    /// Where it cannot be made or written.
    pub fn create(path: &Path, header: &ShardHeader) -> Result<Self, ShardError> {
        let error = || ShardError::of("cannot write answers that are kept to", path);
        let file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(error())?);
        let mut carried = Self { file, path: path.to_owned(), line: Vec::new() };
        serde_json::to_writer(&mut carried.line, header).map_err(|wrong| error()(wrong.into()))?;
        carried.line.push(b'\n');
        carried.file.write_all(&carried.line).map_err(error())?;
        Ok(carried)
    }

    /// An answer's line under its new index; under its old id where that is the row's own.
    ///
    /// # Errors
    /// Where it cannot be written, or is no line of an answer.
    pub fn add(&mut self, line: &[u8], index: u64, own_id: bool) -> Result<(), ShardError> {
        self.line.clear();
        let moved = rewrite_line(line, index, own_id, &mut self.line).map_err(std::io::Error::from);
        moved
            .and_then(|()| self.file.write_all(&self.line))
            .map_err(ShardError::of("cannot write answers that are kept to", &self.path))
    }

    /// All are in it: to the disk.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn finish(mut self) -> Result<(), ShardError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(ShardError::of("cannot write answers that are kept to", &self.path))
    }
}

/// Appends the line with another index, and with the id that goes with it where the row has none of its own. All else stays
/// as it is, byte for byte and in its order.
fn rewrite_line(
    line: &[u8],
    index: u64,
    own_id: bool,
    into: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let ObjectFields(fields) = serde_json::from_slice(line)?;
    let id = PromptId::from_index(index);
    for (at, (name, value)) in fields.into_iter().enumerate() {
        into.push(if at == 0 { b'{' } else { b',' });
        serde_json::to_writer(&mut *into, name)?;
        into.push(b':');
        match name {
            "index" => into.extend(index.to_string().bytes()),
            "id" if !own_id => into.extend(id.json().bytes()),
            _ => into.extend(value.get().bytes()),
        }
    }
    into.extend(b"}\n");
    Ok(())
}

/// The members of an object in their order, as they stand.
struct ObjectFields<'a>(Vec<(&'a str, &'a RawValue)>);

impl<'de> Deserialize<'de> for ObjectFields<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = ObjectFields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an answer")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(ObjectFields(fields))
            }
        }
        from.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::FailureKind,
        shards::{
            ShardWriter,
            answer_line::tests::{line_style, prompt_result},
            list,
        },
    };

    fn text(line: &[u8], index: u64, own_id: bool) -> String {
        let mut into = Vec::new();
        rewrite_line(line, index, own_id, &mut into).expect("JSON");
        String::from_utf8(into).expect("UTF-8")
    }

    #[test]
    fn only_the_index_and_an_id_that_is_the_index_change() {
        let line = r#"{"id":"3","index":3,"prompt":"say \"index\":3\u00e9","params":{"id":"3", "x":1.50},"new":[1, 2],"served":{"row":"0a"}}"#;
        let expected = line.replacen(r#""id":"3","index":3"#, r#""id":"17","index":17"#, 1) + "\n";
        assert_eq!(text(format!("{line}\n").as_bytes(), 17, false), expected);
        let expected = line.replacen(r#""index":3"#, r#""index":17"#, 1) + "\n";
        assert_eq!(text(line.as_bytes(), 17, true), expected);
        assert!(rewrite_line(b"[1]", 1, true, &mut Vec::new()).is_err());
    }

    #[test]
    fn of_each_prompt_the_answer_that_counts_is_read_and_goes_on_in_another_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |start: u32, outcomes: &[(u64, Result<&str, FailureKind>)]| {
            let header = ShardHeader::new(start, 0, "n1", "old");
            let mut writer =
                ShardWriter::create(folder.path(), &header, line_style()).expect("a file");
            let outcomes: Vec<_> =
                outcomes.iter().map(|&(index, outcome)| prompt_result(index, outcome)).collect();
            writer.append(&outcomes).expect("written");
        };
        write(1, &[(4, Err(FailureKind::Exhausted)), (2, Ok("two")), (9, Ok("beyond"))]);
        write(2, &[(4, Ok("four")), (2, Ok("again")), (5, Err(FailureKind::TooLong))]);
        let files = list(folder.path()).expect("listed");
        let place = folder.path().join("0003-00000.jsonl");
        let mut carried =
            MigratedFile::create(&place, &ShardHeader::new(3, 0, "n1", "new")).expect("made");
        let mut seen = Vec::new();
        read_answers(&files, "old", 9, |index, hash, line| {
            assert_eq!(hash, RowHash::new(0xab2 + 2 * index, false));
            let value: serde_json::Value = serde_json::from_slice(line).expect("JSON");
            seen.push((index, value["response"].as_str().expect("text").to_owned()));
            carried.add(line, index + 100, hash.has_own_id())
        })
        .expect("read");
        carried.finish().expect("on disk");
        assert_eq!(seen, [(2, "two".into()), (4, "four".into())]);

        let file = list(folder.path()).expect("listed").pop().expect("the new one");
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
