//! One engine, kept for all measurements of a cell: what it learned in the warm-up it knows in the repeats.
//!
//! Owns the way from prompts in memory through the engine to a [`Measured`]. Knows no other rank.

use std::{
    convert::Infallible,
    sync::mpsc,
    time::{Duration, Instant},
};

use super::super::{brief::Choice, work::policy};
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
        Self { endpoints: count, engine }
    }

    /// How many endpoints it asks.
    pub(super) fn endpoints(&self) -> u64 {
        self.endpoints
    }

    /// Asks these and waits for all outcomes, until that time, and then says what it is that was over.
    pub(super) fn measure(
        &mut self,
        prompts: Vec<Prompt>,
        until: (Instant, &str),
        each: impl FnMut(&Settled),
    ) -> Measured {
        let mut measured = Measured { asked: prompts.len() as u64, ..Measured::default() };
        if prompts.is_empty() {
            return measured;
        }
        let ended = match &mut self.engine {
            Ok(engine) => engine.measure(prompts, until, &mut measured, each),
            Err(why) => Err(why.clone()),
        };
        if let Err(why) = ended {
            measured.ended = Some(why.clone());
            // What is under way belongs to no later measurement.
            self.end(why);
        }
        measured
    }

    fn end(&mut self, why: String) {
        if let Ok(engine) = std::mem::replace(&mut self.engine, Err(why)) {
            engine.running.stop();
            drop(engine.give);
            engine.running.join();
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.end("it has ended".into());
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

    fn measure(
        &mut self,
        prompts: Vec<Prompt>,
        (until, name): (Instant, &str),
        measured: &mut Measured,
        mut each: impl FnMut(&Settled),
    ) -> Result<(), String> {
        self.given += measured.asked;
        let began = Instant::now();
        self.running.given(self.given, true);
        self.give.send(prompts).map_err(|_| "the engine has ended".to_owned())?;
        let mut requests = self.requests;
        let (mut all_told, mut down) = (false, None);
        // The last word of requests comes within a second, and is not part of what is measured.
        while measured.settled() < measured.asked || !all_told {
            let left = until.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left) {
                Ok(Heard::Settled(at, outcomes)) => {
                    for settled in &outcomes {
                        measured.count(settled);
                        each(settled);
                    }
                    measured.seconds = (at - began).as_secs_f64();
                }
                Ok(Heard::Word(Word::Progress(progress))) => {
                    requests = progress.tally.requests;
                    all_told = progress.tally.settled() >= self.given;
                    // A run waits for longer; here every cell would.
                    down = (progress.up == 0).then(|| down.unwrap_or_else(Instant::now));
                    if down.is_some_and(|since| since.elapsed() >= self.patience) {
                        let after = super::seconds(self.patience);
                        measured.seconds = began.elapsed().as_secs_f64();
                        return Err(format!("no endpoint was up for {after}"));
                    }
                }
                Ok(Heard::Word(Word::AllAlike(..))) => self.running.go_on(),
                Ok(Heard::Word(Word::InHand(_) | Word::GivesBack(_) | Word::Watched(_))) => {}
                Ok(Heard::Word(Word::Ended(ended, _))) => return Err(words(ended)),
                Err(_) if measured.settled() >= measured.asked => all_told = true,
                Err(_) => {
                    measured.seconds = began.elapsed().as_secs_f64();
                    let after = super::seconds(began.elapsed());
                    return Err(format!("{name} (after {after})"));
                }
            }
        }
        measured.requests = requests - self.requests;
        self.requests = requests;
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
