//! The driver's last minute: prompts that are asked a second time.
//!
//! Owns who gets which copy. Whether one is worth it is `endgame`'s; which of the two answers counts is `verdicts`'.

use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;

use super::{
    Driver, Twin,
    in_flight::{Flight, UnderWay},
    tail_policy::{self, Age},
};
use crate::engine::queue::{Batch, Task};

/// How often copies are thought of.
pub(crate) const EVERY: Duration = Duration::from_millis(100);

impl Driver {
    /// Asks once more what seems to be stuck, or would be done sooner elsewhere, where nothing else is left to send.
    pub(crate) fn copy(&mut self, flights: &FuturesUnordered<Flight>, now: Instant) {
        if !self.is_ending() || now < self.next_copies || self.under_way.is_empty() {
            return;
        }
        self.next_copies = now + EVERY;
        let mut idle: Vec<usize> =
            (0..self.servers.len()).filter(|&it| self.servers[it].is_free_and_well(now)).collect();
        // Where a prompt is answered soonest goes first.
        idle.sort_by_key(|&it| self.servers[it].patience.usual(1).unwrap_or(Duration::MAX));
        let mut oldest: Vec<(Instant, u64)> =
            self.under_way.iter().map(|(&id, it)| (it.sent, id)).collect();
        oldest.sort_unstable();
        for (_, original) in oldest {
            if idle.is_empty() {
                return;
            }
            // Elsewhere if there is any elsewhere: what hangs may not be the request.
            let Some(here) = self.under_way.get(&original).map(|it| it.server) else { continue };
            let alone = self.servers.iter().filter(|it| it.is_well()).count() < 2;
            let Some(&server) = idle.iter().find(|&&it| alone || it != here) else { continue };
            for batch in self.worth_a_copy(original, server, now) {
                if batch.permits() > self.servers[server].free(now) {
                    break;
                }
                let index = batch.tasks[0].prompt.index;
                self.launch(flights, server, batch, now);
                self.twins.insert(index, Twin { requests: [original, self.ids], settled: false });
                let tasks = self.under_way.get_mut(&original).map(|it| &mut it.batch.tasks);
                let mut tasks = tasks.into_iter().flatten();
                if let Some(task) = tasks.find(|task| task.prompt.index == index) {
                    task.copied = true;
                }
            }
            idle.retain(|&it| self.servers[it].free(now) > 0);
        }
    }

    /// The prompts of a request that would gain by being asked at `server` too.
    fn worth_a_copy(&self, original: u64, server: usize, now: Instant) -> Vec<Batch> {
        let Some(UnderWay { server: here, batch, sent, .. }) = self.under_way.get(&original) else {
            return Vec::new();
        };
        let patience = &self.servers[*here].patience;
        let prompts = batch.tasks.len();
        let age = Age {
            age: now - *sent,
            usual: patience.usual(prompts),
            slowest: patience.slowest(prompts),
        };
        let there = self.servers[server].patience.usual(1);
        if !tail_policy::copies(age, there, *here != server) {
            return Vec::new();
        }
        let copy = |task: &Task| {
            let mut task = task.clone();
            task.copied = true;
            Batch { shared: batch.shared.clone(), tasks: vec![task] }
        };
        batch.tasks.iter().filter(|task| !task.copied).map(copy).collect()
    }
}
