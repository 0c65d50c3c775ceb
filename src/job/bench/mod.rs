//! `bench`: what servers can do, measured with the engine that `run` asks them with.
//!
//! Owns the beginning that all three commands share, and what every measurement goes through: all ranks begin together,
//! each asks its own endpoints, rank 0 sums up. Nothing is written but the report. Unlike a run, ranks meet in collectives
//! between measurements: each of these ends by itself in time.

mod cancel;
mod compare;
mod engine_session;
mod models;
mod output_files;
mod prompt_source;
mod sweep;

pub use compare::bench_compare;
pub use models::bench_models;
pub use sweep::bench_sweep;

use std::time::{Duration, Instant};

use super::{
    ErrorCodeFn, Invocation, JobError, JobVerdict,
    context::{JobContext, establish_context, root_result},
    setup::{
        deadline::Deadline,
        model_selection::{SelectionInputs, select_model_and_route},
        readiness::wait_for_endpoints,
        run_plan::ModelSelection,
        servers::{LocalServers, start_servers},
    },
};
use crate::{
    bench::{
        BenchConditions, BenchMeasurement, BenchRun, add_cache_salt, has_cache_salt,
        supports_cache_salt,
    },
    comm::{Comm, TypedComm},
    console,
    domain::{EndpointStatus, ProbeResult, Prompt, PromptResult, Url},
    settings::{AutoOrCount, HumanDuration, Settings, SettingsError},
};
use cancel::{BenchCancellation, CancelVote, VOTE_INTERVAL};
use engine_session::EngineSession;
use output_files::BenchReportFiles;
use prompt_source::BenchPromptSource;

/// Where the logs of servers go that are started to be measured: here.
const BENCH_LOG_FOLDER: &str = "bench.servers";

/// What all three commands are told besides settings.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Where prompts come from; none: they are made up.
    pub inputs: Vec<String>,
    /// How often each thing is measured.
    pub repeats: u32,
    /// Prompts an endpoint and measurement; none: what the command thinks best.
    pub prompts: Option<u64>,
    /// The length of prompts that are made up, in tokens.
    pub prompt_tokens: usize,
    /// A measurement that takes longer has failed.
    pub time_limit: HumanDuration,
    /// Where the report goes, as JSON.
    pub output: Option<String>,
    /// Replace reports that are there.
    pub overwrite: bool,
    /// Print JSON instead of a table.
    pub json: bool,
}

/// What all ranks have once there is something to measure.
struct BenchContext {
    context: JobContext,
    options: BenchOptions,
    files: Option<BenchReportFiles>,
    /// This rank's endpoints.
    own_endpoints: Vec<EndpointStatus>,
    /// All ranks' endpoints, on rank 0.
    all_endpoints: Option<Vec<Vec<EndpointStatus>>>,
    prompt_source: BenchPromptSource,
    /// What no other measurement's salt begins with, where servers keep their caches apart by it; and how many there were.
    cache_salt: Option<String>,
    salts_used: u64,
    cancellation: BenchCancellation,
    code: ErrorCodeFn,
    /// They end with the measurements.
    _servers: LocalServers,
}

