//! How many sequences an endpoint has in flight: pure but for instants it is given.
//!
//! Owns the controller behind `--concurrency auto`. Where the server tells how many run and wait, it is kept with a little
//! waiting: its slots never run dry, and its queue never grows long. Where it does not, what it answers a second is
//! compared between window sizes. It climbs by doubling and never jumps: bursts have crashed servers. A 503 lowers what is
//! sent at once, whatever the mode.

use std::time::{Duration, Instant};

use crate::engine::SizeMode;

/// What a server says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LoadSample {
    pub(crate) running: f64,
    pub(crate) waiting: f64,
    /// Since it started.
    pub(crate) preemptions: f64,
}

/// Of one endpoint.
#[derive(Debug)]
pub(crate) struct ConcurrencyController {
    size: usize,
    mode: ControlMode,
    /// The most after a refusal.
    refusal_limit: usize,
    /// Where it was refused first: up to there it grows fast again, beyond slowly.
    refusal_ceiling: usize,
    /// In flight with which requests were admitted.
    max_admitted: usize,
    /// Sequences answered since the limit was last changed.
    answered_since_change: usize,
}

#[derive(Debug)]
enum ControlMode {
    /// The size is given.
    Fixed,
    /// By what the server says.
    ServerMetrics(MetricsController),
    /// By what comes back.
    Throughput(ThroughputController),
}

#[derive(Debug, Default)]
struct MetricsController {
    /// The most that ran at a time.
    estimated_slots: f64,
    is_steady: bool,
    /// What ran when it was last doubled.
    running_at_doubling: f64,
    /// The most that ran since the climb began, and since when it is no more.
    peak_running_in_climb: f64,
    no_gain_since: Option<Instant>,
    last_preemptions: f64,
    /// A cut takes effect when so many are left in flight: until then what waits says nothing new.
    decrease_target: usize,
    /// What waited when it was looked at last, the latest last.
    recent_waiting: [f64; 3],
    /// Looks in a row at which nothing waited.
    empty_queue_polls: u8,
    growth_paused_until: Option<Instant>,
}

#[derive(Debug)]
struct ThroughputController {
    interval_start: Option<Instant>,
    /// Sequences that are still of the time before the last change.
    sequences_to_skip: usize,
    interval_sequences: usize,
    interval_tokens: u64,
    /// What the last size brought, in tokens a second.
    last_rate: f64,
    hold_until: Option<Instant>,
}

/// Where a climb begins.
const INITIAL_WINDOW: usize = 32;
const INITIAL_THROUGHPUT_WINDOW: usize = 64;
/// No server runs more.
const MAX_WINDOW: usize = 8192;
/// A gain that is worth twice the window, and a loss that is one.
const MIN_GAIN: f64 = 1.10;
/// How long a size that was felt for is kept before the next is tried.
const HOLD_INTERVAL: Duration = Duration::from_secs(60);
/// The least time to feel for.
const MIN_MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for a doubling to show: a step that reads many prompts takes its time.
const NO_GAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after a preemption nothing grows.
const PREEMPTION_PAUSE: Duration = Duration::from_secs(10);

impl ConcurrencyController {
    /// `least` sequences have to fit; `told` is whether the server says how many run.
    pub(crate) fn new(size: SizeMode, least: usize, told: bool) -> Self {
        let (size, steer) = match size {
            SizeMode::Fixed(size) => (size, ControlMode::Fixed),
            SizeMode::Auto if told => (
                INITIAL_WINDOW.max(least),
                ControlMode::ServerMetrics(MetricsController::default()),
            ),
            SizeMode::Auto => (
                INITIAL_THROUGHPUT_WINDOW.max(least),
                ControlMode::Throughput(ThroughputController::new()),
            ),
        };
        Self {
            size,
            mode: steer,
            refusal_limit: usize::MAX,
            refusal_ceiling: usize::MAX,
            max_admitted: 0,
            answered_since_change: 0,
        }
    }

