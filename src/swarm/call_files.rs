//! Files of a call: rows, answers and the run folder, in the program's folder (resumable) or in a temporary one.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use super::SwarmAnswer;
use crate::{
    job::{CallSpec, JobError},
    new_file::create_new_file,
    output::OutputError,
};

/// Names the files of successive calls.
pub(super) struct CallFolder {
    folder: Option<PathBuf>,
    temporary: PathBuf,
    ranks: usize,
    collective_calls: u32,
    local_calls: u32,
}

pub(super) struct CallFiles {
    folder: PathBuf,
    name: String,
    /// Parent of the temporary folder, with the same name on every node.
    temporary: Option<PathBuf>,
    ranks: usize,
}

impl CallFolder {
    pub(super) fn new(folder: Option<PathBuf>, temporary: PathBuf, ranks: usize) -> Self {
        Self { folder, temporary, ranks, collective_calls: 0, local_calls: 0 }
    }

    /// Returns the files of the next call, collective or of one rank. The names depend only on the order of the calls.
    pub(super) fn next_call(&mut self, rank: Option<usize>) -> CallFiles {
        let (number, ranks) = match rank {
            None => (&mut self.collective_calls, self.ranks),
            Some(_) => (&mut self.local_calls, 1),
        };
        *number += 1;
        let prefix = rank.map(|rank| format!("rank-{rank:05}-")).unwrap_or_default();
        let name = format!("{prefix}call-{number:04}");
        match &self.folder {
            Some(folder) => CallFiles { folder: folder.clone(), name, temporary: None, ranks },
            None => {
                /// Number of swarms so far, since one process may have several.
                static NEXT_SWARM_ID: AtomicU64 = AtomicU64::new(0);
                let unique = NEXT_SWARM_ID.fetch_add(1, Ordering::Relaxed);
                let folder = format!("aurora-swarm-{}-{unique}", std::process::id());
                let folder = self.temporary.join(folder);
                CallFiles { folder, name, temporary: Some(self.temporary.clone()), ranks }
            }
        }
    }
}

impl CallFiles {
    /// Writes the rows as JSON lines and returns the specification of the call.
    pub(super) fn write_call(
        &self,
        rows: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<CallSpec, JobError> {
        let path = self.folder.join(format!("{}.rows.jsonl", self.name));
        std::fs::create_dir_all(&self.folder)
            .map_err(OutputError::io_error("cannot create", &self.folder))?;
        write_rows(&path, rows).map_err(OutputError::io_error("cannot write", &path))?;
        // A temporary folder need not be shared by the nodes, so shard files stay local until they are collected.
        let local = self.temporary.as_ref().filter(|_| self.ranks > 1);
        Ok(CallSpec {
            inputs: vec![path.to_string_lossy().into_owned()],
            output: self.output_path(),
            local_shards: local.map(|folder| folder.to_string_lossy().into_owned()),
            ..CallSpec::default()
        })
    }

    /// Reads the answers, in input order.
    pub(super) fn read_answers(&self) -> Result<Vec<SwarmAnswer>, JobError> {
        let path = self.output_path();
        Ok(read_answer_lines(&path).map_err(OutputError::io_error("cannot read", &path))?)
    }

    fn output_path(&self) -> PathBuf {
        self.folder.join(format!("{}.jsonl", self.name))
    }
}

impl Drop for CallFiles {
    fn drop(&mut self) {
        if self.temporary.is_some() {
            let _ = std::fs::remove_dir_all(&self.folder); // exists on some ranks only
        }
    }
}

fn write_rows(path: &Path, rows: impl IntoIterator<Item = impl Serialize>) -> std::io::Result<()> {
    let mut file = BufWriter::new(create_new_file(path)?);
    for row in rows {
        serde_json::to_writer(&mut file, &row)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

fn read_answer_lines(path: &Path) -> std::io::Result<Vec<SwarmAnswer>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn named_folders_stay_and_temporary_ones_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let named = folder.path().join("named");
        let mut places = CallFolder::new(Some(named.clone()), "/nowhere".into(), 3);
        let call = places.next_call(None).write_call(["a"]).expect("written");
        assert_eq!(call.output, named.join("call-0001.jsonl"));
        assert_eq!(call.local_shards, None);
        let local = places.next_call(Some(2)).write_call(["b"]).expect("written");
        assert_eq!(local.output, named.join("rank-00002-call-0001.jsonl"));
        assert_eq!(std::fs::read_dir(&named).expect("listed").count(), 2);

        let mut places = CallFolder::new(None, folder.path().into(), 3);
        let (one, two) = (places.next_call(None), places.next_call(None));
        let call = one.write_call([json!("a"), json!({"prompt": "b\n", "n": 2})]).expect("written");
        assert_ne!(call.output.parent(), two.output_path().parent());
        let text = std::fs::read_to_string(&call.inputs[0]).expect("there");
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(call.local_shards.is_some());
        drop(one);
        assert!(!Path::new(&call.inputs[0]).exists());
    }
}
