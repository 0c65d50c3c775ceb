//! What a client could reach that takes prompts in a given order and never lets a slot wait: the
//! cost model played through, without HTTP, queues or a clock.
//!
//! It owns no measurement. Its figure stands beside the bound, which no client reaches where the
//! last answers are long.

use crate::work::Cost;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use vllm_sim::CostModel;

/// One endpoint: its time in µs, its steps so far, and the steps in which its answers end.
struct Server {
    now: f64,
    steps: u64,
    ends: BinaryHeap<Reverse<u64>>,
    slow: f64,
}

/// The seconds from the first prompt to the last answer.
pub fn seconds(costs: &[Cost], cost: &CostModel, slow: &[f64]) -> f64 {
    let mut queue: VecDeque<Cost> = costs.iter().copied().collect();
    let mut servers: Vec<Server> = slow
        .iter()
        .map(|slow| Server { now: 0.0, steps: 0, ends: BinaryHeap::new(), slow: *slow })
        .collect();
    let mut last = 0.0_f64;
    loop {
        // The one whose clock is behind all others' is the next to take prompts.
        let busy = servers.iter_mut().filter(|s| !queue.is_empty() || !s.ends.is_empty());
        let Some(server) = busy.min_by(|a, b| a.now.total_cmp(&b.now)) else { return last / 1e6 };
        let mut prefill = 0;
        while server.ends.len() < cost.max_num_seqs
            && let Some(next) = queue.pop_front()
        {
            server.ends.push(Reverse(server.steps + next.output as u64));
            prefill += next.fresh;
        }
        let Some(Reverse(end)) = server.ends.peek().copied() else { return last / 1e6 };
        let step = |prefill| cost.step_us(server.ends.len(), prefill) * server.slow;
        let steps = end - server.steps;
        server.now += step(prefill) + step(0) * (steps - 1) as f64;
        server.steps = end;
        while server.ends.peek().is_some_and(|Reverse(end)| *end <= server.steps) {
            server.ends.pop();
        }
        last = last.max(server.now);
    }
}

/// The same work, longest answers first.
pub fn longest_first(costs: &[Cost]) -> Vec<Cost> {
    let mut sorted = costs.to_vec();
    sorted.sort_by_key(|cost| Reverse(cost.output));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> CostModel {
        CostModel {
            step_base_us: 1e6,
            per_seq_us: 0.0,
            per_prefill_token_us: 0.0,
            max_num_seqs: 2,
            ..CostModel::default()
        }
    }

    fn costs(outputs: &[usize]) -> Vec<Cost> {
        outputs.iter().map(|output| Cost { prompt: 1, fresh: 1, output: *output }).collect()
    }

    #[test]
    fn a_long_answer_that_starts_last_is_waited_for() {
        let work = costs(&[2, 2, 2, 8]);
        assert_eq!(seconds(&work, &model(), &[1.0]), 10.0);
        assert_eq!(seconds(&longest_first(&work), &model(), &[1.0]), 8.0);
    }

    #[test]
    fn no_schedule_beats_the_bound() {
        let outputs: Vec<usize> = (0..500).map(|at| 1 + at % 37).collect();
        let work = costs(&outputs);
        let slow = [1.0, 1.0, 2.5];
        let bound = model().bound(outputs.iter().map(|o| (1, *o)), &slow).as_secs_f64();
        assert!(seconds(&work, &model(), &slow) >= bound);
        assert!(seconds(&longest_first(&work), &model(), &slow) >= bound);
        assert_eq!(seconds(&[], &model(), &slow), 0.0);
    }
}
