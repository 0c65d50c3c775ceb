//! A job in memory: each rank a thread. A third implementation of `Comm`, from outside, so that what holds for ranks can be
//! tested without a launcher, and with ranks that misbehave.

use std::{
    collections::VecDeque,
    sync::{Arc, Barrier, Mutex},
    thread,
};

use aurora_swarm::internals::{
    Comm, CommError, CommLibrary, MessageTag, RankMessage, RankParts, ReduceOp,
};

struct World {
    size: usize,
    barrier: Barrier,
    slots: Mutex<Vec<Vec<u8>>>,
    boxes: Vec<Mutex<VecDeque<Posted>>>,
}

/// From whom, what about, and what.
type Posted = (usize, MessageTag, Vec<u8>);

/// One of the ranks.
pub struct Thread {
    rank: usize,
    world: Arc<World>,
}

/// Runs `body` as every one of `size` ranks; their results in rank order.
pub fn on_threads<T: Send>(size: usize, body: impl Fn(&mut dyn Comm) -> T + Sync) -> Vec<T> {
    let world = Arc::new(World {
        size,
        barrier: Barrier::new(size),
        slots: Mutex::new(vec![Vec::new(); size]),
        boxes: (0..size).map(|_| Mutex::default()).collect(),
    });
    thread::scope(|scope| {
        let start = |rank| {
            let mut comm = Thread { rank, world: Arc::clone(&world) };
            let body = &body;
            scope.spawn(move || body(&mut comm))
        };
        let ranks: Vec<_> = (0..size).map(start).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank")).collect()
    })
}

impl Thread {
    /// Everybody's bytes, seen by everybody.
    fn shown(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        self.world.slots.lock().unwrap()[self.rank] = mine.to_vec();
        self.world.barrier.wait();
        let all = self.world.slots.lock().unwrap().clone();
        self.world.barrier.wait();
        all
    }
}

impl Comm for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.world.size
    }

    fn library_info(&self) -> CommLibrary {
        CommLibrary { name: "threads".into(), threads: "one each".into() }
    }

    fn barrier(&mut self) {
        self.world.barrier.wait();
    }

    fn broadcast_bytes(&mut self, bytes: &mut Vec<u8>) {
        let all = self.shown(bytes);
        bytes.clone_from(&all[0]);
    }

    fn scatter_bytes(&mut self, parts: Option<Vec<Vec<u8>>>) -> Result<Vec<u8>, CommError> {
        let (rank, size) = (self.rank, self.world.size);
        if rank == 0 {
            let parts = parts.unwrap_or_default();
            *self.world.slots.lock().unwrap() = parts;
        }
        self.world.barrier.wait();
        let count = self.world.slots.lock().unwrap().len();
        let mine = self.world.slots.lock().unwrap().get(rank).cloned();
        self.world.barrier.wait();
        if rank == 0 {
            *self.world.slots.lock().unwrap() = vec![Vec::new(); size];
        }
        self.world.barrier.wait();
        let mine = mine.filter(|_| count == size);
        mine.ok_or(CommError::WrongPartCount { parts: count, size })
    }

    fn gather_bytes(&mut self, mine: &[u8], into: &mut RankParts) {
        let all = self.shown(mine);
        into.bytes.clear();
        into.counts.clear();
        if self.rank == 0 {
            into.counts.extend(all.iter().map(Vec::len));
            into.bytes.extend(all.concat());
        }
    }

    fn all_to_all_bytes(&mut self, mine: &RankParts, into: &mut RankParts) {
        let counts: Vec<u8> =
            mine.counts.iter().flat_map(|count| (*count as u64).to_le_bytes()).collect();
        let counts = self.shown(&counts);
        let all = self.shown(&mine.bytes);
        into.clear();
        for (counts, bytes) in counts.iter().zip(&all) {
            let count = |place: usize| {
                let count = counts[place * 8..place * 8 + 8].try_into().unwrap();
                u64::from_le_bytes(count) as usize
            };
            let from: usize = (0..self.rank).map(count).sum();
            into.push_part(&bytes[from..from + count(self.rank)]);
        }
    }

    fn all_reduce(&mut self, values: &mut [u64], how: ReduceOp) {
        let mine: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let all = self.shown(&mine);
        for (place, value) in values.iter_mut().enumerate() {
            let its = |bytes: &Vec<u8>| {
                u64::from_le_bytes(bytes[place * 8..place * 8 + 8].try_into().unwrap())
            };
            let each = all.iter().map(its);
            *value = match how {
                ReduceOp::Sum => each.fold(0, u64::wrapping_add),
                ReduceOp::Max => each.max().unwrap(),
                ReduceOp::Min => each.min().unwrap(),
                ReduceOp::Or => each.fold(0, std::ops::BitOr::bitor),
            };
        }
    }

    fn send_bytes(&mut self, to: usize, tag: MessageTag, bytes: Vec<u8>) -> Result<(), CommError> {
        let size = self.world.size;
        let inbox = self.world.boxes.get(to).ok_or(CommError::NoSuchRank { rank: to, size })?;
        inbox.lock().unwrap().push_back((self.rank, tag, bytes));
        Ok(())
    }

    fn try_receive(&mut self, from: Option<usize>, tag: MessageTag) -> Option<RankMessage> {
        let mut inbox = self.world.boxes[self.rank].lock().unwrap();
        let wanted = |it: &Posted| it.1 == tag && from.is_none_or(|from| it.0 == from);
        let place = inbox.iter().position(wanted)?;
        inbox.remove(place).map(|(from, _, bytes)| RankMessage { from, bytes })
    }

    fn pending_messages(&mut self) -> usize {
        0
    }

    fn abort(&self, code: u8) -> ! {
        panic!("rank {} ends the job with {code}", self.rank)
    }

    fn finalize(self: Box<Self>) {}
}