/// What a command does with the settings before anything is asked.
struct BenchPlan {
    /// Keys whose values are the command's own business, and what to say instead of them.
    rejected_keys: (&'static [&'static str], &'static str),
    /// Where neither flags, nor variables nor a file say anything: keys with their values.
    apply_defaults: fn(&mut Settings, IsKeySet<'_>),
    /// How many prompts an endpoint is asked in all.
    prompts_per_endpoint: u64,
}

/// Did anybody say anything of this key?
type IsKeySet<'s> = &'s dyn Fn(&str) -> bool;

/// The runs of one thing on rank 0, and why they are fewer than they should be.
type RepeatedRuns = (Vec<BenchRun>, Option<String>);

impl BenchContext {
    /// Collective. Nothing where too few endpoints are ready, which is said.
    fn begin(
        comm: &mut dyn Comm,
        mut given: Invocation,
        measuring: BenchOptions,
        plan: &BenchPlan,
        code: ErrorCodeFn,
    ) -> Result<Option<Self>, JobError> {
        let began = Instant::now();
        let guard = given.guard.take();
        let (keys, sentence) = plan.rejected_keys;
        let named = keys.iter().find(|key| given.flags.names(key));
        let named = named.map(|key| SettingsError::Conflict(format!("{key}: {sentence}")));
        let scratch = prompt_source::scratch_folder(given.environment.get("TMPDIR"));
        let mut common = establish_context(comm, given, code)?;
        console::set_log_identity(common.placement.rank, &common.placement.node.host);
        let is_root = comm.rank() == 0;
        let checked = is_root.then(|| {
            named.map_or(Ok(()), |it| Err(JobError::Settings(it)))?;
            BenchReportFiles::wanted(measuring.output.as_deref(), measuring.overwrite)
        });
        let files = root_result(comm, checked, code)?.flatten();
        let said: Option<Vec<String>> = is_root.then(|| common.origins.keys().cloned().collect());
        let said = comm.broadcast_value(said)?;
        (plan.apply_defaults)(&mut common.settings, &|key| said.iter().any(|it| it == key));
        let read =
            is_root.then(|| prompt_source::read(&common.settings, &measuring.inputs, scratch));
        let rows = root_result(comm, read, code)?;
        let limit = Deadline::agree_on(comm, &common, began)?;
        let servers =
            start_servers(comm, &common, guard, std::path::Path::new(BENCH_LOG_FOLDER), code)?;
        let ready = wait_for_endpoints(comm, &common, &servers, limit)?;
        let ready = servers.without_given_up(ready);
        let found = comm.gather_values(&ready)?;
        let least = common.settings.min_endpoints;
        let enough = found.as_ref().map(|found| has_enough_endpoints(found, |all| least.of(all)));
        if !comm.broadcast_value(enough)? {
            return Ok(None);
        }
        let dealt = rows.zip(found.as_ref()).map(|(rows, found)| {
            let asked = |its: &Vec<EndpointStatus>| {
                its.iter().filter(|it| is_endpoint_ready(it)).count() as u64
            };
            let needs: Vec<u64> =
                found.iter().map(|its| asked(its) * plan.prompts_per_endpoint).collect();
            rows.split_rows(&needs)
        });
        let dealt = root_result(comm, dealt, code)?;
        let apart = found.as_ref().map(|found| {
            all_support_cache_salt(found) && !has_cache_salt(&common.settings.sampling_params())
        });
        let apart = comm.broadcast_value(apart)?;
        let pool =
            BenchPromptSource::receive_share(comm, dealt, measuring.prompt_tokens, apart, code)?;
        let salt = apart.then(|| pool.name());
        // (whoever asks for the end before there is anything to tell ends the process)
        let stop = BenchCancellation::catch_signals(comm, limit, code)?;
        Ok(Some(Self {
            context: common,
            options: measuring,
            files,
            own_endpoints: ready,
            all_endpoints: found,
            prompt_source: pool,
            cache_salt: salt,
            salts_used: 0,
            cancellation: stop,
            code,
            _servers: servers,
        }))
    }

    /// Rank 0's choice of model and route, if these settings and endpoints allow one; on the other ranks nothing. Only
    /// endpoints that pass the filter (by rank) count.
    fn select_model(
        &self,
        settings: &Settings,
        counts: impl Fn(usize, &Url) -> bool,
    ) -> Option<Result<ModelSelection, JobError>> {
        let found = self.all_endpoints.as_ref()?;
        let (source, row_model) = self.prompt_source.input_source()?;
        let known = SelectionInputs { source, row_model, previous_model: None, previous_api: None };
        let mut some = found.clone();
        for (rank, its) in some.iter_mut().enumerate() {
            its.retain(|it| counts(rank, &it.url));
        }
        let mut settings = settings.clone();
        settings.min_endpoints = crate::settings::CountOrPercent::Count(1);
        let nobody = || JobError::Model("the endpoint is not ready".into());
        Some(
            select_model_and_route(&settings, &known, &some)
                .and_then(|choice| choice.ok_or_else(nobody)),
        )
    }

