//! The prompts of one level of a tree, built from the texts of the level below.
//!
//! Owns a level's files in the run folder and how they are written: texts are sent to the rank that owns their group, in
//! rounds that fit a buffer, and that rank writes the group's prompt as a row. `whole.json` is written last and names the
//! inputs of the level. A complete level is reused as it is, on any number of ranks; any other is built again. Running the
//! prompts of a level is the business of [`super::reduce`].
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
    io::{BufRead, BufReader, BufWriter, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::info;

use super::node_texts::{NodeTexts, PassedUpLine, TextFailure, merge_nodes};
use crate::job::{JobError, context::all_ok};
use crate::{
    comm::{Comm, ReduceOp, all_to_all_in_rounds},
    output::{OutputError, replace_file},
    reduce::{ReduceTemplate, ReduceTree, TokenBudget, block_range, round_range},
    shards::IndexSet,
};

/// Approximate number of bytes that a rank sends or receives in a round. Up to five copies are in memory for a moment: as
/// read, as sent, as received, as texts and as prompts.
const EXCHANGE_ROUND_BYTES: u64 = 8 << 20;

/// The files of a level in the run folder of the leaves.
#[derive(Clone, Debug)]
pub(crate) struct LevelFiles {
    pub(crate) level: u32,
    /// Folder with the level's prompts and the composition of its groups.
    input_folder: PathBuf,
    /// Output path of the level's run, whose folder is this path with `.run` appended.
    pub(crate) run_output: PathBuf,
}

/// Composition of a group: a line of a groups file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LevelGroup {
    pub(crate) group: u64,
    /// Number of texts of the level below.
    pub(crate) texts: u64,
    /// Nodes of the level below without a text, as ranges `[from, to)`.
    pub(crate) absent: Vec<(u64, u64)>,
    /// Failures of those absent nodes that had a prompt, by node.
    pub(crate) failures: Vec<(u64, TextFailure)>,
    pub(crate) prompt_bytes: u64,
    pub(crate) max_tokens: u64,
    /// Number of texts that were truncated to fit.
    pub(crate) cut: u64,
}

/// Inputs for building the prompts of groups.
pub(crate) struct LevelBuilder<'k> {
    pub(crate) tree: ReduceTree,
    pub(crate) template: &'k ReduceTemplate,
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

#[derive(Default, Serialize, Deserialize)]
struct LevelMarker {
    made_of: String,
    /// Duration of the build in seconds.
    #[serde(default)]
    seconds: f64,
}

impl LevelFiles {
    /// Returns the files of a level in the run folder of the leaves.
    pub(crate) fn for_level(folder: &Path, level: u32) -> Self {
        let named = |ending: &str| folder.join(format!("level-{level:02}{ending}"));
        Self { level, input_folder: named(".in"), run_output: named("") }
    }

    pub(crate) fn prompts_folder(&self) -> PathBuf {
        self.input_folder.join("prompts")
    }

    /// Returns whether the level was built completely and from these inputs. Local.
    pub(crate) fn is_complete(&self, made_of: &str) -> bool {
        self.read_marker().is_some_and(|it| it.made_of == made_of)
    }

    /// Returns how many seconds the build took; `None` if the level is not complete. Local.
    pub(crate) fn build_seconds(&self) -> Option<f64> {
        self.read_marker().map(|it| it.seconds)
    }