    /// Sequences in flight, at most.
    pub(crate) fn size(&self) -> usize {
        self.size.min(self.refusal_limit)
    }

    /// The server does not say after all: what it brings has to do.
    pub(crate) fn fall_back_to_throughput(&mut self) {
        if self.uses_server_metrics() {
            self.mode = ControlMode::Throughput(ThroughputController::new());
        }
    }

    /// Is it worth asking the server how it is?
    pub(crate) fn uses_server_metrics(&self) -> bool {
        matches!(self.mode, ControlMode::ServerMetrics(_))
    }

    /// How soon it wants to be told again.
    pub(crate) fn poll_interval(&self) -> Duration {
        match &self.mode {
            ControlMode::ServerMetrics(told) if told.is_steady => Duration::from_secs(1),
            _ => Duration::from_millis(50),
        }
    }

    /// A request with which `level` sequences were in flight was answered; `sequences` of them were its own, and gave so
    /// many tokens. `full` is whether the window was, just before.
    pub(crate) fn record_admitted(
        &mut self,
        level: usize,
        sequences: usize,
        tokens: u64,
        full: bool,
        now: Instant,
    ) {
        self.max_admitted = self.max_admitted.max(level);
        self.answered_since_change += sequences;
        // Twice as much with every round as long as it took that before; beyond, a little now and then: it should rarely
        // have to refuse.
        let (rounds, more) = if self.refusal_limit < self.refusal_ceiling / 16 * 15 {
            (1, self.refusal_limit)
        } else {
            (4, (self.refusal_limit / 16).max(1))
        };
        if self.refusal_limit < usize::MAX
            && self.answered_since_change >= self.refusal_limit.saturating_mul(rounds)
        {
            self.refusal_limit = self.refusal_limit.saturating_add(more);
            self.answered_since_change = 0;
        }
        if let ControlMode::Throughput(felt) = &mut self.mode {
            self.size = felt.next_size(self.size, sequences, tokens, full, now);
        }
    }

    /// It refused a request of `sequences` with which `level` were in flight.
    pub(crate) fn decrease_on_refusal(&mut self, level: usize, sequences: usize) {
        if level <= self.max_admitted {
            // It has taken as much before: a passing fit, unless it comes again and again.
            self.max_admitted = self.max_admitted * 15 / 16;
            return;
        }
        let left = level.saturating_sub(sequences);
        self.refusal_limit =
            self.refusal_limit.min(if left > 0 { left } else { (sequences / 2).max(1) });
        if self.answered_since_change > 0 || self.refusal_ceiling == usize::MAX {
            // (what is refused right after that is of the same fit, and says nothing of where the limit is)
            self.refusal_ceiling = self.refusal_limit;
        }
        self.answered_since_change = 0;
    }

    /// What the server says, with so many of ours in flight, in lists of `list`. True if the window was changed.
    pub(crate) fn apply_sample(
        &mut self,
        sample: LoadSample,
        taken: usize,
        list: usize,
        now: Instant,
    ) -> bool {
        let before = self.size;
        if let ControlMode::ServerMetrics(told) = &mut self.mode {
            self.size = told.next_size(self.size, sample, taken, list, now).clamp(1, MAX_WINDOW);
        }
        self.size != before
    }
}

