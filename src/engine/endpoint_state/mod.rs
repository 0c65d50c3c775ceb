//! The state of a rank's endpoints: who is up, who is put aside and until when. Pure but for instants it is given.
//!
//! An endpoint is put aside when it is gone, or when it fails one request after the other; it is asked again with growing
//! pauses, and an answer brings it back. Until it has answered a request it gets one at a time: one that hangs says of
//! itself that it is well.

pub(crate) mod batch_size;
pub(crate) mod concurrency;
pub(crate) mod render_check;
pub(crate) mod timeouts;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::Policy;
use crate::domain::{Routes, Seat, Url};
use batch_size::Lists;
use concurrency::Window;
use render_check::Trust;
use timeouts::Patience;

/// One of them.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: Url,
    /// The URL as answers carry it.
    pub(super) label: Arc<str>,
    /// Its place in the job's timeline, and whether it was up when that was looked at last.
    pub(super) seat: Seat,
    pub(super) was_up: bool,
    /// Permits taken.
    pub(super) taken: usize,
    state: State,
    /// Faults since the last answer.
    faults: u32,
    pause: Duration,
    /// Refusals for want of room since the last answer.
    refusals: u32,
    /// It was put aside, and has answered nothing since.
    proving: bool,
    /// Since it came up.
    pub(super) has_answered: bool,
    /// In this run.
    pub(super) ever_answered: bool,
    /// The longest list it takes, as far as that is known; 1 for servers that take no lists.
    pub(super) longest_list: usize,
    pub(super) window: Window,
    pub(super) lists: Lists,
    pub(super) patience: Patience,
    /// May conversations be rendered here for it?
    pub(super) trust: Trust,
    /// Questions in a row after its load that were not answered.
    mute: u32,
    /// Its window was used up when all was sent that could be.
    pub(super) was_full: bool,
    /// When it is to say how much it has to do; none while it is being asked.
    next_load: Option<Instant>,
    /// A rate limit lets the next request begin then.
    next_start: Instant,
}

/// An endpoint as the engine is given it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub url: Url,
    /// What it can be asked; none while it is not ready.
    pub ready: Option<Routes>,
    /// Its place among all of the job's.
    pub seat: Seat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// To be asked again at this time.
    Aside(Instant),
    /// Being asked.
    Asked,
}

/// Faults in a row before an endpoint is looked at.
const SUSPICIOUS: u32 = 3;
/// Questions after its load that a server may leave unanswered in a row.
const MUTE: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A rate limit's timers are late by no more.
const LATENESS: Duration = Duration::from_millis(10);
const REFUSED_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_REFUSED_PAUSE: Duration = Duration::from_secs(1);

