//! The lock of a run folder: of several sessions that start at one moment, one gets the run and the others say which.
//!
//! The heartbeat file is the lock. It is created exclusively, which is atomic on shared file systems too, and read by those
//! that come later. A heartbeat of this host counts while its process exists, suspended or not. One of another host counts
//! if it is fresh or changes while it is watched: clocks of hosts may differ by any amount.

use std::{io::ErrorKind, path::Path, time::Duration};

use tracing::info;

use super::existing_run::live_heartbeat;
use crate::job::{JobError, PreconditionError};
use crate::{
    new_file::open_exclusively,
    output::{Heartbeat, OutputError},
};

/// Time for which a heartbeat of another host is watched; more than two intervals of the heartbeat thread.
const WATCH_TIME: Duration = Duration::from_secs(12);
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Time in which a session that has just created its heartbeat has written it, or has removed the one that it takes over.
const WRITE_TIME: Duration = Duration::from_secs(3);
const RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// Held while a left heartbeat is removed, so that no other session's new one is removed instead.
const TAKEOVER_FILE: &str = "heartbeat.json.takeover";

/// Takes the run folder for the session with this heartbeat.
///
/// # Errors
/// Another session has it, or the file system refuses the file.
pub(crate) fn lock_run_folder(
    output: &Path,
    folder: &Path,
    beat: &mut Heartbeat,
) -> Result<(), JobError> {
    RunLock { output, folder, watch_time: WATCH_TIME }.acquire(beat)
}

struct RunLock<'l> {
    output: &'l Path,
    folder: &'l Path,
    watch_time: Duration,
}

