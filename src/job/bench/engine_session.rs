//! An engine kept for all measurements of a cell, so that what it learned in the warm-up applies to the repeats.
//!
//! Owns the path from prompts in memory through the engine to a [`BenchMeasurement`]. Knows no other rank: starting
//! ranks together and merging their measurements is `measure.rs`.

use std::{
    convert::Infallible,
    sync::mpsc,
    time::{Duration, Instant},
};

use crate::job::setup::{engine_policy::engine_policy, run_plan::ModelSelection};
use crate::{
    bench::BenchMeasurement,
    domain::{EndpointStatus, ModelSet, ProbeResult, Prompt, PromptResult},
    engine::{self, Endpoint, EngineCommand, EngineEvent, EngineExit, EngineHandle, EngineSetup},
    metrics::timeline::TimelineSlot,
    settings::{ApiKey, HumanDuration, Settings, UsageMode},
};

/// Engine of this rank, or the reason why there is none, and the active measurement.
pub(super) struct EngineSession {
    endpoint_count: u64,
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
    handle: EngineHandle,
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
        selection: &ModelSelection,
        statuses: Vec<EndpointStatus>,
    ) -> Self {
        let serves_model = |status: EndpointStatus| match status.probe {
            ProbeResult::Ready(info)
                if info.models.iter().any(|model| model.id == selection.model) =>
            {
                Some(Endpoint {
                    url: status.url,
                    ready_routes: Some(info.routes),
                    models: ModelSet::of_model(0), // a benchmark has one model
                    timeline_row: TimelineSlot::default(),
                })
            }
            ProbeResult::Ready(_) | ProbeResult::NotReady(_) | ProbeResult::Unusable(_) => None,
        };
        let endpoints: Vec<Endpoint> = statuses.into_iter().filter_map(serves_model).collect();
        let endpoint_count = endpoints.len() as u64;
        let engine = match endpoint_count {
            0 => Err("this rank has no endpoint".into()), // and gets no prompts
            _ => SessionEngine::start_engine(settings, key, selection, endpoints),
        };
        Self { endpoint_count, engine, active: ActiveMeasurement::default() }
    }

    pub(super) fn endpoint_count(&self) -> u64 {
        self.endpoint_count
    }

    /// Submits the prompts of a measurement; [`EngineSession::wait_until`] counts their outcomes.
    pub(super) fn start_measurement(&mut self, prompts: Vec<Prompt>) {
        let asked = prompts.len() as u64;
        let requests = self.engine.as_ref().map_or(0, |engine| engine.requests_before);
        self.active = ActiveMeasurement {
            measured: BenchMeasurement { asked, ..BenchMeasurement::default() },
            started: Instant::now(),
            requests,
            tally_complete: asked == 0,
            down_since: None,
        };
        if asked > 0 {
            let submitted = match &mut self.engine {
                Ok(engine) => engine.submit_prompts(prompts),
                Err(reason) => Err(reason.clone()),
            };
            submitted.unwrap_or_else(|reason| self.fail_measurement(reason));
        }
    }

    /// Counts outcomes until all have arrived or the time is reached; returns whether any are missing.
    pub(super) fn wait_until(&mut self, until: Instant, each: impl FnMut(&PromptResult)) -> bool {
        if let Ok(engine) = &mut self.engine
            && let Err(reason) = engine.collect_results(&mut self.active, until, each)
        {
            self.fail_measurement(reason);
        }
        self.active.is_running()
    }

    /// Ends a measurement that is still running, for this reason.
    pub(super) fn cut_short(&mut self, reason: &str) {
        if !self.active.is_running() {
            return;
        }
        if self.active.measured.outcome_count() >= self.active.measured.asked {
            self.active.tally_complete = true; // only the final count of requests is missing
            return;
        }
        let after = format_seconds(self.active.started.elapsed());
        self.fail_measurement(format!("{reason} (after {after})"));
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

    /// Fails the active measurement and stops the engine, since outcomes of requests in flight must not count for a
    /// later one.
    fn fail_measurement(&mut self, reason: String) {
        self.active.measured.seconds = self.active.started.elapsed().as_secs_f64();
        self.active.measured.end_reason = Some(reason.clone());
        self.stop_engine(reason);
    }

    fn stop_engine(&mut self, reason: String) {
        if let Ok(engine) = std::mem::replace(&mut self.engine, Err(reason)) {
            engine.handle.send_command(EngineCommand::Stop);
            drop(engine.prompt_sender);
            engine.handle.join();
        }
    }
}

