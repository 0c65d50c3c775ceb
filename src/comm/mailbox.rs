//! The main thread while work goes on: MPI as an actor.
//!
//! MPI is synchronous and lives here; HTTP is asynchronous and lives on other threads. They meet in this one place: the
//! other side sends words over a channel, and waiting for a word *is* the nap between two looks at MPI, so that a word
//! wakes the actor at once and a letter is seen within a nap. Owns that loop's one step; what letters and words mean is
//! the caller's.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Instant,
};

use super::{Comm, MessageTag, PollBackoff, RankMessage};

/// Where letters from ranks and words from this process's other threads come together.
pub struct Mailbox<'c, W> {
    comm: &'c mut dyn Comm,
    words: Receiver<W>,
    backoff: PollBackoff,
    senders_gone: bool,
}

/// What the actor woke up for.
#[derive(Debug, PartialEq, Eq)]
pub enum MailboxEvent<W> {
    /// A rank wrote.
    Message(RankMessage),
    /// A thread of this process said something.
    Word(W),
    /// Nothing happened until the time asked for.
    TimedOut,
}

impl<'c, W> Mailbox<'c, W> {
    /// Listens to `words` and to the job's letters.
    pub fn new(comm: &'c mut dyn Comm, words: Receiver<W>) -> Self {
        Self { comm, words, backoff: PollBackoff::for_active_work(), senders_gone: false }
    }

    /// The ranks, to send letters to.
    pub fn comm_mut(&mut self) -> &mut dyn Comm {
        self.comm
    }

    /// How long naps may be from here on: short where answers are waited for, long while stock is ample.
    pub fn set_backoff(&mut self, nap: PollBackoff) {
        self.backoff = nap;
    }

    /// The next thing that happens, or [`Event::Quiet`] at `until`. Letters come before words, so that a chatty thread
    /// cannot keep other ranks waiting.
    pub fn wait(&mut self, until: Instant) -> MailboxEvent<W> {
        loop {
            if let Some(letter) = self.comm.try_receive(None, MessageTag::Job) {
                self.backoff.reset();
                return MailboxEvent::Message(letter);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A word that is here already must not wait for the next call.
                return self.words.try_recv().map_or(MailboxEvent::TimedOut, MailboxEvent::Word);
            }
            if self.comm.pending_messages() > 0 {
                self.backoff.reset();
            }
            let nap = self.backoff.length().min(left);
            if self.senders_gone {
                std::thread::sleep(nap);
                continue;
            }
            match self.words.recv_timeout(nap) {
                Ok(word) => {
                    self.backoff.reset();
                    return MailboxEvent::Word(word);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.senders_gone = true,
            }
        }
    }
}
