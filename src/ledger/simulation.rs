//! The ledger with many thousands of simulated ranks: they end together, and the message rate at rank 0 is bounded.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

/// A job whose ranks have `slots` slots each and whose prompts take a rank-dependent time.
struct SimulatedJob {
    ranks: usize,
    prompts: u64,
    slots: u64,
}

struct SimulationResult {
    /// End of the last prompt; the lower bound is `bound_seconds`.
    end_seconds: f64,
    bound_seconds: f64,
    messages: u64,
    peak_messages_per_second: u64,
}

/// Returns a factor from 1 to 2.5, always the same for a rank.
fn slowdown_factor(rank: usize) -> f64 {
    let mixed = (rank as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    1.0 + 1.5 * (mixed % 1000) as f64 / 1000.0
}

/// Returns 0.5 to 1.5 s, always the same for a place.
fn prompt_seconds(place: u64) -> f64 {
    let mixed = place.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40;
    0.5 + (mixed % 1000) as f64 / 1000.0
}

/// Simulates ranks that keep their slots full from a backlog and ask for two windows of prompts when less than one is
/// left.
fn simulate_job(job: &SimulatedJob) -> SimulationResult {
    let mut ledger = Ledger::new(job.prompts, job.ranks);
    let mut events = BinaryHeap::new();
    let mut backlogs: Vec<Vec<u64>> = vec![Vec::new(); job.ranks];
    let mut done: Vec<Vec<PlaceRange>> = vec![Vec::new(); job.ranks];
    let (mut messages, mut this_second, mut second, mut peak) = (0, 0, 0, 0);
    let nanos = |seconds: f64| (seconds * 1e9) as u64;
    for rank in 0..job.ranks {
        for _ in 0..job.slots {
            events.push(Reverse((0u64, rank, u64::MAX)));
        }
    }
    let mut end = 0.0_f64;
    while let Some(Reverse((at, rank, place))) = events.pop() {
        let now = Duration::from_nanos(at);
        if place != u64::MAX {
            done[rank].push(place..place + 1);
            end = end.max(now.as_secs_f64());
        }
        if (backlogs[rank].len() as u64) < job.slots && ledger.free_count() > 0 {
            // One message, which also reports the places settled since the last one.
            ledger.settle_places(rank, done[rank].drain(..), now);
            let mut granted: Vec<u64> =
                ledger.grant_leases(rank, job.slots * 2, now).into_iter().flatten().collect();
            granted.reverse();
            granted.append(&mut backlogs[rank]);
            backlogs[rank] = granted;
            messages += 1;
            let whole = now.as_secs();
            this_second = if whole == second { this_second + 1 } else { 1 };
            second = whole;
            peak = peak.max(this_second);
        }
        if let Some(next) = backlogs[rank].pop() {
            let latency_ns = nanos(prompt_seconds(next) * slowdown_factor(rank));
            events.push(Reverse((at + latency_ns, rank, next)));
        }
    }
    for (rank, done) in done.into_iter().enumerate() {
        ledger.settle_places(rank, done, Duration::from_secs_f64(end));
    }
    assert_eq!(ledger.open_count(), 0);
    let work: f64 = (0..job.prompts).map(prompt_seconds).sum();
    let speed: f64 = (0..job.ranks).map(|rank| job.slots as f64 / slowdown_factor(rank)).sum();
    SimulationResult {
        end_seconds: end,
        bound_seconds: work / speed,
        messages,
        peak_messages_per_second: peak,
    }
}

#[test]
fn twelve_thousand_ranks_end_together() {
    let job = SimulatedJob { ranks: 12_000, prompts: 3_000_000, slots: 12 };
    let result = simulate_job(&job);
    let share = result.bound_seconds / result.end_seconds;
    // The last prompt of a slow rank takes up to 3.75 s of some 36.
    assert!(share > 0.85, "{share:.3} of the optimum");
    assert!(result.messages < job.prompts / 4, "{} messages", result.messages);
    // At the start all ranks ask at once; later each asks every few seconds.
    assert!(
        result.peak_messages_per_second < 48_000,
        "{} messages in one second",
        result.peak_messages_per_second
    );
}
