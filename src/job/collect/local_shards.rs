//! Collecting shard files from the nodes (`--local-shards`), at the beginning and at the end of a session.
//!
//! With `--local-shards` only rank 0 needs to see the run folder, and ranks write to their own nodes. The lines on the nodes
//! are sent to rank 0 in input order, of each prompt the one that takes precedence, and become one more shard file of the
//! run folder. Then the files are removed from the nodes: everything that reads a run reads the run folder and nothing else.
//! Where the folders are and which rank reads which file is decided in [`super::shard_folders`]; what happens after ranks
//! were lost, when no collective call is possible, is in [`super::recover_shards`].

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tracing::{info, warn};

use super::{
    completion::CompletionState,
    gather::{GATHER_ROUND_BYTES, LineSink, gather_in_order},
    line_index::LineIndex,
};
use crate::job::{
    JobError,
    context::all_ok,
    setup::run_plan::{RunPlan, SERVER_LOG_FOLDER, SHARDS_FOLDER},
};
use crate::{
    comm::{Comm, ReduceOp, SoloComm, TypedComm},
    output::{AnswerFormat, OutputError, OutputFile},
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
    folder_share: FolderShare,
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
    let local = std::path::absolute(local).map_err(OutputError::io_error("cannot find", local))?;
    Ok(Some(local.join(format!("{output}-{id}.run")).to_string_lossy().into_owned()))
}

impl ShardFolders {
    /// Creates the local folders, if the run has any, and assigns their files to ranks. Collective.
    pub(crate) fn create_folders(
        comm: &mut dyn Comm,
        brief: &RunPlan,
        place: &RankPlacement,
    ) -> Result<Self, JobError> {
        let (run, home) = (brief.folder.clone(), brief.folder.join(SHARDS_FOLDER));
        let (place, ranks) = (place.clone(), comm.size());
        let own = shards::rank_folder(&home, brief.start, place.rank, ranks);
        let mut folders = Self {
            placement: place,
            ranks,
            run_folder: run,
            shared_shards: home,
            own_shards: own,
            node_local: None,
        };
        let Some(away) = &brief.local_shards else { return Ok(folders) };
        let place = &folders.placement;
        let run = PathBuf::from(place.fill_placeholders(away));
        let shards = run.join(SHARDS_FOLDER);
        let made = std::fs::create_dir_all(&shards).map_err(|error| JobError::LocalShards {
            rank: place.rank,
            host: place.node.host.clone(),
            folder: shards.display().to_string(),
            error,
        });
        all_ok(comm, made)?;
        let all = comm.gather_values(&(place.node.host.clone(), run.clone()))?;
        let share = comm.scatter_values(all.map(|all| folder_shares(&all)))?;
        folders.node_local = Some(NodeLocalFolder { run_folder: run, shards, folder_share: share });
        Ok(folders)
    }

    /// Returns the folder that this rank writes its shard file to.
    pub(crate) fn write_folder(&self) -> &Path {
        self.node_local.as_ref().map_or(&self.own_shards, |local| &local.shards)
    }

    /// Returns the folder for the logs of this rank's servers.
    pub(crate) fn server_log_folder(&self) -> PathBuf {
        self.node_local
            .as_ref()
            .map_or(&self.run_folder, |local| &local.run_folder)
            .join(SERVER_LOG_FOLDER)
    }

    /// Removes the local folders if they are empty. While other ranks still have files in them this does nothing, and the
    /// last of those ranks removes them.
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

    /// Returns the first unused shard file name of this session in the run folder, with a matching header. Files that are
    /// collected in two steps become two files.
    pub(crate) fn next_free_file(&self, brief: &RunPlan) -> (PathBuf, ShardHeader) {
        let (host, fingerprint) = (&self.placement.node.host, &brief.source.fingerprint);
        let mut header = ShardHeader::new(brief.start, 0, host, fingerprint);
        let place = |header: &ShardHeader| {
            let folder =
                shards::rank_folder(&self.shared_shards, brief.start, header.rank, self.ranks);
            folder.join(header.file_name())
        };
        while place(&header).exists() {
            header.rank += 1;
        }
        let place = place(&header);
        // An earlier session with fewer ranks may not have had this subfolder. If it cannot be created, creating the file
        // reports why.
        let _ = place.parent().map(std::fs::create_dir);
        (place, header)
    }

