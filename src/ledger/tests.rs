use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::ZERO;

fn from_seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn places_are_granted_in_their_order_and_settled_once() {
    let mut ledger = Ledger::new(10, 2);
    assert_eq!(ledger.grant_leases(0, 3, NOW), [0..3]);
    assert_eq!(ledger.grant_leases(1, 3, NOW), [3..5], "half of the fair share");
    assert_eq!(ledger.lease_places(1, 1, NOW), [5..6]);
    assert_eq!((ledger.open_count(), ledger.free_count()), (10, 4));
    assert_eq!(ledger.settle_places(0, [0..3], NOW), []);
    assert_eq!(ledger.settle_places(0, [0..3], NOW), []);
    assert_eq!((ledger.open_count(), ledger.rank_leases(0)), (7, vec![]));
    assert_eq!(ledger.rank_leases(1), [3..5, 5..6]);
}

#[test]
fn returned_places_go_first() {
    let mut ledger = Ledger::new(100, 2);
    ledger.grant_leases(0, 10, NOW);
    ledger.settle_places(0, [2..3, 7..8], NOW);
    ledger.return_places(0, [1..5], NOW);
    assert_eq!(ledger.rank_leases(0), [0..1, 5..10]);
    assert_eq!(ledger.grant_leases(1, 3, NOW), [1..2, 3..5]);
    ledger.return_places(1, [0..1, 6..7, 50..60], NOW);
    assert_eq!(ledger.rank_leases(0), [0..1, 5..10], "neither places of other ranks nor free ones");
}

#[test]
fn a_silent_rank_loses_its_leases_and_may_come_back() {
    let mut ledger = Ledger::new(100, 2);
    ledger.grant_leases(0, 4, NOW);
    ledger.grant_leases(1, 4, NOW);
    ledger.settle_places(0, [0..1], from_seconds(30));
    assert_eq!(ledger.expire_silent_ranks(from_seconds(60), from_seconds(61)), [1]);
    assert!(
        ledger.expire_silent_ranks(from_seconds(60), from_seconds(62)).is_empty(),
        "returned once"
    );
    assert_eq!(ledger.grant_leases(0, 4, from_seconds(63)), [4..8]);
    let redundant = ledger.settle_places(1, [4..6], from_seconds(64));
    assert_eq!(
        redundant,
        [RedundantPlace { rank: 0, place: 4 }, RedundantPlace { rank: 0, place: 5 }]
    );
    assert_eq!(ledger.rank_leases(0), [0..4, 4..8]);
    assert_eq!(
        ledger.expire_silent_ranks(from_seconds(60), from_seconds(200)),
        [0, 1],
        "lost again"
    );
}

#[test]
fn the_oldest_places_are_copied_once_and_the_first_outcome_counts() {
    let mut ledger = Ledger::new(6, 3);
    ledger.lease_places(0, 3, NOW);
    ledger.lease_places(1, 2, from_seconds(5));
    ledger.lease_places(2, 9, from_seconds(6));
    assert_eq!(ledger.free_count(), 0);
    for rank in 0..3 {
        ledger.set_p50_latency(rank, Some(Duration::ZERO));
    }
    assert_eq!(ledger.grant_speculative_copies(&[(2, 9)], from_seconds(7)), [], "no lease is old");
    assert_eq!(
        ledger.grant_speculative_copies(&[(2, 1), (0, 9), (1, 1)], from_seconds(9)),
        [(2, 0), (1, 1)]
    );
    assert_eq!(
        ledger.grant_speculative_copies(&[(2, 2)], from_seconds(9)),
        [(2, 2)],
        "no place twice"
    );
    assert_eq!(
        ledger.settle_places(2, [0..1], from_seconds(10)),
        [RedundantPlace { rank: 0, place: 0 }]
    );
    assert_eq!(
        ledger.settle_places(0, [0..2], from_seconds(10)),
        [RedundantPlace { rank: 1, place: 1 }]
    );
    ledger.expire_silent_ranks(from_seconds(3), from_seconds(13));
    ledger.touch_rank(2, from_seconds(13));
    assert!(ledger.open_count() > 0);
}