    /// Collective. The choice, or the end of the job.
    fn select_model_or_end(&self, comm: &mut dyn Comm) -> Result<ModelSelection, JobError> {
        let choice =
            root_result(comm, self.select_model(&self.context.settings, |_, _| true), self.code)?;
        Ok(comm.broadcast_value(choice)?)
    }

    /// What holds for all measurements, as rank 0 tells it.
    fn bench_conditions(
        &self,
        comm: &dyn Comm,
        choice: Option<&ModelSelection>,
    ) -> BenchConditions {
        let found = self.all_endpoints.iter().flatten().flatten();
        BenchConditions {
            version: env!("CARGO_PKG_VERSION").into(),
            ranks: comm.size(),
            endpoints: match choice {
                Some(choice) => choice.ready_counts.iter().sum(),
                None => found.filter(|it| is_endpoint_ready(it)).count() as u64,
            },
            model: choice.map(|it| it.model.clone()),
            api: choice.map(|it| it.api_name().into()),
            inputs: self.options.inputs.clone(),
            max_tokens: self.context.settings.max_tokens,
            sampling: self.context.settings.sampling_params().json(),
            repeats: self.options.repeats,
            caches_apart: self.cache_salt.is_some(),
            rows_came_again: false,
            incomplete: self.cancellation.cancel_reason().map(str::to_owned),
        }
    }

    /// An engine for this rank's endpoints that pass.
    fn start_session(
        &self,
        settings: &Settings,
        choice: &ModelSelection,
        counts: impl Fn(&Url) -> bool,
    ) -> EngineSession {
        let its = self.own_endpoints.iter().filter(|it| counts(&it.url)).cloned().collect();
        EngineSession::start_session(settings, self.context.api_key.clone(), choice, its)
    }

    /// Collective. A warm-up of some prompts an endpoint, then each repeat with prompts of its own; ends with the first that
    /// does not answer all. Every outcome of a repeat passes `each`. Where all is over, what was measured whole by then counts.
    fn measure_repeats(
        &mut self,
        comm: &mut dyn Comm,
        lane: &mut EngineSession,
        (warm_up, prompts): (u64, u64),
        mut each: impl FnMut(&PromptResult),
    ) -> Result<RepeatedRuns, JobError> {
        let mut runs = Vec::new();
        for turn in 0..=self.options.repeats {
            if self.cancellation.cancel_reason().is_some() {
                break;
            }
            let wanted = if turn == 0 { warm_up } else { prompts };
            let asked = self.prompt_source.take(wanted * lane.endpoint_count());
            let measured = self.measure_together(comm, lane, asked, |settled| {
                if turn > 0 {
                    each(settled);
                }
            })?;
            let why = measured.as_ref().map(BenchMeasurement::incomplete_reason);
            let cut = |it: &BenchMeasurement| {
                self.cancellation.cancel_reason().is_some() && it.end_reason.is_some()
            };
            if let Some(measured) = measured.filter(|it| turn > 0 && !cut(it)) {
                runs.push(BenchRun::of(&measured));
            }
            let why = comm.broadcast_value(why)?;
            if let Some(why) = why.filter(|_| self.cancellation.cancel_reason().is_none()) {
                let why = if turn == 0 { format!("in the warm-up, {why}") } else { why };
                return Ok((runs, Some(why)));
            }
        }
        let failed = self.skip_reason().filter(|_| runs.is_empty());
        Ok((runs, failed))
    }

    /// Why what comes is not measured, where all is over.
    fn skip_reason(&self) -> Option<String> {
        self.cancellation.cancel_reason().map(|why| format!("not measured: {why}"))
    }

