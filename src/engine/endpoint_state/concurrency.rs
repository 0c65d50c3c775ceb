//! The number of sequences that an endpoint may have in flight, its window: pure but for instants it is given.
//!
//! Owns the adaptive concurrency controller behind `--concurrency auto`. Where the server reports how many sequences
//! run and wait, a few are kept waiting: its slots never run dry, and its queue never grows long. Where it does not,
//! the throughput of window sizes is compared. The window climbs by doubling and never jumps: bursts have crashed
//! servers. Back-pressure lowers the limit at once, in every mode, to what the server has admitted. Which refusals are
//! back-pressure is decided in `back_pressure`; when nothing may be sent for a while, and how many permits are taken, is
//! the endpoint state's.

use std::time::{Duration, Instant};

use crate::engine::SizeMode;

/// The load that a server reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LoadSample {
    pub(crate) running: f64,
    pub(crate) waiting: f64,
    /// Preemptions since the server started.
    pub(crate) preemptions: f64,
    /// Share of the server's KV cache in use, where it reports that.
    pub(crate) cache_usage: Option<f64>,
}

/// A request that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdmittedRequest {
    pub(crate) sequences: usize,
    pub(crate) tokens: u64,
    /// Whether the window was used up just before the answer.
    pub(crate) was_window_full: bool,
}

/// The controller of one endpoint's window.
#[derive(Debug)]
pub(crate) struct ConcurrencyController {
    size: usize,
    mode: ControlMode,
    /// The limit that back-pressure has set, whatever the mode.
    refusal_limit: usize,
    /// The size up to which the limit grows fast again, within two rounds of answers; beyond it slowly.
    refusal_ceiling: usize,
    /// The largest window with which a round of answers came without back-pressure.
    proven_size: usize,
    /// Sequences answered since the refusal limit last changed, or since the last round of answers.
    answered_in_round: usize,
    /// Rounds of answers since the refusal limit last changed.
    rounds_since_change: u8,
}

#[derive(Debug)]
enum ControlMode {
    /// The size is given.
    Fixed,
    /// The size follows the load that the server reports.
    ServerMetrics(MetricsController),
    /// The size follows the measured throughput.
    Throughput(ThroughputController),
}

#[derive(Debug, Default)]
struct MetricsController {
    /// The most sequences that ran at a time.
    estimated_slots: f64,
    is_steady: bool,
    /// The sequences that ran when the window was last doubled.
    running_at_doubling: f64,
    peak_running_in_climb: f64,
    /// When the running sequences last reached a new peak with a full window.
    no_gain_since: Option<Instant>,
    last_preemptions: f64,
    /// A decrease takes effect when no more than this are in flight: until then the waiting sequences say nothing new.
    decrease_target: usize,
    /// The waiting sequences of the last polls, the latest last.
    recent_waiting: [f64; 3],
    /// Polls in a row at which nothing waited.
    empty_queue_polls: u8,
    growth_paused_until: Option<Instant>,
}

/// A load sample beside the window that it was taken with.
#[derive(Clone, Copy)]
struct WindowLoad {
    size: usize,
    taken: usize,
    running: f64,
    waiting: f64,
    /// The sequences that should wait at the server.
    target_waiting: f64,
    is_full: bool,
    /// Whether the server's KV cache has room for more, as far as is known.
    may_grow: bool,
    /// Whether it has room for twice as many.
    may_double: bool,
}

#[derive(Debug)]
struct ThroughputController {
    interval_start: Option<Instant>,
    /// Sequences still to be answered that were sent before the last change.
    sequences_to_skip: usize,
    interval_sequences: usize,
    interval_tokens: u64,
    /// Tokens per second at the last size.
    last_rate: f64,
    hold_until: Option<Instant>,
}

