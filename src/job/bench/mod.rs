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

pub use compare::compare;
pub use models::models;
pub use sweep::sweep;

use std::time::{Duration, Instant};

use super::{
    CodeOf, Given, JobError, Verdict,
    context::{Common, agree, told},
    setup::{
        deadline::Limit,
        model_selection::{Known, choose},
        readiness::wait_for_endpoints,
        run_plan::Choice,
        servers::{Servers, serve},
    },
};
use crate::{
    bench::{Conditions, Measured, Run, is_salted, keep_apart, keeps_apart},
    comm::{Comm, Typed},
    console,
    domain::{Probe, Prompt, Settled, Surveyed, Url},
    settings::{Amount, Period, Settings, SettingsError},
};
use cancel::{SLICE, Stop, Vote};
use engine_session::Lane;
use output_files::Files;
use prompt_source::Pool;

/// Where the logs of servers go that are started to be measured: here.
const LOGS: &str = "bench.servers";

/// What all three commands are told besides settings.
#[derive(Clone, Debug)]
pub struct Measuring {
    /// Where prompts come from; none: they are made up.
    pub inputs: Vec<String>,
    /// How often each thing is measured.
    pub repeats: u32,
    /// Prompts an endpoint and measurement; none: what the command thinks best.
    pub prompts: Option<u64>,
    /// The length of prompts that are made up, in tokens.
    pub prompt_tokens: usize,
    /// A measurement that takes longer has failed.
    pub time_limit: Period,
    /// Where the report goes, as JSON.
    pub output: Option<String>,
    /// Replace reports that are there.
    pub overwrite: bool,
    /// Print JSON instead of a table.
    pub json: bool,
}

/// What all ranks have once there is something to measure.
struct Bench {
    common: Common,
    measuring: Measuring,
    files: Option<Files>,
    /// This rank's endpoints.
    ready: Vec<Surveyed>,
    /// All ranks' endpoints, on rank 0.
    found: Option<Vec<Vec<Surveyed>>>,
    pool: Pool,
    /// What no other measurement's salt begins with, where servers keep their caches apart by it; and how many there were.
    salt: Option<String>,
    salted: u64,
    stop: Stop,
    code: CodeOf,
    /// They end with the measurements.
    _servers: Servers,
}

/// What a command does with the settings before anything is asked.
struct Plan {
    /// Keys whose values are the command's own business, and what to say instead of them.
    instead: (&'static [&'static str], &'static str),
    /// Where neither flags, nor variables nor a file say anything: keys with their values.
    defaults: fn(&mut Settings, Said<'_>),
    /// How many prompts an endpoint is asked in all.
    prompts: u64,
}

/// Did anybody say anything of this key?
type Said<'s> = &'s dyn Fn(&str) -> bool;

/// The runs of one thing on rank 0, and why they are fewer than they should be.
type Runs = (Vec<Run>, Option<String>);

impl Bench {
    /// Collective. Nothing where too few endpoints are ready, which is said.
    fn begin(
        comm: &mut dyn Comm,
        mut given: Given,
        measuring: Measuring,
        plan: &Plan,
        code: CodeOf,
    ) -> Result<Option<Self>, JobError> {
        let began = Instant::now();
        let guard = given.guard.take();
        let (keys, sentence) = plan.instead;
        let named = keys.iter().find(|key| given.flags.names(key));
        let named = named.map(|key| SettingsError::Contradiction(format!("{key}: {sentence}")));
        let scratch = prompt_source::scratch(given.environment.get("TMPDIR"));
        let mut common = agree(comm, given, code)?;
        console::this_is_rank(common.place.rank, &common.place.node.host);
        let is_root = comm.rank() == 0;
        let checked = is_root.then(|| {
            named.map_or(Ok(()), |it| Err(JobError::Settings(it)))?;
            Files::wanted(measuring.output.as_deref(), measuring.overwrite)
        });
        let files = told(comm, checked, code)?.flatten();
        let said: Option<Vec<String>> = is_root.then(|| common.origins.keys().cloned().collect());
        let said = comm.broadcast_value(said)?;
        (plan.defaults)(&mut common.settings, &|key| said.iter().any(|it| it == key));
        let read =
            is_root.then(|| prompt_source::read(&common.settings, &measuring.inputs, scratch));
        let rows = told(comm, read, code)?;
        let limit = Limit::agreed(comm, &common, began)?;
        let servers = serve(comm, &common, guard, std::path::Path::new(LOGS), code)?;
        let ready = wait_for_endpoints(comm, &common, &servers, limit)?;
        let ready = servers.living(ready);
        let found = comm.gather_values(&ready)?;
        let least = common.settings.min_endpoints;
        let enough = found.as_ref().map(|found| is_enough(found, |all| least.of(all)));
        if !comm.broadcast_value(enough)? {
            return Ok(None);
        }
        let dealt = rows.zip(found.as_ref()).map(|(rows, found)| {
            let asked = |its: &Vec<Surveyed>| its.iter().filter(|it| is_ready(it)).count() as u64;
            let needs: Vec<u64> = found.iter().map(|its| asked(its) * plan.prompts).collect();
            rows.deal(&needs)
        });
        let dealt = told(comm, dealt, code)?;
        let apart = found
            .as_ref()
            .map(|found| all_keep_apart(found) && !is_salted(&common.settings.sampling()));
        let apart = comm.broadcast_value(apart)?;
        let pool = Pool::received(comm, dealt, measuring.prompt_tokens, apart, code)?;
        let salt = apart.then(|| pool.name());
        // (whoever asks for the end before there is anything to tell ends the process)
        let stop = Stop::listens(comm, limit, code)?;
        Ok(Some(Self {
            common,
            measuring,
            files,
            ready,
            found,
            pool,
            salt,
            salted: 0,
            stop,
            code,
            _servers: servers,
        }))
    }

