//! The driver's last minute: prompts that are asked a second time.
//!
//! Owns who gets which copy. Whether one is worth it is `endgame`'s; which of the two answers counts is `verdicts`'.

use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;

use super::{
    HedgedPrompt, Scheduler,
    in_flight::{InFlightRequest, RequestFuture},
    tail_policy::{self, RequestAge},
};
use crate::engine::queue::{Batch, PromptTask};

/// How often copies are thought of.
pub(crate) const HEDGE_INTERVAL: Duration = Duration::from_millis(100);

impl Scheduler {
    /// Asks once more what seems to be stuck, or would be done sooner elsewhere, where nothing else is left to send.
    pub(crate) fn hedge_requests(
        &mut self,
        flights: &FuturesUnordered<RequestFuture>,
        now: Instant,
    ) {
        if !self.is_supply_exhausted()
            || now < self.next_hedge_check
            || self.in_flight_requests.is_empty()
        {
            return;
        }
        self.next_hedge_check = now + HEDGE_INTERVAL;
        let mut idle: Vec<usize> = (0..self.servers.len())
            .filter(|&it| self.servers[it].has_healthy_capacity(now))
            .collect();
        // Where a prompt is answered soonest goes first.
        idle.sort_by_key(|&it| self.servers[it].latency.p50_latency(1).unwrap_or(Duration::MAX));
        let mut oldest: Vec<(Instant, u64)> =
            self.in_flight_requests.iter().map(|(&id, it)| (it.sent_at, id)).collect();
        oldest.sort_unstable();
        for (_, original) in oldest {
            if idle.is_empty() {
                return;
            }
            // Elsewhere if there is any elsewhere: what hangs may not be the request.
            let Some(here) = self.in_flight_requests.get(&original).map(|it| it.server) else {
                continue;
            };
            let alone = self.servers.iter().filter(|it| it.is_healthy()).count() < 2;
            let Some(&server) = idle.iter().find(|&&it| alone || it != here) else { continue };
            for batch in self.hedge_candidates(original, server, now) {
                if batch.permit_count() > self.servers[server].free_permits(now) {
                    break;
                }
                let index = batch.tasks[0].prompt.index;
                self.launch_request(flights, server, batch, now);
                self.hedged_prompts.insert(
                    index,
                    HedgedPrompt {
                        request_ids: [original, self.last_request_id],
                        is_settled: false,
                    },
                );
                let tasks =
                    self.in_flight_requests.get_mut(&original).map(|it| &mut it.batch.tasks);
                let mut tasks = tasks.into_iter().flatten();
                if let Some(task) = tasks.find(|task| task.prompt.index == index) {
                    task.hedged = true;
                }
            }
            idle.retain(|&it| self.servers[it].free_permits(now) > 0);
        }
    }

    /// The prompts of a request that would gain by being asked at `server` too.
    fn hedge_candidates(&self, original: u64, server: usize, now: Instant) -> Vec<Batch> {
        let Some(InFlightRequest { server: here, batch, sent_at: sent, .. }) =
            self.in_flight_requests.get(&original)
        else {
            return Vec::new();
        };
        let patience = &self.servers[*here].latency;
        let prompts = batch.tasks.len();
        let age = RequestAge {
            elapsed: now - *sent,
            p50_latency: patience.p50_latency(prompts),
            p99_latency: patience.p99_latency(prompts),
        };
        let there = self.servers[server].latency.p50_latency(1);
        if !tail_policy::should_hedge(age, there, *here != server) {
            return Vec::new();
        }
        let copy = |task: &PromptTask| {
            let mut task = task.clone();
            task.hedged = true;
            Batch { params: batch.params.clone(), tasks: vec![task] }
        };
        batch.tasks.iter().filter(|task| !task.hedged).map(copy).collect()
    }
}
