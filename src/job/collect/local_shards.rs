//! Collecting shard files from the nodes (`--local-shards`), at the beginning and at the end of a session.
//!
//! With `--local-shards` only rank 0 needs to see the run folder, and ranks write to their own nodes. The lines on the
//! nodes are sent to rank 0 in input order, of each prompt the one that takes precedence, and become one more shard
//! file of the run folder. Then the files are removed from the nodes: everything that reads a run reads the run folder
//! and nothing else. Where the folders are and which rank reads which file is decided in [`super::shard_folders`]; what
//! happens after ranks were lost, when no collective call is possible, is in [`super::recover_shards`].

use std::time::Instant;

use tracing::{info, warn};

use super::{
    completion::CompletionState,
    gather::{GATHER_ROUND_BYTES, LineSink, gather_in_order},
    line_index::LineIndex,
    shard_folders::ShardFolders,
};
use crate::job::{JobError, context::all_ok, setup::run_plan::RunPlan};
use crate::{
    comm::{Comm, ReduceOp, SoloComm, TypedComm},
    domain::FoundColumns,
    output::{AnswerFormat, OutputError, OutputFile},
    report::format::format_count,
    shards::{self, ShardFile},
    site::RankPlacement,
};

/// Collective. Moves the shard files on the nodes into the run folder.
pub(crate) fn collect_local_shards(
    comm: &mut dyn Comm,
    folders: &ShardFolders,
    plan: &RunPlan,
) -> Result<(), JobError> {
    collect_node_files(comm, folders, plan, Some(plan.start))
}