    /// Rank 0's choice of model and route, if these settings and endpoints allow one; on the other ranks nothing. Only
    /// endpoints that pass the filter (by rank) count.
    fn choose(
        &self,
        settings: &Settings,
        counts: impl Fn(usize, &Url) -> bool,
    ) -> Option<Result<Choice, JobError>> {
        let found = self.found.as_ref()?;
        let (source, row_model) = self.pool.source()?;
        let known = Known { source, row_model, model: None, api: None };
        let mut some = found.clone();
        for (rank, its) in some.iter_mut().enumerate() {
            its.retain(|it| counts(rank, &it.url));
        }
        let mut settings = settings.clone();
        settings.min_endpoints = crate::settings::Quota::Count(1);
        let nobody = || JobError::Model("the endpoint is not ready".into());
        Some(choose(&settings, &known, &some).and_then(|choice| choice.ok_or_else(nobody)))
    }

    /// Collective. The choice, or the end of the job.
    fn chosen(&self, comm: &mut dyn Comm) -> Result<Choice, JobError> {
        let choice = told(comm, self.choose(&self.common.settings, |_, _| true), self.code)?;
        Ok(comm.broadcast_value(choice)?)
    }

    /// What holds for all measurements, as rank 0 tells it.
    fn conditions(&self, comm: &dyn Comm, choice: Option<&Choice>) -> Conditions {
        let found = self.found.iter().flatten().flatten();
        Conditions {
            version: env!("CARGO_PKG_VERSION").into(),
            ranks: comm.size(),
            endpoints: match choice {
                Some(choice) => choice.weights.iter().sum(),
                None => found.filter(|it| is_ready(it)).count() as u64,
            },
            model: choice.map(|it| it.model.clone()),
            api: choice.map(|it| it.api().into()),
            inputs: self.measuring.inputs.clone(),
            max_tokens: self.common.settings.max_tokens,
            sampling: self.common.settings.sampling().json(),
            repeats: self.measuring.repeats,
            caches_apart: self.salt.is_some(),
            rows_came_again: false,
            incomplete: self.stop.over().map(str::to_owned),
        }
    }

    /// An engine for this rank's endpoints that pass.
    fn lane(&self, settings: &Settings, choice: &Choice, counts: impl Fn(&Url) -> bool) -> Lane {
        let its = self.ready.iter().filter(|it| counts(&it.url)).cloned().collect();
        Lane::start(settings, self.common.key.clone(), choice, its)
    }

    /// Collective. A warm-up of some prompts an endpoint, then each repeat with prompts of its own; ends with the first that
    /// does not answer all. Every outcome of a repeat passes `each`. Where all is over, what was measured whole by then counts.
    fn runs(
        &mut self,
        comm: &mut dyn Comm,
        lane: &mut Lane,
        (warm_up, prompts): (u64, u64),
        mut each: impl FnMut(&Settled),
    ) -> Result<Runs, JobError> {
        let mut runs = Vec::new();
        for turn in 0..=self.measuring.repeats {
            if self.stop.over().is_some() {
                break;
            }
            let wanted = if turn == 0 { warm_up } else { prompts };
            let asked = self.pool.take(wanted * lane.endpoints());
            let measured = self.together(comm, lane, asked, |settled| {
                if turn > 0 {
                    each(settled);
                }
            })?;
            let why = measured.as_ref().map(Measured::why_not);
            let cut = |it: &Measured| self.stop.over().is_some() && it.ended.is_some();
            if let Some(measured) = measured.filter(|it| turn > 0 && !cut(it)) {
                runs.push(Run::of(&measured));
            }
            let why = comm.broadcast_value(why)?;
            if let Some(why) = why.filter(|_| self.stop.over().is_none()) {
                let why = if turn == 0 { format!("in the warm-up, {why}") } else { why };
                return Ok((runs, Some(why)));
            }
        }
        let failed = self.not_measured().filter(|_| runs.is_empty());
        Ok((runs, failed))
    }