/// The window with which a climb begins.
const INITIAL_WINDOW: usize = 32;
const INITIAL_THROUGHPUT_WINDOW: usize = 64;
/// More than any server runs at a time.
const MAX_WINDOW: usize = 8192;
/// The gain, as a factor, that justifies a window of twice the size; with less the window goes back.
const MIN_GAIN: f64 = 1.10;
/// The time for which a size found by throughput is kept before the next is tried.
const HOLD_INTERVAL: Duration = Duration::from_secs(60);
/// The shortest interval in which throughput is measured.
const MIN_MEASURE_INTERVAL: Duration = Duration::from_secs(1);
/// The time that a doubling has to show a gain: a step that prefills many prompts is slow.
const NO_GAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Rounds of answers after which the limit is raised beyond the size that was refused.
const ROUNDS_PER_GROWTH: u8 = 4;
/// The time after a preemption in which the window does not grow, unless the KV cache is known to have room again.
const PREEMPTION_PAUSE: Duration = Duration::from_secs(10);
/// The share of the KV cache in use up to which the window grows by a few sequences. Running sequences need more of the
/// cache with every token, and what does not fit any more is computed twice.
const MAX_USAGE_FOR_GROWTH: f64 = 0.85;
/// The share of the KV cache in use up to which the window is doubled: with more, twice as many sequences do not fit.
const MAX_USAGE_FOR_DOUBLING: f64 = 0.5;

impl ConcurrencyController {
    /// Creates a controller for a window of at least `min_size` sequences. `has_metrics` is whether the server reports
    /// its load.
    pub(crate) fn new(mode: SizeMode, min_size: usize, has_metrics: bool) -> Self {
        let (size, mode) = match mode {
            SizeMode::Fixed(size) => (size, ControlMode::Fixed),
            SizeMode::Auto if has_metrics => (
                INITIAL_WINDOW.max(min_size),
                ControlMode::ServerMetrics(MetricsController::default()),
            ),
            SizeMode::Auto => (
                INITIAL_THROUGHPUT_WINDOW.max(min_size),
                ControlMode::Throughput(ThroughputController::new()),
            ),
        };
        Self {
            size,
            mode,
            refusal_limit: usize::MAX,
            refusal_ceiling: usize::MAX,
            proven_size: 0,
            answered_in_round: 0,
            rounds_since_change: 0,
        }
    }

    /// Returns the sequences that may be in flight.
    pub(crate) fn window_size(&self) -> usize {
        self.size.min(self.refusal_limit)
    }

    /// Stops relying on a load that the server does not report.
    pub(crate) fn fall_back_to_throughput(&mut self) {
        if self.uses_server_metrics() {
            self.mode = ControlMode::Throughput(ThroughputController::new());
        }
    }

    pub(crate) fn uses_server_metrics(&self) -> bool {
        matches!(self.mode, ControlMode::ServerMetrics(_))
    }

    /// Returns the pause before the next load poll.
    pub(crate) fn poll_interval(&self) -> Duration {
        match &self.mode {
            ControlMode::ServerMetrics(metrics) if metrics.is_steady => Duration::from_secs(1),
            _ => Duration::from_millis(50),
        }
    }

    /// Records an answered request: raises the refusal limit again, and measures throughput in that mode. Returns whether
    /// the window has grown.
    pub(crate) fn record_admitted(&mut self, request: AdmittedRequest, now: Instant) -> bool {
        let before = self.window_size();
        self.answered_in_round += request.sequences;
        if self.answered_in_round >= before {
            self.finish_round(before);
        }
        if let ControlMode::Throughput(throughput) = &mut self.mode {
            self.size = throughput.next_size(self.size, request, now);
        }
        self.window_size() > before
    }

    /// Raises the refusal limit after a round of answers.
    fn finish_round(&mut self, window: usize) {
        self.answered_in_round = 0;
        self.proven_size = self.proven_size.max(window);
        if self.refusal_limit == usize::MAX {
            return;
        }
        self.rounds_since_change = self.rounds_since_change.saturating_add(1);
        // Up to the last good size within two rounds; beyond it a little now and then, so that the server rarely has to
        // refuse.
        let good_size = self.refusal_ceiling.min(self.size);
        let limit = self.refusal_limit;
        if limit < good_size {
            self.refusal_limit = (limit * 2).max(good_size / 2).min(good_size);
        } else if self.rounds_since_change >= ROUNDS_PER_GROWTH {
            self.refusal_limit = limit.saturating_add((limit / 16).max(1));
        } else {
            return;
        }
        self.rounds_since_change = 0;
    }

