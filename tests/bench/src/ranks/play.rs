//! The ledger, played with more ranks than any machine here can start: simulated ranks ask the real book for leases,
//! work and report; what rank 0 would hear is counted, and what the book's calls cost is timed.
//!
//! It owns the ranks' behaviour and a clock of milliseconds, and knows the book by its calls alone. Every prompt's end is
//! an event of its own; a message takes no time on its way. A rank has in hand what the product's ranks would, asks when
//! half of that is left, sends with it all that was settled since, writes no more often than the product lets it, and
//! reports after 5 s without a message and when it has nothing left to do. It is a process of its own, so that the memory
//! it comes to hold is the play's and nobody else's.

use aurora_swarm::internals::{Ledger, PlaceRange, min_report_interval, target_backlog};
use serde_json::json;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What it is called on this program's command line: `play-ledger RANKS PROMPTS SLOTS`.
pub const NAME: &str = "play-ledger";

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub ranks: u32,
    pub prompts: u32,
    /// Prompts that a rank works on at once.
    pub slots: u32,
}

/// What a prompt takes on the fastest rank is half of this to one and a half times it: 200 tokens at 20 ms.
const MEAN_MS: f64 = 4_000.0;
/// The slowest rank is so many times slower than the fastest.
const SLOWEST: f64 = 2.5;
/// A rank is heard of so often at least.
const REPORT_MS: u64 = 5_000;
/// Longer than anything takes: at most 15 s.
const RING: u64 = 16_384;

/// Something that happens to a rank: a prompt is done, or none of these.
#[derive(Clone, Copy)]
struct Event {
    rank: u32,
    what: u32,
}

/// In the place of a prompt: a slot becomes free for the first time; it may be time to report.
const BEGIN: u32 = u32::MAX;
const REPORT: u32 = u32::MAX - 1;
/// Likewise: it may write again, and had something to ask.
const ASK: u32 = u32::MAX - 2;

struct Rank {
    /// Leases in the order in which they came.
    stock: Vec<(u32, u32)>,
    /// Prompts in it.
    left: u32,
    busy: u32,
    /// Done and not told yet.
    done: Vec<u32>,
    /// The last message, in ms.
    told: u64,
    /// It will ask as soon as it may.
    asks: bool,
}

/// A call's cost: how often, how long in all.
#[derive(Default)]
struct Timed {
    calls: u64,
    seconds: f64,
}

/// What was counted.
#[derive(Default)]
struct Told {
    messages: u64,
    /// In this second, and in the worst one.
    this_second: u64,
    most: u64,
    second: u64,
    worst: u64,
    /// The book's own time likewise.
    busy: f64,
    most_busy: f64,
    grants: Timed,
    settles: Timed,
    /// When the last prompt was done, and how many ms all prompts took together.
    end: u64,
    work: u64,
    memory: u64,
}

struct Play {
    job: Job,
    ledger: Ledger,
    apart: Duration,
    ranks: Vec<Rank>,
    /// What happens in each of the next ms.
    ring: Vec<Vec<Event>>,
    now: u64,
    told: Told,
    spans: Vec<PlaceRange>,
}

/// The command: prints its figures as JSON.
pub fn main() -> ExitCode {
    let numbers: Vec<u32> = std::env::args().skip(2).filter_map(|word| word.parse().ok()).collect();
    let [ranks, prompts, slots] = numbers[..] else { return ExitCode::from(2) };
    println!("{}", play(Job { ranks, prompts, slots }));
    ExitCode::SUCCESS
}

/// The play, to its end.
fn play(job: Job) -> serde_json::Value {
    // What the ranks need is there and touched before the book is made: what comes after that is the book's.
    let window = job.slots as usize;
    let rank = |_| {
        let mut rank = Rank {
            stock: Vec::with_capacity(4),
            left: 0,
            busy: 0,
            done: vec![0; 4 * window],
            told: 0,
            asks: false,
        };
        rank.done.clear();
        rank
    };
    let ranks: Vec<Rank> = (0..job.ranks).map(rank).collect();
    let room = 6 * (job.ranks as usize * (window + 1)) / RING as usize + 64;
    let nothing = Event { rank: 0, what: REPORT };
    let mut ring: Vec<Vec<Event>> = (0..RING).map(|_| vec![nothing; room]).collect();
    ring.iter_mut().for_each(Vec::clear);
    ring[0] = (0..job.ranks)
        .flat_map(|rank| (0..job.slots).map(move |_| Event { rank, what: BEGIN }))
        .collect();
    // The first reports are spread, as the product spreads them.
    for rank in 0..job.ranks {
        let at = u64::from(rank) * REPORT_MS / u64::from(job.ranks);
        ring[at as usize].push(Event { rank, what: REPORT });
    }
    let before = resident();
    let ledger = Ledger::new(u64::from(job.prompts), job.ranks as usize);
    let told = Told::default();
    let apart = min_report_interval(job.ranks as usize);
    let mut play = Play { job, ledger, apart, ranks, ring, now: 0, told, spans: Vec::new() };
    let began = Instant::now();
    let mut quiet = 0;
    while quiet < RING {
        let events = std::mem::take(&mut play.ring[(play.now % RING) as usize]);
        quiet = if events.is_empty() { quiet + 1 } else { 0 };
        events.iter().for_each(|event| play.happens(*event));
        // Its room is used again; what happens in a ms happens later than in it.
        let mut events = events;
        events.clear();
        play.ring[(play.now % RING) as usize] = events;
        if play.now.is_multiple_of(1_000) {
            play.told.memory = play.told.memory.max(resident().saturating_sub(before));
        }
        play.now += 1;
    }
    play.figures(began.elapsed())
}