    /// Returns the files of the run folder that this rank reads: its own of this session, which are in its node's page cache,
    /// and its share of the earlier ones. With `--local-shards` rank 0 reads them all, since only it sees them.
    pub(crate) fn readable_files(&self, start: u32) -> Result<Vec<ShardFile>, JobError> {
        let (rank, ranks) = (self.placement.rank, self.ranks);
        if self.node_local.is_some() {
            return Ok(if rank == 0 {
                shards::list_shard_files(&self.shared_shards)?
            } else {
                Vec::new()
            });
        }
        let mine = |(place, file): (usize, ShardFile)| {
            let its = if file.start == start { file.rank as usize } else { place };
            (its % ranks == rank).then_some(file)
        };
        Ok(shards::list_shard_files(&self.shared_shards)?
            .into_iter()
            .enumerate()
            .filter_map(mine)
            .collect())
    }
}

impl NodeLocalFolder {
    /// Returns the local files that this rank sends: its own of the session `under_way`, and its share of earlier ones,
    /// whichever rank wrote them.
    fn assigned_files(
        &self,
        under_way: Option<u32>,
        rank: usize,
    ) -> Result<Vec<ShardFile>, JobError> {
        let (place, of) = self.folder_share;
        let mine = |(number, file): (usize, ShardFile)| {
            let its = if Some(file.start) == under_way {
                file.rank as usize == rank
            } else {
                number % of == place
            };
            its.then_some(file)
        };
        Ok(shards::list_shard_files(&self.shards)?
            .into_iter()
            .enumerate()
            .filter_map(mine)
            .collect())
    }

    /// Removes files that are now in the run folder. Files with answers to another input stay, since they are nowhere else.
    fn remove_collected(&self, files: &[ShardFile], fingerprint: &str) {
        let may_go = |file: &&ShardFile| !matches!(shards::read_fingerprint(file), Ok(Some(its)) if its != fingerprint);
        for file in files.iter().filter(may_go) {
            match std::fs::remove_file(&file.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn!("{} is brought home and cannot be removed: {error}", file.path.display());
                }
                _ => {}
            }
        }
    }
}

/// Moves the shard files on the nodes into the run folder. Collective.
pub(crate) fn collect_local_shards(
    comm: &mut dyn Comm,
    folders: &ShardFolders,
    brief: &RunPlan,
) -> Result<(), JobError> {
    collect_node_files(comm, folders, brief, Some(brief.start))
}