impl Server {
    /// An endpoint that is ready, or is not yet.
    pub(super) fn new(endpoint: Endpoint, policy: &Policy, now: Instant) -> Self {
        let Endpoint { url, ready, seat } = endpoint;
        let state = if ready.is_some() { State::Up } else { State::Aside(now + FIRST_PAUSE) };
        // What is not known yet is taken to be a vLLM; one that does not say how it is shows that.
        let told = ready.is_none_or(|routes| routes.metrics);
        let window = Window::new(policy.window, policy.sequences(), told);
        Self {
            label: url.to_string().into(),
            url,
            seat,
            was_up: ready.is_some(),
            taken: 0,
            state,
            faults: 0,
            pause: FIRST_PAUSE,
            refusals: 0,
            proving: false,
            has_answered: false,
            ever_answered: false,
            longest_list: usize::MAX,
            mute: 0,
            was_full: false,
            next_load: window.asks().then(|| now + window.again_in()),
            window,
            lists: Lists::new(policy.batch),
            patience: Patience::default(),
            trust: Trust::new(policy.renderer.is_some()),
            next_start: now,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Up, and not only by its own word.
    pub(super) fn is_well(&self) -> bool {
        self.is_up() && !self.proving
    }

    /// Has it room, and is it well?
    pub(super) fn is_free_and_well(&self, now: Instant) -> bool {
        self.is_well() && self.free(now) > 0
    }

    /// It answered a request.
    pub(super) fn answered(&mut self) {
        self.faults = 0;
        self.pause = FIRST_PAUSE;
        self.has_answered = true;
        self.ever_answered = true;
        self.proving = false;
        self.refusals = 0;
    }

    /// Permits that are left.
    pub(super) fn free(&self, now: Instant) -> usize {
        if !self.is_up() || now < self.next_start {
            0
        } else if self.proving {
            1_usize.saturating_sub(self.taken)
        } else {
            self.window.size().saturating_sub(self.taken)
        }
    }

    /// The longest list it is asked for now.
    pub(super) fn most(&self) -> usize {
        if self.proving { 1 } else { self.lists.most(self.window.size()).min(self.longest_list) }
    }

    /// A request begins.
    pub(super) fn begins(&mut self, permits: usize, rate_limit: Option<f64>, now: Instant) {
        self.taken += permits;
        if let Some(rate) = rate_limit {
            // What timers are late by is made up for.
            let late = now.checked_sub(LATENESS).unwrap_or(now);
            self.next_start = self.next_start.max(late) + Duration::from_secs_f64(1.0 / rate);
        }
    }

    /// When a rate limit lets the next request begin, if that is not at once.
    pub(super) fn starts_at(&self, now: Instant) -> Option<Instant> {
        Some(self.next_start).filter(|&start| self.is_up() && start > now)
    }

    /// It has too much to do, with `level` sequences in flight of which `sequences` were refused now. After the second
    /// refusal in a row nothing is sent for a moment, and for longer each time: asking more often brings nothing.
    pub(super) fn refused(&mut self, level: usize, sequences: usize, now: Instant) {
        self.window.refused(level, sequences);
        self.refusals = (self.refusals + 1).min(8);
        if self.refusals > 1 {
            let pause = REFUSED_PAUSE * 2_u32.pow(self.refusals - 2);
            self.next_start = self.next_start.max(now + pause.min(LONGEST_REFUSED_PAUSE));
        }
    }

    /// It refused a list of so many for its length.
    pub(super) fn takes_fewer_than(&mut self, prompts: usize) {
        self.longest_list = self.longest_list.min((prompts / 2).max(1));
    }

    /// It stumbled; true if that is once too often and it is put aside, for a moment only if it may be the prompts.
    pub(super) fn stumbled(&mut self, now: Instant, briefly: bool) -> bool {
        self.faults += 1;
        let aside = self.is_up() && self.faults >= SUSPICIOUS;
        if aside {
            if briefly {
                self.pause = FIRST_PAUSE;
            }
            self.put_aside(now);
        }
        aside
    }

    /// It is gone; true if that is news.
    pub(super) fn gone(&mut self, now: Instant) -> bool {
        let news = self.is_up();
        if news {
            self.put_aside(now);
        }
        news
    }

    fn put_aside(&mut self, now: Instant) {
        self.has_answered = false;
        self.proving = true;
        self.state = State::Aside(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// When it is to be asked again whether it is ready.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Aside(due) => Some(due),
            State::Up | State::Asked => None,
        }
    }

    /// Is it time to ask? Then it counts as being asked.
    pub(super) fn ask_now(&mut self, now: Instant) -> bool {
        let due = self.due().is_some_and(|due| due <= now);
        if due {
            self.state = State::Asked;
        }
        due
    }

    /// It was asked; true if it is back.
    pub(super) fn was_asked(&mut self, ready: bool, now: Instant) -> bool {
        if ready {
            // Its faults are kept: one more and it is aside again, for twice as long.
            self.state = State::Up;
            self.faults = self.faults.min(SUSPICIOUS - 1);
        } else {
            self.put_aside(now);
        }
        ready
    }

    /// When it is to say how much it has to do.
    pub(super) fn load_due(&self) -> Option<Instant> {
        self.next_load.filter(|_| self.is_up() && self.taken > 0)
    }

    /// It is being asked how much it has to do.
    pub(super) fn asks_load(&mut self) {
        self.next_load = None;
    }

    /// It said how much it has to do, or nothing. One that says nothing again and again is not asked any more.
    pub(super) fn load_told(&mut self, told: bool, now: Instant) {
        self.mute = if told { 0 } else { self.mute + 1 };
        if self.mute >= MUTE {
            self.window.is_not_told();
        }
        self.next_load = self.window.asks().then(|| now + self.window.again_in());
    }

    /// Is its window used up?
    pub(super) fn is_full(&self) -> bool {
        self.taken * 10 >= self.window.size() * 9
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::for_tests;

    fn server(now: Instant) -> Server {
        let ready = Some(Routes { metrics: true, ..Routes::default() });
        let endpoint = Endpoint { url: Url::loopback(1), ready, seat: Seat::default() };
        Server::new(endpoint, &for_tests(), now)
    }

    #[test]
    fn faults_in_a_row_put_aside_and_answers_bring_back() {
        let now = Instant::now();
        let mut server = server(now);
        assert!(!server.stumbled(now, false) && !server.stumbled(now, false));
        server.answered();
        assert!(!server.stumbled(now, false) && !server.stumbled(now, false));
        assert!(server.stumbled(now, false));
        assert!(!server.is_up() && !server.ask_now(now));
        let later = now + FIRST_PAUSE;
        assert!(server.ask_now(later) && !server.ask_now(later), "asked once at a time");
        assert!(server.was_asked(true, later) && server.is_up());
        assert_eq!((server.free(later), server.most()), (1, 1), "it has shown nothing yet");
        assert!(server.stumbled(later, false));
        assert_eq!(server.due(), Some(later + FIRST_PAUSE * 2));
        assert!(server.ask_now(later + FIRST_PAUSE * 2) && server.was_asked(true, later));
        server.answered();
        assert_eq!(server.free(later), 8);
    }

    #[test]
    fn pauses_grow_to_their_limit() {
        let mut now = Instant::now();
        let mut server = server(now);
        assert!(server.gone(now) && !server.gone(now), "news once");
        for _ in 0..12 {
            now = server.due().expect("aside");
            assert!(server.ask_now(now) && !server.was_asked(false, now));
        }
        assert_eq!(server.due(), Some(now + LONGEST_PAUSE));
    }

    #[test]
    fn refusals_in_a_row_are_waited_out() {
        let now = Instant::now();
        let mut server = server(now);
        server.refused(8, 1, now);
        assert_eq!(server.starts_at(now), None, "once may be chance");
        for _ in 0..20 {
            server.refused(8, 1, now);
        }
        assert_eq!(server.starts_at(now), Some(now + LONGEST_REFUSED_PAUSE));
        server.answered();
        server.refused(8, 1, now + LONGEST_REFUSED_PAUSE);
        assert_eq!(server.starts_at(now + LONGEST_REFUSED_PAUSE), None);
    }

    #[test]
    fn a_rate_limit_spaces_requests() {
        let now = Instant::now();
        let mut server = server(now);
        server.begins(1, Some(4.0), now);
        server.begins(1, Some(4.0), now);
        server.taken -= 1;
        let next = server.starts_at(now).expect("a limit");
        let after = next - now;
        assert!((400..=500).contains(&after.as_millis()), "{after:?}");
        assert_eq!((server.free(now), server.starts_at(now)), (0, Some(next)));
        assert_eq!((server.free(next), server.starts_at(next)), (7, None));
        server.begins(1, None, next);
        assert_eq!(server.free(next), 6);
    }
}
