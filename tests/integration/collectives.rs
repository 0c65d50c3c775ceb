//! What ranks promise each other, one set of tests over `Solo`, ranks on threads and real MPI ranks.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use aurora_swarm::{
    Merge,
    internals::{
        Comm, CommError, LauncherInfo, LivenessResult, Mailbox, MailboxEvent, MessageTag,
        RankParts, ReduceOp, SoloComm, TypedComm, all_to_all_in_rounds, check_liveness,
        drain_messages, gather_in_rounds,
    },
};
use serde::{Deserialize, Serialize};

use crate::support::{Job, threads::on_threads};

/// Everything that holds for any number of ranks. Panics where something does not.
fn laws(comm: &mut dyn Comm) {
    broadcasts(comm);
    scatters(comm);
    gathers(comm);
    exchanges(comm);
    reduces(comm);
    letters(comm);
    fences(comm);
    actor(comm);
    comm.barrier();
    assert_eq!(check_liveness(comm, Duration::from_secs(20)), Ok(LivenessResult::AllAlive));
}

/// Bytes that tell whose they are and where a piece was lost.
fn pattern(seed: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + seed * 7 + at / 251) as u8).collect()
}

fn broadcasts(comm: &mut dyn Comm) {
    for length in [0, 1, 70_000, 3_000_000] {
        let mut bytes = if comm.rank() == 0 { pattern(1, length) } else { vec![9; 5] };
        comm.broadcast_bytes(&mut bytes);
        assert!(bytes == pattern(1, length), "a broadcast of {length}");
    }
    let given = (comm.rank() == 0).then(|| ("hello".to_owned(), 7u64));
    assert_eq!(comm.broadcast_value(given), Ok(("hello".to_owned(), 7)));
    let nothing = comm.broadcast_value::<u8>(None);
    assert!(
        matches!(nothing, Err(CommError::WrongPartCount { .. })),
        "an error on every rank, not a hang"
    );
}

fn scatters(comm: &mut dyn Comm) {
    let (rank, size) = (comm.rank(), comm.size());
    let length = |rank: usize| if rank == 1 { 0 } else { 100_000 * rank + 3 };
    let parts = (rank == 0).then(|| (0..size).map(|rank| pattern(rank, length(rank))).collect());
    assert!(
        comm.scatter_bytes(parts) == Ok(pattern(rank, length(rank))),
        "each rank gets its own part"
    );
    let too_many = (rank == 0).then(|| vec![Vec::new(); size + 1]);
    assert_eq!(
        comm.scatter_bytes(too_many),
        Err(CommError::WrongPartCount { parts: size + 1, size })
    );
    let values = (rank == 0).then(|| (0..size).map(|rank| format!("rank {rank}")).collect());
    assert_eq!(comm.scatter_values(values), Ok(format!("rank {rank}")));
}

fn gathers(comm: &mut dyn Comm) {
    let (rank, size) = (comm.rank(), comm.size());
    let length = |rank: usize| (rank * 5_000) % 12_001;
    let mut gathered = RankParts::default();
    for _ in 0..2 {
        comm.gather_bytes(&pattern(rank, length(rank)), &mut gathered);
        let parts: Vec<_> = gathered.parts().map(<[u8]>::to_vec).collect();
        let all: Vec<_> = (0..size).map(|rank| pattern(rank, length(rank))).collect();
        assert!(parts == if rank == 0 { all } else { Vec::new() }, "parts in rank order");
    }
    for round in [1 << 20, 4096, 7] {
        let length = if round == 7 { rank * 3 } else { length(rank) };
        let mut whole = vec![Vec::new(); size];
        let mut largest = 0;
        gather_in_rounds(comm, &pattern(rank, length), round, |from, piece| {
            largest = largest.max(piece.len());
            whole[from].extend_from_slice(piece);
        });
        assert!(largest <= (round / size).max(1), "a piece of {largest} in a round of {round}");
        if rank == 0 {
            let length = |rank: usize| if round == 7 { rank * 3 } else { (rank * 5_000) % 12_001 };
            assert!((0..size).all(|rank| whole[rank] == pattern(rank, length(rank))), "all of it");
        }
    }
    let values = comm.gather_values(&format!("from {rank}"));
    let all = (rank == 0).then(|| (0..size).map(|rank| format!("from {rank}")).collect());
    assert_eq!(values, Ok(all));
}

fn fences(comm: &mut dyn Comm) {
    comm.barrier(); // others may still look for letters of before
    for number in 0..3 {
        let others = if comm.rank() == 0 { 1..comm.size() } else { 0..1 };
        for rank in others {
            comm.send_bytes(rank, MessageTag::Job, pattern(number, 100_000 * number + 1)).unwrap();
        }
        drain_messages(comm, MessageTag::Job).unwrap();
        // (what rank 0 of one writes to itself is its own business)
        let late = if comm.size() == 1 { None } else { comm.try_receive(None, MessageTag::Job) };
        assert_eq!(late, None, "nothing of before comes after");
        comm.barrier(); // a letter of the next round is not one of this
    }
}