    fn read_marker(&self) -> Option<LevelMarker> {
        let text = std::fs::read(self.input_folder.join(LEVEL_MARKER_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes earlier builds of this level and of the levels above, which depend on it, and creates its folders. Local.
    pub(crate) fn clear_levels(&self, folder: &Path, levels: u32) -> Result<(), JobError> {
        for place in (self.level..=levels).map(|level| Self::for_level(folder, level)) {
            for path in
                [place.input_folder, crate::job::setup::run_plan::run_folder(&place.run_output)]
            {
                match std::fs::remove_dir_all(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(OutputError::io_error("cannot remove", &path)(error).into());
                    }
                    _ => {}
                }
            }
        }
        let prompts = self.prompts_folder();
        std::fs::create_dir_all(&prompts)
            .map_err(OutputError::io_error("cannot make", &prompts))?;
        Ok(())
    }

    /// Marks the level as complete, after all ranks have written their files. Local, on rank 0.
    pub(crate) fn mark_complete(&self, made_of: &str, seconds: f64) -> Result<(), JobError> {
        let whole = LevelMarker { made_of: made_of.into(), seconds };
        let text = serde_json::to_vec(&whole).unwrap_or_default();
        Ok(replace_file(&self.input_folder.join(LEVEL_MARKER_FILE), &text)?)
    }

    /// Lists the files of a kind in the order of their groups. Local.
    pub(crate) fn list_files(&self, kind: LevelFileKind) -> Result<Vec<PathBuf>, JobError> {
        let error = |error| OutputError::io_error("cannot list", &self.input_folder)(error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.input_folder).map_err(error)? {
            let path = entry.map_err(error)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(kind.file_prefix()) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

const LEVEL_MARKER_FILE: &str = "whole.json";

/// Kinds of a level's files; each rank writes one file of each kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LevelFileKind {
    Groups,
    PassedUp,
}

impl LevelFileKind {
    fn file_prefix(self) -> &'static str {
        match self {
            Self::Groups => "groups-",
            Self::PassedUp => "passed-",
        }
    }
}

/// Returns this rank's share of a list that the first `sharers` ranks divide among them.
fn share_of_rank<T>(comm: &dyn Comm, sharers: usize, all: Vec<T>) -> Vec<T> {
    let all = all.into_iter().filter(|_| comm.rank() < sharers);
    all.skip(comm.rank()).step_by(sharers.max(1)).collect()
}

/// Builds the level's prompts from the texts below. Collective.
pub(crate) fn build_level_prompts(
    comm: &mut dyn Comm,
    place: &LevelFiles,
    kitchen: &LevelBuilder<'_>,
    below: &mut NodeTexts,
) -> Result<(), JobError> {
    let began = std::time::Instant::now();
    let (tree, level, cooks) = (kitchen.tree, place.level, kitchen.writer_ranks as u64);
    let groups = tree.node_count(level);
    let home = |rank: u64| block_range(groups, cooks, rank); // empty for ranks that do not write
    let rounds =
        count_rounds(comm, |rank| below.estimate_bytes(&child_nodes(tree, level, &home(rank))));
    let mut writer = LevelWriter::new(place, comm.rank());
    let mut fault = None;
    for round in 0..rounds {
        let mut parts = vec![Vec::new(); comm.size()];
        for (rank, part_of) in (0..).zip(&mut parts) {
            let nodes = child_nodes(tree, level, &round_range(&home(rank), rounds, round));
            // A rank that cannot read sends nothing and reports the error after the last round: leaving the loop here would
            // leave the other ranks waiting in their collective calls.
            if let Err(error) = below.read_nodes(&nodes, part_of) {
                part_of.clear();
                fault.get_or_insert(error);
            }
        }
        let mut got = vec![Vec::new(); comm.size()];
        let take = |from: usize, piece: &[u8]| got[from].extend_from_slice(piece);
        all_to_all_in_rounds(comm, &parts, EXCHANGE_ROUND_BYTES as usize, take);
        drop(parts);
        let mut told = BTreeMap::new();
        got.iter().for_each(|bytes| merge_nodes(bytes, &mut told));
        drop(got);
        for group in round_range(&home(comm.rank() as u64), rounds, round) {
            let its = tree.child_range(level, group);
            let rest = told.split_off(&its.end);
            let texts = std::mem::replace(&mut told, rest);
            if fault.is_none() {
                fault = writer.write_group(kitchen, group, &its, texts).err();
            }
        }
    }
    let finished = fault.map_or_else(|| writer.sync_files(), Err);
    all_ok(comm, finished)?;
    if comm.rank() == 0 {
        let seconds = began.elapsed().as_secs_f64();
        info!(
            level,
            groups, rounds, seconds, "the texts of the level below are prompts of this one"
        );
    }
    Ok(())
}

/// Returns the nodes of the level below that belong to these groups.
fn child_nodes(tree: ReduceTree, level: u32, groups: &Range<u64>) -> Range<u64> {
    match groups.is_empty() {
        true => 0..0,
        false => {
            tree.child_range(level, groups.start).start..tree.child_range(level, groups.end - 1).end
        }
    }
}

/// Returns the number of rounds in which no rank sends or receives much more than a buffer. `bytes` returns the number of
/// bytes that this rank has for another. Collective.
fn count_rounds(comm: &mut dyn Comm, bytes: impl Fn(u64) -> u64) -> u64 {
    let mut gets: Vec<u64> = (0..comm.size() as u64).map(bytes).collect();
    let mut sends = [gets.iter().sum()];
    comm.all_reduce(&mut gets, ReduceOp::Sum);
    comm.all_reduce(&mut sends, ReduceOp::Max);
    gets.into_iter().chain(sends).max().unwrap_or(0).div_ceil(EXCHANGE_ROUND_BYTES).max(1)
}

/// This rank's files of a level.
struct LevelWriter<'p> {
    level_files: &'p LevelFiles,
    rank: usize,
    files: BTreeMap<PathBuf, BufWriter<File>>,
}

impl<'p> LevelWriter<'p> {
    fn new(place: &'p LevelFiles, rank: usize) -> Self {
        Self { level_files: place, rank, files: BTreeMap::new() }
    }

    /// Writes a group: two or more texts become a prompt, a single text is passed up, and without texts only the composition
    /// is recorded.
    fn write_group(
        &mut self,
        kitchen: &LevelBuilder<'_>,
        number: u64,
        children: &Range<u64>,
        mut told: BTreeMap<u64, super::node_texts::NodeText>,
    ) -> Result<(), JobError> {
        let (mut texts, mut absent, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for node in children.clone() {
            match told.remove(&node).map(super::node_texts::NodeText::into_text) {
                Some(Ok(text)) => texts.push(text),
                fault => {
                    extend_ranges(&mut absent, node);
                    failures.extend(fault.and_then(Result::err).map(|fault| (node, fault)));
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
        };
        if count == 1
            && let Some(text) = texts.pop()
        {
            let line = PassedUpLine { group: number, text: text.into() };
            self.write_line(
                self.level_files
                    .input_folder
                    .join(self.file_name(LevelFileKind::PassedUp.file_prefix())),
                &line,
            )?;
        } else if count > 1 {
            let made = kitchen.template.render(level, texts, &kitchen.budget);
            (group.prompt_bytes, group.max_tokens, group.cut) =
                (made.prompt.len() as u64, made.max_tokens, made.truncated_texts);
            let id = format!("L{level}-g{number}");
            let row = LevelPromptRow { id, prompt: &made.prompt, max_tokens: made.max_tokens };
            self.write_line(self.level_files.prompts_folder().join(self.file_name("")), &row)?;
        }
        self.write_line(
            self.level_files.input_folder.join(self.file_name(LevelFileKind::Groups.file_prefix())),
            &group,
        )
    }

    fn file_name(&self, kind: &str) -> String {
        format!("{kind}{:05}.jsonl", self.rank)
    }

    fn write_line(&mut self, path: PathBuf, line: &impl Serialize) -> Result<(), JobError> {
        let file = match self.files.get_mut(&path) {
            Some(file) => file,
            None => {
                let file =
                    File::create(&path).map_err(OutputError::io_error("cannot make", &path))?;
                self.files.entry(path.clone()).or_insert(BufWriter::with_capacity(1 << 20, file))
            }
        };
        let written = serde_json::to_writer(&mut *file, line).map_err(std::io::Error::from);
        let written = written.and_then(|()| file.write_all(b"\n"));
        Ok(written.map_err(OutputError::io_error("cannot write", &path))?)
    }

    fn sync_files(mut self) -> Result<(), JobError> {
        for (path, file) in &mut self.files {
            let written = file.flush().and_then(|()| file.get_ref().sync_all());
            written.map_err(OutputError::io_error("cannot write", path))?;
        }
        Ok(())
    }
}

/// Adds a node to ascending ranges `[from, to)`, extending the last one if it is adjacent.
pub(crate) fn extend_ranges(stretches: &mut Vec<(u64, u64)>, node: u64) {
    match stretches.last_mut() {
        Some((_, to)) if *to == node => *to += 1,
        _ => stretches.push((node, node + 1)),
    }
}

/// Passes the groups of these files to `each`, in order. Local.
pub(crate) fn read_groups(
    files: &[PathBuf],
    mut each: impl FnMut(LevelGroup) -> Result<(), JobError>,
) -> Result<(), JobError> {
    for path in files {
        let error = |error| OutputError::io_error("cannot read", path)(error);
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(error)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).map_err(error)? > 0 {
            each(serde_json::from_slice(&line).map_err(std::io::Error::from).map_err(error)?)?;
            line.clear();
        }
    }
    Ok(())
}

/// Returns the set of groups that have a prompt, and this rank's share of the files with passed-up texts. The first `readers`
/// ranks see the folder. Collective.
pub(crate) fn read_level_groups(
    comm: &mut dyn Comm,
    place: &LevelFiles,
    tree: ReduceTree,
    readers: usize,
) -> Result<(IndexSet, Vec<PathBuf>), JobError> {
    let mut called = IndexSet::new(tree.node_count(place.level));
    let sees = comm.rank() < readers;
    let files = |kind| if sees { place.list_files(kind) } else { Ok(Vec::new()) };
    let read = files(LevelFileKind::Groups).and_then(|all| {
        read_groups(&share_of_rank(comm, readers, all), |group| {
            if group.texts > 1 {
                called.insert(group.group);
            }
            Ok(())
        })?;
        files(LevelFileKind::PassedUp)
    });
    let passed = all_ok(comm, read)?;
    comm.all_reduce(called.words_mut(), ReduceOp::Or);
    Ok((called, share_of_rank(comm, readers, passed)))
}
