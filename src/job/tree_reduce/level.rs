//! The prompts of one level of a tree, made of the texts of the level below.
//!
//! Owns a level's files in the run folder and how they come to be: texts go to the rank at home in their group, in rounds
//! that fit a buffer, and it writes the group's prompt as a row. All is there when `whole.json` is, which says of what it
//! was made: a level that is whole is used as it is, on any number of ranks, and one that is not is made anew.
//!
//! ```text
//! FILE.run/level-02.in/prompts/00000.jsonl  rows of the groups with two texts and more, a file a rank, in order
//!                      groups-00000.jsonl   what each group is made of, in order
//!                      passed-00000.jsonl   the texts of groups with one
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
use crate::job::{ErrorCodeFn, JobError, context::all_ok};
use crate::{
    comm::{Comm, ReduceOp, all_to_all_in_rounds},
    output::{OutputError, replace_file},
    reduce::{ReduceTemplate, ReduceTree, TokenBudget, block_range, part},
    shards::IndexSet,
};

/// Bytes that a rank sends or gets in a round, about. They are in memory some five times over for a moment: as they were
/// read, as they travel, as they came, as texts and as prompts.
const ROUND: u64 = 8 << 20;

/// Where a level lies.
#[derive(Clone, Debug)]
pub(crate) struct LevelFiles {
    pub(crate) level: u32,
    /// What its prompts are made of.
    input_folder: PathBuf,
    /// The name of its run, whose folder is this and `.run`.
    pub(crate) output: PathBuf,
}

/// What a group is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LevelGroup {
    pub(crate) group: u64,
    /// So many texts of the level below.
    pub(crate) texts: u64,
    /// Nodes of the level below that have none: `[from, to)`.
    pub(crate) absent: Vec<(u64, u64)>,
    /// Why, for those that were asked.
    pub(crate) failures: Vec<(u64, TextFailure)>,
    pub(crate) prompt_bytes: u64,
    pub(crate) max_tokens: u64,
    /// So many texts were cut to fit.
    pub(crate) cut: u64,
}

/// How prompts of groups are made.
pub(crate) struct LevelBuilder<'k> {
    pub(crate) tree: ReduceTree,
    pub(crate) template: &'k ReduceTemplate,
    pub(crate) budget: TokenBudget,
    /// So many ranks, the first ones, write them: those that see the folder.
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
    /// How long that took.
    #[serde(default)]
    seconds: f64,
}

impl LevelFiles {
    /// In the run folder of the leaves.
    pub(crate) fn of(folder: &Path, level: u32) -> Self {
        let named = |ending: &str| folder.join(format!("level-{level:02}{ending}"));
        Self { level, input_folder: named(".in"), output: named("") }
    }

    /// The folder of its rows.
    pub(crate) fn prompts_folder(&self) -> PathBuf {
        self.input_folder.join("prompts")
    }

    /// Local. Is all of it there, made of this?
    pub(crate) fn is_complete(&self, made_of: &str) -> bool {
        self.read_marker().is_some_and(|it| it.made_of == made_of)
    }

    /// Local. How long it took to make, in seconds; none where it is not whole.
    pub(crate) fn build_seconds(&self) -> Option<f64> {
        self.read_marker().map(|it| it.seconds)
    }