impl MetricsController {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of sequences, from 0 to thousands"
    )]
    fn next_size(
        &mut self,
        size: usize,
        sample: LoadSample,
        taken: usize,
        list: usize,
        now: Instant,
    ) -> usize {
        let LoadSample { running, waiting, preemptions } = sample;
        self.estimated_slots = self.estimated_slots.max(running);
        let preempted = preemptions > self.last_preemptions && self.last_preemptions > 0.0;
        self.last_preemptions = preemptions.max(f64::MIN_POSITIVE);
        if preempted {
            // Its memory is full: what is thrown out of it is computed twice.
            self.is_steady = true;
            self.estimated_slots = running;
            self.growth_paused_until = Some(now + PREEMPTION_PAUSE);
            return size - size / 8;
        }
        // An eighth of what runs waits; with lists, which end together, as much as the next one needs.
        let next = if list > 1 { (list as f64).min(self.estimated_slots.max(8.0)) } else { 0.0 };
        let spare = (self.estimated_slots / 8.0).max(2.0).max(next);
        let full = taken * 10 >= size * 9;
        // A burst waits for its prompts to be read: what still waits after a few looks has no slot.
        self.recent_waiting.rotate_left(1);
        self.recent_waiting[2] = waiting;
        let waits = self.recent_waiting.iter().copied().fold(f64::MAX, f64::min);
        let busy = (running + waiting) * 10.0 >= taken as f64 * 4.0;
        let may_grow = self.growth_paused_until.is_none_or(|until| now >= until);
        if list > 1 && size < 4 * list && full && waiting < spare && may_grow {
            return size * 2; // four lists have to fit: one ends while the others run
        }
        if !self.is_steady {
            // Prompts that wait are being read, or have no slot: the latter only if no more of them run after a while.
            if full
                && waiting < spare / 2.0
                && may_grow
                && running > self.running_at_doubling * MIN_GAIN
            {
                (self.running_at_doubling, self.no_gain_since) = (running, None);
                return size * 2;
            }
            if running > self.peak_running_in_climb {
                (self.peak_running_in_climb, self.no_gain_since) = (running, None);
            }
            self.is_steady =
                full && now - *self.no_gain_since.get_or_insert(now) >= NO_GAIN_TIMEOUT;
            return size;
        }
        if self.decrease_target > 0 && taken > self.decrease_target {
            return size; // the last cut has not come to bear
        }
        self.decrease_target = 0;
        self.empty_queue_polls =
            if waiting < 1.0 && full && busy && may_grow { self.empty_queue_polls + 1 } else { 0 };
        if self.empty_queue_polls >= 2 {
            // There are more slots than it seemed.
            (
                self.is_steady,
                self.running_at_doubling,
                self.no_gain_since,
                self.empty_queue_polls,
            ) = (false, 0.0, None, 0);
            self.peak_running_in_climb = running;
            size
        } else if waiting < spare / 2.0 && full && busy && may_grow {
            size + (spare - waiting).ceil() as usize
        } else if waits > 2.0 * spare {
            // What waits may be somebody else's: no less than what runs, and of ours no more than there is.
            let ours = waits.min(taken as f64) - spare;
            let least = (self.estimated_slots as usize).max(INITIAL_WINDOW / 4).min(size);
            self.decrease_target = size.saturating_sub(ours.max(0.0) as usize).max(least);
            self.decrease_target
        } else {
            size
        }
    }
}

impl ThroughputController {
    fn new() -> Self {
        Self {
            interval_start: None,
            sequences_to_skip: 0,
            interval_sequences: 0,
            interval_tokens: 0,
            last_rate: 0.0,
            hold_until: None,
        }
    }

