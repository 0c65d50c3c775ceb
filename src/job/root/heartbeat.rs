//! The sign of life of a start: a thread of rank 0 that writes the heartbeat, whatever rank 0 is busy with.
//!
//! Owns `RUN/heartbeat.json` from before the input is read until the end, and takes it away then, on every way out but a
//! kill. Nobody else writes it. Does not know what the work is, only what it is called.

use std::{
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::Duration,
};

use tracing::warn;

use crate::output::{Heartbeat, RunActivity};

/// A tenth of what makes a start lost, and one small file a job for the file system.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Beats until it is dropped.
#[derive(Debug)]
pub(crate) struct HeartbeatThread {
    phase_sender: Option<mpsc::Sender<RunActivity>>,
    thread: Option<JoinHandle<()>>,
}

impl HeartbeatThread {
    /// The first beat is written when this returns, where there is a folder to write it to.
    pub(crate) fn start(folder: PathBuf, beat: Heartbeat) -> Self {
        Self::start_with_interval(folder, beat, HEARTBEAT_INTERVAL)
    }

    fn start_with_interval(folder: PathBuf, mut beat: Heartbeat, every: Duration) -> Self {
        let mut silent = beat.write(&folder).is_err();
        let (does, done) = mpsc::channel();
        let work = move || {
            loop {
                match done.recv_timeout(every) {
                    Ok(doing) => beat.doing = doing,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                let written = beat.write(&folder);
                if let Err(error) = &written
                    && !silent
                {
                    warn!("others may take this run to be dead: {error}");
                }
                silent = written.is_err();
            }
            Heartbeat::remove(&folder);
        };
        let thread = std::thread::Builder::new().name("heart".into()).spawn(work);
        let thread = thread.inspect_err(|error| warn!("no thread can be started: {error}")).ok();
        Self { phase_sender: Some(does), thread }
    }

    /// From now on it does this.
    pub(crate) fn set_phase(&self, doing: RunActivity) {
        if let Some(does) = &self.phase_sender {
            let _ = does.send(doing);
        }
    }
}

impl HeartbeatThread {
    /// The end, for who cannot wait to be dropped.
    pub(crate) fn stop(&mut self) {
        self.phase_sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for HeartbeatThread {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn heartbeat_goes_on_while_its_owner_is_busy_and_ends_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let beat = Heartbeat {
            host: "n1".into(),
            pid: 1,
            job: None,
            start: 1,
            began: 0,
            doing: RunActivity::ReadingInput,
            beat: 0,
        };
        let place = folder.path().to_owned();
        let heart =
            HeartbeatThread::start_with_interval(place.clone(), beat, Duration::from_millis(5));
        assert_eq!(Heartbeat::read(&place).expect("at once").doing, RunActivity::ReadingInput);
        heart.set_phase(RunActivity::Gathering);
        // Taken away behind its back, it comes again and again, and nobody but the thread does anything.
        for _ in 0..3 {
            std::fs::remove_file(place.join(Heartbeat::FILE_NAME)).unwrap_or_default();
            let end = Instant::now() + Duration::from_secs(20);
            while Heartbeat::read(&place).is_none_or(|it| it.doing != RunActivity::Gathering) {
                assert!(Instant::now() < end, "it stands still");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop(heart);
        assert_eq!(std::fs::read_dir(&place).expect("listed").count(), 0);
    }
}
