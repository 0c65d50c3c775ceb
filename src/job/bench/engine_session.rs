//! One engine, kept for all measurements of a cell: what it learned in the warm-up it knows in the repeats.
//!
//! Owns the way from prompts in memory through the engine to a [`Measured`]. Knows no other rank.

use std::{
    convert::Infallible,
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::job::{dispatch::worker_start::policy, setup::run_plan::Choice};
use crate::{
    bench::Measured,
    domain::{Probe, Prompt, Seat, Settled, Surveyed},
    engine::{self, Ended, Endpoint, Running, Word, Work},
    settings::{Secret, Settings, UsageCount},
};

/// A rank's engine, or why there is none.
pub(super) struct Lane {
    endpoints: u64,
    engine: Result<Engine, String>,
    under: Under,
}

/// A measurement that is under way.
struct Under {
    measured: Measured,
    began: Instant,
    /// Requests sent, as far as is known.
    requests: u64,
    all_told: bool,
    /// Since when no endpoint is up.
    down: Option<Instant>,
}

struct Engine {
    running: Running,
    /// Its prompts come to their end without it.
    give: mpsc::Sender<Vec<Prompt>>,
    heard: mpsc::Receiver<Heard>,
    given: u64,
    /// Requests sent before this measurement.
    requests: u64,
    /// How long to go on while no endpoint is up.
    patience: Duration,
}

enum Heard {
    Settled(Instant, Vec<Settled>),
    Word(Word),
}

impl Lane {
    /// Over those of the endpoints that serve the chosen model.
    pub(super) fn start(
        settings: &Settings,
        key: Option<Secret>,
        choice: &Choice,
        found: Vec<Surveyed>,
    ) -> Self {
        let serving = |it: Surveyed| match it.probe {
            Probe::Ready(facts) if facts.models.iter().any(|it| it.id == choice.model) => {
                Some(Endpoint { url: it.url, ready: Some(facts.routes), seat: Seat::default() })
            }
            Probe::Ready(_) | Probe::NotReady(_) => None,
        };
        let endpoints: Vec<Endpoint> = found.into_iter().filter_map(serving).collect();
        let count = endpoints.len() as u64;
        let engine = match count {
            0 => Err("this rank has no endpoint".into()), // and is asked for nothing
            _ => Engine::start(settings, key, choice, endpoints),
        };
        Self { endpoints: count, engine, under: Under::default() }
    }

    /// How many endpoints it asks.
    pub(super) fn endpoints(&self) -> u64 {
        self.endpoints
    }

    /// Asks these; what comes of them is told by [`Lane::go_on`] and [`Lane::end`].
    pub(super) fn begin(&mut self, prompts: Vec<Prompt>) {
        let asked = prompts.len() as u64;
        let requests = self.engine.as_ref().map_or(0, |it| it.requests);
        self.under = Under {
            measured: Measured { asked, ..Measured::default() },
            began: Instant::now(),
            requests,
            all_told: asked == 0,
            down: None,
        };
        if asked > 0 {
            let given = match &mut self.engine {
                Ok(engine) => engine.ask(prompts),
                Err(why) => Err(why.clone()),
            };
            given.unwrap_or_else(|why| self.fail(why));
        }
    }

    /// Waits for outcomes until that time, at most until all are there. Are any missing?
    pub(super) fn go_on(&mut self, until: Instant, each: impl FnMut(&Settled)) -> bool {
        if let Ok(engine) = &mut self.engine
            && let Err(why) = engine.wait(&mut self.under, until, each)
        {
            self.fail(why);
        }
        self.under.is_going()
    }

    /// Ends what is not through yet, and says why it was not.
    pub(super) fn cut(&mut self, why: &str) {
        if !self.under.is_going() {
            return;
        }
        if self.under.measured.settled() >= self.under.measured.asked {
            self.under.all_told = true; // only the count of requests is missing
            return;
        }
        let after = super::seconds(self.under.began.elapsed());
        self.fail(format!("{why} (after {after})"));
    }

    /// What came of it.
    pub(super) fn end(&mut self) -> Measured {
        let Under { mut measured, requests, .. } = std::mem::take(&mut self.under);
        if let (Ok(engine), None) = (&mut self.engine, &measured.ended) {
            measured.requests = requests - engine.requests;
            engine.requests = requests;
        }
        measured
    }

    /// Nothing of it is through, and what is under way belongs to no later measurement.
    fn fail(&mut self, why: String) {
        self.under.measured.seconds = self.under.began.elapsed().as_secs_f64();
        self.under.measured.ended = Some(why.clone());
        self.stop(why);
    }

    fn stop(&mut self, why: String) {
        if let Ok(engine) = std::mem::replace(&mut self.engine, Err(why)) {
            engine.running.stop();
            drop(engine.give);
            engine.running.join();
        }
    }
}

impl Under {
    /// The last word of requests comes within a second, and is not part of what is measured.
    fn is_going(&self) -> bool {
        let Self { measured, all_told, .. } = self;
        measured.ended.is_none() && (measured.settled() < measured.asked || !all_told)
    }
}

impl Default for Under {
    fn default() -> Self {
        let measured = Measured::default();
        Self { measured, began: Instant::now(), requests: 0, all_told: true, down: None }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.stop("it has ended".into());
    }
}

impl Engine {
    fn start(
        settings: &Settings,
        key: Option<Secret>,
        choice: &Choice,
        endpoints: Vec<Endpoint>,
    ) -> Result<Self, String> {
        let (give, given) = mpsc::channel::<Vec<Prompt>>();
        let (tell, heard) = mpsc::channel();
        let settled = tell.clone();
        let mut policy = policy(settings, choice, 1)?;
        // Failures are what is measured, too: none of them ends the job.
        policy.alike = usize::MAX;
        if settings.usage == UsageCount::Off {
            policy.usage = engine::Count::Share;
        }
        let work = Work {
            policy,
            endpoints,
            key,
            prompts: given.into_iter().flatten().map(Ok::<_, Infallible>),
            sink: move |outcomes: Vec<Settled>| {
                let _ = settled.send(Heard::Settled(Instant::now(), outcomes)); // nobody listens: it has ended
                Ok(())
            },
        };
        let running = engine::start(work, move |word| {
            let _ = tell.send(Heard::Word(word)); // as above
        });
        let running = running.map_err(|error| format!("no thread can be started: {error}"))?;
        let patience = settings.ready_timeout.get();
        Ok(Self { running, give, heard, given: 0, requests: 0, patience })
    }

    fn ask(&mut self, prompts: Vec<Prompt>) -> Result<(), String> {
        self.given += prompts.len() as u64;
        self.running.given(self.given, true);
        self.give.send(prompts).map_err(|_| "the engine has ended".to_owned())
    }

    fn wait(
        &self,
        under: &mut Under,
        until: Instant,
        mut each: impl FnMut(&Settled),
    ) -> Result<(), String> {
        while under.is_going() {
            let left = until.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left) {
                Ok(Heard::Settled(at, outcomes)) => {
                    for settled in &outcomes {
                        under.measured.count(settled);
                        each(settled);
                    }
                    under.measured.seconds = (at - under.began).as_secs_f64();
                }
                Ok(Heard::Word(Word::Progress(progress))) => {
                    under.requests = progress.tally.requests;
                    under.all_told = progress.tally.settled() >= self.given;
                    // A run waits for longer; here every cell would.
                    let down = || under.down.unwrap_or_else(Instant::now);
                    under.down = (progress.up == 0).then(down);
                    if under.down.is_some_and(|since| since.elapsed() >= self.patience) {
                        let after = super::seconds(self.patience);
                        return Err(format!("no endpoint was up for {after}"));
                    }
                }
                Ok(Heard::Word(Word::AllAlike(..))) => self.running.go_on(),
                Ok(Heard::Word(Word::InHand(_) | Word::GivesBack(_) | Word::Watched(_))) => {}
                Ok(Heard::Word(Word::Ended(ended, _))) => return Err(words(ended)),
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err("the engine has ended".into());
                }
            }
        }
        Ok(())
    }
}

fn words(ended: Ended) -> String {
    match ended {
        Ended::NobodyLeft => "no endpoint was left to ask".into(),
        Ended::NotStarted(why) => format!("the engine could not start: {why}"),
        Ended::NotRead(why) => why,
        Ended::Finished | Ended::Stopped | Ended::NotWritten => "the engine has ended".into(),
    }
}
