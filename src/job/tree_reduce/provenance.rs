//! `tree.jsonl`: the provenance of a reduced text. Lists every group of the tree with the leaves that it covers and
//! those that are missing in it. Rank 0 writes it from the level files, which [`super::level`] owns.
//!
//! One line per group, sorted by level and number. The bytes do not depend on the number of ranks and sessions:
//!
//! ```text
//! {"level":1, "group":5, "leaves":[80,96],   it covers the leaves 80 to 95 of the input
//!  "outcome":"answered",                     or passed (one text, no request), failed, empty (no texts)
//!  "texts":15, "missing":[[83,84]],          leaves that its text does not cover: they or a group above them failed
//!  "failures":[{"leaf":83,"kind":…,"message":…}],
//!  "prompt_bytes":…, "max_tokens":…,
//!  "cut":2, "cut_leaves":[[80,82]],          texts that were truncated to fit, and the leaves under them
//!  "text_bytes":…, "left_out_bytes":…,       length of all texts, and what of it was left out
//!  "error":null}
//! ```

use std::{
    collections::BTreeMap,
    io::{BufWriter, Write},
    path::Path,
};

use serde::Serialize;
use tracing::warn;

use super::level::extend_ranges;
use crate::job::{
    JobError,
    collect::level_files::{LevelFileKind, LevelFiles, LevelGroup, TextFailure, read_groups},
};
use crate::{
    domain::BitSet,
    new_file::create_new_file,
    output::{OutputError, TreeLoss},
    reduce::ReduceTree,
};

#[derive(Serialize)]
struct TreeNodeRecord<'t> {
    level: u32,
    group: u64,
    leaves: [u64; 2],
    outcome: &'t str,
    texts: u64,
    missing: Vec<(u64, u64)>,
    failures: Vec<LeafFailure>,
    prompt_bytes: u64,
    max_tokens: u64,
    cut: u64,
    cut_leaves: Vec<(u64, u64)>,
    text_bytes: u64,
    left_out_bytes: u64,
    error: Option<&'t TextFailure>,
}

#[derive(Serialize)]
struct LeafFailure {
    leaf: u64,
    #[serde(flatten)]
    failure: TextFailure,
}

/// Number of failed groups that are named in the log.
const MAX_LOGGED_GROUPS: u64 = 20;

/// Local, on rank 0. Writes `tree.jsonl` and returns what of the leaves the final text does not cover.
///
/// `root` is an error if there is no final text, with the failure of the last prompt if there was one.
pub(crate) fn write_tree_file(
    folder: &Path,
    tree: ReduceTree,
    root: &Result<(), Option<TextFailure>>,
) -> Result<TreeLoss, JobError> {
    let path = folder.join("tree.jsonl");
    let part_path = folder.join("tree.jsonl.part");
    let write_error = |error| OutputError::io_error("cannot write", &part_path)(error);
    let mut file =
        BufWriter::with_capacity(1 << 20, create_new_file(&part_path).map_err(write_error)?);
    let leaves = tree.leaf_range(tree.level_count(), 0).end;
    let (mut missing, mut failed_groups) = (BitSet::new(leaves), 0);
    let (mut cut, mut loss) = (BitSet::new(leaves), TreeLoss::default());
    for level in 1..=tree.level_count() {
        let mut parents = ParentLevel::read_parent(folder, tree, level, root)?;
        let files = LevelFiles::for_level(folder, level).list_files(LevelFileKind::Groups)?;
        read_groups(&files, |group| {
            for node in group.absent.iter().flat_map(|&(from, to)| from..to) {
                missing.extend(tree.leaf_range(level - 1, node));
            }
            for node in group.cut_nodes.iter().flat_map(|&(from, to)| from..to) {
                cut.extend(tree.leaf_range(level - 1, node));
            }
            loss.text_bytes += group.text_bytes;
            loss.left_out_bytes += group.left_out_bytes;
            let failure = parents.failures.remove(&group.group);
            let node =
                tree_node_record(tree, level, group, failure.as_ref(), &parents.absent, &missing);
            if node.outcome == "failed" {
                failed_groups += 1;
                if failed_groups <= MAX_LOGGED_GROUPS {
                    warn_failed_group(&node);
                }
            }
            let written = serde_json::to_writer(&mut file, &node).map_err(std::io::Error::from);
            Ok(written.and_then(|()| file.write_all(b"\n")).map_err(write_error)?)
        })?;
    }
    if failed_groups > MAX_LOGGED_GROUPS {
        let unnamed = failed_groups - MAX_LOGGED_GROUPS;
        warn!(
            event = "more_reduce_groups_failed",
            groups = unnamed,
            "more reduce groups failed: {unnamed}, listed in {}",
            path.display()
        );
    }
    let written = file.flush().and_then(|()| file.get_ref().sync_all());
    written.and_then(|()| std::fs::rename(&part_path, &path)).map_err(write_error)?;
    loss.missing = if root.is_ok() { missing.member_count() } else { leaves };
    loss.cut = cut.member_count();
    Ok(loss)
}

