//! `bench`: measures servers with the engine that `run` uses.
//!
//! Commands are `sweep.rs`, `compare.rs` and `models.rs`; `measure.rs` has the set-up they share and the measurement: all
//! ranks start together, each sends to its own endpoints, rank 0 merges. Nothing is written except the report
//! (`output_files.rs`). Unlike in a run, ranks meet in collectives between measurements, since each of these ends in bounded
//! time. Statistics and reports are values in [`crate::bench`], tables are printed in `console/bench.rs`.

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
    Invocation, JobError, JobVerdict,
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

/// Folder, below the working directory, for the logs of servers that are started to be measured.
const BENCH_LOG_FOLDER: &str = "bench.servers";

/// Options that all three commands have in addition to settings.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Input files; without any the prompts are synthetic.
    pub inputs: Vec<String>,
    /// Number of measurements per cell or model.
    pub repeats: u32,
    /// Prompts per endpoint and measurement; `None` for the command's default.
    pub prompts: Option<u64>,
    /// Length of synthetic prompts in tokens.
    pub prompt_tokens: usize,
    /// Longest time of a measurement; a longer one has failed.
    pub time_limit: HumanDuration,
    /// File for the report as JSON.
    pub output: Option<String>,
    /// Whether to replace an existing report.
    pub overwrite: bool,
    /// Whether to print JSON instead of a table.
    pub json: bool,
}

/// State of a rank during a benchmark.
struct BenchContext {
    context: JobContext,
    options: BenchOptions,
    report_files: Option<BenchReportFiles>,
    own_endpoints: Vec<EndpointStatus>,
    /// Endpoints of all ranks; on rank 0 only.
    all_endpoints: Option<Vec<Vec<EndpointStatus>>>,
    prompt_source: BenchPromptSource,
    /// Prefix of this benchmark's cache salts, if all servers isolate caches by salt.
    cache_salt: Option<String>,
    salts_used: u64,
    cancellation: BenchCancellation,
    /// Kept alive for the time of the measurements.
    _servers: LocalServers,
}

/// Plan of a command: its settings and the prompts it needs.
struct BenchPlan {
    /// Keys that the command sets itself, and the message for a user who sets them.
    rejected_keys: (&'static [&'static str], &'static str),
    /// Sets the command's own defaults for keys that the user has not set.
    apply_defaults: fn(&mut Settings, IsKeySet<'_>),
    /// Prompts per endpoint over all measurements.
    prompts_per_endpoint: u64,
}

/// Tells whether the user has set a key, by an option, a variable or a file.
type IsKeySet<'s> = &'s dyn Fn(&str) -> bool;

/// Runs of a cell or model on rank 0, and the reason why some are missing.
type RepeatedRuns = (Vec<BenchRun>, Option<String>);

impl BenchContext {
    /// Collective. Sets up a benchmark: settings, prompts, servers, endpoints. Returns `None` after a message if too few
    /// endpoints are ready.
    fn start_bench(
        comm: &mut dyn Comm,
        mut given: Invocation,
        measuring: BenchOptions,
        plan: &BenchPlan,
    ) -> Result<Option<Self>, JobError> {
        let began = Instant::now();
        let guard = given.guard.take();
        let (keys, sentence) = plan.rejected_keys;
        let named = keys.iter().find(|key| given.flags.has_key(key));
        let named = named.map(|key| SettingsError::usage(format!("{key}: {sentence}")));
        let scratch = prompt_source::scratch_folder(given.environment.get("TMPDIR"));
        let mut common = establish_context(comm, given)?;
        console::set_log_identity(common.placement.rank, &common.placement.node.host);
        let is_root = comm.rank() == 0;
        let checked = is_root.then(|| {
            named.map_or(Ok(()), |it| Err(JobError::Settings(it)))?;
            BenchReportFiles::check_output(measuring.output.as_deref(), measuring.overwrite)
        });
        let files = root_result(comm, checked)?.flatten();
        let said: Option<Vec<String>> = is_root.then(|| common.origins.keys().cloned().collect());
        let said = comm.broadcast_value(said)?;
        (plan.apply_defaults)(&mut common.settings, &|key| said.iter().any(|it| it == key));
        let read = is_root
            .then(|| prompt_source::read_input(&common.settings, &measuring.inputs, scratch));
        let rows = root_result(comm, read)?;
        let limit = Deadline::agree_on(comm, &common, began)?;
        let servers =
            start_servers(comm, &common, guard, std::path::Path::new(BENCH_LOG_FOLDER))?;
        let ready = wait_for_endpoints(comm, &common, &servers, limit)?;
        let ready = servers.without_given_up(ready);
        let found = comm.gather_values(&ready)?;
        let least = common.settings.min_endpoints;
        let enough =
            found.as_ref().map(|found| has_enough_endpoints(found, |all| least.count_of(all)));
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
        let dealt = root_result(comm, dealt)?;
        let apart = found.as_ref().map(|found| {
            all_support_cache_salt(found) && !has_cache_salt(&common.settings.sampling_params())
        });
        let apart = comm.broadcast_value(apart)?;
        let pool =
            BenchPromptSource::receive_share(comm, dealt, measuring.prompt_tokens, apart)?;
        let salt = apart.then(|| pool.unique_name());
        // Until here there is nothing to report, and a signal simply ends the process.
        let stop = BenchCancellation::catch_signals(comm, limit)?;
        Ok(Some(Self {
            context: common,
            options: measuring,
            report_files: files,
            own_endpoints: ready,
            all_endpoints: found,
            prompt_source: pool,
            cache_salt: salt,
            salts_used: 0,
            cancellation: stop,
            _servers: servers,
        }))
    }