impl RunLock<'_> {
    fn acquire(&self, beat: &mut Heartbeat) -> Result<(), JobError> {
        let path = self.folder.join(Heartbeat::FILE_NAME);
        let mut waited = Duration::ZERO;
        loop {
            match beat.create_in(self.folder) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(self.unwritable(&path, error)),
            }
            let content = std::fs::read(&path).unwrap_or_default();
            match serde_json::from_slice::<Heartbeat>(&content) {
                Ok(other) => {
                    if let Some(live) = live_heartbeat(self.folder, &beat.host) {
                        return Err(self.taken_by(live));
                    }
                    if other.host != beat.host && self.changes(&path, &content, &other) {
                        match Heartbeat::read_from(self.folder) {
                            Some(now) if now.is_same_session(&other) => {
                                return Err(self.taken_by(now));
                            }
                            // Another session took it over meanwhile.
                            _ => continue,
                        }
                    }
                }
                // Another session is about to write it.
                Err(_) if waited < WRITE_TIME => {
                    waited += RETRY_INTERVAL;
                    std::thread::sleep(RETRY_INTERVAL);
                    continue;
                }
                Err(_) => {}
            }
            self.remove_left(&path, &content)?;
        }
    }

    /// Watches the heartbeat of another host and returns whether it changes.
    fn changes(&self, path: &Path, content: &[u8], other: &Heartbeat) -> bool {
        info!(
            event = "heartbeat_watched",
            host = other.host,
            pid = other.pid,
            seconds = self.watch_time.as_secs(),
            "watching for {} s whether process {} on {} still works on the run: {}",
            self.watch_time.as_secs(),
            other.pid,
            other.host,
            path.display()
        );
        let mut waited = Duration::ZERO;
        while waited < self.watch_time {
            let step = WATCH_INTERVAL.min(self.watch_time);
            std::thread::sleep(step);
            waited += step;
            match std::fs::read(path) {
                // Replaced at this moment, or removed by a session that ends: it is looked at again.
                Err(_) => continue,
                Ok(now) if now != content => return true,
                Ok(_) => {}
            }
        }
        false
    }

    /// Removes the heartbeat that a killed session left, unless it is not there any more.
    fn remove_left(&self, path: &Path, content: &[u8]) -> Result<(), JobError> {
        let guard = self.folder.join(TAKEOVER_FILE);
        let mut waited = Duration::ZERO;
        while let Err(error) = open_exclusively(&guard) {
            if error.kind() != ErrorKind::AlreadyExists {
                return Err(self.unwritable(&guard, error));
            }
            if waited >= WRITE_TIME {
                return Err(PreconditionError::TakeoverLeft(guard).into());
            }
            waited += RETRY_INTERVAL;
            std::thread::sleep(RETRY_INTERVAL);
        }
        let is_left = std::fs::read(path).is_ok_and(|now| now == content);
        let removed = if is_left { std::fs::remove_file(path) } else { Ok(()) };
        let _ = std::fs::remove_file(&guard);
        Ok(removed.map_err(OutputError::io_error("cannot remove", path))?)
    }

    fn taken_by(&self, heartbeat: Heartbeat) -> JobError {
        let (output, heartbeat) = (self.output.to_owned(), Box::new(heartbeat));
        PreconditionError::RunActive { output, heartbeat, folder: self.folder.to_owned() }.into()
    }

    fn unwritable(&self, path: &Path, error: std::io::Error) -> JobError {
        let (output, path) = (self.output.to_owned(), path.to_owned());
        PreconditionError::OutputUnwritable { output, path, error }.into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, atomic::AtomicUsize, atomic::Ordering};

    use super::*;
    use crate::output::{RunActivity, unix_seconds};

    fn beat_of(host: &str, pid: u32) -> Heartbeat {
        Heartbeat {
            host: host.into(),
            pid,
            job: None,
            start: 1,
            began: 5,
            doing: RunActivity::ReadingInput,
            beat: 0,
        }
    }

    fn lock(folder: &Path, watch_ms: u64) -> RunLock<'_> {
        RunLock {
            output: Path::new("a.jsonl"),
            folder,
            watch_time: Duration::from_millis(watch_ms),
        }
    }

    fn leave(folder: &Path, beat: &Heartbeat) {
        let text = serde_json::to_vec(beat).expect("JSON");
        std::fs::write(folder.join(Heartbeat::FILE_NAME), text).expect("written");
    }

    #[test]
    fn of_many_sessions_at_one_moment_exactly_one_gets_the_run() {
        for left in [false, true] {
            let folder = tempfile::tempdir().expect("a folder");
            if left {
                leave(folder.path(), &beat_of("here", 4_000_000_000));
            }
            let (start, winners) = (Barrier::new(8), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for number in 0..8 {
                    let (start, winners, folder) = (&start, &winners, folder.path());
                    scope.spawn(move || {
                        // Another host's heartbeat is judged by its time, which is now.
                        let mut beat = beat_of(&format!("node{number}"), 1);
                        start.wait();
                        match lock(folder, 1).acquire(&mut beat) {
                            Ok(()) => _ = winners.fetch_add(1, Ordering::Relaxed),
                            Err(error) => {
                                let said = error.to_string();
                                assert!(said.contains("process 1 on node"), "{said}");
                            }
                        }
                    });
                }
            });
            assert_eq!(winners.into_inner(), 1);
            let names: Vec<_> = std::fs::read_dir(folder.path())
                .expect("listed")
                .map(|entry| entry.expect("an entry").file_name())
                .collect();
            assert_eq!(names, [Heartbeat::FILE_NAME]);
        }
    }

    #[test]
    fn a_heartbeat_left_under_another_clock_does_not_hold_the_run() {
        for skew in [-86_400_i64, 86_400, 1 << 40] {
            let folder = tempfile::tempdir().expect("a folder");
            let beat = unix_seconds().saturating_add_signed(skew);
            leave(folder.path(), &Heartbeat { beat, ..beat_of("other", 7) });
            lock(folder.path(), 1).acquire(&mut beat_of("here", 1)).expect("it is left");
            assert_eq!(Heartbeat::read_from(folder.path()).expect("ours").host, "here");
        }
    }

    #[test]
    fn a_heartbeat_that_changes_holds_the_run_under_any_clock() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut other = Heartbeat { beat: 5, ..beat_of("other", 7) };
        leave(folder.path(), &other);
        let (done, path) = (AtomicUsize::new(0), folder.path());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while done.load(Ordering::Relaxed) == 0 {
                    other.beat += 1;
                    leave(path, &other);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let locked = lock(path, 600_000).acquire(&mut beat_of("here", 1));
            done.store(1, Ordering::Relaxed);
            let said = locked.expect_err("it is alive").to_string();
            assert!(said.contains("process 7 on other"), "{said}");
            assert!(said.contains("heartbeat.json"), "the file to remove is named: {said}");
        });
    }

    #[test]
    fn a_torn_heartbeat_of_a_killed_session_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(Heartbeat::FILE_NAME), "{\"host\":").expect("torn");
        lock(folder.path(), 1).acquire(&mut beat_of("here", 1)).expect("it is left");
    }
}
