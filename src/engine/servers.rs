//! The state of a rank's endpoints: who is up, who is put aside and until when. Pure but for instants it is given.
//!
//! An endpoint is put aside when it is gone, or when it fails one request after the other; it is asked again with growing
//! pauses, and an answer brings it back.

use std::time::{Duration, Instant};

use crate::domain::Url;

/// One of them.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: Url,
    /// Permits taken.
    pub(super) taken: usize,
    state: State,
    /// Faults since the last answer.
    faults: u32,
    pause: Duration,
    /// Since it came up.
    pub(super) has_answered: bool,
    /// Sequences it takes at a time, as far as it has refused more.
    limit: usize,
    /// Answers since it was last changed.
    answers: u32,
    /// The longest list it takes, as far as that is known; 1 for servers that take no lists.
    pub(super) longest_list: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// To be asked again at this time.
    Aside(Instant),
    /// Being asked.
    Asked,
}

/// Answers before a limited server is given one more at a time: it should rarely have to refuse.
const GROW_AFTER: u32 = 16;
/// Faults in a row before an endpoint is looked at.
const SUSPICIOUS: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Server {
    /// An endpoint that is ready, or is not yet.
    pub(super) fn new(url: Url, ready: bool, now: Instant) -> Self {
        let state = if ready { State::Up } else { State::Aside(now + FIRST_PAUSE) };
        Self {
            url,
            taken: 0,
            state,
            faults: 0,
            pause: FIRST_PAUSE,
            limit: usize::MAX,
            answers: 0,
            has_answered: false,
            longest_list: usize::MAX,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// It answered a request.
    pub(super) fn answered(&mut self) {
        self.faults = 0;
        self.pause = FIRST_PAUSE;
        self.has_answered = true;
        self.answers += 1;
        if self.answers >= GROW_AFTER && self.limit < usize::MAX {
            self.limit += 1;
            self.answers = 0;
        }
    }

    /// It has too much to do, with what was left of ours when it refused `permits` more.
    pub(super) fn refused(&mut self, permits: usize) {
        self.limit = if self.taken > 0 { self.taken } else { (permits / 2).max(1) };
        self.answers = 0;
    }

    /// Permits that are left of a window.
    pub(super) fn free(&self, window: usize) -> usize {
        window.min(self.limit).saturating_sub(self.taken)
    }

    /// It refused a list of so many for its length.
    pub(super) fn takes_fewer_than(&mut self, prompts: usize) {
        self.longest_list = self.longest_list.min((prompts / 2).max(1));
    }

    /// It stumbled; true if that is once too often and it is put aside.
    pub(super) fn stumbled(&mut self, now: Instant) -> bool {
        self.faults += 1;
        let aside = self.is_up() && self.faults >= SUSPICIOUS;
        if aside {
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
        self.state = State::Aside(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// When it is to be asked again.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_in_a_row_put_aside_and_answers_bring_back() {
        let now = Instant::now();
        let mut server = Server::new(Url::loopback(1), true, now);
        assert!(!server.stumbled(now) && !server.stumbled(now));
        server.answered();
        assert!(!server.stumbled(now) && !server.stumbled(now) && server.stumbled(now));
        assert!(!server.is_up() && !server.ask_now(now));
        let later = now + FIRST_PAUSE;
        assert!(server.ask_now(later) && !server.ask_now(later), "asked once at a time");
        assert!(server.was_asked(true, later) && server.is_up());
        assert!(server.stumbled(later), "it has shown nothing yet");
        assert_eq!(server.due(), Some(later + FIRST_PAUSE * 2));
    }

    #[test]
    fn refusals_lower_what_it_is_given_and_answers_raise_it() {
        let mut server = Server::new(Url::loopback(1), true, Instant::now());
        assert_eq!(server.free(64), 64);
        server.refused(64);
        assert_eq!(server.free(64), 32, "it was idle, and still refused 64");
        server.taken = 20;
        server.refused(12);
        assert_eq!(server.free(64), 0, "what it has is what it can have");
        (0..GROW_AFTER * 3).for_each(|_| server.answered());
        assert_eq!(server.free(64), 3);
    }

    #[test]
    fn pauses_grow_to_their_limit() {
        let mut now = Instant::now();
        let mut server = Server::new(Url::loopback(1), true, now);
        assert!(server.gone(now) && !server.gone(now), "news once");
        for _ in 0..12 {
            now = server.due().expect("aside");
            assert!(server.ask_now(now) && !server.was_asked(false, now));
        }
        assert_eq!(server.due(), Some(now + LONGEST_PAUSE));
    }
}
