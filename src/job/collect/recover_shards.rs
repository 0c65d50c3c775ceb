//! Recovery of node-local shard files after ranks were lost, when collective calls would hang.
//!
//! Rank 0 requests the shard file of one live rank after the other, in chunks and with a deadline per chunk, and writes
//! a copy into the run folder. Files of lost ranks stay on their nodes, and nothing is removed from any node: the next
//! session collects them as usual ([`super::local_shards`]). Which ranks are alive is decided by the caller.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::shard_folders::ShardFolders;
use crate::job::{JobError, setup::run_plan::RunPlan};
use crate::{
    comm::{Comm, MessageTag, PollBackoff, TypedComm},
    domain::FoundColumns,
    output::{AnswerFormat, OutputFile},
    shards::ShardHeader,
};

/// Approximate number of bytes per message.
const CHUNK_BYTES: u64 = 8 << 20;
/// A rank that does not reply within this time counts as lost too.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// Copies the shard files of all ranks that are not `lost` into the run folder. Called on rank 0.
pub(crate) fn recover_shards(
    comm: &mut dyn Comm,
    lost: &[usize],
    folders: &ShardFolders,
    plan: &RunPlan,
) {
    if !folders.is_node_local() {
        return;
    }
    for rank in (1..comm.size()).filter(|rank| !lost.contains(rank)) {
        match fetch_shard(comm, rank, folders, plan) {
            Ok(0) => {}
            Ok(bytes) => info!(
                event = "answers_recovered",
                rank, bytes, "answers recovered from the node of rank {rank}: {bytes} bytes"
            ),
            Err(error) => warn!(
                event = "answers_not_recovered",
                rank,
                "answers not recovered from the node of rank {rank}, where they stay: {error}"
            ),
        }
    }
}

/// Answers rank 0's requests for this rank's shard file until `longest` has passed. Called on all other ranks.
pub(crate) fn serve_own_shard(
    comm: &mut dyn Comm,
    folders: &ShardFolders,
    plan: &RunPlan,
    longest: Duration,
) {
    let rank = comm.rank();
    let own_file =
        folders.write_folder().join(ShardHeader::new(plan.start, rank, "", "").file_name());
    let (deadline, mut backoff) = (Instant::now() + longest, PollBackoff::for_long_wait());
    while Instant::now() < deadline {
        if let Ok(Some((_, from))) = comm.try_receive_value::<u64>(Some(0), MessageTag::LocalShards)
        {
            // An empty chunk ends the transfer, so rank 0 keeps what it has received so far.
            let chunk = read_chunk(&own_file, from, CHUNK_BYTES).unwrap_or_else(|error| {
                warn!(
                    event = "shard_file_unreadable",
                    "shard file unreadable: {}: {error}",
                    own_file.display()
                );
                Vec::new()
            });
            if let Err(error) = comm.send_bytes(0, MessageTag::LocalShards, chunk) {
                warn!(event = "shard_chunk_not_sent", "shard file chunk not sent: {error}");
            }
            backoff.reset();
        }
        if comm.pending_messages() > 0 {
            backoff.reset();
        }
        backoff.sleep_next();
    }
}

/// Copies the shard file of a rank to a new file of the run folder. Returns its size in bytes; 0 if the rank has none.
fn fetch_shard(
    comm: &mut dyn Comm,
    rank: usize,
    folders: &ShardFolders,
    plan: &RunPlan,
) -> Result<u64, JobError> {
    let (mut file, mut bytes) = (None, 0);
    loop {
        // The request is the offset: rank 0 alone keeps the state of the transfer.
        comm.send_value(rank, MessageTag::LocalShards, &bytes)?;
        let chunk = receive_chunk(comm, rank).ok_or(JobError::ReplyTimeout(REPLY_TIMEOUT))?;
        if chunk.is_empty() {
            break;
        }
        let output = match &mut file {
            Some(output) => output,
            None => {
                let path = folders.next_free_file(plan).0;
                let created =
                    OutputFile::create(&path, AnswerFormat::Jsonl, &FoundColumns::default())?;
                file.insert(created)
            }
        };
        output.write_answer(&chunk)?;
        bytes += chunk.len() as u64;
    }
    file.map_or(Ok(()), OutputFile::finish)?;
    Ok(bytes)
}

fn receive_chunk(comm: &mut dyn Comm, rank: usize) -> Option<Vec<u8>> {
    let (deadline, mut backoff) = (Instant::now() + REPLY_TIMEOUT, PollBackoff::for_transfer());
    while Instant::now() < deadline {
        if let Some(message) = comm.try_receive(Some(rank), MessageTag::LocalShards) {
            return Some(message.bytes);
        }
        backoff.sleep_next();
    }
    None
}

/// Reads about `limit` bytes of a file from an offset on, in whole lines. Returns nothing at the end of the file.
fn read_chunk(path: &Path, from: u64, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut file = BufReader::new(File::open(path)?);
    file.seek(SeekFrom::Start(from))?;
    let mut chunk = Vec::new();
    file.by_ref().take(limit).read_to_end(&mut chunk)?;
    if chunk.last().is_some_and(|&last| last != b'\n') {
        file.read_until(b'\n', &mut chunk)?;
    }
    // A torn last line is not an outcome; every reader of shard files ignores it too.
    let whole_lines = chunk.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    chunk.truncate(whole_lines);
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn chunks_together_are_the_whole_lines_of_the_file(
            lines in prop::collection::vec("[a-zü]{0,40}", 0..30), torn in "[a-z]{0,5}", limit in 1u64..200,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let whole: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let path = folder.path().join("file");
            std::fs::write(&path, format!("{whole}{torn}")).expect("written");
            let mut all = Vec::new();
            loop {
                let chunk = read_chunk(&path, all.len() as u64, limit).expect("read");
                if chunk.is_empty() {
                    break;
                }
                prop_assert_eq!(chunk.last(), Some(&b'\n'));
                all.extend(chunk);
            }
            prop_assert_eq!(String::from_utf8(all).expect("whole"), whole);
        }
    }
}
