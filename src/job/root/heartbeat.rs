//! The heartbeat thread of rank 0: keeps the heartbeat file fresh, however long the main thread is busy.
//!
//! Owns `RUN/heartbeat.json` from before the scan to the end of the session, and is its only writer. The file is removed on
//! every way out but a kill, so that a stale file means an interrupted run. The format is in [`Heartbeat`], the age limit in
//! `resume::existing_run`; liveness between ranks is in [`comm`](crate::comm).

use std::{
    path::PathBuf,
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::Duration,
};

use tracing::{error, warn};

use crate::output::{Heartbeat, RunActivity};

/// A twelfth of the age at which a session counts as interrupted; costs the file system one small file per interval and job.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the heartbeat file until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct HeartbeatThread {
    phase_sender: Option<mpsc::Sender<RunActivity>>,
    thread: Option<JoinHandle<()>>,
}

impl HeartbeatThread {
    /// Starts the thread. The first heartbeat is already written on return, if the folder exists.
    pub(crate) fn start(folder: PathBuf, beat: Heartbeat) -> Self {
        Self::start_with_interval(folder, beat, HEARTBEAT_INTERVAL)
    }

    fn start_with_interval(folder: PathBuf, mut beat: Heartbeat, every: Duration) -> Self {
        // A failure is logged once, until a write succeeds again.
        let mut is_failing = beat.write_to(&folder).is_err();
        let mut is_taken = false;
        let (phase_sender, phases) = mpsc::channel();
        let write_until_stopped = move || {
            loop {
                match phases.recv_timeout(every) {
                    Ok(phase) => beat.doing = phase,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                let current = Heartbeat::read_from(&folder);
                if current.is_some_and(|current| !current.is_same_session(&beat)) {
                    // This process was suspended, and another host's session took it for dead.
                    if !std::mem::replace(&mut is_taken, true) {
                        error!(
                            event = "run_folder_taken",
                            "run folder taken over by another session: {}",
                            folder.display()
                        );
                    }
                    continue;
                }
                is_taken = false;
                let written = beat.write_to(&folder);
                if let Err(error) = &written
                    && !is_failing
                {
                    warn!(
                        event = "heartbeat_not_written",
                        "heartbeat not written (status may show this run as interrupted): {error}"
                    );
                }
                is_failing = written.is_err();
            }
            if !is_taken {
                Heartbeat::remove_from(&folder);
            }
        };
        let spawned = std::thread::Builder::new().name("heart".into()).spawn(write_until_stopped);
        let thread = spawned
            .inspect_err(|error| {
                warn!(
                    event = "heartbeat_thread_not_started",
                    "heartbeat thread not started: {error}"
                );
            })
            .ok();
        Self { phase_sender: Some(phase_sender), thread }
    }

    /// Sets the activity that the heartbeat reports, and writes it at once.
    pub(crate) fn set_phase(&self, phase: RunActivity) {
        if let Some(phase_sender) = &self.phase_sender {
            let _ = phase_sender.send(phase);
        }
    }

    /// Stops the thread and removes the file, for an end that precedes the drop.
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

    fn first_heartbeat() -> Heartbeat {
        Heartbeat {
            host: "n1".into(),
            pid: 1,
            job: None,
            start: 1,
            began: 0,
            doing: RunActivity::ReadingInput,
            beat: 0,
        }
    }

    #[test]
    fn heartbeat_goes_on_while_its_owner_is_busy_and_ends_with_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let beat = first_heartbeat();
        let place = folder.path().to_owned();
        let heartbeat =
            HeartbeatThread::start_with_interval(place.clone(), beat, Duration::from_millis(5));
        assert_eq!(Heartbeat::read_from(&place).expect("at once").doing, RunActivity::ReadingInput);
        heartbeat.set_phase(RunActivity::Gathering);
        // The file is removed under the thread, and comes back without any action of the owner.
        for _ in 0..3 {
            std::fs::remove_file(place.join(Heartbeat::FILE_NAME)).unwrap_or_default();
            let end = Instant::now() + Duration::from_secs(20);
            while Heartbeat::read_from(&place)
                .is_none_or(|read| read.doing != RunActivity::Gathering)
            {
                assert!(Instant::now() < end, "the heartbeat file is not written again");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop(heartbeat);
        assert_eq!(std::fs::read_dir(&place).expect("listed").count(), 0);
    }

    #[test]
    fn the_heartbeat_of_another_session_is_neither_replaced_nor_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let ours = first_heartbeat();
        let place = folder.path().to_owned();
        let heartbeat = HeartbeatThread::start_with_interval(
            place.clone(),
            ours.clone(),
            Duration::from_secs(600),
        );
        let mut theirs = Heartbeat { host: "n2".into(), ..ours };
        theirs.write_to(&place).expect("written");
        heartbeat.set_phase(RunActivity::Gathering);
        drop(heartbeat);
        assert_eq!(Heartbeat::read_from(&place).expect("there"), theirs);
    }
}