    fn next_size(
        &mut self,
        size: usize,
        sequences: usize,
        tokens: u64,
        full: bool,
        now: Instant,
    ) -> usize {
        if self.sequences_to_skip > 0 {
            self.sequences_to_skip = self.sequences_to_skip.saturating_sub(sequences);
            return size;
        }
        if !full {
            // What it cannot use up says nothing of its size.
            (self.interval_start, self.interval_sequences, self.interval_tokens) = (None, 0, 0);
            return size;
        }
        let began = *self.interval_start.get_or_insert(now);
        self.interval_sequences += sequences;
        self.interval_tokens += tokens;
        let felt = now - began;
        if felt < MIN_MEASURE_INTERVAL || self.interval_sequences < size * 2 {
            return size;
        }
        let rate = self.interval_tokens as f64 / felt.as_secs_f64();
        (self.interval_start, self.interval_sequences, self.interval_tokens) = (None, 0, 0);
        match self.hold_until {
            Some(until) if now < until => return size,
            Some(_) => {
                // As at the beginning: is twice as much better by now?
                (self.hold_until, self.last_rate, self.sequences_to_skip) = (None, rate, size * 2);
                return (size * 2).min(MAX_WINDOW);
            }
            None => {}
        }
        if rate > self.last_rate * MIN_GAIN {
            (self.last_rate, self.sequences_to_skip) = (rate, size * 2);
            return (size * 2).min(MAX_WINDOW);
        }
        self.hold_until = Some(now + HOLD_INTERVAL);
        self.sequences_to_skip = size;
        (size / 2).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server with so many slots, as it looks with `taken` in flight, each of them its own request.
    fn sample_with_slots(slots: usize, taken: usize) -> LoadSample {
        let running = taken.min(slots);
        LoadSample { running: running as f64, waiting: (taken - running) as f64, preemptions: 0.0 }
    }

    fn run_to_convergence(slots: usize, list: usize) -> (usize, usize) {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let mut now = Instant::now();
        let mut most = 0;
        for _ in 0..40 {
            now += window.poll_interval();
            let taken = window.size();
            window.apply_sample(sample_with_slots(slots, taken), taken, list, now);
            most = most.max(window.size());
        }
        (window.size(), most)
    }

    #[test]
    fn waiting_is_an_eighth_of_running() {
        for slots in [16, 64, 128, 256, 1000] {
            let (size, most) = run_to_convergence(slots, 1);
            assert!(
                (slots + slots / 16..=slots + slots / 4 + 4).contains(&size),
                "{slots}: {size}"
            );
            assert!(
                most <= (slots * 2).max(INITIAL_WINDOW) + slots,
                "{slots}: it went up to {most}"
            );
        }
        let (size, _) = run_to_convergence(128, 32);
        assert!((144..=200).contains(&size), "a list waits: {size}");
    }

    #[test]
    fn a_climb_takes_less_than_a_second_and_doubles_at_most() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let now = Instant::now();
        for _ in 0..5 {
            let before = window.size();
            window.apply_sample(sample_with_slots(256, before), before, 1, now);
            assert!(window.size() <= before * 2);
        }
        assert!(window.size() >= 256);
    }

