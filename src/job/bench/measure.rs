//! The part that all `bench` commands share: set-up, one measurement over all ranks, repeats, and the end with the
//! report.
//!
//! Owns the state of a rank during a benchmark. The engine that a measurement goes through is `engine_session.rs`,
//! prompts come from `prompt_source.rs`, cancellation is `cancel.rs`.

use std::{path::Path, time::Instant};

use super::{
    cancel::{BenchCancellation, CancelVote, VOTE_INTERVAL},
    engine_session::EngineSession,
    output_files::BenchReportFiles,
    prompt_source::{self, BenchInput, BenchPromptSource},
};
use crate::{
    bench::{
        BenchConditions, BenchMeasurement, BenchRun, add_cache_salt, has_cache_salt,
        supports_cache_salt,
    },
    comm::{Comm, ReduceOp, TypedComm},
    console,
    domain::{EndpointStatus, Outcome, Prompt, PromptResult, ReadinessCounts, Url},
    job::{
        Invocation, JobError, JobVerdict,
        context::{JobContext, establish_context, root_result},
        setup::{
            deadline::Deadline,
            model_selection::{SelectionInputs, check_readiness, select_model_and_route},
            readiness::wait_for_endpoints,
            run_plan::ModelSelection,
            servers::{LocalServers, start_servers},
        },
    },
    settings::{AutoOrCount, CountOrPercent, HumanDuration, Settings, SettingsError},
};

/// Folder, below the working directory, for the logs of servers that are started to be measured.
const BENCH_LOG_FOLDER: &str = "bench.servers";

/// Options that all three commands have in addition to settings.
#[derive(Clone, Debug)]
pub(crate) struct BenchOptions {
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
pub(super) struct BenchContext {
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
pub(super) struct BenchPlan {
    /// Keys that the command sets itself, and the message for a user who sets them.
    pub(super) rejected_keys: (&'static [&'static str], &'static str),
    /// Sets the command's own defaults for keys that the user has not set.
    pub(super) apply_defaults: fn(&mut Settings, IsKeySet<'_>),
    /// Prompts per endpoint over all measurements.
    pub(super) prompts_per_endpoint: u64,
}

/// Tells whether the user has set a key, by an option, a variable or a file.
pub(super) type IsKeySet<'s> = &'s dyn Fn(&str) -> bool;

/// Runs of a cell or model on rank 0, and the reason why some are missing.
pub(super) type RepeatedRuns = (Vec<BenchRun>, Option<String>);

impl BenchContext {
    /// Collective. Sets up a benchmark: settings, prompts, servers, endpoints. Returns `None` after a message if too
    /// few endpoints are ready.
    pub(super) fn start_bench(
        comm: &mut dyn Comm,
        mut invocation: Invocation,
        options: BenchOptions,
        plan: &BenchPlan,
    ) -> Result<Option<Self>, JobError> {
        let started = Instant::now();
        let supervisor = invocation.guard.take();
        let (keys, reason) = plan.rejected_keys;
        let rejected = keys
            .iter()
            .find(|key| invocation.flags.has_key(key))
            .map(|key| SettingsError::usage(format!("--{key} cannot be used here: {reason}")));
        let scratch = prompt_source::scratch_folder(invocation.environment.get("TMPDIR"));
        let mut context = establish_context(comm, invocation)?;
        console::set_log_identity(context.placement.rank, &context.placement.node.host);
        let is_root = comm.rank() == 0;
        let checked = is_root.then(|| {
            rejected.map_or(Ok(()), |error| Err(JobError::Settings(error)))?;
            BenchReportFiles::check_output(options.output.as_deref(), options.overwrite)
        });
        let report_files = root_result(comm, checked)?.flatten();
        // Only rank 0 knows which keys the user has set.
        let keys_set: Option<Vec<String>> =
            is_root.then(|| context.origins.keys().cloned().collect());
        let keys_set = comm.broadcast_value(keys_set)?;
        (plan.apply_defaults)(&mut context.settings, &|key| keys_set.iter().any(|set| set == key));
        let input =
            is_root.then(|| prompt_source::read_input(&context.settings, &options.inputs, scratch));
        let input = root_result(comm, input)?;
        let deadline = Deadline::agree_on(comm, &context, started)?;
        let servers = start_servers(comm, &context, supervisor, Path::new(BENCH_LOG_FOLDER))?;
        let own_endpoints = wait_for_endpoints(comm, &context, &servers, deadline, &[])?;
        let own_endpoints = servers.without_given_up(own_endpoints);
        let all_endpoints = comm.gather_values(&own_endpoints)?;
        let minimum = context.settings.min_endpoints;
        let enough = all_endpoints
            .as_ref()
            .map(|found| has_enough_endpoints(found, |all| minimum.count_of(all)));
        let enough = root_result(comm, enough)?;
        if !comm.broadcast_value(enough)? {
            return Ok(None);
        }
        let (prompt_source, cache_salt) = distribute_prompts(
            comm,
            &context.settings,
            input.zip(all_endpoints.as_deref()),
            plan.prompts_per_endpoint,
            options.prompt_tokens,
        )?;
        // Until here there is nothing to report, and a signal simply ends the process.
        let cancellation = BenchCancellation::catch_signals(comm, deadline)?;
        Ok(Some(Self {
            context,
            options,
            report_files,
            own_endpoints,
            all_endpoints,
            prompt_source,
            cache_salt,
            salts_used: 0,
            cancellation,
            _servers: servers,
        }))
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.context.settings
    }

