//! An engine kept for all measurements of a cell, so that what it learned in the warm-up applies to the repeats.
//!
//! Owns the path from prompts in memory through the engine to a [`BenchMeasurement`]. Knows no other rank: starting ranks
//! together and merging their measurements is `measure.rs`.

use std::{
    convert::Infallible,
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::job::{dispatch::worker_start::engine_policy, setup::run_plan::ModelSelection};
use crate::{
    bench::BenchMeasurement,
    domain::{EndpointStatus, ProbeResult, Prompt, PromptResult, TimelineSlot},
    engine::{self, Endpoint, EngineEvent, EngineExit, EngineHandle, EngineSetup},
    settings::{ApiKey, Settings, UsageMode},
};

/// Engine of this rank, or the reason why there is none, and the active measurement.
pub(super) struct EngineSession {
    endpoints: u64,
    engine: Result<SessionEngine, String>,
    active: ActiveMeasurement,
}

struct ActiveMeasurement {
    measured: BenchMeasurement,
    started: Instant,
    /// Requests sent since the engine started, as last reported.
    requests: u64,
    tally_complete: bool,
    /// Time since which no endpoint has been up.
    down_since: Option<Instant>,
}

struct SessionEngine {
    running: EngineHandle,
    /// Dropping it ends the engine's prompt stream.
    prompt_sender: mpsc::Sender<Vec<Prompt>>,
    event_receiver: mpsc::Receiver<SessionEvent>,
    prompts_given: u64,
    /// Requests sent before the active measurement.
    requests_before: u64,
    /// Longest wait while no endpoint is up.
    down_timeout: Duration,
}

enum SessionEvent {
    Results(Instant, Vec<PromptResult>),
    Engine(EngineEvent),
}

impl EngineSession {
    /// Starts an engine for those endpoints that serve the selected model.
    pub(super) fn start_session(
        settings: &Settings,
        key: Option<ApiKey>,
        choice: &ModelSelection,
        found: Vec<EndpointStatus>,
    ) -> Self {
        let serving = |it: EndpointStatus| match it.probe {
            ProbeResult::Ready(facts) if facts.models.iter().any(|it| it.id == choice.model) => {
                Some(Endpoint {
                    url: it.url,
                    ready_routes: Some(facts.routes),
                    timeline_row: TimelineSlot::default(),
                })
            }
            ProbeResult::Ready(_) | ProbeResult::NotReady(_) => None,
        };
        let endpoints: Vec<Endpoint> = found.into_iter().filter_map(serving).collect();
        let count = endpoints.len() as u64;
        let engine = match count {
            0 => Err("this rank has no endpoint".into()), // and gets no prompts
            _ => SessionEngine::start_engine(settings, key, choice, endpoints),
        };
        Self { endpoints: count, engine, active: ActiveMeasurement::default() }
    }

    pub(super) fn endpoint_count(&self) -> u64 {
        self.endpoints
    }

    /// Submits the prompts of a measurement; [`EngineSession::wait_until`] counts their outcomes.
    pub(super) fn start_measurement(&mut self, prompts: Vec<Prompt>) {
        let asked = prompts.len() as u64;
        let requests = self.engine.as_ref().map_or(0, |it| it.requests_before);
        self.active = ActiveMeasurement {
            measured: BenchMeasurement { asked, ..BenchMeasurement::default() },
            started: Instant::now(),
            requests,
            tally_complete: asked == 0,
            down_since: None,
        };
        if asked > 0 {
            let given = match &mut self.engine {
                Ok(engine) => engine.submit_prompts(prompts),
                Err(why) => Err(why.clone()),
            };
            given.unwrap_or_else(|why| self.fail_measurement(why));
        }
    }

    /// Counts outcomes until all have arrived or the time is reached; returns whether any are missing.
    pub(super) fn wait_until(&mut self, until: Instant, each: impl FnMut(&PromptResult)) -> bool {
        if let Ok(engine) = &mut self.engine
            && let Err(why) = engine.collect_results(&mut self.active, until, each)
        {
            self.fail_measurement(why);
        }
        self.active.is_running()
    }

    /// Ends a measurement that is still running, for this reason.
    pub(super) fn cut_short(&mut self, why: &str) {
        if !self.active.is_running() {
            return;
        }
        if self.active.measured.outcome_count() >= self.active.measured.asked {
            self.active.tally_complete = true; // only the final count of requests is missing
            return;
        }
        let after = super::format_seconds(self.active.started.elapsed());
        self.fail_measurement(format!("{why} (after {after})"));
    }

    /// Returns the result of the active measurement and resets it.
    pub(super) fn take_measurement(&mut self) -> BenchMeasurement {
        let ActiveMeasurement { mut measured, requests, .. } = std::mem::take(&mut self.active);
        if let (Ok(engine), None) = (&mut self.engine, &measured.end_reason) {
            measured.requests = requests - engine.requests_before;
            engine.requests_before = requests;
        }
        measured
    }

    /// Fails the active measurement and stops the engine, since outcomes of requests in flight must not count for a later one.
    fn fail_measurement(&mut self, why: String) {
        self.active.measured.seconds = self.active.started.elapsed().as_secs_f64();
        self.active.measured.end_reason = Some(why.clone());
        self.stop_engine(why);
    }

    fn stop_engine(&mut self, why: String) {
        if let Ok(engine) = std::mem::replace(&mut self.engine, Err(why)) {
            engine.running.stop();
            drop(engine.prompt_sender);
            engine.running.join();
        }
    }
}

impl ActiveMeasurement {
    /// Outcomes end the measured time; the engine's final count of requests follows within a second.
    fn is_running(&self) -> bool {
        let Self { measured, tally_complete: all_told, .. } = self;
        measured.end_reason.is_none() && (measured.outcome_count() < measured.asked || !all_told)
    }
}

impl Default for ActiveMeasurement {
    fn default() -> Self {
        let measured = BenchMeasurement::default();
        Self {
            measured,
            started: Instant::now(),
            requests: 0,
            tally_complete: true,
            down_since: None,
        }
    }
}

impl Drop for EngineSession {
    fn drop(&mut self) {
        self.stop_engine("the session has ended".into());
    }
}

impl SessionEngine {
    fn start_engine(
        settings: &Settings,
        key: Option<ApiKey>,
        choice: &ModelSelection,
        endpoints: Vec<Endpoint>,
    ) -> Result<Self, String> {
        let (give, given) = mpsc::channel::<Vec<Prompt>>();
        let (tell, heard) = mpsc::channel();
        let settled = tell.clone();
        let mut policy = engine_policy(settings, choice, 1)?;
        // Failures are measured too, so fail-fast is off.
        policy.fail_fast_threshold = usize::MAX;
        if settings.usage == UsageMode::Off {
            policy.token_counting = engine::TokenCounting::Share;
        }
        let work = EngineSetup {
            policy,
            endpoints,
            api_key: key,
            prompts: given.into_iter().flatten().map(Ok::<_, Infallible>),
            sink: move |outcomes: Vec<PromptResult>| {
                let _ = settled.send(SessionEvent::Results(Instant::now(), outcomes)); // nobody listens: it has ended
                Ok(())
            },
        };
        let running = engine::spawn_engine(work, move |word| {
            let _ = tell.send(SessionEvent::Engine(word)); // as above
        });
        let running = running.map_err(|error| format!("no thread can be started: {error}"))?;
        let patience = settings.ready_timeout.to_duration();
        Ok(Self {
            running,
            prompt_sender: give,
            event_receiver: heard,
            prompts_given: 0,
            requests_before: 0,
            down_timeout: patience,
        })
    }

    fn submit_prompts(&mut self, prompts: Vec<Prompt>) -> Result<(), String> {
        self.prompts_given += prompts.len() as u64;
        self.running.set_supplied(self.prompts_given, true);
        self.prompt_sender.send(prompts).map_err(|_| "the engine has ended".to_owned())
    }

    fn collect_results(
        &self,
        under: &mut ActiveMeasurement,
        until: Instant,
        mut each: impl FnMut(&PromptResult),
    ) -> Result<(), String> {
        while under.is_running() {
            let left = until.saturating_duration_since(Instant::now());
            match self.event_receiver.recv_timeout(left) {
                Ok(SessionEvent::Results(at, outcomes)) => {
                    for settled in &outcomes {
                        under.measured.count_outcome(settled);
                        each(settled);
                    }
                    under.measured.seconds = (at - under.started).as_secs_f64();
                }
                Ok(SessionEvent::Engine(EngineEvent::Progress(progress))) => {
                    under.requests = progress.tally.requests;
                    under.tally_complete = progress.tally.settled_count() >= self.prompts_given;
                    // A run waits longer for its endpoints to return; here every cell would.
                    let down = || under.down_since.unwrap_or_else(Instant::now);
                    under.down_since = (progress.endpoints_up == 0).then(down);
                    if under.down_since.is_some_and(|since| since.elapsed() >= self.down_timeout) {
                        let after = super::format_seconds(self.down_timeout);
                        return Err(format!("no endpoint was up for {after}"));
                    }
                }
                Ok(SessionEvent::Engine(EngineEvent::FailFastTripped(..))) => {
                    self.running.proceed()
                }
                Ok(SessionEvent::Engine(
                    EngineEvent::Backlog(_)
                    | EngineEvent::PromptsReturned(_)
                    | EngineEvent::TimelineRecorded(_),
                )) => {}
                Ok(SessionEvent::Engine(EngineEvent::Ended(ended, _))) => {
                    return Err(describe_end(ended));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err("the engine has ended".into());
                }
            }
        }
        Ok(())
    }
}

fn describe_end(ended: EngineExit) -> String {
    match ended {
        EngineExit::Stalled => "no endpoint was reachable".into(),
        EngineExit::StartFailed(why) => format!("the engine could not start: {why}"),
        EngineExit::ReadFailed(why) => why,
        EngineExit::Finished | EngineExit::Stopped | EngineExit::WriteFailed => {
            "the engine has ended".into()
        }
    }
}
