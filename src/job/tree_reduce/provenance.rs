//! `tree.jsonl`: every group of a tree, what it covers and what is missing in it; written by rank 0 from the levels' files.
//!
//! A line a group, by level and number, the same bytes on any number of ranks and after any number of starts:
//!
//! ```text
//! {"level":1, "group":5, "leaves":[80,96],   it covers the leaves 80 to 95 of the input
//!  "outcome":"answered",                     or passed (one text, no call), failed, empty (no text to ask about)
//!  "texts":15, "missing":[[83,84]],          leaves that its text does not cover, by their own fault or a group's below
//!  "failures":[{"leaf":83,"kind":…,"message":…}],
//!  "prompt_bytes":…, "max_tokens":…, "cut":0, "error":null}
//! ```

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use serde::Serialize;
use tracing::warn;

use super::{
    level::{Group, Kind, Place, extend, read_groups},
    node_texts::Fault,
};
use crate::job::JobError;
use crate::{output::OutputError, reduce::Tree, shards::Bitmap};

#[derive(Serialize)]
struct Node<'t> {
    level: u32,
    group: u64,
    leaves: [u64; 2],
    outcome: &'t str,
    texts: u64,
    missing: Vec<(u64, u64)>,
    failures: Vec<LeafFault>,
    prompt_bytes: u64,
    max_tokens: u64,
    cut: u64,
    error: Option<&'t Fault>,
}

#[derive(Serialize)]
struct LeafFault {
    leaf: u64,
    #[serde(flatten)]
    fault: Fault,
}

/// Failed groups that are named in the log.
const NAMED: u64 = 20;

/// Local, on rank 0. Writes the tree; `root` says why there is no text at the root, if there was one to be asked for.
/// Leaves that the root's text does not cover.
pub(crate) fn write_tree(
    folder: &Path,
    tree: Tree,
    root: &Result<(), Option<Fault>>,
) -> Result<u64, JobError> {
    let place = folder.join("tree.jsonl");
    let part = folder.join("tree.jsonl.part");
    let error = |error| OutputError::io("cannot write", &part)(error);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(&part).map_err(error)?);
    let leaves = tree.leaves(tree.levels(), 0).end;
    let (mut missing, mut failed) = (Bitmap::new(leaves), 0);
    for level in 1..=tree.levels() {
        let mut above = Above::of(folder, tree, level, root)?;
        read_groups(&Place::of(folder, level).files(Kind::Groups)?, |group| {
            for node in group.absent.iter().flat_map(|&(from, to)| from..to) {
                tree.leaves(level - 1, node).for_each(|leaf| missing.insert(leaf));
            }
            let fault = above.faults.remove(&group.group);
            let node = node(tree, level, group, fault.as_ref(), &above.absent, &missing);
            if node.outcome == "failed" {
                failed += 1;
                if failed <= NAMED {
                    complain(&node);
                }
            }
            let written = serde_json::to_writer(&mut file, &node).map_err(std::io::Error::from);
            Ok(written.and_then(|()| file.write_all(b"\n")).map_err(error)?)
        })?;
    }
    if failed > NAMED {
        warn!("and {} more groups failed: they are in {}", failed - NAMED, place.display());
    }
    let written = file.flush().and_then(|()| file.get_ref().sync_all());
    written.and_then(|()| std::fs::rename(&part, &place)).map_err(error)?;
    Ok(if root.is_ok() { missing.count() } else { leaves })
}

/// What the level above, or the end, says of a level's groups.
struct Above {
    absent: Bitmap,
    faults: BTreeMap<u64, Fault>,
}

impl Above {
    fn of(
        folder: &Path,
        tree: Tree,
        level: u32,
        root: &Result<(), Option<Fault>>,
    ) -> Result<Self, JobError> {
        let mut above = Self { absent: Bitmap::new(tree.nodes(level)), faults: BTreeMap::new() };
        if level == tree.levels() {
            if let Err(fault) = root {
                above.absent.insert(0);
                above.faults.extend(fault.clone().map(|fault| (0, fault)));
            }
            return Ok(above);
        }
        read_groups(&Place::of(folder, level + 1).files(Kind::Groups)?, |group| {
            let absent = group.absent.iter().flat_map(|&(from, to)| from..to);
            absent.for_each(|node| above.absent.insert(node));
            above.faults.extend(group.failures);
            Ok(())
        })?;
        Ok(above)
    }
}

fn node<'t>(
    tree: Tree,
    level: u32,
    group: Group,
    error: Option<&'t Fault>,
    absent: &Bitmap,
    missing: &Bitmap,
) -> Node<'t> {
    let leaves = tree.leaves(level, group.group);
    let mut gaps = Vec::new();
    missing.members(leaves.start).take_while(|leaf| *leaf < leaves.end).for_each(|leaf| {
        extend(&mut gaps, leaf);
    });
    let outcome = match (group.texts, absent.has(group.group)) {
        (0, _) => "empty",
        (_, true) => "failed",
        (1, false) => "passed",
        (_, false) => "answered",
    };
    // Above the first level a failed node has a line of its own, with its error.
    let failures = group.failures.into_iter().filter(|_| level == 1);
    Node {
        level,
        group: group.group,
        leaves: [leaves.start, leaves.end],
        outcome,
        texts: group.texts,
        missing: gaps,
        failures: failures.map(|(leaf, fault)| LeafFault { leaf, fault }).collect(),
        prompt_bytes: group.prompt_bytes,
        max_tokens: group.max_tokens,
        cut: group.cut,
        error,
    }
}

fn complain(node: &Node<'_>) {
    let [from, to] = node.leaves;
    let why = node.error.map_or("nobody knows why", |it| it.message.as_str());
    warn!(
        "group {} of level {}, which covers the leaves {from} to {}, has no text: {why}",
        node.group,
        node.level,
        to.saturating_sub(1)
    );
}
