//! Speculation: places that a second rank works on near the end of the work (speculative execution).
//!
//! Owns which places are worth it and which ranks take them. Which ranks are idle is reported to
//! `job/dispatch/assignments.rs`. The same between the endpoints of one rank is request hedging, in
//! `engine/scheduler/hedging.rs`.

use std::{collections::BTreeMap, time::Duration};

use super::{
    LeaseEntry, Ledger,
    guided::{excess_queued_count, is_lease_stuck},
};

impl Ledger {
    /// Chooses places that idle ranks (with the number each may take) work on in addition to their holders: first those
    /// that seem stuck, oldest first; then those queued at ranks that will be busy long after the fastest rank could
    /// have finished them, beginning with the last of their queue.
    pub fn grant_speculative_copies(
        &mut self,
        idle: &[(usize, usize)],
        now: Duration,
    ) -> Vec<(usize, u64)> {
        let mut idle: Vec<(usize, usize)> =
            idle.iter().copied().filter(|&(rank, _)| rank < self.ranks.len()).collect();
        let mut copies = Vec::new();
        for (place, holder) in self.speculation_candidates(now) {
            if self.settled.contains(place) || self.speculative_copies.contains_key(&place) {
                continue;
            }
            idle.retain(|&(_, room)| room > 0);
            if idle.is_empty() {
                break;
            }
            if let Some((rank, room)) = idle.iter_mut().find(|(rank, _)| *rank != holder) {
                *room -= 1;
                copies.push((*rank, place));
            }
        }
        self.speculative_copies.extend(copies.iter().map(|&(rank, place)| (place, rank)));
        copies
    }

    /// Returns places with their holders, those first that gain most from a second copy.
    fn speculation_candidates(&self, now: Duration) -> impl Iterator<Item = (u64, usize)> {
        let mut oldest: Vec<(&u64, &LeaseEntry)> = self.leases.iter().collect();
        oldest.sort_by_key(|(from, lease)| (lease.granted_at, **from));
        let mut loads: BTreeMap<usize, u64> = BTreeMap::new();
        for (_, lease) in &oldest {
            *loads.entry(lease.rank).or_default() += lease.unsettled_count;
        }
        let (mut stuck, mut queued) = (Vec::new(), Vec::new());
        for &(&from, lease) in &oldest {
            let p50 = self.ranks[lease.rank].p50_latency;
            let places = || (from..lease.end).map(|place| (place, lease.rank));
            if is_lease_stuck(now.saturating_sub(lease.granted_at), p50.or(self.min_p50_latency)) {
                stuck.extend(places());
            }
        }
        // A rank works on its leases in order, so the end of its newest lease waits longest.
        for (from, lease) in oldest.into_iter().rev() {
            let entry = &self.ranks[lease.rank];
            let Some(load) = loads.get_mut(&lease.rank) else { continue };
            let excess = excess_queued_count(
                *load,
                entry.throughput.measured_rate(),
                entry.p50_latency,
                self.min_p50_latency,
            );
            let taken = excess.min(lease.unsettled_count);
            *load -= taken;
            let open = (*from..lease.end).rev().filter(|&place| !self.settled.contains(place));
            queued.extend(open.take(taken as usize).map(|place| (place, lease.rank)));
        }
        stuck.into_iter().chain(queued)
    }
}
