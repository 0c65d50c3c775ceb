//! The main thread during the work: MPI as an actor.
//!
//! MPI is synchronous and lives on the main thread; HTTP is asynchronous and lives on other threads. They meet here:
//! the other threads send local events over a channel, and waiting for an event *is* the sleep between two polls of
//! MPI. An event therefore wakes the actor at once, and a message is seen within one sleep. Owns a single step of
//! that loop; the meaning of messages and events is the caller's.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Instant,
};

use super::{Comm, MessageTag, PollBackoff, RankMessage};

/// Receiver of both the ranks' messages and this process's local events.
pub struct Mailbox<'c, E> {
    comm: &'c mut dyn Comm,
    local_events: Receiver<E>,
    backoff: PollBackoff,
    senders_gone: bool,
}

/// Reason for which [`Mailbox::wait_until`] returned.
#[derive(Debug, PartialEq, Eq)]
pub enum MailboxEvent<E> {
    /// A message from a rank.
    Message(RankMessage),
    /// An event from another thread of this process.
    Local(E),
    /// The deadline passed without a message or an event.
    TimedOut,
}

impl<'c, E> Mailbox<'c, E> {
    /// Creates a mailbox over the job's messages and the events of this channel.
    pub fn new(comm: &'c mut dyn Comm, local_events: Receiver<E>) -> Self {
        Self { comm, local_events, backoff: PollBackoff::for_active_work(), senders_gone: false }
    }

    /// Returns the communicator, for sending.
    pub fn comm_mut(&mut self) -> &mut dyn Comm {
        self.comm
    }

    /// Sets the length of the following sleeps: short while answers are awaited, long while the backlog is ample.
    pub fn set_backoff(&mut self, backoff: PollBackoff) {
        self.backoff = backoff;
    }

    /// Returns the next message or event, or [`MailboxEvent::TimedOut`] at `until`. Messages come before events, so
    /// that a busy thread cannot keep other ranks waiting.
    pub fn wait_until(&mut self, until: Instant) -> MailboxEvent<E> {
        loop {
            if let Some(message) = self.comm.try_receive(None, MessageTag::Job) {
                self.backoff.reset();
                return MailboxEvent::Message(message);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // An event that is already queued must not wait for the next call.
                return self
                    .local_events
                    .try_recv()
                    .map_or(MailboxEvent::TimedOut, MailboxEvent::Local);
            }
            if self.comm.pending_messages() > 0 {
                self.backoff.reset();
            }
            let sleep = self.backoff.next_sleep().min(left);
            if self.senders_gone {
                std::thread::sleep(sleep);
                continue;
            }
            match self.local_events.recv_timeout(sleep) {
                Ok(event) => {
                    self.backoff.reset();
                    return MailboxEvent::Local(event);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.senders_gone = true,
            }
        }
    }
}
