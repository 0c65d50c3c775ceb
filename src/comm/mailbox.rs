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

use super::{Comm, Letter, Nap, Tag};

/// Where letters from ranks and words from this process's other threads come together.
pub struct Post<'c, W> {
    comm: &'c mut dyn Comm,
    words: Receiver<W>,
    nap: Nap,
    talkers_gone: bool,
}

/// What the actor woke up for.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<W> {
    /// A rank wrote.
    Letter(Letter),
    /// A thread of this process said something.
    Word(W),
    /// Nothing happened until the time asked for.
    Quiet,
}

impl<'c, W> Post<'c, W> {
    /// Listens to `words` and to the job's letters.
    pub fn new(comm: &'c mut dyn Comm, words: Receiver<W>) -> Self {
        Self { comm, words, nap: Nap::lively(), talkers_gone: false }
    }

    /// The ranks, to send letters to.
    pub fn comm(&mut self) -> &mut dyn Comm {
        self.comm
    }

    /// How long naps may be from here on: short where answers are waited for, long while stock is ample.
    pub fn set_nap(&mut self, nap: Nap) {
        self.nap = nap;
    }

    /// The next thing that happens, or [`Event::Quiet`] at `until`. Letters come before words, so that a chatty thread
    /// cannot keep other ranks waiting.
    pub fn wait(&mut self, until: Instant) -> Event<W> {
        loop {
            if let Some(letter) = self.comm.receive(None, Tag::Job) {
                self.nap.wake();
                return Event::Letter(letter);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // A word that is here already must not wait for the next call.
                return self.words.try_recv().map_or(Event::Quiet, Event::Word);
            }
            if self.comm.under_way() > 0 {
                self.nap.wake();
            }
            let nap = self.nap.length().min(left);
            if self.talkers_gone {
                std::thread::sleep(nap);
                continue;
            }
            match self.words.recv_timeout(nap) {
                Ok(word) => {
                    self.nap.wake();
                    return Event::Word(word);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.talkers_gone = true,
            }
        }
    }
}
