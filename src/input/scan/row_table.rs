//! The row table: the offset of each row, 8 bytes per row, kept by rank 0.
//!
//! Owns the mapping from row indexes to file ranges and lines. What the rows contain is not kept.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::input::RowRange;

/// One row in this many has its line number kept; the lines in between are counted on demand.
const LINE_MARK_INTERVAL: usize = 4096;

/// Offsets of all rows of the input.
#[derive(Debug, Default)]
pub(crate) struct RowTable {
    files: Vec<FileRows>,
    rows: u64,
}

/// Offsets of the rows of one file.
#[derive(Debug, Default)]
struct FileRows {
    /// Index of the file's first row.
    first_index: u64,
    offsets: Vec<u64>,
    /// Pairs of a row's number in the file and its line, for about each [`LINE_MARK_INTERVAL`]th row.
    line_marks: Vec<(u64, u64)>,
    /// Offset at which the last row ends.
    end: u64,
}

impl RowTable {
    /// Returns the number of rows.
    #[must_use]
    pub(crate) fn row_count(&self) -> u64 {
        self.rows
    }

    /// Returns the rows `from..to` as ranges, split where files end.
    #[must_use]
    pub(crate) fn row_ranges(&self, from: u64, to: u64) -> Vec<RowRange> {
        let to = to.min(self.rows);
        let first_file = self.files.partition_point(|rows| rows.end_index() <= from);
        let numbered = (0_u32..).zip(&self.files).skip(first_file);
        numbered
            .take_while(|(_, rows)| rows.first_index < to)
            .filter_map(|(file, rows)| {
                rows.row_range(file, from.max(rows.first_index), to.min(rows.end_index()))
            })
            .collect()
    }

    /// Returns the file number and line of a row. Reads up to 4096 rows of the file.
    ///
    /// # Errors
    /// The file, whose path `path` returns by its number, cannot be read.
    pub(crate) fn locate_line<'p>(
        &self,
        index: u64,
        path: impl Fn(u32) -> Option<&'p Path>,
    ) -> io::Result<(u32, u64)> {
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        let range = self.row_ranges(index, index + 1).pop().ok_or_else(not_found)?;
        let rows = &self.files[range.file as usize];
        let after = rows.line_marks.partition_point(|&(row, _)| row <= index - rows.first_index);
        let &(row, mut line) = rows.line_marks[..after].last().ok_or_else(not_found)?;
        let at = usize::try_from(row).map_err(io::Error::other)?;
        let from = *rows.offsets.get(at).ok_or_else(not_found)?;
        let mut file = File::open(path(range.file).ok_or_else(not_found)?)?;
        file.seek(SeekFrom::Start(from))?;
        let mut between = vec![0; 1 << 16];
        let mut file = file.take(range.offset - from);
        let mut after_cr = false;
        loop {
            let read = file.read(&mut between)?;
            if read == 0 {
                return Ok((range.file, line));
            }
            for &byte in &between[..read] {
                // The LF of a CRLF ends no other line.
                line += u64::from(byte == b'\r' || (byte == b'\n' && !after_cr));
                after_cr = byte == b'\r';
            }
        }
    }

    pub(crate) fn begin_file(&mut self) {
        self.files.push(FileRows { first_index: self.rows, ..FileRows::default() });
    }

    /// Appends the rows of the current file's next chunk, which has `lines` lines before it.
    pub(crate) fn append_chunk(&mut self, chunk: RowOffsets, lines: u64) {
        let Some(rows) = self.files.last_mut() else { return };
        let before = rows.offsets.len() as u64;
        rows.line_marks
            .extend(chunk.line_marks.iter().map(|&(row, line)| (before + row, lines + line)));
        self.rows += chunk.row_count();
        let mut offset = 0;
        let mut offsets = chunk.gaps;
        for gap in &mut offsets {
            offset += *gap;
            *gap = offset;
        }
        if rows.offsets.is_empty() {
            rows.offsets = offsets;
        } else {
            rows.offsets.append(&mut offsets);
        }
    }

    pub(crate) fn end_file(&mut self, end: u64) {
        if let Some(rows) = self.files.last_mut() {
            rows.end = end;
            rows.offsets.shrink_to_fit();
        }
    }
}

/// Offsets of the rows of one chunk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RowOffsets {
    /// Distances between the beginnings of consecutive rows: small numbers, which take few bytes in a message to rank
    /// 0.
    gaps: Vec<u64>,
    last_offset: u64,
    /// Pairs of a row's number in the chunk and its line, for each [`LINE_MARK_INTERVAL`]th row.
    line_marks: Vec<(u64, u64)>,
}

impl RowOffsets {
    pub(crate) fn push(&mut self, offset: u64, line: u64) {
        if self.gaps.len().is_multiple_of(LINE_MARK_INTERVAL) {
            self.line_marks.push((self.row_count(), line));
        }
        self.gaps.push(offset - self.last_offset);
        self.last_offset = offset;
    }

    /// Returns the number of rows.
    pub(crate) fn row_count(&self) -> u64 {
        self.gaps.len() as u64
    }
}

impl FileRows {
    /// Returns the index after the file's last row.
    fn end_index(&self) -> u64 {
        self.first_index + self.offsets.len() as u64
    }

    fn row_range(&self, file: u32, from: u64, to: u64) -> Option<RowRange> {
        let offset_of = |index: u64| {
            let at = usize::try_from(index - self.first_index).ok()?;
            Some(self.offsets.get(at).copied().unwrap_or(self.end))
        };
        let offset = offset_of(from).filter(|_| from < to)?;
        Some(RowRange {
            file,
            first: from,
            rows: to - from,
            offset,
            bytes: offset_of(to)? - offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_ranges_end_where_files_end() {
        let mut table = RowTable::default();
        for (rows, end) in [(3, 30), (0, 5), (2, 25)] {
            table.begin_file();
            let mut chunk = RowOffsets::default();
            (0..rows).for_each(|row| chunk.push(row * 10, row + 1));
            table.append_chunk(chunk, 0);
            table.end_file(end);
        }
        let range =
            |file, first, rows, offset, bytes| RowRange { file, first, rows, offset, bytes };
        assert_eq!(table.row_count(), 5);
        assert_eq!(table.row_ranges(1, 4), [range(0, 1, 2, 10, 20), range(2, 3, 1, 0, 10)]);
        assert_eq!(table.row_ranges(4, 99), [range(2, 4, 1, 10, 15)]);
        assert_eq!(table.row_ranges(0, 3), [range(0, 0, 3, 0, 30)]);
        assert_eq!(
            (table.row_ranges(2, 2), table.row_ranges(5, 9), table.row_ranges(4, 1)),
            (vec![], vec![], vec![])
        );
    }
}
