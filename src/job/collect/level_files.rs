//! Names and contents of a reduce level's files in the run folder of the leaves.
//!
//! Owns where they are, the line format of the groups files, and the marker of a complete level. Their contents are
//! computed in [`tree_reduce`](crate::job::tree_reduce).

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::job::{JobError, setup::run_plan::run_folder};
use crate::output::{OutputError, replace_file};

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
    /// Nodes of the level below whose texts were truncated, as ranges `[from, to)`.
    #[serde(default)]
    pub(crate) cut_nodes: Vec<(u64, u64)>,
    /// Length of all texts, in bytes.
    #[serde(default)]
    pub(crate) text_bytes: u64,
    /// Bytes of the texts that were left out.
    #[serde(default)]
    pub(crate) left_out_bytes: u64,
}

/// Reason why a node has no text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct TextFailure {
    pub(crate) kind: String,
    pub(crate) message: String,
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
        let path = |suffix: &str| folder.join(format!("level-{level:02}{suffix}"));
        Self { level, input_folder: path(".in"), run_output: path("") }
    }

    pub(crate) fn prompts_folder(&self) -> PathBuf {
        self.input_folder.join("prompts")
    }

    /// File with the prompts that a rank writes.
    pub(crate) fn prompts_file(&self, rank: usize) -> PathBuf {
        self.prompts_folder().join(format!("{rank:05}.jsonl"))
    }

    /// File of a kind that a rank writes.
    pub(crate) fn file_path(&self, kind: LevelFileKind, rank: usize) -> PathBuf {
        self.input_folder.join(format!("{}{rank:05}.jsonl", kind.file_prefix()))
    }

    /// Local. Returns whether the level was built completely and from these inputs.
    pub(crate) fn is_complete(&self, inputs: &str) -> bool {
        self.read_marker().is_some_and(|marker| marker.made_of == inputs)
    }

    /// Local. Returns how many seconds the build took; `None` if the level is not complete.
    pub(crate) fn build_seconds(&self) -> Option<f64> {
        self.read_marker().map(|marker| marker.seconds)
    }

    fn read_marker(&self) -> Option<LevelMarker> {
        let text = std::fs::read(self.input_folder.join(LEVEL_MARKER_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Local. Removes earlier builds of this level and of the levels above, which depend on it, and creates its
    /// folders.
    pub(crate) fn clear_levels(&self, folder: &Path, levels: u32) -> Result<(), JobError> {
        for outdated in (self.level..=levels).map(|level| Self::for_level(folder, level)) {
            for path in [outdated.input_folder, run_folder(&outdated.run_output)] {
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
            .map_err(OutputError::io_error("cannot create", &prompts))?;
        Ok(())
    }

    /// Local, on rank 0. Marks the level as complete, after all ranks have written their files.
    pub(crate) fn mark_complete(&self, inputs: &str, seconds: f64) -> Result<(), JobError> {
        let marker = LevelMarker { made_of: inputs.into(), seconds };
        let text = serde_json::to_vec(&marker).unwrap_or_default();
        Ok(replace_file(&self.input_folder.join(LEVEL_MARKER_FILE), &text)?)
    }

    /// Local. Lists the files of a kind in the order of their groups.
    pub(crate) fn list_files(&self, kind: LevelFileKind) -> Result<Vec<PathBuf>, JobError> {
        let list_error = |error| OutputError::io_error("cannot list", &self.input_folder)(error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.input_folder).map_err(list_error)? {
            let path = entry.map_err(list_error)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(kind.file_prefix()) {
                files.push(path);
            }
        }
        // The names hold the ranks, whose groups are blocks in ascending order.
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

/// Local. Passes the groups of these files to `each`, in order.
pub(crate) fn read_groups(
    files: &[PathBuf],
    mut each: impl FnMut(LevelGroup) -> Result<(), JobError>,
) -> Result<(), JobError> {
    for path in files {
        let read_error = |error| OutputError::io_error("cannot read", path)(error);
        let mut reader = BufReader::with_capacity(1 << 20, File::open(path).map_err(read_error)?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).map_err(read_error)? > 0 {
            let group = serde_json::from_slice(&line).map_err(std::io::Error::from);
            each(group.map_err(read_error)?)?;
            line.clear();
        }
    }
    Ok(())
}
