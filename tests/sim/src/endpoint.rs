//! One endpoint: its profile, its engine, its counters and the phase of its life.
//!
//! It owns what all of an endpoint's connections share, and the ways its life can end. Sockets
//! are the server's, requests the routes'.

use crate::cache::mix;
use crate::pace::Pace;
use crate::profile::{Death, OnTerm, Profile};
use crate::script::{Fault, Play, Script};
use crate::seen::Tally;
use crate::sync::lock;
use crate::wire::chunks;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Where an endpoint's life stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The port is bound and refuses.
    Loading,
    /// All is well.
    Serving,
    /// New requests get 500, those under way finish.
    Draining,
    /// New connections are refused, requests under way hang.
    Hanging,
    /// The engine is dead and the server about to be.
    Dying,
    /// Nothing is left.
    Gone,
}

/// What the connections of an endpoint share.
pub struct Endpoint {
    /// What kind of server it is.
    pub profile: Profile,
    /// Its engine.
    pub pace: Arc<Pace>,
    /// Its counters.
    pub tally: Tally,
    /// The fingerprint of its settings.
    pub fingerprint: String,
    play: Mutex<Play>,
    phase: watch::Sender<Phase>,
    born: Instant,
    answers: AtomicU64,
}

impl Endpoint {
    /// An endpoint that is loading.
    #[must_use]
    pub fn new(profile: Profile) -> Arc<Self> {
        Arc::new(Self {
            pace: Arc::new(Pace::new(&profile)),
            tally: Tally::default(),
            fingerprint: chunks::fingerprint(&profile),
            play: Mutex::new(Play::of(profile.script.clone())),
            phase: watch::Sender::new(Phase::Loading),
            born: Instant::now(),
            answers: AtomicU64::new(0),
            profile,
        })
    }

    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Changes of the phase.
    #[must_use]
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Goes on to a phase; from `Gone` there is no way back.
    pub fn enter(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let changes = *phase != next && *phase != Phase::Gone;
            if changes {
                *phase = next;
            }
            changes
        });
    }

    /// What a SIGTERM does.
    pub fn terminate(&self) {
        match self.profile.on_term {
            OnTerm::Exit => self.enter(Phase::Gone),
            OnTerm::Drain => self.enter(Phase::Draining),
            OnTerm::Hang => {
                self.pace.stall();
                self.enter(Phase::Hanging);
            }
        }
    }

    /// Kills the engine process: 500 for all that is under way.
    pub fn kill_engine(&self) {
        self.enter(Phase::Dying);
        self.pace.die();
    }

    /// Plays another script from now on.
    pub fn set_script(&self, script: Script) {
        *lock(&self.play) = Play::of(script);
    }

    /// The fault of the next request, if any.
    pub fn next_fault(&self, body: &[u8]) -> Option<Fault> {
        let mut play = lock(&self.play);
        if play.is_empty() {
            return None;
        }
        let fault = play.next(self.born.elapsed(), body);
        drop(play);
        Tally::add(&self.tally.faults, u64::from(fault.is_some()));
        fault
    }

    /// An id for an answer, as random as they look on a real server.
    #[must_use]
    pub fn answer_id(&self) -> String {
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        let port = u64::from(self.profile.port);
        format!("{:016x}", mix(mix(port, self.started()), number))
    }

    /// Counts answered prompts.
    pub fn served(
        &self,
        route: &'static str,
        hashes: impl IntoIterator<Item = u64>,
        tokens: (usize, usize),
    ) {
        self.tally.served(route, hashes, tokens);
    }

    /// Dies if it has answered all the prompts it should. Called when a request arrives, since an answer that is counted
    /// may still be on its way to the client: dying at once would cut it off, sooner or later as the machine is slow or fast.
    pub fn die_if_due(&self) {
        if let Some(Death::Prompts(most)) = self.profile.die
            && self.tally.served_count() >= most
        {
            self.enter(Phase::Gone);
        }
    }

    /// When it was started, in seconds since 1970.
    #[must_use]
    pub fn started(&self) -> u64 {
        now().saturating_sub(self.born.elapsed().as_secs())
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
