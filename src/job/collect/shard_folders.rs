//! The folders of shard files: the shared ones in the run folder, or one on each node with `--local-shards`.
//!
//! Owns which rank reads and writes which shard file. Reading completion state and lines from the files is the business
//! of [`super::completion`] and [`super::line_index`]; moving files from the nodes into the run folder, of
//! [`super::local_shards`]. Names and format of shard files belong to [`shards`](crate::shards).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::job::{
    JobError,
    context::all_ok,
    setup::run_plan::{RunPlan, SERVER_LOG_FOLDER, SHARDS_FOLDER},
};
use crate::{
    comm::{Comm, TypedComm},
    output::OutputError,
    shards::{self, ShardFile, ShardHeader},
    site::RankPlacement,
};

/// The folders of shard files that this rank reads and writes.
#[derive(Debug)]
pub(crate) struct ShardFolders {
    placement: RankPlacement,
    /// Number of ranks of the job.
    ranks: usize,
    run_folder: PathBuf,
    shared_shards: PathBuf,
    /// Folder that this rank writes to without `--local-shards`.
    own_shards: PathBuf,
    node_local: Option<NodeLocalFolder>,
}

/// The folder on this node with `--local-shards`.
#[derive(Debug)]
struct NodeLocalFolder {
    run_folder: PathBuf,
    shards: PathBuf,
    share: FolderShare,
}

/// (index, count) of this rank among the ranks that share a local folder.
type FolderShare = (usize, usize);

/// Returns the pattern of the local folders of a run with this id; its placeholders are filled per rank.
pub(crate) fn local_folder_pattern(
    local: Option<&str>,
    output: &str,
    id: &str,
) -> Result<Option<String>, OutputError> {
    let Some(local) = local.map(Path::new) else { return Ok(None) };
    let local =
        std::path::absolute(local).map_err(OutputError::io_error("cannot resolve", local))?;
    Ok(Some(local.join(format!("{output}-{id}.run")).to_string_lossy().into_owned()))
}

impl ShardFolders {
    /// Collective. Creates the local folders, if the run has any, and assigns their files to ranks.
    pub(crate) fn create_folders(
        comm: &mut dyn Comm,
        plan: &RunPlan,
        placement: &RankPlacement,
    ) -> Result<Self, JobError> {
        let (placement, ranks) = (placement.clone(), comm.size());
        let shared_shards = plan.folder.join(SHARDS_FOLDER);
        let own_shards = shards::rank_folder(&shared_shards, plan.start, placement.rank, ranks);
        let mut folders = Self {
            placement,
            ranks,
            run_folder: plan.folder.clone(),
            shared_shards,
            own_shards,
            node_local: None,
        };
        let Some(pattern) = &plan.local_shards else { return Ok(folders) };
        let placement = &folders.placement;
        let run_folder = PathBuf::from(placement.fill_placeholders(pattern));
        let shards = run_folder.join(SHARDS_FOLDER);
        let created = std::fs::create_dir_all(&shards).map_err(|error| JobError::LocalShards {
            rank: placement.rank,
            host: placement.node.host.clone(),
            folder: shards.display().to_string(),
            error,
        });
        all_ok(comm, created)?;
        // Ranks share a folder if host and path are the same: two hosts may well use the same path.
        let all = comm.gather_values(&(placement.node.host.clone(), run_folder.clone()))?;
        let share = comm.scatter_values(all.map(|all| folder_shares(&all)))?;
        folders.node_local = Some(NodeLocalFolder { run_folder, shards, share });
        Ok(folders)
    }

    /// Returns the folder that this rank writes its shard file to.
    pub(crate) fn write_folder(&self) -> &Path {
        self.node_local.as_ref().map_or(&self.own_shards, |local| &local.shards)
    }

    /// Returns the run folder, which only rank 0 may see with `--local-shards`.
    pub(crate) fn run_folder(&self) -> &Path {
        &self.run_folder
    }

    /// Returns the folder for the logs of this rank's servers.
    pub(crate) fn server_log_folder(&self) -> PathBuf {
        self.node_local
            .as_ref()
            .map_or(&self.run_folder, |local| &local.run_folder)
            .join(SERVER_LOG_FOLDER)
    }

    /// Removes the local folders if they are empty. While other ranks still have files in them this does nothing, and
    /// the last of those ranks removes them.
    pub(crate) fn remove_empty_folders(&self) {
        if let Some(local) = &self.node_local {
            let _ = std::fs::remove_dir(&local.shards);
            let _ = std::fs::remove_dir(&local.run_folder);
        }
    }