    fn read_marker(&self) -> Option<LevelMarker> {
        let text = std::fs::read(self.input_folder.join(LEVEL_MARKER_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Local. Nothing of an earlier making is left, of this level and those above, which were made of it.
    pub(crate) fn begin(&self, folder: &Path, levels: u32) -> Result<(), JobError> {
        for place in (self.level..=levels).map(|level| Self::of(folder, level)) {
            for path in [place.input_folder, crate::job::setup::run_plan::run_folder(&place.output)]
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

    /// Local. All ranks have written their part of it.
    pub(crate) fn end(&self, made_of: &str, seconds: f64) -> Result<(), JobError> {
        let whole = LevelMarker { made_of: made_of.into(), seconds };
        let text = serde_json::to_vec(&whole).unwrap_or_default();
        Ok(replace_file(&self.input_folder.join(LEVEL_MARKER_FILE), &text)?)
    }

    /// Local. Its files of that kind, in the order of their groups.
    pub(crate) fn files(&self, kind: LevelFileKind) -> Result<Vec<PathBuf>, JobError> {
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

/// The kinds of a level's files, a file a rank.
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

/// Every so many-th of them: this rank's. So many ranks, the first ones, share them.
fn share_of_rank<T>(comm: &dyn Comm, sharers: usize, all: Vec<T>) -> Vec<T> {
    let all = all.into_iter().filter(|_| comm.rank() < sharers);
    all.skip(comm.rank()).step_by(sharers.max(1)).collect()
}

/// Collective. Makes the level's prompts.
pub(crate) fn build_level_prompts(
    comm: &mut dyn Comm,
    place: &LevelFiles,
    kitchen: &LevelBuilder<'_>,
    below: &mut NodeTexts,
    code: ErrorCodeFn,
) -> Result<(), JobError> {
    let began = std::time::Instant::now();
    let (tree, level, cooks) = (kitchen.tree, place.level, kitchen.writer_ranks as u64);
    let groups = tree.node_count(level);
    let home = |rank: u64| block_range(groups, cooks, rank); // none for who comes after them
    let rounds =
        count_rounds(comm, |rank| below.estimate_bytes(&child_nodes(tree, level, &home(rank))));
    let mut writer = LevelWriter::new(place, comm.rank());
    let mut fault = None;
    for round in 0..rounds {
        let mut parts = vec![Vec::new(); comm.size()];
        for (rank, part_of) in (0..).zip(&mut parts) {
            let nodes = child_nodes(tree, level, &part(&home(rank), rounds, round));
            // A rank that cannot read goes on with nothing, and says so when all can hear it.
            if let Err(error) = below.read(&nodes, part_of) {
                part_of.clear();
                fault.get_or_insert(error);
            }
        }
        let mut got = vec![Vec::new(); comm.size()];
        let take = |from: usize, piece: &[u8]| got[from].extend_from_slice(piece);
        all_to_all_in_rounds(comm, &parts, ROUND as usize, take);
        drop(parts);
        let mut told = BTreeMap::new();
        got.iter().for_each(|bytes| merge_nodes(bytes, &mut told));
        drop(got);
        for group in part(&home(comm.rank() as u64), rounds, round) {
            let its = tree.children(level, group);
            let rest = told.split_off(&its.end);
            let texts = std::mem::replace(&mut told, rest);
            if fault.is_none() {
                fault = writer.write_group(kitchen, group, &its, texts).err();
            }
        }
    }
    let finished = fault.map_or_else(|| writer.sync_files(), Err);
    all_ok(comm, finished, code)?;
    if comm.rank() == 0 {
        let seconds = began.elapsed().as_secs_f64();
        info!(
            level,
            groups, rounds, seconds, "the texts of the level below are prompts of this one"
        );
    }
    Ok(())
}

/// The nodes of the level below that these groups take in.
fn child_nodes(tree: ReduceTree, level: u32, groups: &Range<u64>) -> Range<u64> {
    match groups.is_empty() {
        true => 0..0,
        false => tree.children(level, groups.start).start..tree.children(level, groups.end - 1).end,
    }
}

/// Collective. So many rounds that none sends or gets much more than a buffer in one; `bytes` says what this rank has for
/// another.
fn count_rounds(comm: &mut dyn Comm, bytes: impl Fn(u64) -> u64) -> u64 {
    let mut gets: Vec<u64> = (0..comm.size() as u64).map(bytes).collect();
    let mut sends = [gets.iter().sum()];
    comm.all_reduce(&mut gets, ReduceOp::Sum);
    comm.all_reduce(&mut sends, ReduceOp::Max);
    gets.into_iter().chain(sends).max().unwrap_or(0).div_ceil(ROUND).max(1)
}

/// This rank's files of a level.
struct LevelWriter<'p> {
    place: &'p LevelFiles,
    rank: usize,
    files: BTreeMap<PathBuf, BufWriter<File>>,
}

impl<'p> LevelWriter<'p> {
    fn new(place: &'p LevelFiles, rank: usize) -> Self {
        Self { place, rank, files: BTreeMap::new() }
    }

    /// What is known of the nodes that a group takes in becomes its prompt, or is passed up, or is nothing.
    fn write_group(
        &mut self,
        kitchen: &LevelBuilder<'_>,
        number: u64,
        children: &Range<u64>,
        mut told: BTreeMap<u64, super::node_texts::Told>,
    ) -> Result<(), JobError> {
        let (mut texts, mut absent, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for node in children.clone() {
            match told.remove(&node).map(super::node_texts::Told::into_text) {
                Some(Ok(text)) => texts.push(text),
                fault => {
                    extend_ranges(&mut absent, node);
                    failures.extend(fault.and_then(Result::err).map(|fault| (node, fault)));
                }
            }
        }
        let (count, level) = (texts.len() as u64, self.place.level);
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
                self.place.input_folder.join(self.file_name(LevelFileKind::PassedUp.file_prefix())),
                &line,
            )?;
        } else if count > 1 {
            let made = kitchen.template.render(level, texts, &kitchen.budget);
            (group.prompt_bytes, group.max_tokens, group.cut) =
                (made.prompt.len() as u64, made.max_tokens, made.cut);
            let id = format!("L{level}-g{number}");
            let row = LevelPromptRow { id, prompt: &made.prompt, max_tokens: made.max_tokens };
            self.write_line(self.place.prompts_folder().join(self.file_name("")), &row)?;
        }
        self.write_line(
            self.place.input_folder.join(self.file_name(LevelFileKind::Groups.file_prefix())),
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

/// Adds a node to those in stretches.
pub(crate) fn extend_ranges(stretches: &mut Vec<(u64, u64)>, node: u64) {
    match stretches.last_mut() {
        Some((_, to)) if *to == node => *to += 1,
        _ => stretches.push((node, node + 1)),
    }
}

/// Local. Tells `each` the groups of these files.
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

/// Collective. The groups that have a prompt, and the files of this rank's share of the texts that were passed up. So many
/// ranks, the first ones, see the folder.
pub(crate) fn read_level_groups(
    comm: &mut dyn Comm,
    place: &LevelFiles,
    tree: ReduceTree,
    readers: usize,
    code: ErrorCodeFn,
) -> Result<(IndexSet, Vec<PathBuf>), JobError> {
    let mut called = IndexSet::new(tree.node_count(place.level));
    let sees = comm.rank() < readers;
    let files = |kind| if sees { place.files(kind) } else { Ok(Vec::new()) };
    let read = files(LevelFileKind::Groups).and_then(|all| {
        read_groups(&share_of_rank(comm, readers, all), |group| {
            if group.texts > 1 {
                called.insert(group.group);
            }
            Ok(())
        })?;
        files(LevelFileKind::PassedUp)
    });
    let passed = all_ok(comm, read, code)?;
    comm.all_reduce(called.words_mut(), ReduceOp::Or);
    Ok((called, share_of_rank(comm, readers, passed)))
}
