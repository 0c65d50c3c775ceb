//! Writer of a rank's shard file in one session: the rank's checkpoint. Appended to, never rewritten.
//!
//! Owns when data reaches the disk and that nothing follows a torn line. The header is in `header.rs`, the lines in
//! `answer_line.rs`.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    answer_line::{AnswerLineStyle, write_answer_line},
    error::ShardError,
    header::ShardHeader,
    storage::{DiskFile, ShardStorage},
};
use crate::domain::PromptResult;

/// Shortest time between syncs. A node that dies loses at most the outcomes of this time, and their prompts are sent
/// again.
const SYNC_INTERVAL: Duration = Duration::from_secs(15);

/// Writer of an open shard file. Nothing is buffered between calls.
#[derive(Debug)]
pub(crate) struct ShardWriter {
    storage: Box<dyn ShardStorage>,
    path: PathBuf,
    style: AnswerLineStyle,
    buffer: Vec<u8>,
    last_sync: Instant,
    sync_interval: Duration,
    /// A write or a sync has failed: the last line may be torn, and nothing may follow it.
    is_broken: bool,
}

impl ShardWriter {
    /// Creates a new shard file in the folder and writes its header. An existing file belongs to another process and is
    /// an error.
    ///
    /// # Errors
    /// Fails if the file exists, or cannot be created or written.
    pub(crate) fn create(
        folder: &Path,
        header: &ShardHeader,
        style: AnswerLineStyle,
    ) -> Result<Self, ShardError> {
        let path = folder.join(header.file_name());
        let file = DiskFile::create(&path)
            .map_err(ShardError::at_path("cannot create the shard file", &path))?;
        Self::with_storage(Box::new(file), path, header, style)
    }

    fn with_storage(
        storage: Box<dyn ShardStorage>,
        path: PathBuf,
        header: &ShardHeader,
        style: AnswerLineStyle,
    ) -> Result<Self, ShardError> {
        // The interval differs by rank: thousands of ranks that sync at the same moment would stall a parallel file
        // system.
        let spread = Duration::from_millis(header.rank as u64 * 7919 % 15_000);
        let mut writer = Self {
            storage,
            path,
            style,
            buffer: Vec::new(),
            last_sync: Instant::now(),
            sync_interval: SYNC_INTERVAL + spread,
            is_broken: false,
        };
        serde_json::to_writer(&mut writer.buffer, header)
            .map_err(std::io::Error::from)
            .map_err(writer.write_error())?;
        writer.buffer.push(b'\n');
        writer.write_buffer()?;
        Ok(writer)
    }

    /// Appends outcomes with one write of whole lines, and syncs if the interval has passed.
    ///
    /// # Errors
    /// Fails if the data cannot be written: a full disk, a lost file system. Earlier outcomes stay valid, some of these
    /// may be in the file as well, and the writer accepts no more: a torn line must stay the last.
    pub(crate) fn append_results(&mut self, outcomes: &[PromptResult]) -> Result<(), ShardError> {
        // The buffer keeps its memory from batch to batch.
        self.buffer.clear();
        for result in outcomes {
            write_answer_line(&mut self.buffer, result, &self.style)
                .map_err(std::io::Error::from)
                .map_err(self.write_error())?;
        }
        self.write_buffer()?;
        if self.last_sync.elapsed() >= self.sync_interval {
            self.sync_to_disk()?;
        }
        Ok(())
    }

    /// Makes the written outcomes survive a crash of the node.
    ///
    /// # Errors
    /// Fails if the data cannot be synced. There is no retry: after a failed `fdatasync` the next one succeeds although
    /// the data are lost.
    pub(crate) fn sync_to_disk(&mut self) -> Result<(), ShardError> {
        self.last_sync = Instant::now();
        self.run_unless_broken(|writer| {
            // Checked first: syncing a removed file succeeds although nobody can read it.
            writer.storage.check_not_replaced().and_then(|()| writer.storage.sync_data())
        })
    }