impl Play {
    fn happens(&mut self, Event { rank, what }: Event) {
        let it = &mut self.ranks[rank as usize];
        match what {
            BEGIN => {}
            REPORT => return self.report_is_due(rank),
            ASK => it.asks = false,
            prompt => {
                it.done.push(prompt);
                it.busy -= 1;
                self.told.end = self.now;
            }
        }
        if let Some(want) = self.wants(rank) {
            let it = &mut self.ranks[rank as usize];
            let may = it.told + self.apart.as_millis() as u64;
            if what == BEGIN || self.now >= may {
                self.message(rank);
                self.ask(rank, want);
            } else if !std::mem::replace(&mut it.asks, true) {
                self.ring[(may % RING) as usize].push(Event { rank, what: ASK });
            }
        }
        self.fills(rank);
    }

    /// What it would ask for: nothing while it has half of what is enough, or nobody has any.
    fn wants(&self, rank: u32) -> Option<u64> {
        let left = self.ranks[rank as usize].left;
        let rate = f64::from(self.job.slots) / slowness(rank) / (MEAN_MS / 1e3);
        let seconds = self.ledger.free_work_seconds();
        let enough = target_backlog(self.job.slots.into(), rate, seconds, self.apart) as u32;
        (left * 2 <= enough && self.ledger.free_count() > 0).then(|| (enough - left).into())
    }

    fn fills(&mut self, rank: u32) {
        // After a wait without prompts several slots may be free.
        while self.ranks[rank as usize].busy < self.job.slots && self.begins(rank) {}
    }

    /// A slot's next prompt, if there is one; else what was done is told once all slots are empty.
    fn begins(&mut self, rank: u32) -> bool {
        let it = &mut self.ranks[rank as usize];
        match it.next() {
            Some(prompt) => {
                it.busy += 1;
                let took = took(rank, prompt);
                self.told.work += took;
                let at = ((self.now + took) % RING) as usize;
                self.ring[at].push(Event { rank, what: prompt });
                true
            }
            None => {
                if it.busy == 0 && !it.done.is_empty() {
                    self.message(rank);
                }
                false
            }
        }
    }

    /// Looks whether a rank was heard of; until all is settled it is looked at again.
    fn report_is_due(&mut self, rank: u32) {
        if self.ledger.open_count() == 0 {
            return;
        }
        let every = REPORT_MS.max(self.apart.as_millis() as u64);
        if self.now >= self.ranks[rank as usize].told + every || self.now < REPORT_MS {
            let want = self.wants(rank);
            self.message(rank);
            if let Some(want) = want {
                self.ask(rank, want);
                self.fills(rank);
            }
        }
        let next = self.ranks[rank as usize].told + every;
        self.ring[(next % RING) as usize].push(Event { rank, what: REPORT });
    }

    /// One message: what was done since the last one.
    fn message(&mut self, rank: u32) {
        let it = &mut self.ranks[rank as usize];
        it.told = self.now;
        spans_of(&mut it.done, &mut self.spans);
        let now = Duration::from_millis(self.now);
        let began = Instant::now();
        if self.spans.is_empty() {
            self.ledger.touch_rank(rank as usize, now);
        } else {
            let needless = self.ledger.settle_places(rank as usize, self.spans.drain(..), now);
            assert!(needless.is_empty(), "nothing is done twice here");
        }
        let took = began.elapsed().as_secs_f64();
        self.told.settles.add(took);
        self.told.counts(self.now, took);
    }

    /// What it asks for rides on the message before.
    fn ask(&mut self, rank: u32, want: u64) {
        let began = Instant::now();
        let granted =
            self.ledger.grant_leases(rank as usize, want, Duration::from_millis(self.now));
        let took = began.elapsed().as_secs_f64();
        self.told.grants.add(took);
        self.told.busy += took;
        let it = &mut self.ranks[rank as usize];
        for span in granted {
            it.left += (span.end - span.start) as u32;
            it.stock.push((span.start as u32, span.end as u32));
        }
    }

