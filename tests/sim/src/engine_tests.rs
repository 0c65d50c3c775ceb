//! Tests of the engine under a clock that jumps from event to event.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn cost(slots: usize) -> CostModel {
    CostModel { step_base_us: 1000.0, max_num_seqs: slots, ..CostModel::default() }
}

fn engine(cost: CostModel) -> Engine<usize> {
    Engine::new(cost, PrefixCache::new(16, 0))
}

fn sequence(prompt_tokens: usize, output_tokens: usize, arrived: Nanos) -> Sequence {
    Sequence { prompt_tokens, output_tokens, chain: Box::default(), arrived, streams: false }
}

/// Runs until idle; (time, payload) of every end.
fn run(engine: &mut Engine<usize>) -> Vec<(Nanos, usize)> {
    let (mut now, mut events, mut ends) = (0, Vec::new(), Vec::new());
    while let Some(next) = engine.advance(now, &mut events) {
        collect(&mut events, now, &mut ends);
        now = next;
    }
    collect(&mut events, now, &mut ends);
    ends
}

fn collect(events: &mut Vec<Event<usize>>, now: Nanos, ends: &mut Vec<(Nanos, usize)>) {
    for event in events.drain(..) {
        if let Event::Finished(payload) = event {
            ends.push((now, payload));
        }
    }
}

#[test]
fn a_freed_slot_is_taken_by_the_oldest_that_waits() {
    let mut engine = engine(cost(2));
    engine.submit([(10, 0), (3, 1), (2, 2), (1, 3)].map(|(out, who)| (sequence(1, out, 0), who)));
    let order: Vec<usize> = run(&mut engine).into_iter().map(|(_, who)| who).collect();
    assert_eq!(order, [1, 2, 3, 0]);
}

#[test]
fn never_more_than_the_slots_run() {
    let mut engine = engine(cost(3));
    engine.submit((0..10).map(|who| (sequence(1, 5, 0), who)));
    let mut events = Vec::new();
    engine.advance(0, &mut events);
    assert_eq!((engine.running(), engine.waiting()), (3, 7));
}

#[test]
fn who_is_still_with_the_api_server_is_not_counted_as_waiting() {
    let mut engine = engine(cost(1));
    engine.submit((0..5).map(|who| (sequence(1, 50, who as u64 * 1_000_000), who)));
    let mut events = Vec::new();
    engine.advance(0, &mut events);
    assert_eq!((engine.running(), engine.waiting()), (1, 4));
    assert_eq!([0, 999_999, 1_000_000, 4_000_000].map(|now| engine.waiting_at(now)), [0, 0, 1, 4]);
}

#[test]
fn a_newcomer_joins_at_the_next_step_of_a_long_span() {
    let mut engine = engine(cost(4));
    engine.submit([(sequence(1, 100, 0), 0)]);
    let mut events = Vec::new();
    let first = engine.advance(0, &mut events).expect("the first step has an end");
    let long = engine.advance(first, &mut events).expect("the span has an end");
    assert!(long > 90_000_000, "99 steps at once: {long}");
    let (_, sooner) = engine.submit([(sequence(1, 1, 10_500_000), 1)]);
    assert!(sooner);
    let next = engine.advance(10_500_000, &mut events).expect("cut");
    assert!((10_500_000..12_000_000).contains(&next), "{next}");
    engine.advance(next, &mut events);
    assert_eq!(engine.running(), 2);
}

#[test]
fn a_long_prompt_is_taken_in_pieces_of_the_budget() {
    let model = CostModel { max_batched_tokens: 100, ..cost(4) };
    let mut engine = engine(model);
    engine.submit([(sequence(250, 1, 0), 0)]);
    run(&mut engine);
    assert_eq!(engine.counters().steps, 3);
}

#[test]
fn an_aborted_sequence_frees_its_slot_and_never_ends() {
    let mut engine = engine(cost(1));
    let (ids, _) = engine.submit([(sequence(1, 100, 0), 0)]);
    engine.submit([(sequence(1, 1, 0), 1)]);
    let mut events = Vec::new();
    engine.advance(0, &mut events);
    assert_eq!(engine.abort(&ids, 0), 1);
    let ends: Vec<usize> = run(&mut engine).into_iter().map(|(_, who)| who).collect();
    assert_eq!(ends, [1]);
}

#[test]
fn a_streaming_sequence_tells_of_every_token() {
    let mut engine = engine(cost(2));
    engine.submit([(Sequence { streams: true, ..sequence(1, 3, 0) }, 7)]);
    let (mut now, mut events) = (0, Vec::new());
    while let Some(next) = engine.advance(now, &mut events) {
        now = next;
    }
    assert_eq!(events, [Event::Tokens(7, 1), Event::Tokens(7, 2), Event::Finished(7)]);
}

#[test]
fn being_looked_at_late_costs_no_time_within_reason() {
    let mut engine = engine(cost(1));
    engine.submit((0..2).map(|who| (sequence(1, 10, 0), who)));
    let mut events = Vec::new();
    let _ = engine.advance(0, &mut events);
    engine.advance(100_000_000, &mut events);
    assert_eq!(events.len(), 2, "both were done within the time that was slept through");
}

proptest! {
    #[test]
    fn no_schedule_beats_the_bound(
        work in prop::collection::vec((1usize..300, 1usize..60, 0u64..5_000_000), 1..80),
        slots in 1usize..20,
        budget in 8usize..500,
    ) {
        let model = CostModel { max_batched_tokens: budget, ..cost(slots) };
        let bound = model.bound(work.iter().map(|(p, o, _)| (*p, *o)), &[1.0]);
        let mut engine = engine(model);
        let mut work = work;
        work.sort_by_key(|(_, _, arrived)| *arrived);
        let first = work[0].2;
        engine.submit(work.iter().enumerate().map(|(n, (p, o, at))| (sequence(*p, *o, *at), n)));
        let ends = run(&mut engine);
        prop_assert_eq!(ends.len(), work.len());
        let last = ends.iter().map(|(at, _)| *at).max().unwrap_or(0);
        // A nanosecond a step is lost in rounding.
        let slack = Duration::from_nanos(engine.counters().steps);
        prop_assert!(Duration::from_nanos(last - first) + slack >= bound);
    }
}

#[test]
fn what_does_not_fit_into_memory_is_preempted_and_still_ends() {
    let model = CostModel { memory_tokens: 100, ..cost(8) };
    let mut engine = engine(model);
    engine.submit((0..6).map(|who| (sequence(10, 30, 0), who)));
    let mut events = Vec::new();
    engine.advance(0, &mut events);
    assert!(engine.running() >= 3, "they fit while they are short: {}", engine.running());
    let mut ends: Vec<usize> = run(&mut engine).into_iter().map(|(_, who)| who).collect();
    ends.sort_unstable();
    assert_eq!(ends, [0, 1, 2, 3, 4, 5]);
    assert!(engine.counters().preemptions > 0);
    assert_eq!(engine.counters().generation_tokens, 180);
}

#[test]
fn a_sequence_larger_than_the_memory_runs_alone() {
    let model = CostModel { memory_tokens: 20, ..cost(8) };
    let mut engine = engine(model);
    engine.submit((0..2).map(|who| (sequence(50, 5, 0), who)));
    assert_eq!(run(&mut engine).len(), 2);
}