    /// Returns the endpoints of all ranks, by rank; `None` on ranks other than 0.
    pub(super) fn all_endpoints(&self) -> Option<&[Vec<EndpointStatus>]> {
        self.all_endpoints.as_deref()
    }

    pub(super) fn is_root(&self) -> bool {
        self.all_endpoints.is_some()
    }

    /// Returns this rank's next prompts, which no measurement has used so far unless rows are too few.
    pub(super) fn take_prompts(&mut self, count: u64) -> Vec<Prompt> {
        self.prompt_source.take_prompts(count)
    }

    /// Lets the next measurement start with the first prompt again.
    pub(super) fn rewind_prompts(&mut self) {
        self.prompt_source.rewind();
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancellation.cancel_reason().is_some()
    }

    /// Selects model and route on rank 0, among the endpoints that pass the filter; `None` on other ranks.
    pub(super) fn select_model(
        &self,
        settings: &Settings,
        is_counted: impl Fn(usize, &Url) -> bool,
    ) -> Option<Result<ModelSelection, JobError>> {
        let mut counted = self.all_endpoints.clone()?;
        let (source, row_model) = self.prompt_source.input_source();
        let settings = Settings {
            model: settings.model.clone().or(row_model.map(str::to_owned)),
            ..settings.clone()
        };
        let inputs = SelectionInputs {
            source,
            row_models: Vec::new(),
            any_unnamed: true,
            previous_model: None,
            previous_api: None,
        };
        for (rank, statuses) in counted.iter_mut().enumerate() {
            statuses.retain(|status| is_counted(rank, &status.url));
        }
        // The minimum was checked for all endpoints; here a single one may be left.
        let settings = Settings { min_endpoints: CountOrPercent::Count(1), ..settings };
        let not_ready = || JobError::Model("the endpoint is not ready".into());
        let selected = select_model_and_route(&settings, &inputs, &counted);
        Some(selected.and_then(|selection| selection.ok_or_else(not_ready)))
    }

    /// Collective. Selects model and route for all ranks; an error ends the job on all of them.
    pub(super) fn select_model_or_end(
        &self,
        comm: &mut dyn Comm,
        settings: &Settings,
    ) -> Result<ModelSelection, JobError> {
        let selection = self.select_model(settings, |_, _| true);
        let selection = root_result(comm, selection)?;
        Ok(comm.broadcast_value(selection)?)
    }

    /// Describes the conditions of all measurements for the report.
    pub(super) fn bench_conditions(
        &self,
        comm: &dyn Comm,
        selection: Option<&ModelSelection>,
    ) -> BenchConditions {
        let all = self.all_endpoints.iter().flatten().flatten();
        BenchConditions {
            version: env!("CARGO_PKG_VERSION").into(),
            ranks: comm.size(),
            endpoints: match selection {
                Some(selection) => selection.ready_counts.iter().sum(),
                None => all.filter(|status| is_endpoint_ready(status)).count() as u64,
            },
            model: selection.map(|selection| selection.model.clone()),
            api: selection.map(|selection| selection.api_name().into()),
            inputs: self.options.inputs.clone(),
            max_tokens: self.context.settings.max_tokens.of_rows(),
            sampling: self.context.settings.sampling_params().to_json(),
            repeats: self.options.repeats,
            caches_apart: self.cache_salt.is_some(),
            rows_came_again: false,
            incomplete: self.cancellation.cancel_reason().map(str::to_owned),
        }
    }

