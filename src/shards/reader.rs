//! Reading of shard files: damage never fails, but is always counted.
//!
//! Owns which lines of a file count. Which of several lines for a prompt wins is [`super::LinePrecedence`]'s, what is
//! parsed of a line is `line_key.rs`'s; reading single lines by their location is [`super::FileCache`].

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    error::ShardError,
    header::{ShardHeader, parse_file_name},
    line_grade::LineGrade,
    line_key::LineKey,
};

/// Shard file of a run; its name tells the session and rank that wrote it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShardFile {
    /// Session that wrote the file, from 1.
    pub start: u32,
    /// Rank that wrote the file.
    pub rank: u32,
    /// Path of the shard file.
    pub path: PathBuf,
}

/// Position of an outcome in its file, and what decides whether it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LineEntry {
    /// Index of the prompt in the input.
    pub index: u64,
    /// Offset of the line in its file, in bytes.
    pub offset: u64,
    /// Length of the line in bytes, newline included.
    pub length: u32,
    /// Whether the prompt was answered, and how well.
    pub grade: LineGrade,
    /// Whether the outcome is a transient failure, which a resumed run retries.
    pub is_retryable: bool,
}

/// Counts and defects found while reading a shard file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardScanReport {
    /// Number of lines with an outcome.
    pub lines: u64,
    /// Number of lines that hold no outcome: unreadable ones, and those without an id or valid UTF-8.
    pub damaged: u64,
    /// Number of the first of them in its file, from 1; 0 if there is none.
    pub first_damaged: u64,
    /// The last line has no newline, which is normal after a kill.
    pub torn: bool,
    /// The file belongs to another run or has a later format: none of its lines count.
    pub foreign: bool,
}

/// Lists the shard files of a run in order of session and rank, including those in folders below this one. A missing
/// folder has no files.
///
/// # Errors
/// Fails if the folder exists and cannot be read.
pub fn list_shard_files(folder: &Path) -> Result<Vec<ShardFile>, ShardError> {
    let mut files = Vec::new();
    for below in collect_folder(folder, &mut files)? {
        collect_folder(&below, &mut files)?;
    }
    files.sort();
    Ok(files)
}

/// Adds the shard files of one folder and returns the folders in it.
fn collect_folder(folder: &Path, files: &mut Vec<ShardFile>) -> Result<Vec<PathBuf>, ShardError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ShardError::at_path("cannot list", folder)(error)),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(ShardError::at_path("cannot list", folder))?;
        let path = entry.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some((start, rank)) = parse_file_name(name) {
            files.push(ShardFile { start, rank, path });
        } else if entry.file_type().is_ok_and(|file_type| file_type.is_dir()) {
            folders.push(path);
        }
    }
    Ok(folders)
}

/// Calls `each` for every outcome of a shard file that belongs to the run with this fingerprint.
///
/// # Errors
/// Fails if the file cannot be opened or read, or if `each` fails. Damage inside the file is counted in the report
/// instead.
pub(crate) fn read_entries(
    file: &ShardFile,
    fingerprint: &str,
    mut each: impl FnMut(LineEntry) -> Result<(), ShardError>,
) -> Result<ShardScanReport, ShardError> {
    read_entry_lines(file, fingerprint, |entry, _| each(entry))
}

/// Like [`read_entries`], and passes the bytes of each line too.
pub(super) fn read_entry_lines(
    file: &ShardFile,
    fingerprint: &str,
    mut each: impl FnMut(LineEntry, &[u8]) -> Result<(), ShardError>,
) -> Result<ShardScanReport, ShardError> {
    let error = || ShardError::at_path("cannot read the shard file", &file.path);
    let mut input = BufReader::with_capacity(1 << 20, File::open(&file.path).map_err(error())?);
    let mut report = ShardScanReport::default();
    let (mut line, mut offset, mut line_number) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        line_number += 1;
        let length = input.read_until(b'\n', &mut line).map_err(error())?;
        if length == 0 {
            return Ok(report);
        }
        // Torn by a kill in the middle of a write: the prompt has no outcome.
        if line.last() != Some(&b'\n') {
            report.torn = true;
            return Ok(report);
        }
        if offset == 0 {
            let header = serde_json::from_slice::<ShardHeader>(&line);
            if !header.is_ok_and(|header| header.belongs_to(fingerprint)) {
                report.foreign = true;
                return Ok(report);
            }
        } else {
            match parse_entry(&line, offset) {
                Some(entry) => {
                    report.lines += 1;
                    each(entry, &line)?;
                }
                None => {
                    report.damaged += 1;
                    if report.damaged == 1 {
                        report.first_damaged = line_number;
                    }
                }
            }
        }
        offset += length as u64;
    }
}