    fn write_buffer(&mut self) -> Result<(), ShardError> {
        self.run_unless_broken(|writer| writer.storage.write_all(&writer.buffer))
    }

    /// Runs an operation on the storage; after the first failure every later one fails too.
    fn run_unless_broken(
        &mut self,
        operation: impl FnOnce(&mut Self) -> std::io::Result<()>,
    ) -> Result<(), ShardError> {
        if self.is_broken {
            return Err(self.write_error()(std::io::Error::other("an earlier write failed")));
        }
        let result = operation(self);
        self.is_broken = result.is_err();
        result.map_err(self.write_error())
    }

    fn write_error(&self) -> impl FnOnce(std::io::Error) -> ShardError {
        ShardError::at_path("cannot write answers to the shard file", &self.path)
    }
}

impl Drop for ShardWriter {
    /// Syncs the file. A failure can only be logged here; the end of the run counts what is on disk.
    fn drop(&mut self) {
        if !self.is_broken
            && let Err(error) = self.sync_to_disk()
        {
            tracing::error!(event = "shard_file_not_synced", "shard file not synced: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs::File,
        io::{Error, ErrorKind},
        os::unix::fs::FileExt,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering::Relaxed},
        },
    };

    use proptest::prelude::*;

    use super::*;
    use crate::shards::{
        LineEntry, ShardFile,
        answer_line::tests::{line_style, prompt_result},
        read_entries,
    };

    /// Fault injected into a call of the storage.
    #[derive(Clone, Copy, Debug)]
    enum StorageFault {
        /// Writes at most this number of bytes and reports it.
        Short(usize),
        /// Is interrupted by a signal and writes nothing.
        Interrupted,
        /// Writes at most this number of bytes; from the next call on the disk is full.
        Full(usize),
        /// Writes at most this number of bytes and reports a failure.
        Failed(usize),
        /// The file has been removed or replaced.
        Gone,
    }

    /// Storage that fails at chosen calls.
    #[derive(Debug)]
    struct FaultyStorage {
        file: File,
        write_faults: BTreeMap<u32, StorageFault>,
        sync_faults: BTreeMap<u32, StorageFault>,
        written: u32,
        synced: u32,
        full: bool,
        /// Number of writes after the first failure.
        late_writes: Arc<AtomicU32>,
        failed: bool,
    }

    impl FaultyStorage {
        fn record_failure(&mut self, error: impl Into<Error>) -> Error {
            self.failed = true;
            error.into()
        }
    }