/// Moves the shard files that earlier sessions have left on the nodes into the run folder, as answers to the input of that
/// time: a migration to a changed input looks only in the run folder. `earlier` is the run as it was then, on rank 0, if it
/// may have left any. Collective.
pub(crate) fn collect_earlier_shards(
    comm: &mut dyn Comm,
    place: &RankPlacement,
    earlier: Option<RunPlan>,
) -> Result<(), JobError> {
    let earlier = (comm.rank() == 0).then_some(earlier);
    let Some(brief) = comm.broadcast_value(earlier)? else { return Ok(()) };
    // All ranks take the same branch: an error on one rank is an error on all (`OtherRank` on those without one).
    match ShardFolders::create_folders(comm, &brief, place) {
        Ok(folders) => {
            collect_node_files(comm, &folders, &brief, None)?;
            folders.remove_empty_folders();
            Ok(())
        }
        Err(error @ JobError::LocalShards { .. }) => {
            warn!("what earlier starts may have left there is not found: {error}");
            Ok(())
        }
        Err(JobError::OtherRank(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn collect_node_files(
    comm: &mut dyn Comm,
    folders: &ShardFolders,
    brief: &RunPlan,
    under_way: Option<u32>,
) -> Result<(), JobError> {
    let Some(local) = &folders.node_local else { return Ok(()) };
    let files = local.assigned_files(under_way, folders.placement.rank);
    let files = all_ok(comm, files.map_err(JobError::into_finish_error))?;
    collect_into_shard(comm, folders, brief, &files)?;
    local.remove_collected(&files, &brief.source.fingerprint);
    Ok(())
}

/// Local. The same of rank 0's node, where no others are there any more. Nothing is removed: who is lost may be at work.
pub(crate) fn collect_root_shards(folders: &ShardFolders, brief: &RunPlan) -> Result<(), JobError> {
    let Some(local) = &folders.node_local else { return Ok(()) };
    collect_into_shard(
        &mut SoloComm::new(),
        folders,
        brief,
        &shards::list_shard_files(&local.shards)?,
    )
}

/// Collective. The lines of each rank's `files` into one file at rank 0.
fn collect_into_shard(
    comm: &mut dyn Comm,
    folders: &ShardFolders,
    brief: &RunPlan,
    files: &[ShardFile],
) -> Result<(), JobError> {
    let (rows, fingerprint) = (brief.source.rows, &brief.source.fingerprint);
    let mut lines = LineIndex::for_files(files.to_vec(), rows);
    let mut count = [0];
    let read = shards::read_all_entries(files, fingerprint, |file, entry| {
        count[0] += 1;
        lines.record_line(file, &entry)
    });
    all_ok(comm, read.map_err(|error| JobError::from(error).into_finish_error()))?;
    comm.all_reduce(&mut count, ReduceOp::Sum);
    if count[0] == 0 {
        return Ok(());
    }
    let began = std::time::Instant::now();
    let file = (comm.rank() == 0).then(|| CollectedShard::create_file(folders, brief)).transpose();
    let mut file = all_ok(comm, file.map_err(JobError::into_finish_error))?;
    let brought = gather_in_order(comm, lines, rows, GATHER_ROUND_BYTES, &mut file);
    all_ok(comm, brought.map_err(JobError::into_finish_error))?;
    let finished = file.map_or(Ok(0), CollectedShard::finish_file);
    let lines = all_ok(comm, finished.map_err(|it| JobError::from(it).into_finish_error()))?;
    if comm.rank() == 0 {
        info!(
            lines,
            seconds = began.elapsed().as_secs_f64(),
            "answers on the nodes are brought home"
        );
    }
    Ok(())
}

/// A shard file of the run folder that is being written. It is renamed into place when it is complete.
struct CollectedShard {
    file: OutputFile,
    /// Completion state of the run folder before this file.
    existing: CompletionState,
    line_count: u64,
}

impl CollectedShard {
    fn create_file(folders: &ShardFolders, brief: &RunPlan) -> Result<Self, JobError> {
        let (rows, fingerprint) = (brief.source.rows, &brief.source.fingerprint);
        let there = CompletionState::from_folder(&folders.run_folder, rows, fingerprint)?;
        let (place, header) = folders.next_free_file(brief);
        let mut file = OutputFile::create(&place, AnswerFormat::Jsonl)?;
        let mut first = serde_json::to_vec(&header).unwrap_or_default();
        first.push(b'\n');
        file.write_answer(&first)?;
        Ok(Self { file, existing: there, line_count: 0 })
    }

    fn finish_file(self) -> Result<u64, OutputError> {
        // Everything was in the run folder already: an empty shard file would only be noise.
        if self.line_count > 0 {
            self.file.finish()?;
        }
        Ok(self.line_count)
    }
}

impl LineSink for Option<CollectedShard> {
    fn on_ordered_line(&mut self, index: u64, line: &[u8]) -> Result<(), OutputError> {
        // An answer may have been collected before, by a session that was killed before it removed the local file. Failures
        // are written again, since the prompt may have failed in another way since.
        let Some(it) = self.as_mut().filter(|it| !it.existing.is_answered(index)) else {
            return Ok(());
        };
        it.line_count += 1;
        it.file.write_answer(line)
    }
}

/// Returns the share of local files that each rank reads, from the host and local folder of each.
fn folder_shares(all: &[(String, PathBuf)]) -> Vec<FolderShare> {
    let mut sizes: BTreeMap<&(String, PathBuf), usize> = BTreeMap::new();
    let mut places = Vec::with_capacity(all.len());
    for its in all {
        let size = sizes.entry(its).or_default();
        places.push(*size);
        *size += 1;
    }
    places.into_iter().zip(all).map(|(place, its)| (place, sizes[its])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        input::{InputRules, InputSource},
        site::NodeInfo,
    };

    const ROWS: u64 = 30;

    fn run_plan(run: &Path, local: &Path, start: u32) -> RunPlan {
        let source = InputSource {
            files: Vec::new(),
            rows: ROWS,
            fingerprint: "f".into(),
            any_messages: false,
            any_text: true,
            openai_batch: false,
            longest_row: 0,
        };
        RunPlan {
            source,
            rules: InputRules::default(),
            folder: run.to_owned(),
            output: run.with_extension(""),
            format: None,
            aggregate: Vec::new(),
            start,
            local_shards: Some(local.to_string_lossy().into_owned()),
            folder_token: String::new(),
            report: false,
        }
    }

    fn solo_placement() -> RankPlacement {
        let node = NodeInfo { host: "n".into(), addresses: Vec::new() };
        RankPlacement { rank: 0, node, local_rank: 0, local_size: 1 }
    }

    /// Writes shard files with these outcomes, one per rank, each with a torn last line.
    fn write_shards(folder: &Path, start: u32, files: &[Vec<(u64, bool)>]) {
        for (rank, told) in files.iter().enumerate() {
            let header = ShardHeader::new(start, rank, "n", "f");
            let mut text = serde_json::to_string(&header).expect("JSON") + "\n";
            for (index, success) in told {
                let error = if *success { "null" } else { r#"{"kind":"too_long"}"# };
                text += &format!("{{\"index\":{index},\"success\":{success},\"error\":{error}}}\n");
            }
            std::fs::write(folder.join(header.file_name()), text + "{\"index\":0,\"suc")
                .expect("written");
        }
    }

    fn count_outcomes(folder: &Path) -> crate::output::PromptCounts {
        CompletionState::from_folder(folder, ROWS, "f").expect("read").outcome_counts(ROWS)
    }

    fn any_files() -> impl Strategy<Value = Vec<Vec<(u64, bool)>>> {
        prop::collection::vec(prop::collection::vec((0..ROWS + 2, any::<bool>()), 0..20), 0..4)
    }

    proptest! {
        // Few cases: each of them waits for fsync.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn collected_files_are_in_the_run_folder_and_removed_from_the_node(
            at_home in any_files(), early in any_files(), own in any_files(), killed in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let (run, local, all) = (folder.path().join("home.run"), folder.path().join("local.run"), folder.path().join("all.run"));
            for it in [&run, &local, &all] {
                std::fs::create_dir_all(it.join(SHARDS_FOLDER)).expect("made");
            }
            for it in [&run, &all] {
                write_shards(&it.join(SHARDS_FOLDER), 1, &at_home);
            }
            for it in [&local, &all] {
                write_shards(&it.join(SHARDS_FOLDER), 2, &early);
                // A session has one file per rank, and there is one rank.
                write_shards(&it.join(SHARDS_FOLDER), 3, own.get(..1).unwrap_or_default());
            }
            let brief = run_plan(&run, &local, 3);
            let comm = &mut SoloComm::new();
            let folders = ShardFolders::create_folders(comm, &brief, &solo_placement(), |_| 1).expect("agreed");
            if killed {
                // Collected by a session that was killed before it removed the local files.
                collect_root_shards(&folders, &brief).expect("home");
                prop_assert_eq!(count_outcomes(&run), count_outcomes(&all));
            }
            let there = shards::list_shard_files(&run.join(SHARDS_FOLDER)).expect("listed");
            collect_local_shards(comm, &folders, &brief, |_| 1).expect("home");
            prop_assert_eq!(count_outcomes(&run), count_outcomes(&all));
            prop_assert_eq!(shards::list_shard_files(&local.join(SHARDS_FOLDER)).expect("listed"), []);
            for new in shards::list_shard_files(&run.join(SHARDS_FOLDER)).expect("listed").iter().filter(|it| killed && !there.contains(it)) {
                let answers = |entry: shards::LineEntry| { assert!(!entry.success, "an answer is brought once"); Ok(()) };
                shards::read_entries(new, "f", answers).expect("read");
            }
            let before = shards::list_shard_files(&run.join(SHARDS_FOLDER)).expect("listed").len();
            collect_local_shards(comm, &folders, &brief, |_| 1).expect("nothing to do");
            prop_assert_eq!(shards::list_shard_files(&run.join(SHARDS_FOLDER)).expect("listed").len(), before);
            folders.remove_empty_folders();
            prop_assert!(!local.exists());
        }

        #[test]
        fn each_local_file_is_read_by_exactly_one_rank_that_sees_it(ranks in prop::collection::vec((0u8..3, 0u8..2), 1..20), files in 0usize..40) {
            let all: Vec<(String, PathBuf)> =
                ranks.iter().map(|(host, folder)| (host.to_string(), PathBuf::from(folder.to_string()))).collect();
            let shares = folder_shares(&all);
            for seen in &all {
                for file in 0..files {
                    let readers = all.iter().zip(&shares).filter(|(its, (place, of))| *its == seen && file % of == *place);
                    prop_assert_eq!(readers.count(), 1);
                }
            }
        }
    }

    #[test]
    fn local_files_that_could_not_be_collected_are_not_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (run, local) = (folder.path().join("home.run"), folder.path().join("local.run"));
        std::fs::create_dir_all(local.join(SHARDS_FOLDER)).expect("made");
        write_shards(&local.join(SHARDS_FOLDER), 1, &[vec![(0, true)]]);
        // The run folder has no shards folder to write to.
        let brief = run_plan(&run, &local, 2);
        let folders =
            ShardFolders::create_folders(&mut SoloComm::new(), &brief, &solo_placement(), |_| 1)
                .expect("agreed");
        let error = collect_local_shards(&mut SoloComm::new(), &folders, &brief, |_| 1)
            .expect_err("no home");
        assert!(matches!(error, JobError::FinishFailed(_)), "{error}");
        assert_eq!(shards::list_shard_files(&local.join(SHARDS_FOLDER)).expect("listed").len(), 1);
    }
}
