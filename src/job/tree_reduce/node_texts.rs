//! The texts of one level of a tree that this rank can read: answers in shard files, and single texts that were passed
//! up from the level below without a request.
//!
//! Owns the mapping from a node to its text and the encoding in which texts are exchanged. Prompts are built from them
//! in [`super::level`]. Only locations are kept in memory: 16 bytes per answer, 32 per text that was passed up.

use std::{
    borrow::Cow,
    collections::{BTreeMap, btree_map::Entry},
    fs::File,
    io::{BufRead, BufReader},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::job::{
    JobError,
    collect::level_files::TextFailure,
    collect::line_index::{LineFrames, LineIndex},
};
use crate::{domain::BitSet, output::OutputError, shards::LinePrecedence};

/// Locations of the texts of a level's nodes.
pub(crate) struct NodeTexts {
    /// Index of this rank's answers, sorted by row.
    line_index: Option<LineIndex>,
    /// Nodes that have a row, in row order; `None` if row and node numbers are the same.
    prompted_nodes: Option<BitSet>,
    passed_up: Vec<PassedUpText>,
    passed_up_files: Vec<(PathBuf, File)>,
}

/// Location of a text that was passed up.
struct PassedUpText {
    node: u64,
    file: usize,
    offset: u64,
    length: usize,
}

/// Line of a file with texts that were passed up.
#[derive(Serialize, Deserialize)]
pub(crate) struct PassedUpLine<'t> {
    pub(crate) group: u64,
    #[serde(borrow)]
    pub(crate) text: Cow<'t, str>,
}

/// Text or failure of a node. The key is its precedence among several, the lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeText {
    precedence_key: u64,
    failed: bool,
    content: String,
}

#[derive(Deserialize)]
struct ResponseLine<'t> {
    #[serde(borrow, default)]
    response: Option<Cow<'t, str>>,
    #[serde(default)]
    error: Option<TextFailure>,
}

impl NodeTexts {
    /// Combines the answers of a pass with the passed-up texts in these files; each rank has its own share of both.
    pub(crate) fn from_parts(
        mut line_index: Option<LineIndex>,
        prompted_nodes: Option<BitSet>,
        files: &[PathBuf],
    ) -> Result<Self, JobError> {
        if let Some(line_index) = &mut line_index {
            line_index.sort_lines();
        }
        let mut texts =
            Self { line_index, prompted_nodes, passed_up: Vec::new(), passed_up_files: Vec::new() };
        for path in files {
            texts.index_passed_up(path)?;
        }
        texts.passed_up.sort_unstable_by_key(|text| text.node);
        Ok(texts)
    }

