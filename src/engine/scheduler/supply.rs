//! The prompts that are announced to this engine and arrive over time: pure but for the channel.
//!
//! Owns the counts of announced, received and revoked prompts, and the short wait for prompts that would fill a batch.
//! Once received, prompts that wait are `queue`'s. Which rank gets which prompts is decided by the coordinator.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{Receiver, error::TryRecvError};

use crate::domain::Prompt;

/// The receiving end of the prompt reader.
#[derive(Debug)]
pub(crate) struct PromptSupply {
    prompts: Receiver<Prompt>,
    is_open: bool,
    /// Prompts announced in all.
    announced_count: u64,
    /// Whether no more than the announced prompts will come for now.
    is_final: bool,
    received_count: u64,
    /// Prompts up to this number were revoked; drop those not yet sent.
    revoked_count: u64,
    /// Indexes of prompts that arrived after they were revoked.
    received_revoked: Vec<u64>,
    /// Since when the arrival of more prompts for a full batch has been awaited.
    batch_fill_since: Option<Instant>,
}

impl PromptSupply {
    pub(crate) fn new(prompts: Receiver<Prompt>) -> Self {
        Self {
            prompts,
            is_open: true,
            announced_count: 0,
            is_final: false,
            received_count: 0,
            revoked_count: 0,
            received_revoked: Vec::new(),
            batch_fill_since: None,
        }
    }

    /// Waits for the next prompt; none at the end of the input. Cancel-safe.
    pub(crate) async fn recv(&mut self) -> Option<Prompt> {
        let next = self.prompts.recv().await;
        self.is_open = next.is_some();
        next
    }

    /// Returns the next prompt if it has arrived.
    pub(crate) fn try_next(&mut self) -> Option<Prompt> {
        if !self.is_open {
            return None;
        }
        match self.prompts.try_recv() {
            Ok(prompt) => Some(prompt),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.is_open = false;
                None
            }
        }
    }

    /// Returns whether the end of the input has not been reached.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn set_announced(&mut self, count: u64, is_final: bool) {
        (self.announced_count, self.is_final) = (count, is_final);
    }

    /// Returns whether no more prompts are to be expected for now.
    pub(crate) fn is_exhausted(&self) -> bool {
        !self.is_open || (self.is_final && self.received_count >= self.announced_count)
    }

    pub(crate) fn received_count(&self) -> u64 {
        self.received_count
    }

    pub(crate) fn count_received(&mut self) {
        self.received_count += 1;
    }

    /// Returns whether the prompt received last was revoked before it arrived, and remembers its index then.
    pub(crate) fn keep_if_revoked(&mut self, index: u64) -> bool {
        let is_revoked = self.received_count <= self.revoked_count;
        // Returned later and not dropped: for the coordinator the prompt is still leased to this rank.
        if is_revoked {
            self.received_revoked.push(index);
        }
        is_revoked
    }

    pub(crate) fn revoke_first(&mut self, count: u64) {
        self.revoked_count = count;
    }

    pub(crate) fn has_revoked(&self) -> bool {
        !self.received_revoked.is_empty()
    }

    /// Moves the indexes of prompts that arrived after they were revoked to `indexes`.
    pub(crate) fn take_revoked(&mut self, indexes: &mut Vec<u64>) {
        indexes.append(&mut self.received_revoked);
    }

    /// Returns whether announced prompts would make a full batch of what is a short one now: they are awaited for
    /// `max_wait` at most. `queued` prompts wait to be sent.
    pub(crate) fn is_filling_batch(
        &mut self,
        queued: usize,
        max_batch_size: usize,
        max_wait: Duration,
        now: Instant,
    ) -> bool {
        if self.received_count >= self.announced_count || queued >= max_batch_size {
            self.batch_fill_since = None;
            return false;
        }
        now - *self.batch_fill_since.get_or_insert(now) < max_wait
    }

    /// Returns when the wait of [`Self::is_filling_batch`] ends.
    pub(crate) fn batch_fill_end(&self, max_wait: Duration) -> Option<Instant> {
        self.batch_fill_since.map(|since| since + max_wait)
    }
}