    fn figures(self, cpu: Duration) -> serde_json::Value {
        let Self { job, ledger, mut told, .. } = self;
        told.counts(self.now + 1_000, 0.0);
        told.messages -= 1;
        let slots = f64::from(job.ranks) * f64::from(job.slots);
        let speed: f64 = (0..job.ranks).map(|rank| f64::from(job.slots) / slowness(rank)).sum();
        let alone: f64 = (0..job.prompts).map(|prompt| took(0, prompt) as f64 / slowness(0)).sum();
        let (bound, end) = (alone / speed / 1e3, told.end as f64 / 1e3);
        let ns = |timed: &Timed| timed.seconds * 1e9 / timed.calls.max(1) as f64;
        json!({
            "open": ledger.open_count(),
            "share": bound / end,
            "bound_s": bound,
            "end_s": end,
            "idle_share": (end - told.work as f64 / 1e3 / slots) / bound,
            "messages": told.messages,
            "messages_per_prompt": told.messages as f64 / f64::from(job.prompts),
            "messages_per_s": told.messages as f64 / end,
            "worst_messages_per_s": told.most,
            "worst_second_s": told.worst,
            "ns_a_grant": ns(&told.grants),
            "ns_a_settle": ns(&told.settles),
            "ns_a_settled_prompt": told.settles.seconds * 1e9 / f64::from(job.prompts),
            "ledger_s": told.grants.seconds + told.settles.seconds,
            "worst_busy": told.most_busy,
            "memory_mb": told.memory as f64 / 1e6,
            "play_s": cpu.as_secs_f64(),
        })
    }
}

impl Rank {
    /// The next prompt of the oldest lease.
    fn next(&mut self) -> Option<u32> {
        let (from, to) = self.stock.first_mut()?;
        let next = *from;
        *from += 1;
        self.left -= 1;
        if from == to {
            self.stock.remove(0);
        }
        Some(next)
    }
}

impl Timed {
    fn add(&mut self, seconds: f64) {
        self.calls += 1;
        self.seconds += seconds;
    }
}

impl Told {
    /// A message in this ms, whose settling took so long. The first ms is not counted into the worst second: what all
    /// ranks would ask for then, a scatter brings them.
    fn counts(&mut self, now: u64, seconds: f64) {
        self.messages += 1;
        if now == 0 {
            self.busy = 0.0;
            return;
        }
        let second = now / 1_000;
        if second != self.second {
            if self.this_second > self.most {
                (self.most, self.worst) = (self.this_second, self.second);
            }
            self.most_busy = self.most_busy.max(self.busy);
            (self.second, self.this_second, self.busy) = (second, 0, 0.0);
        }
        self.this_second += 1;
        self.busy += seconds;
    }
}

/// The places, emptied, as spans in ascending order.
fn spans_of(places: &mut Vec<u32>, spans: &mut Vec<PlaceRange>) {
    places.sort_unstable();
    for place in places.drain(..).map(u64::from) {
        match spans.last_mut() {
            Some(last) if last.end == place => last.end += 1,
            _ => spans.push(place..place + 1),
        }
    }
}

fn unit(number: u32, by: u64) -> f64 {
    (u64::from(number).wrapping_mul(by) >> 40) as f64 / (1u64 << 24) as f64
}

/// 1 to 2.5 times as slow, the same for a rank every time.
fn slowness(rank: u32) -> f64 {
    1.0 + (SLOWEST - 1.0) * unit(rank, 0x9E37_79B9_7F4A_7C15)
}

/// How long a rank takes for a prompt, in ms.
fn took(rank: u32, prompt: u32) -> u64 {
    ((0.5 + unit(prompt, 0xD6E8_FEB8_6659_FD93)) * MEAN_MS * slowness(rank)) as u64
}

/// What this process holds, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: Option<u64> = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_play_ends_with_everything_settled_near_the_bound() {
        let told = play(Job { ranks: 200, prompts: 100_000, slots: 12 });
        assert_eq!(told["open"], 0);
        let share = told["share"].as_f64().unwrap();
        assert!((0.8..=1.0).contains(&share), "{told}");
        assert!(told["idle_share"].as_f64().unwrap() < 0.2, "{told}");
        let messages = told["messages"].as_u64().unwrap();
        assert!((4_000..50_000).contains(&messages), "{told}");
    }

    #[test]
    fn places_become_spans() {
        let (mut places, mut spans) = (vec![7, 3, 4, 9, 8], Vec::new());
        spans_of(&mut places, &mut spans);
        assert_eq!(spans, [3..5, 7..10]);
        assert!(places.is_empty());
    }

    #[test]
    fn nothing_takes_longer_than_the_ring() {
        let longest = MEAN_MS * 1.5 * SLOWEST;
        assert!(longest < RING as f64 && (REPORT_MS) < RING);
        assert!((0..1000).all(|at| (2_000..=15_000).contains(&took(at, at * 7))));
    }
}