    /// Starts an engine for those of this rank's endpoints that pass the filter.
    pub(super) fn start_session(
        &self,
        settings: &Settings,
        selection: &ModelSelection,
        is_counted: impl Fn(&Url) -> bool,
    ) -> EngineSession {
        let counted = self.own_endpoints.iter().filter(|status| is_counted(&status.url));
        let api_key = self.context.api_key.clone();
        EngineSession::start_session(settings, api_key, selection, counted.cloned().collect())
    }

    /// Collective. Measures a warm-up and then the repeats, each with prompts of its own, and calls `each` for every
    /// outcome of a repeat. Ends with the first measurement that does not answer all prompts; after a cancellation the
    /// complete ones count.
    pub(super) fn measure_repeats(
        &mut self,
        comm: &mut dyn Comm,
        session: &mut EngineSession,
        warm_up: u64,
        prompts: u64,
        mut each: impl FnMut(&PromptResult),
    ) -> Result<RepeatedRuns, JobError> {
        let mut runs = Vec::new();
        for repeat in 0..=self.options.repeats {
            if self.is_cancelled() {
                break;
            }
            let is_warm_up = repeat == 0;
            let per_endpoint = if is_warm_up { warm_up } else { prompts };
            let prompts = self.take_prompts(per_endpoint * session.endpoint_count());
            let measured = self.measure_together(comm, session, prompts, |result| {
                if !is_warm_up {
                    each(result);
                }
            })?;
            let reason = measured.as_ref().map(BenchMeasurement::incomplete_reason);
            let is_cut =
                |measured: &BenchMeasurement| self.is_cancelled() && measured.end_reason.is_some();
            if let Some(measured) = measured.filter(|measured| !is_warm_up && !is_cut(measured)) {
                runs.push(BenchRun::from_measurement(&measured));
            }
            let reason = comm.broadcast_value(reason)?;
            if let Some(reason) = reason.filter(|_| !self.is_cancelled()) {
                let reason = if is_warm_up { format!("in the warm-up, {reason}") } else { reason };
                return Ok((runs, Some(reason)));
            }
        }
        let failed = self.skip_reason().filter(|_| runs.is_empty());
        Ok((runs, failed))
    }

    /// Returns why the next cell is not measured, if the benchmark was cancelled.
    pub(super) fn skip_reason(&self) -> Option<String> {
        self.cancellation.cancel_reason().map(|reason| format!("not measured: {reason}"))
    }

    /// Collective. Measures once: all ranks send their prompts at the same time, and rank 0 gets the merged result.
    /// After a cancellation nothing is sent. Where servers support it, each measurement has a cache salt of its own.
    pub(super) fn measure_together(
        &mut self,
        comm: &mut dyn Comm,
        session: &mut EngineSession,
        mut prompts: Vec<Prompt>,
        mut each: impl FnMut(&PromptResult),
    ) -> Result<Option<BenchMeasurement>, JobError> {
        if let Some(reason) = self.cancellation.cancel_reason() {
            return Ok(comm.reduce_values(BenchMeasurement {
                asked: prompts.len() as u64,
                end_reason: Some(reason.to_owned()),
                ..BenchMeasurement::default()
            })?);
        }
        if let Some(salt) = &self.cache_salt {
            self.salts_used += 1;
            add_cache_salt(&mut prompts, &format!("{salt}-{}", self.salts_used));
        }
        // All ranks start together, so that every endpoint is measured under the load of all others.
        comm.barrier();
        let end = Instant::now() + self.options.time_limit.to_duration();
        session.start_measurement(prompts);
        loop {
            let until = end.min(Instant::now() + VOTE_INTERVAL);
            let is_running = session.wait_until(until, &mut each);
            if is_running && until == end {
                session.cut_short("not over in time");
            }
            match self.cancellation.collect_votes(comm, is_running && until < end) {
                CancelVote::Continue => {}
                CancelVote::Done => break,
                CancelVote::Cancelled(reason) => {
                    session.cut_short(reason);
                    break;
                }
            }
        }
        Ok(comm.reduce_values(session.take_measurement())?)
    }