/// Calls `each` for every outcome of several files, with the file's number, and logs files with defects.
///
/// # Errors
/// Fails as [`read_entries`] does.
pub(crate) fn read_all_entries<'a>(
    files: impl IntoIterator<Item = &'a ShardFile>,
    fingerprint: &str,
    mut each: impl FnMut(usize, LineEntry) -> Result<(), ShardError>,
) -> Result<(), ShardError> {
    for (file_number, file) in files.into_iter().enumerate() {
        let report = read_entries(file, fingerprint, |entry| each(file_number, entry))?;
        let path = file.path.display();
        if report.foreign {
            tracing::warn!(
                event = "shard_file_ignored",
                %path,
                "shard file ignored: {path} belongs to another run or program version"
            );
        }
        if report.damaged > 0 {
            let lines = if report.damaged == 1 { "line" } else { "lines" };
            tracing::warn!(
                event = "shard_lines_damaged",
                %path,
                lines = report.damaged,
                first_line = report.first_damaged,
                "shard file has {} damaged {lines}, whose prompts are sent again: {path} (first: line {})",
                report.damaged,
                report.first_damaged
            );
        }
    }
    Ok(())
}

fn parse_entry(line: &[u8], offset: u64) -> Option<LineEntry> {
    let line_key = LineKey::parse_line(line)?;
    // A line of 4 GiB or more counts as damage.
    let length = u32::try_from(line.len()).ok()?;
    Some(LineEntry {
        index: line_key.index,
        offset,
        length,
        grade: line_key.grade(),
        is_retryable: line_key.is_retryable(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::FailureKind,
        shards::{
            ShardWriter,
            answer_line::tests::{line_style, prompt_result},
        },
    };

    fn write_shard_file(folder: &Path) -> ShardFile {
        let header = ShardHeader::new(2, 7, "n1", "abc");
        let mut writer = ShardWriter::create(folder, &header, line_style()).expect("a file");
        writer
            .append_results(&[
                prompt_result(5, Ok("a")),
                prompt_result(6, Err(FailureKind::TooLong)),
            ])
            .expect("written");
        writer.append_results(&[prompt_result(9, Err(FailureKind::Exhausted))]).expect("written");
        let files = list_shard_files(folder).expect("listed");
        assert_eq!(files.len(), 1);
        assert_eq!((files[0].start, files[0].rank), (2, 7));
        files[0].clone()
    }

    fn collect_entries(
        file: &ShardFile,
        fingerprint: &str,
    ) -> (Vec<(u64, bool, bool)>, ShardScanReport) {
        let mut all = Vec::new();
        let report = read_entries(file, fingerprint, |it| {
            all.push((it.index, it.grade.is_answered(), it.is_retryable));
            Ok(())
        })
        .expect("read");
        (all, report)
    }

    #[test]
    fn written_outcomes_are_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = write_shard_file(folder.path());
        let (all, report) = collect_entries(&file, "abc");
        assert_eq!(all, [(5, true, false), (6, false, false), (9, false, true)]);
        assert_eq!(report, ShardScanReport { lines: 3, ..ShardScanReport::default() });
        assert!(collect_entries(&file, "other").1.foreign);
    }

    #[test]
    fn a_second_writer_of_one_file_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        write_shard_file(folder.path());
        assert!(
            ShardWriter::create(folder.path(), &ShardHeader::new(2, 7, "n1", "abc"), line_style())
                .is_err()
        );
    }

    #[test]
    fn a_file_cut_at_any_byte_keeps_its_whole_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = write_shard_file(folder.path());
        let whole = std::fs::read(&file.path).expect("bytes");
        let ends: Vec<usize> = whole
            .iter()
            .enumerate()
            .filter(|&(_, &byte)| byte == b'\n')
            .map(|(at, _)| at + 1)
            .collect();
        for cut in 0..=whole.len() {
            std::fs::write(&file.path, &whole[..cut]).expect("cut");
            let (all, report) = collect_entries(&file, "abc");
            let lines = ends.iter().filter(|&&end| end <= cut).count();
            assert_eq!(all.len(), lines.saturating_sub(1), "cut at {cut}");
            assert_eq!(report.damaged, 0);
            assert_eq!(report.torn, cut > 0 && !ends.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn damage_in_the_middle_costs_only_its_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = write_shard_file(folder.path());
        let text = std::fs::read_to_string(&file.path).expect("text");
        std::fs::write(&file.path, text.replace("\"index\":6", "\"index\":")).expect("damaged");
        let (all, report) = collect_entries(&file, "abc");
        assert_eq!(all.len(), 2);
        assert_eq!((report.damaged, report.first_damaged), (1, 3));
    }
}