    #[test]
    fn long_prefills_do_not_end_the_climb() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let (mut now, mut running) = (Instant::now(), 0);
        for looks in 0..200 {
            now += window.poll_interval();
            let taken = window.size();
            // A step reads 8 prompts and takes six looks.
            if looks % 6 == 0 {
                running = (running + 8).min(taken).min(128);
            }
            let (run, wait) = (running as f64, (taken - running) as f64);
            window.apply_sample(
                LoadSample { running: run, waiting: wait, preemptions: 0.0 },
                taken,
                1,
                now,
            );
        }
        assert_eq!(running, 128);
        assert!((132..=160).contains(&window.size()), "{}", window.size());
    }

    #[test]
    fn a_server_that_runs_nothing_is_not_flooded() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let mut now = Instant::now();
        for _ in 0..100 {
            now += window.poll_interval();
            let taken = window.size();
            window.apply_sample(LoadSample::default(), taken, 1, now);
        }
        assert!(window.size() <= 2 * INITIAL_WINDOW, "{}", window.size());
        for _ in 0..100 {
            now += window.poll_interval();
            let taken = window.size();
            window.apply_sample(LoadSample::default(), taken, 64, now);
        }
        assert_eq!(window.size(), 256, "four lists");
    }

    #[test]
    fn preemptions_shrink_the_window_and_pause_growth() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let now = Instant::now();
        let sample = |preemptions| LoadSample { running: 60.0, waiting: 0.0, preemptions };
        window.apply_sample(sample(3.0), 32, 1, now);
        let before = window.size();
        assert!(window.apply_sample(sample(5.0), before, 1, now) && window.size() < before);
        let before = window.size();
        assert!(!window.apply_sample(sample(5.0), before, 1, now + Duration::from_secs(1)));
        window.apply_sample(sample(5.0), before, 1, now + Duration::from_secs(11));
        assert!(window.size() > before);
    }

    #[test]
    fn a_refusal_at_a_new_peak_sets_a_limit_and_one_below_does_not() {
        let now = Instant::now();
        let mut window = ConcurrencyController::new(SizeMode::Fixed(64), 1, true);
        window.record_admitted(64, 1, 1, true, now);
        window.decrease_on_refusal(64, 1);
        assert_eq!(window.size(), 64, "it has taken 64 before");
        for _ in 0..20 {
            window.decrease_on_refusal(64, 1);
        }
        assert_eq!(window.size(), 63, "again and again is no fit");
        let mut window = ConcurrencyController::new(SizeMode::Fixed(64), 1, true);
        window.decrease_on_refusal(64, 64);
        assert_eq!(window.size(), 32, "it was idle, and still refused 64");
        window.record_admitted(20, 1, 1, true, now);
        window.decrease_on_refusal(32, 12);
        assert_eq!(window.size(), 20, "what it has is what it can have");
        (0..90).for_each(|_| window.record_admitted(20, 1, 1, true, now));
        assert_eq!(window.size(), 21);
    }

    #[test]
    fn the_window_recovers_soon_after_a_burst_of_refusals() {
        let now = Instant::now();
        let mut window = ConcurrencyController::new(SizeMode::Fixed(64), 1, true);
        (0..200).for_each(|_| window.record_admitted(64, 1, 1, true, now));
        for _ in 0..200 {
            window.decrease_on_refusal(window.size(), 1);
        }
        let low = window.size();
        assert!(low < 8, "{low}");
        let mut rounds = 0;
        while window.size() < 56 {
            rounds += 1;
            assert!(rounds < 40, "{} after {rounds} rounds", window.size());
            let size = window.size();
            (0..size).for_each(|_| window.record_admitted(size, 1, 1, true, now));
        }
        assert!(rounds < 10, "{rounds}");
    }

    #[test]
    fn requests_of_other_clients_do_not_starve_us() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let mut now = Instant::now();
        for _ in 0..200 {
            now += window.poll_interval();
            let taken = window.size();
            let sample = LoadSample { running: 64.0, waiting: 500.0, preemptions: 0.0 };
            window.apply_sample(sample, taken, 1, now);
        }
        assert!(window.size() >= INITIAL_WINDOW, "{}", window.size());
    }

    #[test]
    fn without_server_metrics_throughput_decides() {
        // 100 sequences at a time, a tenth of a second each: more in flight brings nothing.
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, false);
        let (mut now, mut sizes) = (Instant::now(), Vec::new());
        for _ in 0..400 {
            let size = window.size();
            now += Duration::from_secs_f64(0.1 * (size as f64 / 100.0).max(1.0));
            for _ in 0..size {
                window.record_admitted(size, 1, 10, true, now);
            }
            sizes.push(size);
        }
        let most = sizes.iter().copied().max().unwrap_or_default();
        assert!(most >= 128, "{most}");
        let late = &sizes[100..];
        let held = late.iter().filter(|&&size| size == 128).count();
        assert!(held > late.len() / 2, "it holds at the least that brings all: {sizes:?}");
    }

    proptest! {
        #[test]
        fn a_window_is_never_empty_and_never_jumps(
            steps in prop::collection::vec((0f64..2000.0, 0f64..2000.0, 0f64..50.0, any::<bool>()), 0..80),
            list in 1usize..64,
        ) {
            let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
            let mut now = Instant::now();
            for (running, waiting, preemptions, refused) in steps {
                let before = window.size();
                now += Duration::from_millis(200);
                if refused {
                    window.decrease_on_refusal(before + 1, list);
                }
                window.apply_sample(LoadSample { running, waiting, preemptions }, before, list, now);
                prop_assert!(window.size() >= 1);
                prop_assert!(window.size() <= before * 2 + 300 + list, "{before} to {}", window.size());
            }
        }
    }
}