#[test]
fn the_backlog_of_a_slow_rank_is_copied_from_its_end() {
    let mut ledger = Ledger::new(1000, 2);
    for (rank, p50) in [(0, 1), (1, 4)] {
        ledger.lease_places(rank, 500, NOW);
        ledger.settle_places(rank, [], NOW);
        ledger.set_p50_latency(rank, Some(from_seconds(p50)));
    }
    ledger.settle_places(0, [0..500], from_seconds(5));
    ledger.settle_places(1, [500..550], from_seconds(5));
    ledger.refresh_latency_range();
    // 450 places at 10 per second: the last waits 41 s. Half of those that wait longer than a second are copied.
    let copied = ledger.grant_speculative_copies(&[(0, 1000)], from_seconds(5));
    assert_eq!(copied.len(), 200);
    assert_eq!(copied[0], (0, 999));
    assert!(copied.iter().all(|&(rank, place)| rank == 0 && place >= 800));
    assert_eq!(ledger.grant_leases(0, 9, from_seconds(5)), [], "no place is free");
}

#[test]
fn a_copy_outlives_the_rank_that_held_the_lease() {
    let mut ledger = Ledger::new(2, 2);
    ledger.lease_places(0, 2, NOW);
    assert_eq!(ledger.grant_speculative_copies(&[(1, 1)], from_seconds(90)), [(1, 0)]);
    ledger.touch_rank(1, from_seconds(90));
    assert_eq!(ledger.expire_silent_ranks(from_seconds(40), from_seconds(91)), [0]);
    assert_eq!(
        (ledger.rank_leases(1), ledger.free_count()),
        (vec![0..1], 1),
        "given out only once more"
    );
    assert_eq!(ledger.settle_places(1, [0..1], from_seconds(52)), []);
    assert_eq!(ledger.open_count(), 1);
}

#[test]
fn a_returned_copy_belongs_to_no_rank() {
    let mut ledger = Ledger::new(1, 3);
    ledger.lease_places(0, 1, NOW);
    assert_eq!(ledger.grant_speculative_copies(&[(1, 1)], from_seconds(90)), [(1, 0)]);
    ledger.return_places(1, [0..1], from_seconds(91));
    assert_eq!(ledger.rank_leases(0), [0..1], "the holder keeps its lease");
    assert_eq!(
        ledger.grant_speculative_copies(&[(2, 1)], from_seconds(92)),
        [(2, 0)],
        "it may be copied again"
    );
    ledger.return_places(2, [0..1], from_seconds(53));
    ledger.return_places(0, [0..1], from_seconds(54));
    assert_eq!(
        (ledger.rank_leases(1), ledger.rank_leases(2), ledger.free_count()),
        (vec![], vec![], 1)
    );
}

#[test]
fn a_slow_rank_gets_none_of_the_last_places() {
    let mut ledger = Ledger::new(100, 2);
    for (rank, p50) in [(0, 1), (1, 4)] {
        ledger.lease_places(rank, 40, NOW);
        ledger.settle_places(rank, [], NOW);
        ledger.set_p50_latency(rank, Some(from_seconds(p50)));
    }
    ledger.settle_places(0, [0..40], from_seconds(4));
    ledger.settle_places(1, [40..50], from_seconds(4));
    ledger.refresh_latency_range();
    assert!(
        !ledger.grant_leases(1, 1, from_seconds(4)).is_empty() || ledger.free_count() == 20,
        "20 free at 10 per second"
    );
    assert_eq!(ledger.grant_leases(1, 9, from_seconds(4)), [], "3 s at the fast rank, 4 s here");
    assert_eq!(ledger.grant_leases(0, 4, from_seconds(4)).len(), 1);
    assert!(!ledger.grant_leases(1, 9, from_seconds(9)).is_empty(), "the other rank has stalled");
}

/// An event in the life of a ledger.
#[derive(Clone, Debug)]
enum LedgerStep {
    Grant(usize, u64),
    /// A part of the rank's leases, by two offsets.
    Settle(usize, u64, u64),
    /// Places of any rank: the sender was declared lost, or is wrong.
    SettleAny(usize, u64, u64),
    ReturnPlaces(usize, u64, u64),
    Speculate(usize, usize),
    ExpireSilent,
    /// Never rank 0, which does the remaining work.
    Deregister(usize),
}

fn step_strategy() -> impl Strategy<Value = LedgerStep> {
    let rank = 0usize..4;
    prop_oneof![
        4 => (rank.clone(), 0u64..20).prop_map(|(rank, want)| LedgerStep::Grant(rank, want)),
        4 => (rank.clone(), 0u64..8, 0u64..8).prop_map(|(rank, from, len)| LedgerStep::Settle(rank, from, len)),
        1 => (rank.clone(), 0u64..130, 0u64..5).prop_map(|(rank, from, len)| LedgerStep::SettleAny(rank, from, len)),
        1 => (rank.clone(), 0u64..130, 0u64..30).prop_map(|(rank, from, len)| LedgerStep::ReturnPlaces(rank, from, len)),
        1 => (rank, 0usize..4).prop_map(|(rank, want)| LedgerStep::Speculate(rank, want)),
        1 => Just(LedgerStep::ExpireSilent),
        1 => (1usize..4).prop_map(LedgerStep::Deregister),
    ]
}