    fn index_passed_up(&mut self, path: &Path) -> Result<(), JobError> {
        let file = File::open(path).map_err(OutputError::io_error("cannot open", path))?;
        let mut reader = BufReader::new(&file);
        let (mut line, mut offset) = (Vec::new(), 0);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line);
            let length = read.map_err(OutputError::io_error("cannot read", path))?;
            if length == 0 {
                break;
            }
            let node = parse_text_line::<PassedUpLine<'_>>(&line, path)?.group;
            let file = self.passed_up_files.len();
            self.passed_up.push(PassedUpText { node, file, offset, length });
            offset += length as u64;
        }
        drop(reader);
        self.passed_up_files.push((path.to_owned(), file));
        Ok(())
    }

    /// Returns approximately how many bytes [`Self::read_nodes`] appends for these nodes.
    pub(crate) fn estimate_bytes(&self, nodes: &Range<u64>) -> u64 {
        let rows = self.row_range(nodes);
        let width = rows.end - rows.start;
        let line_index = self.line_index.as_ref().filter(|_| width > 0);
        let answer_bytes: u64 = line_index
            .map_or(0, |lines| lines.bytes_by_bin(rows.start, rows.end, width).iter().sum());
        answer_bytes + self.passed_up_in(nodes).iter().map(|text| text.length as u64).sum::<u64>()
    }

    /// Appends this rank's texts and failures of these nodes in encoded form ([`merge_nodes`] decodes it).
    pub(crate) fn read_nodes(
        &mut self,
        nodes: &Range<u64>,
        buffer: &mut Vec<u8>,
    ) -> Result<(), JobError> {
        let rows = self.row_range(nodes);
        if let Some(lines) = self.line_index.as_mut().filter(|_| !rows.is_empty()) {
            let mut bytes = Vec::new();
            lines.read_range(rows.start, rows.end, &mut bytes)?;
            // Rows and nodes are both ascending, so one walk over the prompted nodes finds the node of each row.
            let prompted = self.prompted_nodes.as_ref();
            let mut prompted = prompted.map(|prompted| prompted.members_from(nodes.start));
            let mut next_row = rows.start;
            for (row, precedence, line) in LineFrames(&bytes) {
                let node = match &mut prompted {
                    None => row,
                    Some(prompted) => {
                        let skipped = usize::try_from(row - next_row).unwrap_or(usize::MAX);
                        next_row = row + 1;
                        let Some(node) = prompted.nth(skipped) else { break };
                        node
                    }
                };
                write_node(buffer, node, &NodeText::from_answer_line(precedence, line)?);
            }
        }
        for passed_up in self.passed_up_in(nodes) {
            let (path, file) = &self.passed_up_files[passed_up.file];
            let mut line = vec![0; passed_up.length];
            let read = file.read_exact_at(&mut line, passed_up.offset);
            read.map_err(OutputError::io_error("cannot read", path))?;
            let content = parse_text_line::<PassedUpLine<'_>>(&line, path)?.text.into_owned();
            write_node(
                buffer,
                passed_up.node,
                &NodeText { precedence_key: 0, failed: false, content },
            );
        }
        Ok(())
    }

    /// Returns the rows of the level's run that stand for these nodes.
    fn row_range(&self, nodes: &Range<u64>) -> Range<u64> {
        match &self.prompted_nodes {
            None => nodes.clone(),
            Some(prompted) => prompted.count_before(nodes.start)..prompted.count_before(nodes.end),
        }
    }

    fn passed_up_in(&self, nodes: &Range<u64>) -> &[PassedUpText] {
        let position = |node: u64| self.passed_up.partition_point(|text| text.node < node);
        &self.passed_up[position(nodes.start)..position(nodes.end)]
    }
}

fn parse_text_line<'t, T: Deserialize<'t>>(line: &'t [u8], path: &Path) -> Result<T, JobError> {
    serde_json::from_slice(line)
        .map_err(std::io::Error::from)
        .map_err(|error| OutputError::io_error("cannot read a text in", path)(error).into())
}

/// Size of a node header: node and precedence (u64 each), failed and length (u32 each).
const NODE_HEADER_BYTES: usize = 2 * 8 + 2 * 4;

fn write_node(buffer: &mut Vec<u8>, node: u64, text: &NodeText) {
    buffer.extend(node.to_le_bytes());
    buffer.extend(text.precedence_key.to_le_bytes());
    // A text is the answer of a server, so it is far below 4 GiB; if it were not, it would be truncated, not corrupted.
    let length = u32::try_from(text.content.len()).unwrap_or(u32::MAX);
    for number in [u32::from(text.failed), length] {
        buffer.extend(number.to_le_bytes());
    }
    buffer.extend(&text.content.as_bytes()[..length as usize]);
}

/// Decodes the texts that a rank has sent and keeps, of each node, the one that takes precedence.
pub(crate) fn merge_nodes(mut bytes: &[u8], nodes: &mut BTreeMap<u64, NodeText>) {
    while let Some((header, rest)) = bytes.split_first_chunk::<NODE_HEADER_BYTES>() {
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let long = |at: usize| u64::from(number(at)) | u64::from(number(at + 4)) << 32;
        let Some((content, rest)) = rest.split_at_checked(number(20) as usize) else { return };
        bytes = rest;
        let content = String::from_utf8_lossy(content).into_owned();
        let text = NodeText { precedence_key: long(8), failed: number(16) != 0, content };
        match nodes.entry(long(0)) {
            Entry::Vacant(entry) => drop(entry.insert(text)),
            Entry::Occupied(mut entry) if text.precedence_key < entry.get().precedence_key => {
                drop(entry.insert(text))
            }
            Entry::Occupied(_) => {}
        }
    }
}

impl NodeText {
    fn from_answer_line(precedence: LinePrecedence, line: &[u8]) -> Result<Self, JobError> {
        let ResponseLine { response, error } = parse_text_line(line, Path::new("a shard file"))?;
        let is_answered = precedence.grade().is_answered();
        let content = match (is_answered, &response) {
            (true, Some(text)) => text.as_ref().to_owned(),
            _ => serde_json::to_string(&error).unwrap_or_default(),
        };
        let failed = !is_answered || response.is_none();
        Ok(Self { precedence_key: precedence.to_key(), failed, content })
    }