    /// Lowers the limit for back-pressure; the server has admitted `admitted` sequences, which are in flight.
    pub(crate) fn decrease_to(&mut self, admitted: usize) {
        let window = self.window_size();
        self.refusal_limit = self.refusal_limit.min(admitted.max(1));
        // A server that admits nothing says nothing about how much it takes; one that has taken as much before is in a
        // passing state.
        let is_proven = window <= self.proven_size + self.proven_size / 8;
        if admitted > 0 && !is_proven {
            self.refusal_ceiling = self.refusal_limit;
        } else {
            self.refusal_ceiling = self.refusal_ceiling.min(window);
        }
        self.proven_size = self.refusal_limit;
        (self.answered_in_round, self.rounds_since_change) = (0, 0);
    }

    /// Lowers the limit further for a refusal that belongs to the back-pressure it was last lowered for.
    pub(crate) fn decrease_further(&mut self, admitted: usize) {
        let is_ceiling = self.refusal_ceiling == self.refusal_limit;
        self.refusal_limit = self.refusal_limit.min(admitted.max(1));
        self.proven_size = self.proven_size.min(self.refusal_limit);
        if admitted == 0 {
            self.refusal_ceiling = usize::MAX;
        } else if is_ceiling {
            self.refusal_ceiling = self.refusal_limit;
        }
    }

    /// Applies the load that the server reports, with `taken` sequences of ours in flight in batches of `batch_size`.
    /// Returns whether the window changed.
    pub(crate) fn apply_sample(
        &mut self,
        sample: LoadSample,
        taken: usize,
        batch_size: usize,
        now: Instant,
    ) -> bool {
        let before = self.size;
        if let ControlMode::ServerMetrics(metrics) = &mut self.mode {
            let size = metrics.next_size(self.size, sample, taken, batch_size, now);
            self.size = size.clamp(1, MAX_WINDOW);
        }
        self.size != before
    }
}

impl MetricsController {
    fn next_size(
        &mut self,
        size: usize,
        sample: LoadSample,
        taken: usize,
        batch_size: usize,
        now: Instant,
    ) -> usize {
        let LoadSample { running, waiting, preemptions, cache_usage } = sample;
        self.estimated_slots = self.estimated_slots.max(running);
        if self.has_preempted(preemptions) {
            return self.size_after_preemption(size, running, taken, now);
        }
        let load = WindowLoad {
            size,
            taken,
            running,
            waiting,
            target_waiting: self.target_waiting(batch_size),
            is_full: taken * 10 >= size * 9,
            may_grow: match cache_usage {
                Some(usage) => usage <= MAX_USAGE_FOR_GROWTH,
                None => self.growth_paused_until.is_none_or(|until| now >= until),
            },
            may_double: cache_usage.is_none_or(|usage| usage <= MAX_USAGE_FOR_DOUBLING),
        };
        self.recent_waiting.rotate_left(1);
        self.recent_waiting[2] = waiting;
        let can_double =
            load.is_full && waiting < load.target_waiting && load.may_grow && load.may_double;
        if batch_size > 1 && size < 4 * batch_size && can_double {
            size * 2 // four batches have to fit: one ends while the others run
        } else if self.is_steady {
            self.steady_size(load)
        } else {
            self.climb_size(load, now)
        }
    }

