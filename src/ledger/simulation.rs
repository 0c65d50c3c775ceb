//! The ledger against simulated ranks, many thousands of them: do they end together, and how much does rank 0 hear?

use std::{cmp::Reverse, collections::BinaryHeap};

use super::*;

/// A job: ranks with so many slots each, prompts that take a rank-dependent while.
struct SimulatedJob {
    ranks: usize,
    prompts: u64,
    slots: u64,
}

struct Told {
    /// When the last prompt was done, and when it could have been.
    end: f64,
    bound_seconds: f64,
    messages: u64,
    peak_messages_per_second: u64,
}

/// 1 to 2.5 times as slow, the same for a rank every time.
fn slowdown_factor(rank: usize) -> f64 {
    let mixed = (rank as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    1.0 + 1.5 * (mixed % 1000) as f64 / 1000.0
}

/// A prompt's length: mostly 1 s, some several.
fn prompt_seconds(place: u64) -> f64 {
    let mixed = place.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40;
    0.5 + (mixed % 1000) as f64 / 1000.0
}

/// Every rank keeps its slots full from a stock and asks when less than a window is left; what is asked for is two windows.
fn simulate_job(job: &SimulatedJob) -> Told {
    let mut ledger = Ledger::new(job.prompts, job.ranks);
    let mut events = BinaryHeap::new();
    let mut stock: Vec<Vec<u64>> = vec![Vec::new(); job.ranks];
    let mut done: Vec<Vec<PlaceRange>> = vec![Vec::new(); job.ranks];
    let (mut messages, mut this_second, mut second, mut most) = (0, 0, 0, 0);
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
        if (stock[rank].len() as u64) < job.slots && ledger.free() > 0 {
            // One message, with all that was settled meanwhile.
            ledger.settle(rank, done[rank].drain(..), now);
            let mut granted: Vec<u64> =
                ledger.grant_leases(rank, job.slots * 2, now).into_iter().flatten().collect();
            granted.reverse();
            granted.append(&mut stock[rank]);
            stock[rank] = granted;
            messages += 1;
            let whole = now.as_secs();
            this_second = if whole == second { this_second + 1 } else { 1 };
            second = whole;
            most = most.max(this_second);
        }
        if let Some(next) = stock[rank].pop() {
            let took = nanos(prompt_seconds(next) * slowdown_factor(rank));
            events.push(Reverse((at + took, rank, next)));
        }
    }
    for (rank, done) in done.into_iter().enumerate() {
        ledger.settle(rank, done, Duration::from_secs_f64(end));
    }
    assert_eq!(ledger.open_count(), 0);
    let work: f64 = (0..job.prompts).map(prompt_seconds).sum();
    let speed: f64 = (0..job.ranks).map(|rank| job.slots as f64 / slowdown_factor(rank)).sum();
    Told { end, bound_seconds: work / speed, messages, peak_messages_per_second: most }
}

#[test]
fn twelve_thousand_ranks_end_together() {
    let job = SimulatedJob { ranks: 12_000, prompts: 3_000_000, slots: 12 };
    let told = simulate_job(&job);
    let share = told.bound_seconds / told.end;
    // The last prompt of a slow rank takes up to 3.75 s of some 36.
    assert!(share > 0.85, "{share:.3} of the bound");
    assert!(told.messages < job.prompts / 4, "{} messages", told.messages);
    // At the start all ask at once; from then on each asks every few seconds.
    assert!(told.peak_messages_per_second < 48_000, "{} in one", told.peak_messages_per_second);
}