    /// Returns whether ranks write to their own nodes.
    pub(crate) fn is_node_local(&self) -> bool {
        self.node_local.is_some()
    }

    /// Returns the first unused shard file name of this session in the run folder, with a matching header. Files that
    /// are collected in two steps become two files.
    pub(crate) fn next_free_file(&self, plan: &RunPlan) -> (PathBuf, ShardHeader) {
        let (host, fingerprint) = (&self.placement.node.host, &plan.source.fingerprint);
        let mut header = ShardHeader::new(plan.start, 0, host, fingerprint);
        let path_of = |header: &ShardHeader| {
            let folder =
                shards::rank_folder(&self.shared_shards, plan.start, header.rank, self.ranks);
            folder.join(header.file_name())
        };
        while path_of(&header).exists() {
            header.rank += 1;
        }
        let path = path_of(&header);
        // An earlier session with fewer ranks may not have had this subfolder. If it cannot be created, creating the
        // file reports why.
        let _ = path.parent().map(std::fs::create_dir);
        (path, header)
    }

    /// Returns the files of the run folder that this rank reads: its own of session `start`, which are in its node's
    /// page cache, and its share of the earlier ones. With `--local-shards` rank 0 reads them all, since only it sees
    /// them.
    pub(crate) fn readable_files(&self, start: u32) -> Result<Vec<ShardFile>, JobError> {
        let (rank, ranks) = (self.placement.rank, self.ranks);
        if self.is_node_local() && rank != 0 {
            return Ok(Vec::new());
        }
        let files = shards::list_shard_files(&self.shared_shards)?;
        if self.is_node_local() {
            return Ok(files);
        }
        let is_assigned = |index: usize, file: &ShardFile| {
            let number = if file.start == start { file.rank as usize } else { index };
            number % ranks == rank
        };
        Ok(select_files(files, is_assigned))
    }

    /// Returns the local files that this rank sends to rank 0: its own of the session `under_way`, and its share of
    /// earlier ones, whichever rank wrote them. `None` without `--local-shards`.
    pub(crate) fn local_files_to_collect(
        &self,
        under_way: Option<u32>,
    ) -> Result<Option<Vec<ShardFile>>, JobError> {
        let Some(NodeLocalFolder { shards, share: (share_index, sharers), .. }) = &self.node_local
        else {
            return Ok(None);
        };
        let is_assigned = |index: usize, file: &ShardFile| {
            if Some(file.start) == under_way {
                file.rank as usize == self.placement.rank
            } else {
                index % sharers == *share_index
            }
        };
        Ok(Some(select_files(shards::list_shard_files(shards)?, is_assigned)))
    }

    /// Returns all files in the local folder of this rank; `None` without `--local-shards`.
    pub(crate) fn all_local_files(&self) -> Result<Option<Vec<ShardFile>>, JobError> {
        let Some(local) = &self.node_local else { return Ok(None) };
        Ok(Some(shards::list_shard_files(&local.shards)?))
    }
}

/// Keeps the files that a condition on index and file selects.
fn select_files(
    files: Vec<ShardFile>,
    is_selected: impl Fn(usize, &ShardFile) -> bool,
) -> Vec<ShardFile> {
    let indexed = files.into_iter().enumerate();
    indexed.filter(|(index, file)| is_selected(*index, file)).map(|(_, file)| file).collect()
}

/// Returns the share of local files that each rank reads, from the host and local folder of each.
fn folder_shares(folders: &[(String, PathBuf)]) -> Vec<FolderShare> {
    let mut sharers: BTreeMap<&(String, PathBuf), usize> = BTreeMap::new();
    let mut indices = Vec::with_capacity(folders.len());
    for folder in folders {
        let count = sharers.entry(folder).or_default();
        indices.push(*count);
        *count += 1;
    }
    indices.into_iter().zip(folders).map(|(index, folder)| (index, sharers[folder])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_local_file_is_read_by_exactly_one_rank_that_sees_it(
            ranks in prop::collection::vec((0u8..3, 0u8..2), 1..20),
            files in 0usize..40,
        ) {
            let folders: Vec<(String, PathBuf)> = ranks
                .iter()
                .map(|(host, folder)| (host.to_string(), PathBuf::from(folder.to_string())))
                .collect();
            let shares = folder_shares(&folders);
            for folder in &folders {
                for file in 0..files {
                    let is_reader = |(its_folder, (index, count)): &(&(String, PathBuf), &FolderShare)| {
                        *its_folder == folder && file % count == *index
                    };
                    prop_assert_eq!(folders.iter().zip(&shares).filter(is_reader).count(), 1);
                }
            }
        }
    }
}