fn exchanges(comm: &mut dyn Comm) {
    let (rank, size) = (comm.rank(), comm.size());
    // Some send nothing, and some get nothing.
    let length = |from: usize, to: usize| {
        if from == 1 || to == 2 { 0 } else { (from * 3_001 + to * 977) % 9_001 + 1 }
    };
    let part = |from: usize, to: usize| pattern(from * 64 + to, length(from, to));
    let mut mine = RankParts::default();
    (0..size).for_each(|to| mine.push_part(&part(rank, to)));
    let mut got = RankParts::default();
    for _ in 0..2 {
        comm.all_to_all_bytes(&mine, &mut got);
        assert_eq!(got.counts.len(), size);
        let all = got.parts().enumerate().all(|(from, it)| it == part(from, rank));
        assert!(all, "each rank's part for this one, in rank order");
    }
    let nothing = RankParts { bytes: Vec::new(), counts: vec![0; size] };
    comm.all_to_all_bytes(&nothing, &mut got);
    assert_eq!((got.bytes.len(), got.counts.len()), (0, size));
    let parts: Vec<Vec<u8>> = (0..size).map(|to| part(rank, to)).collect();
    for round in [1 << 20, 4096, 700] {
        let mut whole = vec![Vec::new(); size];
        let mut largest = 0;
        all_to_all_in_rounds(comm, &parts, round, |from, piece| {
            largest = largest.max(piece.len());
            whole[from].extend_from_slice(piece);
        });
        assert!(largest <= (round / size).max(1), "a piece of {largest} in a round of {round}");
        assert!((0..size).all(|from| whole[from] == part(from, rank)), "all of it");
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Ranks(Vec<usize>);

impl Merge for Ranks {
    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
    }
}

fn reduces(comm: &mut dyn Comm) {
    let (rank, size) = (comm.rank(), comm.size());
    for _ in 0..3 {
        let merged = comm.reduce_values(Ranks(vec![rank]));
        assert_eq!(merged, Ok((rank == 0).then(|| Ranks((0..size).collect()))), "in rank order");
    }
    let n = size as u64;
    let bits = (0..n).fold(0, std::ops::BitOr::bitor);
    for (how, expected) in [
        (ReduceOp::Sum, [n * (n - 1) / 2, n]),
        (ReduceOp::Max, [n - 1, 1]),
        (ReduceOp::Min, [0, 1]),
        (ReduceOp::Or, [bits, 1]),
    ] {
        let mut values = [rank as u64, 1];
        comm.all_reduce(&mut values, how);
        assert_eq!(values, expected, "{how:?}");
    }
}

fn letters(comm: &mut dyn Comm) {
    let (rank, size) = (comm.rank(), comm.size());
    let next = (rank + 1) % size;
    let before = (rank + size - 1) % size;
    // Large and small in turn: what is slower must not be overtaken.
    for number in 0..20 {
        let length = if number % 3 == 0 { 400_000 } else { number };
        comm.send_bytes(next, MessageTag::Job, pattern(number, length)).unwrap();
    }
    comm.send_bytes(next, MessageTag::TreeReduce, vec![42]).unwrap();
    let mut got = 0;
    let mut other_tag = false;
    let end = Instant::now() + Duration::from_secs(20);
    while got < 20 || !other_tag || comm.pending_messages() > 0 {
        assert!(Instant::now() < end, "letters are lost: {got} of 20");
        if let Some(letter) = comm.try_receive(Some(before), MessageTag::Job) {
            let length = if got % 3 == 0 { 400_000 } else { got };
            assert!(letter.from == before && letter.bytes == pattern(got, length), "letter {got}");
            got += 1;
        }
        other_tag |=
            comm.try_receive(None, MessageTag::TreeReduce).is_some_and(|it| it.bytes == [42]);
        thread::sleep(Duration::from_micros(100));
    }
    assert_eq!(comm.try_receive(None, MessageTag::Job), None);
    assert_eq!(
        comm.send_bytes(size, MessageTag::Job, vec![]),
        Err(CommError::NoSuchRank { rank: size, size })
    );
}

fn actor(comm: &mut dyn Comm) {
    comm.barrier();
    let (rank, size) = (comm.rank(), comm.size());
    let (tell, words) = mpsc::channel();
    let talker = thread::spawn(move || (0..3).for_each(|word| tell.send(word).unwrap()));
    comm.send_value((rank + 1) % size, MessageTag::Job, &rank).unwrap();
    let mut post = Mailbox::new(comm, words);
    let end = Instant::now() + Duration::from_secs(20);
    let (mut heard, mut read) = (Vec::new(), 0);
    while heard.len() < 3 || read < 1 {
        match post.wait_until(end) {
            MailboxEvent::Local(word) => heard.push(word),
            MailboxEvent::Message(letter) => {
                assert_eq!(letter.from, (rank + size - 1) % size);
                read += 1;
            }
            MailboxEvent::TimedOut => panic!("{heard:?} heard and {read} read in 20 s"),
        }
    }
    talker.join().unwrap();
    assert_eq!(heard, [0, 1, 2]);
    let quiet = Instant::now();
    assert_eq!(post.wait_until(quiet + Duration::from_millis(30)), MailboxEvent::TimedOut);
    assert!(quiet.elapsed() >= Duration::from_millis(30));
    while post.comm_mut().pending_messages() > 0 {
        thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn hold_alone() {
    laws(&mut SoloComm::new());
}

#[test]
fn hold_on_threads() {
    for size in [1, 2, 3, 5, 8] {
        on_threads(size, laws);
    }
}

#[test]
fn hold_on_real_ranks() {
    for size in [1, 2, 3, 5, 8] {
        Job::ranks_of_test("collectives::as_a_rank", size)
            .run()
            .with_code(0)
            .says("laws hold", size);
    }
}

/// Starts MPI as `main` does.
fn real() -> Box<dyn Comm> {
    aurora_swarm::internals::abort_job_on_panic();
    let launcher = LauncherInfo::from_variables(|name| std::env::var(name).ok());
    assert!(launcher.is_present(), "to be started by mpiexec");
    aurora_swarm::internals::start_comm(&launcher).expect("MPI starts")
}

#[test]
#[ignore = "a rank of hold_on_real_ranks"]
fn as_a_rank() {
    let mut comm = real();
    laws(comm.as_mut());
    println!("laws hold on rank {}", comm.rank());
    comm.finalize();
}

#[test]
fn a_rank_that_waits_leaves_the_cores_alone() {
    Job::ranks_of_test("collectives::waiting_rank", 3).run().with_code(0).says("waited cheaply", 2);
}

#[test]
#[ignore = "a rank of a_rank_that_waits_leaves_the_cores_alone"]
fn waiting_rank() {
    let mut comm = real();
    comm.barrier();
    if comm.rank() == 0 {
        thread::sleep(Duration::from_secs(4));
    }
    let (cpu, began) = (cpu_seconds(), Instant::now());
    comm.barrier();
    if comm.rank() > 0 {
        let share = (cpu_seconds() - cpu) / began.elapsed().as_secs_f64();
        assert!(share < 0.03, "{:.1} % of a core", 100.0 * share);
        println!("waited cheaply: {:.2} % of a core", 100.0 * share);
    }
    comm.finalize();
}

/// User and system time of this process, from /proc; in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks as f64 / 100.0
}

#[test]
fn a_roll_call_finds_who_is_missing() {
    let found = on_threads(4, |comm| {
        if comm.rank() == 2 {
            None
        } else {
            Some(check_liveness(comm, Duration::from_millis(200)).unwrap())
        }
    });
    let missing = Some(LivenessResult::Missing(vec![2]));
    assert_eq!(found, [missing.clone(), missing.clone(), None, missing]);
    let headless = on_threads(2, |comm| {
        (comm.rank() == 1).then(|| check_liveness(comm, Duration::from_millis(50)).unwrap())
    });
    assert_eq!(headless, [None, Some(LivenessResult::RootSilent)]);
}

#[test]
fn a_silent_rank_does_not_hang_the_end() {
    let ended = Job::ranks_of_test("collectives::roll_call_with_a_sleeper", 3).run().in_time();
    assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);
    assert_ne!(ended.code, Some(0));
    ended.says("missing [2]", 1);
}

#[test]
#[ignore = "a rank of a_silent_rank_does_not_hang_the_end"]
fn roll_call_with_a_sleeper() {
    let mut comm = real();
    comm.barrier();
    if comm.rank() == 2 {
        thread::sleep(Duration::from_secs(60));
    }
    match check_liveness(comm.as_mut(), Duration::from_secs(1)) {
        Ok(LivenessResult::Missing(ranks)) if comm.rank() == 0 => {
            println!("missing {ranks:?}");
            thread::sleep(Duration::from_millis(200)); // mpiexec passes the line on
            comm.abort(75)
        }
        Ok(LivenessResult::Missing(_)) => thread::sleep(Duration::from_secs(60)),
        other => panic!("{other:?}"),
    }
}