    impl Write for FaultyStorage {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            if self.failed {
                self.late_writes.fetch_add(1, Relaxed);
            }
            if self.full {
                return Err(self.record_failure(ErrorKind::StorageFull));
            }
            self.written += 1;
            let fault = self.write_faults.get(&(self.written - 1)).copied();
            let prefix = |limit: usize| bytes.len().min(limit);
            match fault {
                Some(StorageFault::Interrupted) => Err(ErrorKind::Interrupted.into()),
                Some(StorageFault::Short(limit)) => self.file.write(&bytes[..prefix(limit)]),
                Some(StorageFault::Full(limit)) => {
                    self.full = true;
                    if limit == 0 {
                        return Err(self.record_failure(ErrorKind::StorageFull));
                    }
                    self.file.write(&bytes[..prefix(limit)])
                }
                Some(StorageFault::Failed(limit)) => {
                    self.file.write_all(&bytes[..prefix(limit)])?;
                    Err(self.record_failure(Error::other("input/output error")))
                }
                Some(StorageFault::Gone) | None => self.file.write(bytes),
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl ShardStorage for FaultyStorage {
        fn sync_data(&mut self) -> std::io::Result<()> {
            self.synced += 1;
            match self.sync_faults.get(&(self.synced - 1)) {
                Some(StorageFault::Failed(_)) => {
                    Err(self.record_failure(Error::other("input/output error")))
                }
                _ => Ok(()),
            }
        }

        fn check_not_replaced(&self) -> std::io::Result<()> {
            match self.sync_faults.get(&self.synced) {
                Some(StorageFault::Gone) => {
                    Err(Error::other("the file was replaced by another one"))
                }
                _ => Ok(()),
            }
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[ -~]{0,12}",
            // Characters that JSON escapes, that would end a line unescaped, and that are several bytes long.
            4 => prop::collection::vec(
                prop::sample::select(vec!["\n", "\r\n", "\"", "\\", "\u{0}", "ü", "漢字", "🙂", "\u{2028}", "}\n{"]), 0..8
            ).prop_map(|parts| parts.concat()),
            1 => (1_000usize..80_000).prop_map(|length| "long ünd ".repeat(length / 9)),
        ]
    }

    fn any_batches() -> impl Strategy<Value = Vec<Vec<PromptResult>>> {
        let outcome = (any_text(), any::<bool>());
        prop::collection::vec(prop::collection::vec(outcome, 0..5), 1..8).prop_map(|batches| {
            let mut next = 0;
            let mut numbered = |(text, good): (String, bool)| {
                next += 1;
                let kind = crate::domain::FailureKind::TooLong;
                let mut result = prompt_result(next, if good { Ok(&text) } else { Err(kind) });
                result.prompt.input = crate::domain::PromptInput::Text(text);
                result
            };
            batches
                .into_iter()
                .map(|batch| batch.into_iter().map(&mut numbered).collect())
                .collect()
        })
    }

    fn any_faults() -> impl Strategy<Value = BTreeMap<u32, StorageFault>> {
        let bytes = || prop_oneof![0usize..3, 0usize..700, 0usize..100_000];
        let fault = prop_oneof![
            2 => (1usize..300).prop_map(StorageFault::Short),
            2 => Just(StorageFault::Interrupted),
            2 => bytes().prop_map(StorageFault::Full),
            2 => bytes().prop_map(StorageFault::Failed),
            1 => Just(StorageFault::Gone),
        ];
        prop::collection::btree_map(0u32..14, fault, 0..4)
    }

    /// Reads a file back: every line with its prompt's index, and the number of damaged lines.
    fn read_written_lines(file: &ShardFile) -> (Vec<(u64, Vec<u8>)>, u64) {
        let bytes = File::open(&file.path).expect("there");
        let mut lines = Vec::new();
        let survey = read_entries(file, "abc", |LineEntry { index, offset, length, .. }| {
            let mut line = vec![0; length as usize];
            bytes.read_exact_at(&mut line, offset).expect("read");
            lines.push((index, line));
            Ok(())
        });
        let survey = survey.expect("read");
        assert!(!survey.foreign);
        (lines, survey.damaged)
    }

    fn encode_line(result: &PromptResult) -> Vec<u8> {
        let mut line = Vec::new();
        write_answer_line(&mut line, result, &line_style()).expect("JSON");
        line
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn every_acknowledged_outcome_is_read_back_whatever_faults_the_disk_has(
            batches in any_batches(), write_faults in any_faults(), sync_faults in any_faults(), always in any::<bool>(),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("0001-00003.jsonl");
            let late = Arc::new(AtomicU32::new(0));
            let storage = FaultyStorage {
                file: File::options().append(true).create_new(true).open(&path).expect("made"),
                write_faults, sync_faults, written: 0, synced: 0, full: false, late_writes: Arc::clone(&late), failed: false,
            };
            let header = ShardHeader::new(1, 3, "n1", "abc");
            let (mut kept, mut tried) = (Vec::new(), Vec::new());
            if let Ok(mut writer) = ShardWriter::with_storage(Box::new(storage), path.clone(), &header, line_style()) {
                if always {
                    writer.sync_interval = Duration::ZERO;
                }
                let mut failed = false;
                for batch in &batches {
                    let lines = batch.iter().map(|result| (result.prompt.index, encode_line(result)));
                    let written = writer.append_results(batch).is_ok();
                    prop_assert!(!(failed && written), "a failed writer stays failed");
                    failed |= !written;
                    if written {
                        kept.extend(lines.clone());
                    }
                    tried.extend(lines);
                }
            }
            let (read, damaged) = read_written_lines(&ShardFile { start: 1, rank: 3, path });
            // The lines read are whole and in order: a prefix of all appended lines that includes all acknowledged
            // ones.
            prop_assert!(read.len() >= kept.len());
            prop_assert!(tried.starts_with(&read) && read.starts_with(&kept));
            prop_assert_eq!(damaged, 0, "nothing follows a torn line");
            prop_assert_eq!(late.load(Relaxed), 0, "nothing is written after a failure");
        }

        #[test]
        fn a_file_cut_at_any_byte_of_its_last_lines_keeps_its_whole_lines(batches in any_batches(), seed in any::<prop::sample::Index>()) {
            let folder = tempfile::tempdir().expect("a folder");
            let mut writer = ShardWriter::create(folder.path(), &ShardHeader::new(1, 3, "n1", "abc"), line_style()).expect("made");
            for batch in &batches {
                writer.append_results(batch).expect("written");
            }
            let path = writer.path.clone();
            drop(writer);
            let all: Vec<(u64, Vec<u8>)> =
                batches.iter().flatten().map(|result| (result.prompt.index, encode_line(result))).collect();
            let whole = std::fs::read(&path).expect("bytes");
            let file = ShardFile { start: 1, rank: 3, path };
            let last: usize = all.iter().rev().take(2).map(|(_, line)| line.len()).sum();
            // Cuts at every byte near the end of the file and near the end of the line before, and at one random byte.
            let begins = whole.len() - last;
            let near = |offset: usize| offset.saturating_sub(12).max(begins)..=(offset + 12).min(whole.len());
            let before = whole.len() - all.last().map_or(0, |(_, line)| line.len());
            let mut cuts: Vec<usize> = near(whole.len()).chain(near(before)).collect();
            cuts.push(begins + seed.index(last + 1));
            cuts.sort_unstable();
            // From the longest to the shortest: each cut shortens the file of the cut before.
            for cut in cuts.into_iter().rev() {
                File::options().write(true).open(&file.path).and_then(|file| file.set_len(cut as u64)).expect("cut");
                let (read, damaged) = read_written_lines(&file);
                let mut end = whole.len() - all.iter().map(|(_, line)| line.len()).sum::<usize>();
                let many = all.iter().take_while(|(_, line)| { end += line.len(); end <= cut }).count();
                prop_assert_eq!(&read, &all[..many], "cut at {} of {}", cut, whole.len());
                prop_assert_eq!(damaged, 0);
            }
        }
    }

    #[test]
    fn a_removed_or_replaced_file_is_an_error_at_the_next_sync() {
        let folder = tempfile::tempdir().expect("a folder");
        let header = ShardHeader::new(1, 3, "n1", "abc");
        let mut writer = ShardWriter::create(folder.path(), &header, line_style()).expect("made");
        writer.sync_to_disk().expect("synced");
        std::fs::rename(&writer.path, folder.path().join("elsewhere")).expect("moved");
        std::fs::write(&writer.path, "another").expect("written");
        assert!(writer.sync_to_disk().is_err());
        assert!(writer.append_results(&[prompt_result(1, Ok("a"))]).is_err(), "and it stays so");
    }

    #[test]
    fn a_full_disk_is_reported_with_the_files_path() {
        let full = Path::new("/dev/full");
        let file = File::options().append(true).open(full).expect("there");
        let storage = FaultyStorage {
            file,
            write_faults: BTreeMap::new(),
            sync_faults: BTreeMap::new(),
            written: 0,
            synced: 0,
            full: false,
            late_writes: Arc::default(),
            failed: false,
        };
        let header = ShardHeader::new(1, 3, "n1", "abc");
        let error =
            ShardWriter::with_storage(Box::new(storage), full.into(), &header, line_style())
                .expect_err("full");
        assert_eq!(error.error.kind(), ErrorKind::StorageFull);
        assert!(error.to_string().contains("/dev/full: No space left"), "{error}");
    }
}