    /// Returns the text, or the reason why there is none. A blank text is a failure.
    pub(crate) fn into_text(self) -> Result<String, TextFailure> {
        if self.failed {
            let failure = serde_json::from_str::<Option<TextFailure>>(&self.content).ok().flatten();
            return Err(failure.unwrap_or_else(|| TextFailure {
                kind: "unknown".into(),
                message: "failed, and its line does not give a reason".into(),
            }));
        }
        if self.content.trim().is_empty() {
            return Err(TextFailure {
                kind: "blank".into(),
                message: "the answer is blank".into(),
            });
        }
        Ok(self.content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::AnswerFlaws, shards::LineGrade};

    fn node_text(failed: bool, start: u32, rank: u32, content: &str) -> NodeText {
        let grade = if failed { LineGrade::FAILED } else { LineGrade::answered(AnswerFlaws::NONE) };
        let precedence_key = LinePrecedence::new(grade, start, rank).to_key();
        NodeText { precedence_key, failed, content: content.into() }
    }

    #[test]
    fn the_outcome_that_takes_precedence_in_a_run_does_so_in_a_tree() {
        let mut bytes = Vec::new();
        let failure = r#"{"kind":"too_long","message":"no","status":400}"#;
        for (node, text) in [
            (7, node_text(true, 1, 0, failure)),
            (7, node_text(false, 2, 3, "late")),
            (7, node_text(false, 2, 1, "first")),
            (8, node_text(true, 1, 1, failure)),
            (9, node_text(false, 1, 1, " \n")),
        ] {
            write_node(&mut bytes, node, &text);
        }
        let mut nodes = BTreeMap::new();
        merge_nodes(&bytes, &mut nodes);
        let mut text = |node| nodes.remove(&node).expect("decoded").into_text();
        assert_eq!(text(7), Ok("first".into()));
        assert_eq!(text(8).map_err(|failure| failure.kind), Err("too_long".into()));
        assert_eq!(text(9).map_err(|failure| failure.kind), Err("blank".into()));
    }

    #[test]
    fn texts_of_prompted_and_passed_up_nodes_are_read_together() {
        let folder = tempfile::tempdir().expect("a folder");
        let header = crate::shards::ShardHeader::new(1, 0, "n", "f");
        let mut text = serde_json::to_string(&header).expect("JSON") + "\n";
        for row in [2, 0, 1] {
            text += &format!(
                "{{\"id\":{row},\"index\":{row},\"success\":true,\"response\":\"row {row}\"}}\n"
            );
        }
        std::fs::write(folder.path().join(header.file_name()), text).expect("written");
        let files = crate::shards::list_shard_files(folder.path()).expect("listed");
        let mut lines = LineIndex::for_files(files.clone(), 3);
        crate::shards::read_all_entries(&files, "f", |file, entry| lines.record_line(file, &entry))
            .expect("read");
        let passed_up = folder.path().join("passed");
        let line =
            |group: u64| format!("{{\"group\":{group},\"text\":\"passed \\\"{group}\\\"\"}}\n");
        std::fs::write(&passed_up, line(3) + &line(9)).expect("written");
        let mut prompted = BitSet::new(10);
        prompted.extend([1, 4, 8]);
        let mut texts =
            NodeTexts::from_parts(Some(lines), Some(prompted), &[passed_up]).expect("texts");
        for (nodes, expected) in [
            (
                0..10,
                vec![
                    (1, "row 0"),
                    (3, "passed \"3\""),
                    (4, "row 1"),
                    (8, "row 2"),
                    (9, "passed \"9\""),
                ],
            ),
            (2..5, vec![(3, "passed \"3\""), (4, "row 1")]),
            (5..8, vec![]),
            (9..10, vec![(9, "passed \"9\"")]),
        ] {
            let (mut bytes, mut decoded) = (Vec::new(), BTreeMap::new());
            texts.read_nodes(&nodes, &mut bytes).expect("read");
            merge_nodes(&bytes, &mut decoded);
            let decoded: Vec<(u64, String)> = decoded
                .into_iter()
                .map(|(node, text)| (node, text.into_text().expect("a text")))
                .collect();
            let expected: Vec<(u64, String)> =
                expected.into_iter().map(|(node, text)| (node, text.to_owned())).collect();
            assert_eq!(decoded, expected, "{nodes:?}");
            assert_eq!(texts.estimate_bytes(&nodes) > 0, !expected.is_empty());
        }
    }
}