/// Asserts that every place is settled, free, or leased to exactly one living rank.
fn assert_consistent(ledger: &Ledger) {
    let mut leased = 0;
    for (&from, lease) in &ledger.leases {
        let open =
            (from..lease.end).filter(|&place| !ledger.settled.contains(place)).count() as u64;
        assert_eq!(open, lease.unsettled_count);
        assert!(open > 0 && !ledger.ranks[lease.rank].is_lost);
        assert!(ledger.ranks[lease.rank].lease_starts.contains(&from));
        leased += open;
    }
    let held: usize = ledger.ranks.iter().map(|it| it.lease_starts.len()).sum();
    assert_eq!(held, ledger.leases.len());
    let never = (ledger.next_ungranted..ledger.total_places)
        .filter(|&place| !ledger.settled.contains(place))
        .count();
    let returned_count: u64 = ledger.returned.runs().map(|run| run.end - run.start).sum();
    assert_eq!(leased + never as u64 + returned_count, ledger.open_count());
    assert_eq!(returned_count, ledger.returned.place_count());
    let spans: Vec<(u64, u64)> = ledger
        .leases
        .iter()
        .map(|(&from, lease)| (from, lease.end))
        .chain(ledger.returned.runs().map(|run| (run.start, run.end)))
        .collect();
    for (at, one) in spans.iter().enumerate() {
        assert!(spans[at + 1..].iter().all(|it| it.1 <= one.0 || one.1 <= it.0), "{spans:?}");
    }
    for place in ledger.speculative_copies.keys() {
        assert!(!ledger.settled.contains(*place));
    }
}

proptest! {
    #[test]
    fn no_sequence_of_events_loses_a_place_or_leases_it_twice(
        total in 0u64..120, steps in prop::collection::vec(step_strategy(), 0..120),
    ) {
        let mut ledger = Ledger::new(total, 4);
        let mut now = NOW;
        for step in steps {
            now += from_seconds(1);
            match step {
                LedgerStep::Grant(rank, want) => {
                    let granted = ledger.grant_leases(rank, want, now);
                    let count: u64 = granted.iter().map(|span| span.end - span.start).sum();
                    prop_assert!(count <= want);
                }
                LedgerStep::Settle(rank, from, len) => {
                    let spans = ledger.rank_leases(rank).into_iter().map(|span| {
                        let from = (span.start + from).min(span.end);
                        from..(from + len).min(span.end)
                    });
                    let spans: Vec<PlaceRange> = spans.collect();
                    for redundant in ledger.settle_places(rank, spans, now) {
                        prop_assert!(redundant.rank != rank);
                    }
                }
                LedgerStep::SettleAny(rank, from, len) => {
                    ledger.settle_places(rank, [from..from + len], now);
                }
                LedgerStep::ReturnPlaces(rank, from, len) => {
                    ledger.return_places(rank, [from..from + len], now);
                }
                LedgerStep::Speculate(rank, want) => {
                    ledger.touch_rank(rank, now);
                    let copied = ledger.grant_speculative_copies(&[(rank, want)], now);
                    let own = ledger.rank_leases(rank);
                    let own = |place: &u64| own.iter().any(|span| span.contains(place));
                    prop_assert!(copied.len() <= want);
                    prop_assert!(copied.iter().all(|(to, place)| *to == rank && !own(place)));
                }
                LedgerStep::ExpireSilent => {
                    ledger.expire_silent_ranks(from_seconds(10), now);
                }
                LedgerStep::Deregister(rank) => ledger.deregister_rank(rank, now),
            }
            assert_consistent(&ledger);
        }
        // A single living rank does the rest.
        now += from_seconds(100);
        ledger.touch_rank(0, now);
        ledger.expire_silent_ranks(from_seconds(50), now);
        let mut rounds = 0;
        while ledger.open_count() > 0 {
            rounds += 1;
            prop_assert!(rounds < 1000, "the work ends");
            ledger.grant_leases(0, 7, now);
            let mine = ledger.rank_leases(0);
            prop_assert!(!mine.is_empty(), "every open place is leased to a living rank");
            ledger.settle_places(0, mine, now);
            assert_consistent(&ledger);
        }
    }
}