/// Results of a level's groups, as recorded by the level above or, for the last level, by the end of the reduce.
struct ParentLevel {
    absent: BitSet,
    failures: BTreeMap<u64, TextFailure>,
}

impl ParentLevel {
    fn read_parent(
        folder: &Path,
        tree: ReduceTree,
        level: u32,
        root: &Result<(), Option<TextFailure>>,
    ) -> Result<Self, JobError> {
        let mut parents =
            Self { absent: BitSet::new(tree.node_count(level)), failures: BTreeMap::new() };
        if level == tree.level_count() {
            if let Err(failure) = root {
                parents.absent.insert(0);
                parents.failures.extend(failure.clone().map(|failure| (0, failure)));
            }
            return Ok(parents);
        }
        let files = LevelFiles::for_level(folder, level + 1).list_files(LevelFileKind::Groups)?;
        read_groups(&files, |group| {
            let absent = group.absent.iter().flat_map(|&(from, to)| from..to);
            parents.absent.extend(absent);
            parents.failures.extend(group.failures);
            Ok(())
        })?;
        Ok(parents)
    }
}

fn tree_node_record<'t>(
    tree: ReduceTree,
    level: u32,
    group: LevelGroup,
    error: Option<&'t TextFailure>,
    absent: &BitSet,
    missing: &BitSet,
) -> TreeNodeRecord<'t> {
    let leaves = tree.leaf_range(level, group.group);
    let mut missing_leaves = Vec::new();
    missing
        .members_from(leaves.start)
        .take_while(|leaf| *leaf < leaves.end)
        .for_each(|leaf| extend_ranges(&mut missing_leaves, leaf));
    let outcome = match (group.texts, absent.contains(group.group)) {
        (0, _) => "empty",
        (_, true) => "failed",
        (1, false) => "passed",
        (_, false) => "answered",
    };
    let cut_leaves = group.cut_nodes.iter().map(|&(from, to)| {
        (tree.leaf_range(level - 1, from).start, tree.leaf_range(level - 1, to - 1).end)
    });
    // From level 2 on, a failed node below is a group with a line and an error of its own.
    let failures = group.failures.into_iter().filter(|_| level == 1);
    TreeNodeRecord {
        level,
        group: group.group,
        leaves: [leaves.start, leaves.end],
        outcome,
        texts: group.texts,
        missing: missing_leaves,
        failures: failures.map(|(leaf, failure)| LeafFailure { leaf, failure }).collect(),
        prompt_bytes: group.prompt_bytes,
        max_tokens: group.max_tokens,
        cut: group.cut,
        cut_leaves: cut_leaves.collect(),
        text_bytes: group.text_bytes,
        left_out_bytes: group.left_out_bytes,
        error,
    }
}

fn warn_failed_group(node: &TreeNodeRecord<'_>) {
    let [from, to] = node.leaves;
    let reason = node.error.map_or("no reason recorded", |failure| failure.message.as_str());
    warn!(
        event = "reduce_group_failed",
        level = node.level,
        group = node.group,
        "reduce group failed: level {}, group {}, leaves {from} to {}: {reason}",
        node.level,
        node.group,
        to.saturating_sub(1)
    );
}
