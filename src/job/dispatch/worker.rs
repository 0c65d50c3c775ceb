//! The worker loop: a rank other than 0 during the work phase, until rank 0 ends it.
//!
//! Owns that loop, and when a rank exits because rank 0 is silent. What the messages say is in `protocol.rs`; how a
//! rank reacts to them is in `lease_client.rs`.

use std::time::{Duration, Instant};

use tracing::error;

use super::{
    lease_client::LeaseClient,
    local_events::LocalEvent,
    protocol::{ToWorker, WorkEnd, decode_or_log},
};
use crate::comm::{Mailbox, MailboxEvent, MessageTag, PollBackoff, TypedComm};
use crate::job::JobError;

/// A rank exits after this multiple of `--rank-silence` without a message from rank 0.
const ROOT_SILENCE_FACTOR: u32 = 2;

/// In effect collective, by messages. Works until rank 0 ends the work phase.
pub(crate) fn run_worker(
    mut mailbox: Mailbox<'_, LocalEvent>,
    rank: usize,
    mut lease_client: LeaseClient,
    silence: Duration,
) -> Result<(WorkEnd, LeaseClient), JobError> {
    let (mut last_message, mut last_tick) = (Instant::now(), Instant::now());
    let mut waiting = true; // the mailbox starts with short sleeps
    loop {
        if waiting != lease_client.is_waiting() {
            waiting = lease_client.is_waiting();
            mailbox.set_backoff(if waiting {
                PollBackoff::for_active_work()
            } else {
                PollBackoff::for_long_wait()
            });
        }
        match mailbox.wait_until(lease_client.next_report_time()) {
            MailboxEvent::Local(event) => lease_client.on_local_event(event),
            MailboxEvent::Message(message) => {
                last_message = Instant::now();
                if let Some(message) = decode_or_log::<ToWorker>(&message)
                    && let Some(work_end) = lease_client.on_message(message)
                {
                    return Ok((work_end, lease_client));
                }
            }
            MailboxEvent::TimedOut => {}
        }
        // This process was suspended (stopped, swapped out): rank 0 has had no report that it could have answered.
        if last_tick.elapsed() > silence / 2 {
            last_message = Instant::now();
        }
        last_tick = Instant::now();
        for message in lease_client.take_due_messages(Instant::now()) {
            mailbox.comm_mut().send_value(0, MessageTag::Job, &message)?;
        }
        if lease_client.is_shutdown_forced() {
            mailbox.comm_mut().abort(crate::job::EXIT_STOPPED_EARLY);
        }
        let silent_for = last_message.elapsed();
        if silent_for > silence * ROOT_SILENCE_FACTOR {
            error!(
                event = "root_unresponsive",
                rank,
                silent_s = silent_for.as_secs(),
                "rank 0 unresponsive for {} s: rank {rank} exits",
                silent_for.as_secs()
            );
            mailbox.comm_mut().abort(crate::job::EXIT_STOPPED_EARLY);
        }
    }
}