    /// Collective. Returns whether any rank had to repeat rows.
    pub(super) fn any_rows_repeated(&self, comm: &mut dyn Comm) -> bool {
        let mut any = [u64::from(self.prompt_source.has_repeated_rows())];
        comm.all_reduce(&mut any, ReduceOp::Or);
        any != [0]
    }

    /// Collective. Prints and writes the report on rank 0, and returns its verdict on every rank.
    pub(super) fn finish_report<R: serde::Serialize>(
        &self,
        comm: &mut dyn Comm,
        report: Option<(R, String, JobVerdict)>,
        plots: impl FnOnce(&R) -> Vec<(&'static str, Vec<u8>)>,
    ) -> Result<JobVerdict, JobError> {
        let finished = report.map(|(report, table, verdict)| {
            let verdict = if self.is_cancelled() { JobVerdict::PromptsOpen } else { verdict };
            let json = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
            console::print_stdout(if self.options.json { &json } else { &table });
            if let Some(files) = &self.report_files {
                files.write_report(&json, &plots(&report))?;
            }
            Ok(verdict)
        });
        let verdict = root_result(comm, finished)?;
        Ok(comm.broadcast_value(verdict)?)
    }

    /// Prints a line on rank 0, unless the user asked for quiet.
    pub(super) fn print_progress(&self, line: impl FnOnce() -> String) {
        if self.is_root() && !self.context.settings.quiet {
            console::print_progress(&line());
        }
    }
}

/// Collective. Sends each rank its share of the prompts. Returns the rank's prompt source and, if all servers isolate
/// their caches by salt and the user has set none, the prefix of the benchmark's salts. `root` is present on rank 0.
fn distribute_prompts(
    comm: &mut dyn Comm,
    settings: &Settings,
    root: Option<(BenchInput, &[Vec<EndpointStatus>])>,
    prompts_per_endpoint: u64,
    prompt_tokens: usize,
) -> Result<(BenchPromptSource, Option<String>), JobError> {
    let caches_isolated = root.as_ref().map(|(_, endpoints)| {
        all_support_cache_salt(endpoints) && !has_cache_salt(&settings.sampling_params())
    });
    let shares = root.map(|(input, endpoints)| {
        let ready_count = |statuses: &Vec<EndpointStatus>| {
            statuses.iter().filter(|status| is_endpoint_ready(status)).count() as u64
        };
        let needs: Vec<u64> =
            endpoints.iter().map(|its| ready_count(its) * prompts_per_endpoint).collect();
        input.split_rows(&needs)
    });
    let shares = root_result(comm, shares)?;
    let caches_isolated = comm.broadcast_value(caches_isolated)?;
    let source = BenchPromptSource::receive_share(comm, shares, prompt_tokens, caches_isolated)?;
    let salt = caches_isolated.then(|| source.unique_name());
    Ok((source, salt))
}

pub(super) fn with_batch_and_window(
    settings: &Settings,
    batch: AutoOrCount,
    window: AutoOrCount,
) -> Settings {
    Settings { batch_size: batch, concurrency: window, no_batch: false, ..settings.clone() }
}

pub(super) fn is_endpoint_ready(status: &EndpointStatus) -> bool {
    status.probe.is_ready()
}

/// Joins all sequences of an answer; `None` for a failed prompt.
pub(super) fn answer_text(result: &PromptResult) -> Option<String> {
    match &result.outcome {
        Outcome::Answered(answer) => {
            let texts: Vec<&str> =
                answer.choices.iter().map(|choice| choice.text.as_str()).collect();
            Some(texts.join("\n"))
        }
        Outcome::Failed(_) => None,
    }
}

/// Returns whether all ready servers isolate caches by salt.
fn all_support_cache_salt(endpoints: &[Vec<EndpointStatus>]) -> bool {
    let infos = endpoints.iter().flatten().filter_map(|status| status.probe.ready_info());
    infos.map(|info| info.version.as_deref()).all(supports_cache_salt)
}

/// Returns whether enough endpoints are ready, and otherwise prints those that are not. Rank 0 only.
///
/// # Errors
/// Fails if none of those that are not ready can ever be used.
fn has_enough_endpoints(
    endpoints: &[Vec<EndpointStatus>],
    minimum: impl Fn(u64) -> u64,
) -> Result<bool, JobError> {
    let counts = ReadinessCounts::of_statuses(endpoints.iter().flatten(), None);
    check_readiness(&counts, minimum(counts.all))
}