    /// Returns the window after a preemption: the server's KV cache is full, and a preempted sequence is computed twice. A
    /// little less fits than still runs. What is in flight beyond that drains first, because until then each further
    /// preemption is a consequence of the old window.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of sequences, from 0 to thousands"
    )]
    fn size_after_preemption(
        &mut self,
        size: usize,
        running: f64,
        taken: usize,
        now: Instant,
    ) -> usize {
        self.is_steady = true;
        self.growth_paused_until = Some(now + PREEMPTION_PAUSE);
        if self.decrease_target > 0 && taken > self.decrease_target {
            return size;
        }
        self.estimated_slots = running;
        self.decrease_target = ((running * 15.0 / 16.0) as usize).clamp(1, size);
        self.decrease_target
    }

    fn has_preempted(&mut self, preemptions: f64) -> bool {
        let is_more = preemptions > self.last_preemptions && self.last_preemptions > 0.0;
        self.last_preemptions = preemptions.max(f64::MIN_POSITIVE);
        is_more
    }

    /// Returns the sequences that should wait: an eighth of those that run; with batches, whose sequences end together,
    /// as many as the next one needs.
    fn target_waiting(&self, batch_size: usize) -> f64 {
        let next_batch = if batch_size > 1 {
            (batch_size as f64).min(self.estimated_slots.max(8.0))
        } else {
            0.0
        };
        (self.estimated_slots / 8.0).max(2.0).max(next_batch)
    }

    /// Doubles the window while more sequences run each time.
    fn climb_size(&mut self, load: WindowLoad, now: Instant) -> usize {
        let WindowLoad { size, running, waiting, is_full, .. } = load;
        // Waiting sequences are being prefilled, or have no slot: the latter only if no more of them run after a while.
        if is_full
            && waiting < load.target_waiting / 2.0
            && load.may_grow
            && load.may_double
            && running > self.running_at_doubling * MIN_GAIN
        {
            (self.running_at_doubling, self.no_gain_since) = (running, None);
            return size * 2;
        }
        if running > self.peak_running_in_climb {
            (self.peak_running_in_climb, self.no_gain_since) = (running, None);
        }
        self.is_steady = is_full && now - *self.no_gain_since.get_or_insert(now) >= NO_GAIN_TIMEOUT;
        size
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of sequences, from 0 to thousands"
    )]
    fn steady_size(&mut self, load: WindowLoad) -> usize {
        let WindowLoad { size, taken, running, waiting, target_waiting, is_full, may_grow, .. } =
            load;
        if self.decrease_target > 0 && taken > self.decrease_target {
            return size; // the last decrease has not taken effect
        }
        self.decrease_target = 0;
        let is_busy = (running + waiting) * 10.0 >= taken as f64 * 4.0;
        let can_grow = is_full && is_busy && may_grow;
        self.empty_queue_polls =
            if waiting < 1.0 && can_grow { self.empty_queue_polls + 1 } else { 0 };
        if self.empty_queue_polls >= 2 {
            // The server has more slots than estimated: climb again.
            self.is_steady = false;
            self.running_at_doubling = 0.0;
            self.no_gain_since = None;
            self.empty_queue_polls = 0;
            self.peak_running_in_climb = running;
            return size;
        }
        if waiting < target_waiting / 2.0 && can_grow {
            return size + (target_waiting - waiting).ceil() as usize;
        }
        // A burst waits to be prefilled: only sequences that still wait after several polls have no slot.
        let still_waiting = self.recent_waiting.iter().copied().fold(f64::MAX, f64::min);
        if still_waiting > 2.0 * target_waiting {
            // The waiting sequences may be another client's: the window keeps what runs, and gives up no more than is
            // ours.
            let excess = still_waiting.min(taken as f64) - target_waiting;
            let min_size = (self.estimated_slots as usize).max(INITIAL_WINDOW / 4).min(size);
            self.decrease_target = size.saturating_sub(excess.max(0.0) as usize).max(min_size);
            return self.decrease_target;
        }
        size
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

    fn next_size(&mut self, size: usize, request: AdmittedRequest, now: Instant) -> usize {
        if self.sequences_to_skip > 0 {
            self.sequences_to_skip = self.sequences_to_skip.saturating_sub(request.sequences);
            return size;
        }
        if !request.was_window_full {
            // A window that is not used up says nothing about its size.
            self.reset_interval();
            return size;
        }
        let start = *self.interval_start.get_or_insert(now);
        self.interval_sequences += request.sequences;
        self.interval_tokens += request.tokens;
        let elapsed = now - start;
        if elapsed < MIN_MEASURE_INTERVAL || self.interval_sequences < size * 2 {
            return size;
        }
        let rate = self.interval_tokens as f64 / elapsed.as_secs_f64();
        self.reset_interval();
        match self.hold_until {
            Some(until) if now < until => return size,
            Some(_) => {
                // As at the start: is twice the size better by now?
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

    fn reset_interval(&mut self) {
        (self.interval_start, self.interval_sequences, self.interval_tokens) = (None, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the load of a server with this many slots and `taken` single requests in flight.
    fn sample_with_slots(slots: usize, taken: usize) -> LoadSample {
        let running = taken.min(slots);
        LoadSample {
            running: running as f64,
            waiting: (taken - running) as f64,
            preemptions: 0.0,
            cache_usage: None,
        }
    }

    fn run_to_convergence(slots: usize, list: usize) -> (usize, usize) {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let mut now = Instant::now();
        let mut most = 0;
        for _ in 0..40 {
            now += window.poll_interval();
            let taken = window.window_size();
            window.apply_sample(sample_with_slots(slots, taken), taken, list, now);
            most = most.max(window.window_size());
        }
        (window.window_size(), most)
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
        assert!((144..=200).contains(&size), "a batch waits: {size}");
    }

    fn admit(window: &mut ConcurrencyController, tokens: u64, now: Instant) {
        let request = AdmittedRequest { sequences: 1, tokens, was_window_full: true };
        window.record_admitted(request, now);
    }

    fn admit_round(window: &mut ConcurrencyController, now: Instant) {
        (0..window.window_size()).for_each(|_| admit(window, 1, now));
    }

    #[test]
    fn a_climb_takes_less_than_a_second_and_doubles_at_most() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let now = Instant::now();
        for _ in 0..5 {
            let before = window.window_size();
            window.apply_sample(sample_with_slots(256, before), before, 1, now);
            assert!(window.window_size() <= before * 2);
        }
        assert!(window.window_size() >= 256);
    }

    #[test]
    fn long_prefills_do_not_end_the_climb() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let (mut now, mut running) = (Instant::now(), 0);
        for poll in 0..200 {
            now += window.poll_interval();
            let taken = window.window_size();
            // A step prefills 8 prompts and takes as long as six polls.
            if poll % 6 == 0 {
                running = (running + 8).min(taken).min(128);
            }
            let (run, wait) = (running as f64, (taken - running) as f64);
            window.apply_sample(
                LoadSample { running: run, waiting: wait, preemptions: 0.0, cache_usage: None },
                taken,
                1,
                now,
            );
        }
        assert_eq!(running, 128);
        assert!((132..=160).contains(&window.window_size()), "{}", window.window_size());
    }

    #[test]
    fn a_server_that_runs_nothing_is_not_flooded() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let mut now = Instant::now();
        for _ in 0..100 {
            now += window.poll_interval();
            let taken = window.window_size();
            window.apply_sample(LoadSample::default(), taken, 1, now);
        }
        assert!(window.window_size() <= 2 * INITIAL_WINDOW, "{}", window.window_size());
        for _ in 0..100 {
            now += window.poll_interval();
            let taken = window.window_size();
            window.apply_sample(LoadSample::default(), taken, 64, now);
        }
        assert_eq!(window.window_size(), 256, "four batches");
    }

    #[test]
    fn preemptions_shrink_the_window_and_pause_growth() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let now = Instant::now();
        let sample = |preemptions| LoadSample {
            running: 60.0,
            waiting: 0.0,
            preemptions,
            cache_usage: None,
        };
        window.apply_sample(sample(3.0), 32, 1, now);
        let before = window.window_size();
        assert!(window.apply_sample(sample(5.0), before, 1, now) && window.window_size() < before);
        assert_eq!(window.window_size(), 56, "a little less than runs");
        assert!(!window.apply_sample(sample(6.0), before, 1, now), "the decrease takes effect");
        let before = window.window_size();
        assert!(!window.apply_sample(sample(5.0), before, 1, now + Duration::from_secs(1)));
        window.apply_sample(sample(5.0), before, 1, now + Duration::from_secs(11));
        assert!(window.window_size() > before);
    }

    #[test]
    fn back_pressure_on_a_new_size_sets_a_limit_that_grows_slowly() {
        let now = Instant::now();
        let mut window = ConcurrencyController::new(SizeMode::Fixed(64), 1, true);
        window.decrease_to(40);
        window.decrease_further(32);
        assert_eq!(window.window_size(), 32, "what the server has admitted");
        (0..3).for_each(|_| admit_round(&mut window, now));
        assert_eq!(window.window_size(), 32);
        admit_round(&mut window, now);
        assert_eq!(window.window_size(), 34);
        window.decrease_to(0);
        assert_eq!(window.window_size(), 1);
    }

    #[test]
    fn the_window_is_at_its_last_good_size_two_rounds_after_a_passing_refusal() {
        let now = Instant::now();
        for admitted in [0, 3, 40] {
            let mut window = ConcurrencyController::new(SizeMode::Fixed(64), 1, true);
            admit_round(&mut window, now);
            window.decrease_to(admitted);
            assert_eq!(window.window_size(), admitted.max(1));
            admit_round(&mut window, now);
            admit_round(&mut window, now);
            assert_eq!(window.window_size(), 64);
        }
    }

    #[test]
    fn a_server_that_takes_less_than_before_is_believed_the_second_time() {
        let now = Instant::now();
        let mut window = ConcurrencyController::new(SizeMode::Fixed(64), 1, true);
        admit_round(&mut window, now);
        window.decrease_to(20);
        admit_round(&mut window, now);
        assert_eq!(window.window_size(), 40);
        window.decrease_to(20);
        (0..3).for_each(|_| admit_round(&mut window, now));
        assert_eq!(window.window_size(), 20);
    }

    #[test]
    fn a_server_that_refused_everything_at_the_start_is_used_in_full_at_once() {
        let now = Instant::now();
        let mut window = ConcurrencyController::new(SizeMode::Fixed(64), 1, true);
        window.decrease_to(5);
        for admitted in (0..5).rev() {
            window.decrease_further(admitted);
        }
        assert_eq!(window.window_size(), 1);
        (0..3).for_each(|_| admit_round(&mut window, now));
        assert_eq!(window.window_size(), 64);
    }

    #[test]
    fn requests_of_other_clients_do_not_starve_us() {
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, true);
        let mut now = Instant::now();
        for _ in 0..200 {
            now += window.poll_interval();
            let taken = window.window_size();
            let sample =
                LoadSample { running: 64.0, waiting: 500.0, preemptions: 0.0, cache_usage: None };
            window.apply_sample(sample, taken, 1, now);
        }
        assert!(window.window_size() >= INITIAL_WINDOW, "{}", window.window_size());
    }

    #[test]
    fn without_server_metrics_throughput_decides() {
        // 100 sequences at a time, a tenth of a second each: more in flight are no faster.
        let mut window = ConcurrencyController::new(SizeMode::Auto, 1, false);
        let (mut now, mut sizes) = (Instant::now(), Vec::new());
        for _ in 0..400 {
            let size = window.window_size();
            now += Duration::from_secs_f64(0.1 * (size as f64 / 100.0).max(1.0));
            for _ in 0..size {
                admit(&mut window, 10, now);
            }
            sizes.push(size);
        }
        let most = sizes.iter().copied().max().unwrap_or_default();
        assert!(most >= 128, "{most}");
        let late = &sizes[100..];
        let held = late.iter().filter(|&&size| size == 128).count();
        assert!(
            held > late.len() / 2,
            "it holds at the smallest that reaches full throughput: {sizes:?}"
        );
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
                let before = window.window_size();
                now += Duration::from_millis(200);
                if refused {
                    window.decrease_to(before / 2);
                }
                window.apply_sample(LoadSample { running, waiting, preemptions, cache_usage: None }, before, list, now);
                prop_assert!(window.window_size() >= 1);
                prop_assert!(window.window_size() <= before * 2 + 300 + list, "{before} to {}", window.window_size());
            }
        }
    }
}