    /// Collective. All ranks ask their prompts at the same time; on rank 0 what came of all of them. Nothing where all is over.
    /// No prefix cache helps with what was asked before, where servers keep them apart.
    fn measure_together(
        &mut self,
        comm: &mut dyn Comm,
        lane: &mut EngineSession,
        mut prompts: Vec<Prompt>,
        mut each: impl FnMut(&PromptResult),
    ) -> Result<Option<BenchMeasurement>, JobError> {
        if let Some(why) = self.cancellation.cancel_reason() {
            let (asked, ended) = (prompts.len() as u64, Some(why.to_owned()));
            return Ok(comm.reduce(BenchMeasurement {
                asked,
                end_reason: ended,
                ..BenchMeasurement::default()
            })?);
        }
        if let Some(salt) = &self.cache_salt {
            self.salts_used += 1;
            add_cache_salt(&mut prompts, &format!("{salt}-{}", self.salts_used));
        }
        let limit = self.options.time_limit.to_duration();
        comm.barrier();
        let end = Instant::now() + limit;
        lane.begin(prompts);
        loop {
            let until = end.min(Instant::now() + VOTE_INTERVAL);
            let going = lane.wait_until(until, &mut each);
            if going && until == end {
                lane.cut_short("it was not over in time");
            }
            match self.cancellation.collect_votes(comm, going && until < end) {
                CancelVote::Continue => {}
                CancelVote::Done => break,
                CancelVote::Cancelled(why) => {
                    lane.cut_short(why);
                    break;
                }
            }
        }
        Ok(comm.reduce(lane.end())?)
    }

    /// Collective. Did any rank have too few rows?
    fn any_rows_repeated(&self, comm: &mut dyn Comm) -> bool {
        let mut any = [u64::from(self.prompt_source.has_repeated_rows())];
        comm.all_reduce(&mut any, crate::comm::ReduceOp::Or);
        any != [0]
    }

    /// Collective. Rank 0 prints its report and writes it; every rank has its verdict.
    fn end<R: serde::Serialize>(
        &self,
        comm: &mut dyn Comm,
        report: Option<(R, String, JobVerdict)>,
        plots: impl FnOnce(&R) -> Result<Vec<(&'static str, Vec<u8>)>, String>,
    ) -> Result<JobVerdict, JobError> {
        let ended = report.map(|(report, table, verdict)| {
            let verdict = if self.cancellation.cancel_reason().is_some() {
                JobVerdict::PromptsOpen
            } else {
                verdict
            };
            let json = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
            console::print_stdout(if self.options.json { &json } else { &table });
            if let Some(files) = &self.files {
                let plots = plots(&report).unwrap_or_else(|why| {
                    tracing::warn!("there is no plot: {why}");
                    Vec::new()
                });
                files.write(&json, &plots)?;
            }
            Ok(verdict)
        });
        let verdict = root_result(comm, ended, self.code)?;
        Ok(comm.broadcast_value(verdict)?)
    }

    /// A line for those who wait, on rank 0.
    fn print_progress(&self, line: impl FnOnce() -> String) {
        if self.all_endpoints.is_some() && !self.context.settings.quiet {
            console::say(&line());
        }
    }
}

/// The settings with another batch size and window.
fn with_batch_and_window(settings: &Settings, batch: AutoOrCount, window: AutoOrCount) -> Settings {
    let mut settings = settings.clone();
    (settings.batch_size, settings.concurrency, settings.no_batch) = (batch, window, false);
    settings
}

fn is_endpoint_ready(it: &EndpointStatus) -> bool {
    matches!(it.probe, ProbeResult::Ready(_))
}

/// Do all servers that are ready?
fn all_support_cache_salt(found: &[Vec<EndpointStatus>]) -> bool {
    let versions = found.iter().flatten().filter_map(|it| match &it.probe {
        ProbeResult::Ready(facts) => Some(facts.version.as_deref()),
        ProbeResult::NotReady(_) => None,
    });
    versions.into_iter().all(supports_cache_salt)
}

/// Rank 0: are there enough? Else says who is not ready.
fn has_enough_endpoints(found: &[Vec<EndpointStatus>], least: impl Fn(u64) -> u64) -> bool {
    let all: Vec<&EndpointStatus> = found.iter().flatten().collect();
    let least = least(all.len() as u64).max(1);
    let enough = all.iter().filter(|it| is_endpoint_ready(it)).count() as u64 >= least;
    if !enough {
        console::print_unready_endpoints(&all, least);
    }
    enough
}

/// As people read it.
fn format_seconds(duration: Duration) -> String {
    HumanDuration::seconds(duration.as_secs().max(1)).to_string()
}