/// Collective. Moves the shard files that earlier sessions have left on the nodes into the run folder, as answers to
/// the input of that time: a migration to a changed input looks only in the run folder. `earlier` is the run as it was
/// then, on rank 0, if it may have left any.
pub(crate) fn collect_earlier_shards(
    comm: &mut dyn Comm,
    placement: &RankPlacement,
    earlier: Option<RunPlan>,
) -> Result<(), JobError> {
    let earlier = (comm.rank() == 0).then_some(earlier);
    let Some(plan) = comm.broadcast_value(earlier)? else { return Ok(()) };
    // All ranks take the same branch: an error on one rank is an error on all (`OtherRank` on those without one).
    match ShardFolders::create_folders(comm, &plan, placement) {
        Ok(folders) => {
            collect_node_files(comm, &folders, &plan, None)?;
            folders.remove_empty_folders();
            Ok(())
        }
        Err(error @ JobError::LocalShards { .. }) => {
            warn!(
                event = "earlier_answers_not_collected",
                "answers of earlier sessions not collected from this node: {error}"
            );
            Ok(())
        }
        Err(JobError::OtherRank(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn collect_node_files(
    comm: &mut dyn Comm,
    folders: &ShardFolders,
    plan: &RunPlan,
    under_way: Option<u32>,
) -> Result<(), JobError> {
    if !folders.is_node_local() {
        return Ok(());
    }
    let files = folders.local_files_to_collect(under_way).map(Option::unwrap_or_default);
    let files = all_ok(comm, files.map_err(JobError::into_finish_error))?;
    collect_into_shard(comm, folders, plan, &files)?;
    // Only now: every line is synced to the run folder.
    remove_collected(&files, &plan.source.fingerprint);
    Ok(())
}

/// Local. Copies the files on rank 0's node into the run folder, after other ranks were lost. Nothing is removed,
/// because a rank that counts as lost may still be writing.
pub(crate) fn collect_root_shards(folders: &ShardFolders, plan: &RunPlan) -> Result<(), JobError> {
    let Some(files) = folders.all_local_files()? else { return Ok(()) };
    collect_into_shard(&mut SoloComm::new(), folders, plan, &files)
}

/// Collective. Sends the lines of each rank's `files` to rank 0, which writes them to one shard file of the run folder.
fn collect_into_shard(
    comm: &mut dyn Comm,
    folders: &ShardFolders,
    plan: &RunPlan,
    files: &[ShardFile],
) -> Result<(), JobError> {
    let (rows, fingerprint) = (plan.source.rows, &plan.source.fingerprint);
    let mut lines = LineIndex::for_files(files.to_vec(), rows);
    let mut line_count = [0];
    let read = shards::read_all_entries(files, fingerprint, |file, entry| {
        line_count[0] += 1;
        lines.record_line(file, &entry)
    });
    let read = read.map_err(|error| JobError::from(error).into_finish_error());
    all_ok(comm, read)?;
    comm.all_reduce(&mut line_count, ReduceOp::Sum);
    if line_count[0] == 0 {
        return Ok(());
    }
    let began = Instant::now();
    let file = (comm.rank() == 0).then(|| CollectedShard::create_file(folders, plan)).transpose();
    let mut file = all_ok(comm, file.map_err(JobError::into_finish_error))?;
    let gathered = gather_in_order(comm, lines, rows, GATHER_ROUND_BYTES, &mut file);
    all_ok(comm, gathered.map_err(JobError::into_finish_error))?;
    let finished = file.map_or(Ok(0), CollectedShard::finish_file);
    let finished = finished.map_err(|error| JobError::from(error).into_finish_error());
    let lines = all_ok(comm, finished)?;
    if comm.rank() == 0 {
        info!(
            event = "answers_collected",
            lines,
            elapsed_s = began.elapsed().as_secs_f64(),
            "answers collected from nodes: {}",
            format_count(lines)
        );
    }
    Ok(())
}

/// Removes local files that are now in the run folder. Files with answers to another input stay, since they are nowhere
/// else.
fn remove_collected(files: &[ShardFile], fingerprint: &str) {
    for file in files.iter().filter(|file| !has_other_input(file, fingerprint)) {
        match std::fs::remove_file(&file.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                warn!(
                    event = "collected_file_not_removed",
                    "collected shard file not removed: {}: {error}",
                    file.path.display()
                );
            }
            _ => {}
        }
    }
}

fn has_other_input(file: &ShardFile, fingerprint: &str) -> bool {
    let of_file = shards::read_fingerprint(file).ok().flatten();
    of_file.is_some_and(|of_file| of_file != fingerprint)
}

/// A shard file of the run folder that is being written. It is renamed into place when it is complete.
struct CollectedShard {
    file: OutputFile,
    /// Completion state of the run folder before this file.
    existing: CompletionState,
    line_count: u64,
}

impl CollectedShard {
    fn create_file(folders: &ShardFolders, plan: &RunPlan) -> Result<Self, JobError> {
        let (rows, fingerprint) = (plan.source.rows, &plan.source.fingerprint);
        let existing = CompletionState::from_folder(folders.run_folder(), rows, fingerprint)?;
        let (path, header) = folders.next_free_file(plan);
        let mut file = OutputFile::create(&path, AnswerFormat::Jsonl, &FoundColumns::default())?;
        let mut first_line = serde_json::to_vec(&header).unwrap_or_default();
        first_line.push(b'\n');
        file.write_answer(&first_line)?;
        Ok(Self { file, existing, line_count: 0 })
    }

    fn finish_file(self) -> Result<u64, OutputError> {
        // If everything was in the run folder already, an empty shard file would only be noise.
        if self.line_count > 0 {
            self.file.finish()?;
        }
        Ok(self.line_count)
    }
}

impl LineSink for Option<CollectedShard> {
    fn on_ordered_line(&mut self, index: u64, line: &[u8]) -> Result<(), OutputError> {
        // An answer may have been collected before, by a session that was killed before it removed the local file.
        // Failures and cut answers are written again, since the prompt may have another outcome since.
        let Some(shard) = self.as_mut().filter(|shard| !shard.existing.is_final(index)) else {
            return Ok(());
        };
        shard.line_count += 1;
        shard.file.write_answer(line)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        input::{InputRules, InputSource},
        job::setup::run_plan::SHARDS_FOLDER,
        output::{PromptCounts, RunIdentity},
        shards::ShardHeader,
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
            any_token_ids: false,
            openai_batch: false,
            longest_row: 0,
            models: Vec::new(),
            any_unnamed: true,
        };
        RunPlan {
            source,
            rules: InputRules::default(),
            folder: run.to_owned(),
            output: run.with_extension(""),
            format: None,
            identity: RunIdentity::default(),
            keep_bodies: false,
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
        for (rank, outcomes) in files.iter().enumerate() {
            let header = ShardHeader::new(start, rank, "n", "f");
            let mut text = serde_json::to_string(&header).expect("JSON") + "\n";
            for (index, success) in outcomes {
                let error = if *success { "null" } else { r#"{"kind":"too_long"}"# };
                text += &format!(
                    "{{\"id\":{index},\"index\":{index},\"response\":\"x\",\"success\":{success},\"error\":{error}}}\n"
                );
            }
            std::fs::write(folder.join(header.file_name()), text + "{\"index\":0,\"suc")
                .expect("written");
        }
    }

    fn count_outcomes(folder: &Path) -> PromptCounts {
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
            collected in any_files(), early in any_files(), own in any_files(), killed in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = |name: &str| folder.path().join(name);
            let (run, local, expected) = (path("shared.run"), path("local.run"), path("expected.run"));
            let shards_of = |run: &Path| run.join(SHARDS_FOLDER);
            let list_files = |run: &Path| shards::list_shard_files(&shards_of(run)).expect("listed");
            for run in [&run, &local, &expected] {
                std::fs::create_dir_all(shards_of(run)).expect("created");
            }
            for run in [&run, &expected] {
                write_shards(&shards_of(run), 1, &collected);
            }
            for run in [&local, &expected] {
                write_shards(&shards_of(run), 2, &early);
                // A session has one file per rank, and there is one rank.
                write_shards(&shards_of(run), 3, own.get(..1).unwrap_or_default());
            }
            let plan = run_plan(&run, &local, 3);
            let comm = &mut SoloComm::new();
            let folders =
                ShardFolders::create_folders(comm, &plan, &solo_placement()).expect("created");
            if killed {
                // Collected by a session that was killed before it removed the local files.
                collect_root_shards(&folders, &plan).expect("collected");
                prop_assert_eq!(count_outcomes(&run), count_outcomes(&expected));
            }
            let files_before = list_files(&run);
            collect_local_shards(comm, &folders, &plan).expect("collected");
            prop_assert_eq!(count_outcomes(&run), count_outcomes(&expected));
            prop_assert_eq!(list_files(&local), []);
            for file in list_files(&run).iter().filter(|file| killed && !files_before.contains(file)) {
                let only_failures = |entry: shards::LineEntry| {
                    assert!(!entry.grade.is_answered(), "an answer is collected once");
                    Ok(())
                };
                shards::read_entries(file, "f", only_failures).expect("read");
            }
            let file_count = list_files(&run).len();
            collect_local_shards(comm, &folders, &plan).expect("nothing to do");
            prop_assert_eq!(list_files(&run).len(), file_count);
            folders.remove_empty_folders();
            prop_assert!(!local.exists());
        }
    }

    #[test]
    fn local_files_that_could_not_be_collected_are_not_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (run, local) = (folder.path().join("shared.run"), folder.path().join("local.run"));
        std::fs::create_dir_all(local.join(SHARDS_FOLDER)).expect("created");
        write_shards(&local.join(SHARDS_FOLDER), 1, &[vec![(0, true)]]);
        // The run folder has no shards folder to write to.
        let plan = run_plan(&run, &local, 2);
        let comm = &mut SoloComm::new();
        let folders =
            ShardFolders::create_folders(comm, &plan, &solo_placement()).expect("created");
        let error = collect_local_shards(comm, &folders, &plan).expect_err("no folder to write to");
        assert!(matches!(error, JobError::FinishFailed(_)), "{error}");
        assert_eq!(shards::list_shard_files(&local.join(SHARDS_FOLDER)).expect("listed").len(), 1);
    }
}