    /// Why what comes is not measured, where all is over.
    fn not_measured(&self) -> Option<String> {
        self.stop.over().map(|why| format!("not measured: {why}"))
    }

    /// Collective. All ranks ask their prompts at the same time; on rank 0 what came of all of them. Nothing where all is over.
    /// No prefix cache helps with what was asked before, where servers keep them apart.
    fn together(
        &mut self,
        comm: &mut dyn Comm,
        lane: &mut Lane,
        mut prompts: Vec<Prompt>,
        mut each: impl FnMut(&Settled),
    ) -> Result<Option<Measured>, JobError> {
        if let Some(why) = self.stop.over() {
            let (asked, ended) = (prompts.len() as u64, Some(why.to_owned()));
            return Ok(comm.reduce(Measured { asked, ended, ..Measured::default() })?);
        }
        if let Some(salt) = &self.salt {
            self.salted += 1;
            keep_apart(&mut prompts, &format!("{salt}-{}", self.salted));
        }
        let limit = self.measuring.time_limit.get();
        comm.barrier();
        let end = Instant::now() + limit;
        lane.begin(prompts);
        loop {
            let until = end.min(Instant::now() + SLICE);
            let going = lane.go_on(until, &mut each);
            if going && until == end {
                lane.cut("it was not over in time");
            }
            match self.stop.vote(comm, going && until < end) {
                Vote::GoOn => {}
                Vote::Done => break,
                Vote::Stop(why) => {
                    lane.cut(why);
                    break;
                }
            }
        }
        Ok(comm.reduce(lane.end())?)
    }

    /// Collective. Did any rank have too few rows?
    fn rows_came_again(&self, comm: &mut dyn Comm) -> bool {
        let mut any = [u64::from(self.pool.came_again())];
        comm.all_reduce(&mut any, crate::comm::Combine::Or);
        any != [0]
    }

    /// Collective. Rank 0 prints its report and writes it; every rank has its verdict.
    fn end<R: serde::Serialize>(
        &self,
        comm: &mut dyn Comm,
        report: Option<(R, String, Verdict)>,
        plots: impl FnOnce(&R) -> Result<Vec<(&'static str, Vec<u8>)>, String>,
    ) -> Result<Verdict, JobError> {
        let ended = report.map(|(report, table, verdict)| {
            let verdict = if self.stop.over().is_some() { Verdict::Open } else { verdict };
            let json = serde_json::to_string_pretty(&report).unwrap_or_default() + "\n";
            console::print(if self.measuring.json { &json } else { &table });
            if let Some(files) = &self.files {
                let plots = plots(&report).unwrap_or_else(|why| {
                    tracing::warn!("there is no plot: {why}");
                    Vec::new()
                });
                files.write(&json, &plots)?;
            }
            Ok(verdict)
        });
        let verdict = told(comm, ended, self.code)?;
        Ok(comm.broadcast_value(verdict)?)
    }

    /// A line for those who wait, on rank 0.
    fn say(&self, line: impl FnOnce() -> String) {
        if self.found.is_some() && !self.common.settings.quiet {
            console::say(&line());
        }
    }
}

/// The settings with another batch size and window.
fn with(settings: &Settings, batch: Amount, window: Amount) -> Settings {
    let mut settings = settings.clone();
    (settings.batch_size, settings.concurrency, settings.no_batch) = (batch, window, false);
    settings
}

fn is_ready(it: &Surveyed) -> bool {
    matches!(it.probe, Probe::Ready(_))
}

/// Do all servers that are ready?
fn all_keep_apart(found: &[Vec<Surveyed>]) -> bool {
    let versions = found.iter().flatten().filter_map(|it| match &it.probe {
        Probe::Ready(facts) => Some(facts.version.as_deref()),
        Probe::NotReady(_) => None,
    });
    versions.into_iter().all(keeps_apart)
}

/// Rank 0: are there enough? Else says who is not ready.
fn is_enough(found: &[Vec<Surveyed>], least: impl Fn(u64) -> u64) -> bool {
    let all: Vec<&Surveyed> = found.iter().flatten().collect();
    let least = least(all.len() as u64).max(1);
    let enough = all.iter().filter(|it| is_ready(it)).count() as u64 >= least;
    if !enough {
        console::complain_of_endpoints(&all, least);
    }
    enough
}

/// As people read it.
fn seconds(duration: Duration) -> String {
    Period::seconds(duration.as_secs().max(1)).to_string()
}
