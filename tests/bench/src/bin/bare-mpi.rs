//! MPI and nothing else, for what the product's ranks are held against: how long MPI's own start takes, and how long a
//! plain MPI_Gatherv of so many bytes.
//!
//! It owns those two programs and knows neither the product nor the benchmarks. Rank 0 prints one line: a name and a
//! number.

use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Root};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const USAGE: &str = "\
usage: bare-mpi start                     init_us: when the last rank was through MPI_Init, in µs since 1970
       bare-mpi gather BYTES ROUND        seconds: to gather BYTES of all ranks together, ROUND at a time";

fn main() -> ExitCode {
    // Before MPI starts: a process that leaves later may hang the others.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let sizes = |bytes: &str, round: &str| Some((bytes.parse().ok()?, round.parse().ok()?));
    let work: Box<dyn Fn(&SimpleCommunicator)> = match words[..] {
        ["start"] => Box::new(start),
        ["gather", bytes, round] => match sizes(bytes, round) {
            Some((bytes, round)) => Box::new(move |world| gather(world, bytes, round)),
            None => return refuse(),
        },
        _ => return refuse(),
    };
    // The threads that the product asks for.
    let Some((universe, _)) = mpi::initialize_with_threading(Threading::Funneled) else {
        eprintln!("bare-mpi: MPI does not start");
        return ExitCode::FAILURE;
    };
    work(&universe.world());
    ExitCode::SUCCESS
}

fn refuse() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

fn start(world: &SimpleCommunicator) {
    // Stamped before anything is waited for: a barrier would measure how it spins on few cores.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64);
    let root = world.process_at_rank(0);
    if world.rank() == 0 {
        let mut last = 0_u64;
        root.reduce_into_root(&now, &mut last, SystemOperation::max());
        println!("init_us {last}");
    } else {
        root.reduce_into(&now, SystemOperation::max());
    }
}

fn gather(world: &SimpleCommunicator, bytes: usize, round: usize) {
    let (ranks, root) = (world.size() as usize, world.process_at_rank(0));
    let quota = (round / ranks).max(1);
    let mine = vec![world.rank() as u8; quota];
    let mut all = if world.rank() == 0 { vec![0_u8; quota * ranks] } else { Vec::new() };
    world.barrier();
    let began = Instant::now();
    let mut left = bytes.div_ceil(ranks);
    while left > 0 {
        let piece = &mine[..left.min(quota)];
        left -= piece.len();
        if world.rank() == 0 {
            let counts = vec![piece.len() as i32; ranks];
            let starts: Vec<i32> = (0..ranks).map(|rank| (rank * piece.len()) as i32).collect();
            let mut parts = PartitionMut::new(&mut all[..], counts, starts);
            root.gather_varcount_into_root(piece, &mut parts);
        } else {
            root.gather_varcount_into(piece);
        }
    }
    if world.rank() == 0 {
        println!("seconds {}", began.elapsed().as_secs_f64());
    }
}