    /// Selects model and route on rank 0, among the endpoints that pass the filter; `None` on other ranks.
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

    /// Collective. Selects model and route for all ranks; an error ends the job on all of them.
    fn select_model_or_end(&self, comm: &mut dyn Comm) -> Result<ModelSelection, JobError> {
        let choice =
            root_result(comm, self.select_model(&self.context.settings, |_, _| true))?;
        Ok(comm.broadcast_value(choice)?)
    }

    /// Describes the conditions of all measurements for the report.
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
            sampling: self.context.settings.sampling_params().to_json(),
            repeats: self.options.repeats,
            caches_apart: self.cache_salt.is_some(),
            rows_came_again: false,
            incomplete: self.cancellation.cancel_reason().map(str::to_owned),
        }
    }

    /// Starts an engine for those of this rank's endpoints that pass the filter.
    fn start_session(
        &self,
        settings: &Settings,
        choice: &ModelSelection,
        counts: impl Fn(&Url) -> bool,
    ) -> EngineSession {
        let its = self.own_endpoints.iter().filter(|it| counts(&it.url)).cloned().collect();
        EngineSession::start_session(settings, self.context.api_key.clone(), choice, its)
    }

    /// Collective. Measures a warm-up and then the repeats, each with prompts of its own, and calls `each` for every outcome of
    /// a repeat. Ends with the first measurement that does not answer all prompts; after a cancellation the complete ones count.
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
            let asked = self.prompt_source.take_prompts(wanted * lane.endpoint_count());
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
                runs.push(BenchRun::from_measurement(&measured));
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

    /// Returns why the next cell is not measured, if the benchmark was cancelled.
    fn skip_reason(&self) -> Option<String> {
        self.cancellation.cancel_reason().map(|why| format!("not measured: {why}"))
    }

    /// Collective. Measures once: all ranks send their prompts at the same time, and rank 0 gets the merged result. After a
    /// cancellation nothing is sent. Where servers support it, each measurement has a cache salt of its own.
    fn measure_together(
        &mut self,
        comm: &mut dyn Comm,
        lane: &mut EngineSession,
        mut prompts: Vec<Prompt>,
        mut each: impl FnMut(&PromptResult),
    ) -> Result<Option<BenchMeasurement>, JobError> {
        if let Some(why) = self.cancellation.cancel_reason() {
            let (asked, ended) = (prompts.len() as u64, Some(why.to_owned()));
            return Ok(comm.reduce_values(BenchMeasurement {
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
        lane.start_measurement(prompts);
        loop {
            let until = end.min(Instant::now() + VOTE_INTERVAL);
            let going = lane.wait_until(until, &mut each);
            if going && until == end {
                lane.cut_short("not over in time");
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
        Ok(comm.reduce_values(lane.take_measurement())?)
    }

    /// Collective. Returns whether any rank had to repeat rows.
    fn any_rows_repeated(&self, comm: &mut dyn Comm) -> bool {
        let mut any = [u64::from(self.prompt_source.has_repeated_rows())];
        comm.all_reduce(&mut any, crate::comm::ReduceOp::Or);
        any != [0]
    }

    /// Collective. Prints and writes the report on rank 0, and returns its verdict on every rank.
    fn finish_report<R: serde::Serialize>(
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
            if let Some(files) = &self.report_files {
                let plots = plots(&report).unwrap_or_else(|why| {
                    tracing::warn!(event = "plot_not_drawn", "plot not drawn: {why}");
                    Vec::new()
                });
                files.write_report(&json, &plots)?;
            }
            Ok(verdict)
        });
        let verdict = root_result(comm, ended)?;
        Ok(comm.broadcast_value(verdict)?)
    }

    /// Prints a line on rank 0, unless the user asked for quiet.
    fn print_progress(&self, line: impl FnOnce() -> String) {
        if self.all_endpoints.is_some() && !self.context.settings.quiet {
            console::print_notice(&line());
        }
    }
}

fn with_batch_and_window(settings: &Settings, batch: AutoOrCount, window: AutoOrCount) -> Settings {
    let mut settings = settings.clone();
    (settings.batch_size, settings.concurrency, settings.no_batch) = (batch, window, false);
    settings
}

fn is_endpoint_ready(it: &EndpointStatus) -> bool {
    matches!(it.probe, ProbeResult::Ready(_))
}

/// Returns whether all ready servers isolate caches by salt.
fn all_support_cache_salt(found: &[Vec<EndpointStatus>]) -> bool {
    let versions = found.iter().flatten().filter_map(|it| match &it.probe {
        ProbeResult::Ready(facts) => Some(facts.version.as_deref()),
        ProbeResult::NotReady(_) => None,
    });
    versions.into_iter().all(supports_cache_salt)
}

/// Returns whether enough endpoints are ready, and otherwise prints those that are not. Rank 0 only.
fn has_enough_endpoints(found: &[Vec<EndpointStatus>], least: impl Fn(u64) -> u64) -> bool {
    let all: Vec<&EndpointStatus> = found.iter().flatten().collect();
    let least = least(all.len() as u64).max(1);
    let enough = all.iter().filter(|it| is_endpoint_ready(it)).count() as u64 >= least;
    if !enough {
        console::print_unready_endpoints(&all, least);
    }
    enough
}

/// Formats a duration in whole seconds, at least one, such as `1m30s`.
fn format_seconds(duration: Duration) -> String {
    HumanDuration::from_secs(duration.as_secs().max(1)).to_string()
}
