//! The prompts of one level of a tree, built from the texts of the level below.
//!
//! Owns a level's files in the run folder and how they are written: texts are sent to the rank that owns their group,
//! in rounds that fit a buffer, and that rank writes the group's prompt as a row. `whole.json` is written last and
//! names the inputs of the level. A complete level is reused as it is, on any number of ranks; any other is built
//! again. Running the prompts of a level is the business of [`super::reduce`].
//!
//! ```text
//! FILE.run/level-02.in/prompts/00000.jsonl  rows of the groups with two or more texts, one file per rank, in order
//!                      groups-00000.jsonl   the composition of each group, in order
//!                      passed-00000.jsonl   the texts of groups with a single text
//!                      whole.json           written last
//! FILE.run/level-02.run/                    the run over those rows
//! ```

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    ops::Range,
    path::PathBuf,
    time::Instant,
};

use serde::Serialize;
use tracing::info;

use super::node_texts::{NodeText, NodeTexts, PassedUpLine, merge_nodes};
use crate::job::{
    JobError,
    collect::level_files::{LevelFileKind, LevelFiles, LevelGroup, read_groups},
    context::all_ok,
};
use crate::{
    comm::{Comm, ReduceOp, all_to_all_in_rounds},
    domain::BitSet,
    new_file::create_new_file,
    output::OutputError,
    reduce::{ReduceTemplate, ReduceTree, TokenBudget, block_range, round_range},
    report::format::pluralize,
};

/// Approximate number of bytes that a rank sends or receives in a round. Up to five copies are in memory for a moment:
/// as read, as sent, as received, as texts and as prompts.
const EXCHANGE_ROUND_BYTES: u64 = 8 << 20;

/// Inputs for building the prompts of groups.
pub(crate) struct LevelBuilder<'t> {
    pub(crate) tree: ReduceTree,
    pub(crate) template: &'t ReduceTemplate,
    pub(crate) budget: TokenBudget,
    /// Number of ranks, counted from rank 0, that write prompts: those that see the run folder.
    pub(crate) writer_ranks: usize,
}

#[derive(Serialize)]
struct LevelPromptRow<'t> {
    id: String,
    prompt: &'t str,
    max_tokens: u64,
}

/// Returns this rank's share of a list that the first `sharers` ranks divide among them.
fn share_of_rank<T>(comm: &dyn Comm, sharers: usize, items: Vec<T>) -> Vec<T> {
    let items = items.into_iter().filter(|_| comm.rank() < sharers);
    items.skip(comm.rank()).step_by(sharers.max(1)).collect()
}

/// Collective. Builds the level's prompts from the texts below.
pub(crate) fn build_level_prompts(
    comm: &mut dyn Comm,
    files: &LevelFiles,
    builder: &LevelBuilder<'_>,
    below: &mut NodeTexts,
) -> Result<(), JobError> {
    let began = Instant::now();
    let (tree, level, writer_ranks) = (builder.tree, files.level, builder.writer_ranks as u64);
    let groups = tree.node_count(level);
    let groups_of = |rank: u64| block_range(groups, writer_ranks, rank); // empty for ranks that do not write
    let rounds = count_rounds(comm, |rank| {
        below.estimate_bytes(&child_nodes(tree, level, &groups_of(rank)))
    });
    let mut writer = LevelWriter::new(files, comm.rank());
    let mut fault = None;
    for round in 0..rounds {
        let mut outgoing = vec![Vec::new(); comm.size()];
        for (rank, buffer) in (0..).zip(&mut outgoing) {
            let groups = round_range(&groups_of(rank), rounds, round);
            // A rank that cannot read sends nothing and reports the error after the last round: leaving the loop here
            // would leave the other ranks waiting in their collective calls.
            if let Err(error) = below.read_nodes(&child_nodes(tree, level, &groups), buffer) {
                buffer.clear();
                fault.get_or_insert(error);
            }
        }
        let mut incoming = vec![Vec::new(); comm.size()];
        let receive = |from: usize, piece: &[u8]| incoming[from].extend_from_slice(piece);
        all_to_all_in_rounds(comm, &outgoing, EXCHANGE_ROUND_BYTES as usize, receive);
        drop(outgoing);
        let mut texts = BTreeMap::new();
        incoming.iter().for_each(|bytes| merge_nodes(bytes, &mut texts));
        drop(incoming);
        for group in round_range(&groups_of(comm.rank() as u64), rounds, round) {
            let children = tree.child_range(level, group);
            let later_texts = texts.split_off(&children.end);
            let group_texts = std::mem::replace(&mut texts, later_texts);
            if fault.is_none() {
                fault = writer.write_group(builder, group, &children, group_texts).err();
            }
        }
    }
    let finished = fault.map_or_else(|| writer.sync_files(), Err);
    all_ok(comm, finished)?;
    if comm.rank() == 0 {
        info!(
            event = "reduce_level_built",
            level,
            groups,
            rounds,
            elapsed_s = began.elapsed().as_secs_f64(),
            "reduce level {level} of {} built: {} in {}",
            tree.level_count(),
            pluralize(groups, "group"),
            pluralize(rounds, "round")
        );
    }
    Ok(())
}

/// Returns the nodes of the level below that belong to these groups.
fn child_nodes(tree: ReduceTree, level: u32, groups: &Range<u64>) -> Range<u64> {
    if groups.is_empty() {
        return 0..0;
    }
    tree.child_range(level, groups.start).start..tree.child_range(level, groups.end - 1).end
}