impl ActiveMeasurement {
    /// Outcomes end the measured time; the engine's final count of requests follows within a second.
    fn is_running(&self) -> bool {
        let Self { measured, tally_complete, .. } = self;
        measured.end_reason.is_none()
            && (measured.outcome_count() < measured.asked || !tally_complete)
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
        selection: &ModelSelection,
        endpoints: Vec<Endpoint>,
    ) -> Result<Self, String> {
        let (prompt_sender, prompt_receiver) = mpsc::channel::<Vec<Prompt>>();
        let (event_sender, event_receiver) = mpsc::channel();
        let result_sender = event_sender.clone();
        let mut policy = engine_policy(settings, selection, 1, false)?;
        // Failures are measured too, so fail-fast is off.
        policy.fail_fast_threshold = usize::MAX;
        if settings.usage == UsageMode::Off {
            policy.token_counting = engine::TokenCounting::Share;
        }
        let setup = EngineSetup {
            policy,
            endpoints,
            api_key: key,
            prompts: prompt_receiver.into_iter().flatten().map(Ok::<_, Infallible>),
            read_ahead: engine::MAX_READ_AHEAD,
            sink: move |outcomes: Vec<PromptResult>| {
                // Fails only if the session has ended.
                let _ = result_sender.send(SessionEvent::Results(Instant::now(), outcomes));
                Ok(())
            },
        };
        let handle = engine::spawn_engine(setup, move |event| {
            let _ = event_sender.send(SessionEvent::Engine(event)); // as above
        });
        let handle = handle.map_err(|error| format!("cannot start a thread: {error}"))?;
        let down_timeout = settings.ready_timeout.to_duration();
        Ok(Self {
            handle,
            prompt_sender,
            event_receiver,
            prompts_given: 0,
            requests_before: 0,
            down_timeout,
        })
    }

    fn submit_prompts(&mut self, prompts: Vec<Prompt>) -> Result<(), String> {
        self.prompts_given += prompts.len() as u64;
        self.handle.send_command(EngineCommand::SetSupplied(self.prompts_given, true));
        self.prompt_sender.send(prompts).map_err(|_| "the engine has ended".to_owned())
    }

    fn collect_results(
        &self,
        active: &mut ActiveMeasurement,
        until: Instant,
        mut each: impl FnMut(&PromptResult),
    ) -> Result<(), String> {
        while active.is_running() {
            let left = until.saturating_duration_since(Instant::now());
            match self.event_receiver.recv_timeout(left) {
                Ok(SessionEvent::Results(at, outcomes)) => {
                    for result in &outcomes {
                        active.measured.count_outcome(result);
                        each(result);
                    }
                    active.measured.seconds = (at - active.started).as_secs_f64();
                }
                Ok(SessionEvent::Engine(EngineEvent::Progress(progress))) => {
                    active.requests = progress.tally.requests;
                    active.tally_complete = progress.tally.settled_count() >= self.prompts_given;
                    // A run waits longer for its endpoints to return; here every cell would.
                    let down = || active.down_since.unwrap_or_else(Instant::now);
                    active.down_since = (progress.endpoints_up == 0).then(down);
                    if active.down_since.is_some_and(|since| since.elapsed() >= self.down_timeout) {
                        let after = format_seconds(self.down_timeout);
                        return Err(format!("no endpoint was up for {after}"));
                    }
                }
                Ok(SessionEvent::Engine(EngineEvent::FailFastTripped(..))) => {
                    self.handle.send_command(EngineCommand::Proceed);
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

/// Formats a duration in whole seconds, at least one, such as `1m30s`.
fn format_seconds(duration: Duration) -> String {
    HumanDuration::from_secs(duration.as_secs().max(1)).to_string()
}

fn describe_end(ended: EngineExit) -> String {
    match ended {
        EngineExit::Stalled => "no endpoint was reachable".into(),
        EngineExit::StartFailed(reason) => format!("the engine could not start: {reason}"),
        EngineExit::ReadFailed(reason) => reason,
        EngineExit::Finished | EngineExit::Stopped | EngineExit::WriteFailed => {
            "the engine has ended".into()
        }
    }
}
