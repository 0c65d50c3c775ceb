//! What an endpoint has seen: counts for tests and benchmarks to read.
//!
//! It owns the counters and their JSON; whoever does a thing counts it here.

use crate::cache::ByHash;
use crate::sync::lock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What an endpoint has seen so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Requests on the generating routes, refused ones included.
    pub requests: u64,
    /// Prompts in them that were fit to be answered.
    pub prompts: u64,
    /// Prompts that were answered to their end.
    pub served: u64,
    /// The same by route.
    pub served_by_route: BTreeMap<String, u64>,
    /// Prompts of requests whose client went before the answer.
    pub aborted: u64,
    /// The most prompts under way at once.
    pub most_in_flight: u64,
    /// Prompts under way now.
    pub in_flight: u64,
    /// The longest list.
    pub largest_list: u64,
    /// Connections taken.
    pub connections: u64,
    /// Connections open now.
    pub open_connections: u64,
    /// Different prompts answered.
    pub distinct_served: u64,
    /// Prompts answered more than once.
    pub served_again: u64,
    /// The prompts answered most often: hash and times, ten at most, no singles.
    pub most_served: Vec<(String, u64)>,
    /// 4xx answers.
    pub refused_4xx: u64,
    /// 5xx answers.
    pub failed_5xx: u64,
    /// Requests refused for a full queue.
    pub rejected: u64,
    /// Faults carried out.
    pub faults: u64,
    /// Tokens of the prompts answered.
    pub prompt_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// When the first request on a generating route came, in microseconds since 1970; 0 before.
    pub first_request_us: u64,
    /// When the last answer was made, likewise.
    pub last_answer_us: u64,
}

/// The ends of answers, by reason.
pub const REASONS: [&str; 5] = ["stop", "length", "abort", "error", "repetition"];

/// The counters behind `Seen`.
#[derive(Default)]
#[expect(missing_docs, reason = "the names are those of `Seen`")]
pub struct Tally {
    pub requests: AtomicU64,
    pub prompts: AtomicU64,
    pub aborted: AtomicU64,
    pub in_flight: AtomicU64,
    pub most_in_flight: AtomicU64,
    pub largest_list: AtomicU64,
    pub connections: AtomicU64,
    pub open_connections: AtomicU64,
    pub refused_4xx: AtomicU64,
    pub failed_5xx: AtomicU64,
    pub rejected: AtomicU64,
    pub faults: AtomicU64,
    pub first_request_us: AtomicU64,
    pub reasons: [AtomicU64; 5],
    served: Mutex<Served>,
}

#[derive(Default)]
struct Served {
    total: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    last_answer_us: u64,
    by_route: BTreeMap<&'static str, u64>,
    times: ByHash<u32>,
}

impl Tally {
    /// Adds one, or more.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// A request comes in, whatever becomes of it.
    pub fn arrive(&self) {
        Self::add(&self.requests, 1);
        let first = &self.first_request_us;
        if first.load(Ordering::Relaxed) == 0 {
            // Another thread's request may have been the first.
            let _ = first.compare_exchange(0, now_us(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// A request with so many prompts begins.
    pub fn begin(&self, prompts: u64) {
        Self::add(&self.prompts, prompts);
        self.largest_list.fetch_max(prompts, Ordering::Relaxed);
        let now = self.in_flight.fetch_add(prompts, Ordering::Relaxed) + prompts;
        self.most_in_flight.fetch_max(now, Ordering::Relaxed);
    }

    /// A request with so many prompts has ended, one way or another.
    pub fn end(&self, prompts: u64) {
        self.in_flight.fetch_sub(prompts, Ordering::Relaxed);
    }

    /// An answer ended for this reason.
    pub fn reason(&self, reason: &str, count: u64) {
        if let Some(at) = REASONS.iter().position(|r| *r == reason) {
            Self::add(&self.reasons[at], count);
        }
    }

    /// Counts prompts that a route has answered.
    pub fn served<I: IntoIterator<Item = u64>>(
        &self,
        route: &'static str,
        hashes: I,
        tokens: (usize, usize),
    ) {
        let mut served = lock(&self.served);
        let before = served.total;
        for hash in hashes {
            served.total += 1;
            *served.times.entry(hash).or_default() += 1;
        }
        let count = served.total - before;
        *served.by_route.entry(route).or_default() += count;
        served.prompt_tokens += tokens.0 as u64;
        served.completion_tokens += tokens.1 as u64;
        served.last_answer_us = now_us();
    }

    /// Prompts answered so far.
    pub fn served_count(&self) -> u64 {
        lock(&self.served).total
    }

    /// Everything, as it stands.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let served = lock(&self.served);
        let mut again: Vec<(u64, u64)> = served
            .times
            .iter()
            .filter(|(_, times)| **times > 1)
            .map(|(hash, times)| (u64::from(*times), *hash))
            .collect();
        again.sort_unstable_by(|a, b| b.cmp(a));
        Seen {
            requests: read(&self.requests),
            prompts: read(&self.prompts),
            served: served.total,
            served_by_route: served.by_route.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
            aborted: read(&self.aborted),
            most_in_flight: read(&self.most_in_flight),
            in_flight: read(&self.in_flight),
            largest_list: read(&self.largest_list),
            connections: read(&self.connections),
            open_connections: read(&self.open_connections),
            distinct_served: served.times.len() as u64,
            served_again: again.len() as u64,
            most_served: again
                .iter()
                .take(10)
                .map(|(n, hash)| (format!("{hash:016x}"), *n))
                .collect(),
            refused_4xx: read(&self.refused_4xx),
            failed_5xx: read(&self.failed_5xx),
            rejected: read(&self.rejected),
            faults: read(&self.faults),
            prompt_tokens: served.prompt_tokens,
            completion_tokens: served.completion_tokens,
            first_request_us: read(&self.first_request_us),
            last_answer_us: served.last_answer_us,
        }
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_and_the_last_answer_are_timed() {
        let tally = Tally::default();
        assert_eq!((tally.seen().first_request_us, tally.seen().last_answer_us), (0, 0));
        tally.arrive();
        let first = tally.seen().first_request_us;
        tally.served("/v1/completions", [7], (1, 2));
        tally.arrive();
        let seen = tally.seen();
        assert!(first > 0 && seen.first_request_us == first && seen.last_answer_us >= first);
        assert_eq!(seen.requests, 2);
    }
}
