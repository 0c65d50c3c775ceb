//! The last minute between ranks: what is worked on twice.
//!
//! Owns which places are worth that and who takes them. Whether somebody is idle is for others to know.

use std::{collections::BTreeMap, time::Duration};

use super::{
    LeaseEntry, Ledger,
    guided::{excess_queued_count, is_lease_stuck},
};

impl Ledger {
    /// Places that idle ranks (and how many each may take) work on besides those who have them: first what seems to be
    /// stuck, the oldest first; then what waits at ranks that will be busy for long after the fastest could have done it,
    /// beginning with what they would do last.
    pub fn grant_speculative_copies(
        &mut self,
        idle: &[(usize, usize)],
        now: Duration,
    ) -> Vec<(usize, u64)> {
        let mut idle: Vec<(usize, usize)> =
            idle.iter().copied().filter(|&(rank, _)| rank < self.ranks.len()).collect();
        let mut copied = Vec::new();
        for (place, holder) in self.speculation_candidates(now) {
            if self.settled.contains(place) || self.copies.contains_key(&place) {
                continue;
            }
            idle.retain(|&(_, room)| room > 0);
            if idle.is_empty() {
                break;
            }
            if let Some((rank, room)) = idle.iter_mut().find(|(rank, _)| *rank != holder) {
                *room -= 1;
                copied.push((*rank, place));
            }
        }
        self.copies.extend(copied.iter().map(|&(rank, place)| (place, rank)));
        copied
    }

    /// Places and who has them, those first that gain most by being asked elsewhere too.
    fn speculation_candidates(&self, now: Duration) -> impl Iterator<Item = (u64, usize)> {
        let mut oldest: Vec<(&u64, &LeaseEntry)> = self.leases.iter().collect();
        oldest.sort_by_key(|(from, lease)| (lease.since, **from));
        let mut loads: BTreeMap<usize, u64> = BTreeMap::new();
        for (_, lease) in &oldest {
            *loads.entry(lease.rank).or_default() += lease.left;
        }
        let (mut stuck, mut queued) = (Vec::new(), Vec::new());
        for &(&from, lease) in &oldest {
            let usual = self.ranks[lease.rank].p50_latency;
            let places = || (from..lease.end).map(|place| (place, lease.rank));
            if is_lease_stuck(now.saturating_sub(lease.since), usual.or(self.min_p50_latency)) {
                stuck.extend(places());
            }
        }
        for (from, lease) in oldest.into_iter().rev() {
            let worker = &self.ranks[lease.rank];
            let Some(load) = loads.get_mut(&lease.rank) else { continue };
            let spare = excess_queued_count(
                *load,
                worker.throughput.measured_rate(),
                worker.p50_latency,
                self.min_p50_latency,
            );
            let taken = spare.min(lease.left);
            *load -= taken;
            let open = (*from..lease.end).rev().filter(|&place| !self.settled.contains(place));
            queued.extend(open.take(taken as usize).map(|place| (place, lease.rank)));
        }
        stuck.into_iter().chain(queued)
    }
}