/// Collective. Returns the number of rounds in which no rank sends or receives much more than a buffer. `bytes_for`
/// returns the number of bytes that this rank has for another.
fn count_rounds(comm: &mut dyn Comm, bytes_for: impl Fn(u64) -> u64) -> u64 {
    let mut received: Vec<u64> = (0..comm.size() as u64).map(bytes_for).collect();
    let mut sent = [received.iter().sum()];
    comm.all_reduce(&mut received, ReduceOp::Sum);
    comm.all_reduce(&mut sent, ReduceOp::Max);
    let most_bytes = received.into_iter().chain(sent).max().unwrap_or(0);
    most_bytes.div_ceil(EXCHANGE_ROUND_BYTES).max(1)
}

/// This rank's files of a level.
struct LevelWriter<'p> {
    level_files: &'p LevelFiles,
    rank: usize,
    writers: BTreeMap<PathBuf, BufWriter<File>>,
}

impl<'p> LevelWriter<'p> {
    fn new(level_files: &'p LevelFiles, rank: usize) -> Self {
        Self { level_files, rank, writers: BTreeMap::new() }
    }

    /// Writes a group: two or more texts become a prompt, a single text is passed up, and without texts only the
    /// composition is recorded.
    fn write_group(
        &mut self,
        builder: &LevelBuilder<'_>,
        number: u64,
        children: &Range<u64>,
        mut node_texts: BTreeMap<u64, NodeText>,
    ) -> Result<(), JobError> {
        let (mut texts, mut nodes) = (Vec::new(), Vec::new());
        let (mut absent, mut failures) = (Vec::new(), Vec::new());
        for node in children.clone() {
            match node_texts.remove(&node).map(NodeText::into_text) {
                Some(Ok(text)) => {
                    texts.push(text);
                    nodes.push(node);
                }
                failure => {
                    extend_ranges(&mut absent, node);
                    failures.extend(failure.and_then(Result::err).map(|failure| (node, failure)));
                }
            }
        }
        let (count, level) = (texts.len() as u64, self.level_files.level);
        let mut group = LevelGroup {
            group: number,
            texts: count,
            absent,
            failures,
            prompt_bytes: 0,
            max_tokens: 0,
            cut: 0,
            cut_nodes: Vec::new(),
            text_bytes: texts.iter().map(|text| text.len() as u64).sum(),
            left_out_bytes: 0,
        };
        if count == 1
            && let Some(text) = texts.pop()
        {
            let line = PassedUpLine { group: number, text: text.into() };
            self.write_line(self.path_of(LevelFileKind::PassedUp), &line)?;
        } else if count > 1 {
            let rendered = builder.template.render(level, texts, &builder.budget);
            (group.prompt_bytes, group.max_tokens) =
                (rendered.prompt.len() as u64, rendered.max_tokens);
            group.left_out_bytes = rendered.left_out.iter().sum();
            for (node, _) in nodes.into_iter().zip(rendered.left_out).filter(|(_, left)| *left > 0)
            {
                group.cut += 1;
                extend_ranges(&mut group.cut_nodes, node);
            }
            let id = format!("L{level}-g{number}");
            let row =
                LevelPromptRow { id, prompt: &rendered.prompt, max_tokens: rendered.max_tokens };
            self.write_line(self.level_files.prompts_file(self.rank), &row)?;
        }
        self.write_line(self.path_of(LevelFileKind::Groups), &group)
    }

    fn path_of(&self, kind: LevelFileKind) -> PathBuf {
        self.level_files.file_path(kind, self.rank)
    }

    fn write_line(&mut self, path: PathBuf, line: &impl Serialize) -> Result<(), JobError> {
        let writer = match self.writers.get_mut(&path) {
            Some(writer) => writer,
            None => {
                let file = create_new_file(&path)
                    .map_err(OutputError::io_error("cannot create", &path))?;
                let writer = BufWriter::with_capacity(1 << 20, file);
                self.writers.entry(path.clone()).or_insert(writer)
            }
        };
        let written = serde_json::to_writer(&mut *writer, line).map_err(std::io::Error::from);
        let written = written.and_then(|()| writer.write_all(b"\n"));
        Ok(written.map_err(OutputError::io_error("cannot write", &path))?)
    }

    fn sync_files(mut self) -> Result<(), JobError> {
        for (path, writer) in &mut self.writers {
            let written = writer.flush().and_then(|()| writer.get_ref().sync_all());
            written.map_err(OutputError::io_error("cannot write", path))?;
        }
        Ok(())
    }
}

/// Adds a node to ascending ranges `[from, to)`, extending the last one if it is adjacent.
pub(crate) fn extend_ranges(ranges: &mut Vec<(u64, u64)>, node: u64) {
    match ranges.last_mut() {
        Some((_, to)) if *to == node => *to += 1,
        _ => ranges.push((node, node + 1)),
    }
}

/// Collective. Returns the set of groups that have a prompt, and this rank's share of the files with passed-up texts.
/// The first `readers` ranks see the folder.
pub(crate) fn read_level_groups(
    comm: &mut dyn Comm,
    level_files: &LevelFiles,
    tree: ReduceTree,
    readers: usize,
) -> Result<(BitSet, Vec<PathBuf>), JobError> {
    let mut prompted = BitSet::new(tree.node_count(level_files.level));
    let is_reader = comm.rank() < readers;
    let list = |kind| if is_reader { level_files.list_files(kind) } else { Ok(Vec::new()) };
    let passed_up = list(LevelFileKind::Groups).and_then(|files| {
        read_groups(&share_of_rank(comm, readers, files), |group| {
            if group.texts > 1 {
                prompted.insert(group.group);
            }
            Ok(())
        })?;
        list(LevelFileKind::PassedUp)
    });
    let passed_up = all_ok(comm, passed_up)?;
    prompted.update_words(|words| comm.all_reduce(words, ReduceOp::Or));
    Ok((prompted, share_of_rank(comm, readers, passed_up)))
}
