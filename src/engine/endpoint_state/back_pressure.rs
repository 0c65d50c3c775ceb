//! Whether refusals (503, 429) are back-pressure or noise: pure.
//!
//! Owns that judgement. A server with too much to do refuses most of what is sent beyond its limit; a gateway that
//! refuses now and then refuses the same share of requests at any load. So refusals are counted by the round of
//! requests that they belong to, about a window's worth of them, and are back-pressure if they are at least half of
//! what a round has sent and more than the share that is usual at this endpoint. A request without an outcome counts
//! as admitted, since refusals come at once and answers late. What back-pressure does to the window is in
//! `concurrency`.

/// The refusals among an endpoint's recent requests.
#[derive(Debug, Default)]
pub(crate) struct RefusalShare {
    /// The number of the current round.
    round: u32,
    /// The first round whose refusals count: earlier ones belong to a window that is no longer in use.
    first_round: u32,
    current: RoundCounts,
    previous: RoundCounts,
    /// The share that is usually refused, as an exponentially weighted average over rounds without back-pressure.
    usual_share: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct RoundCounts {
    requests: u32,
    sequences: usize,
    refused: u32,
}

/// The meaning of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It says nothing about the load.
    Scattered,
    /// The server has too much to do.
    BackPressure,
    /// The request was sent before the window was last lowered.
    Stale,
}

/// Requests of a round, at least.
const MIN_ROUND: u32 = 16;
/// Refusals that are back-pressure, at least, where usually none is refused.
const MIN_REFUSALS: f64 = 4.0;
/// The same for each share of requests that is usually refused.
const REFUSALS_PER_USUAL_SHARE: f64 = 64.0;
/// Weight of a round in the usual share.
const ROUND_WEIGHT: f64 = 0.125;

impl RefusalShare {
    /// Counts a request that is sent in a window of this many sequences. Returns the number of its round.
    pub(crate) fn record_sent(&mut self, sequences: usize, window: usize) -> u32 {
        if self.current.requests >= MIN_ROUND && self.current.sequences >= window {
            if self.previous.requests >= MIN_ROUND {
                let share = f64::from(self.previous.refused) / f64::from(self.previous.requests);
                self.usual_share += (share.min(1.0) - self.usual_share) * ROUND_WEIGHT;
            }
            self.previous = std::mem::take(&mut self.current);
            self.round = self.round.wrapping_add(1);
        }
        self.current.requests += 1;
        self.current.sequences += sequences;
        self.round
    }

    /// Records the refusal of a request of this round.
    pub(crate) fn record_refusal(&mut self, round: u32) -> Refusal {
        let usual = self.usual_share;
        let counts = match self.round.wrapping_sub(round) {
            _ if round < self.first_round => return Refusal::Stale,
            0 => &mut self.current,
            1 => &mut self.previous,
            _ => return Refusal::Scattered,
        };
        counts.refused += 1;
        let (refused, requests) = (f64::from(counts.refused), f64::from(counts.requests));
        if refused >= MIN_REFUSALS + REFUSALS_PER_USUAL_SHARE * usual
            && refused * 2.0 >= requests * (1.0 + usual)
        {
            Refusal::BackPressure
        } else {
            Refusal::Scattered
        }
    }

    /// Begins a round with the next request, since the window has changed. If it was lowered, refusals of requests that
    /// were sent before are `stale`.
    pub(crate) fn begin_round(&mut self, is_lowered: bool) {
        // Two numbers on, so that refusals of earlier rounds count for neither.
        self.round = self.round.wrapping_add(2);
        (self.current, self.previous) = (RoundCounts::default(), RoundCounts::default());
        if is_lowered {
            self.first_round = self.round;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends a window at once and refuses what `is_refused` selects, again and again; returns the requests until
    /// refusals were taken for back-pressure.
    fn requests_until_pressure(window: usize, is_refused: impl Fn(u32) -> bool) -> Option<u32> {
        let mut share = RefusalShare::default();
        let mut sent = 0;
        while sent < 20_000 {
            let mut rounds = Vec::new();
            for _ in 0..window {
                sent += 1;
                rounds.push((share.record_sent(1, window), is_refused(sent)));
            }
            for (round, _) in rounds.into_iter().filter(|&(_, refused)| refused) {
                if share.record_refusal(round) == Refusal::BackPressure {
                    return Some(sent);
                }
            }
        }
        None
    }

    #[test]
    fn scattered_refusals_are_no_back_pressure() {
        for per_mille in [5, 20, 100, 300] {
            for window in [1, 8, 64, 512] {
                let is_refused =
                    |request: u32| request.wrapping_mul(2_654_435_761) >> 8 < per_mille * 16_777;
                let found = requests_until_pressure(window, is_refused);
                assert_eq!(found, None, "{per_mille} in a thousand, window {window}");
            }
        }
    }

    #[test]
    fn a_server_that_refuses_most_of_a_window_is_heard_within_a_round() {
        for window in [8, 64, 512] {
            let sent = requests_until_pressure(window, |_| true).expect("back-pressure");
            assert!(sent as usize <= window.max(16), "window {window}: {sent}");
        }
    }

    #[test]
    fn refusals_from_before_a_decrease_are_stale() {
        let mut share = RefusalShare::default();
        let round = share.record_sent(1, 4);
        share.begin_round(true);
        assert_eq!(share.record_refusal(round), Refusal::Stale);
        let round = share.record_sent(1, 4);
        share.begin_round(false);
        assert_eq!(share.record_refusal(round), Refusal::Scattered, "the window has grown since");
    }
}
