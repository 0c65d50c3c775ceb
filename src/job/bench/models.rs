//! `bench models`: measures each served model, or each endpoint, one after the other since they share GPUs and hosts.

use super::{BenchContext, BenchOptions, BenchPlan, compare::answer_text, is_endpoint_ready};
use crate::{
    bench::{ModelRow, ModelsReport, RunFigures},
    comm::{Comm, TypedComm},
    console,
    domain::{ProbeResult, Url},
    job::{Invocation, JobError, JobVerdict, setup::run_plan::ModelSelection},
    settings::{AutoOrCount, Settings},
};

/// Default number of prompts per endpoint and run.
const MODELS_PROMPTS: u64 = 8;

/// Model, or endpoint with its model, that is measured by itself.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct BenchSubject {
    model: String,
    /// Owner rank and URL if a single endpoint is measured; the rank is needed since loopback URLs are the same on every node.
    single_endpoint: Option<(usize, Url)>,
}

/// Collective. Measures these models, or all served ones, and prints a table, or JSON, on rank 0.
///
/// # Errors
/// Fails if settings or the input are invalid, or the report cannot be written.
pub fn bench_models(
    comm: &mut dyn Comm,
    given: Invocation,
    measuring: BenchOptions,
    (models, per_endpoint): (&[String], bool),
) -> Result<JobVerdict, JobError> {
    let (prompts, repeats) = (measuring.prompts.unwrap_or(MODELS_PROMPTS), measuring.repeats);
    let plan = BenchPlan {
        rejected_keys: (&[], ""),
        // One request at a time measures the model's latency; throughput under load is what a sweep measures.
        apply_defaults: |settings, said| {
            if !said("concurrency") {
                settings.concurrency = AutoOrCount::Count(usize::try_from(settings.n).unwrap_or(1));
            }
        },
        // All subjects get the same prompts, so they count once.
        prompts_per_endpoint: prompts * u64::from(repeats) + 1,
    };
    let Some(mut bench) = BenchContext::start_bench(comm, given, measuring, &plan)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    let subjects = bench.all_endpoints.as_ref().map(|_| bench.list_subjects(models, per_endpoint));
    let subjects = comm.broadcast_value(subjects)?;
    let mut rows = Vec::new();
    for subject in subjects {
        bench.prompt_source.rewind();
        let row = match bench.skip_reason() {
            None => bench.measure_subject(comm, &subject, prompts)?,
            Some(why) => ModelRow::new(
                bench.subject_label(comm, &subject),
                repeats,
                Vec::new(),
                None,
                Some(why),
            ),
        };
        bench.print_progress(|| describe_model_row(&row));
        rows.push(row);
    }
    let report = bench.all_endpoints.is_some().then(|| {
        let conditions = bench.bench_conditions(comm, None);
        let report = ModelsReport::new(conditions, rows);
        let verdict = if report.is_whole() { JobVerdict::Done } else { JobVerdict::SomeFailed };
        let table = console::models_table(&report);
        (report, table, verdict)
    });
    bench.finish_report(comm, report, |_| Ok(Vec::new()))
}

impl BenchContext {
    /// Lists what to measure, in order and without duplicate models. Rank 0 only.
    fn list_subjects(&self, named: &[String], per_endpoint: bool) -> Vec<BenchSubject> {
        let mut subjects: Vec<BenchSubject> = Vec::new();
        let ranks = self.all_endpoints.iter().flatten().enumerate();
        let ready = ranks.flat_map(|(rank, its)| its.iter().map(move |it| (rank, it)));
        let mut served: Vec<(String, (usize, Url))> = Vec::new();
        for (rank, it) in ready.filter(|(_, it)| is_endpoint_ready(it)) {
            if let ProbeResult::Ready(facts) = &it.probe {
                let place = || (rank, it.url.clone());
                served.extend(facts.models.iter().map(|model| (model.id.clone(), place())));
            }
        }
        let mut names: Vec<String> = named.to_vec();
        if names.is_empty() {
            names = served.iter().map(|(model, _)| model.clone()).collect();
        }
        for model in names {
            if subjects.iter().any(|it| it.model == model) {
                continue;
            }
            let places = served.iter().filter(|(its, _)| *its == model && per_endpoint);
            let before = subjects.len();
            subjects.extend(places.map(|(_, place)| BenchSubject {
                model: model.clone(),
                single_endpoint: Some(place.clone()),
            }));
            if subjects.len() == before {
                subjects.push(BenchSubject { model, single_endpoint: None });
            }
        }
        subjects
    }

    /// Returns the model and the endpoint as shown in the table.
    fn subject_label(
        &self,
        comm: &dyn Comm,
        BenchSubject { model, single_endpoint: only }: &BenchSubject,
    ) -> (String, Option<String>) {
        let label = only.as_ref().map(|(rank, url)| match comm.size() {
            1 => url.to_string(),
            _ => format!("{url} of rank {rank}"),
        });
        (model.clone(), label)
    }

    /// Collective. Measures one subject; a failure becomes a row of the table.
    fn measure_subject(
        &mut self,
        comm: &mut dyn Comm,
        subject: &BenchSubject,
        prompts: u64,
    ) -> Result<ModelRow, JobError> {
        let BenchSubject { model, single_endpoint: only } = subject;
        let settings = Settings { model: Some(model.clone()), ..self.context.settings.clone() };
        let counts = |rank: usize, url: &Url| {
            only.as_ref().is_none_or(|(its, only)| *its == rank && only == url)
        };
        let chosen = self.select_model(&settings, counts);
        let chosen = chosen.map(|it| it.map_err(|error| error.to_string()));
        let chosen: Result<ModelSelection, String> = comm.broadcast_value(chosen)?;
        let name = self.subject_label(comm, subject);
        let repeats = self.options.repeats;
        let choice = match chosen {
            Ok(choice) => choice,
            Err(why) => return Ok(ModelRow::new(name, repeats, Vec::new(), None, Some(why))),
        };
        let rank = comm.rank();
        let mut lane = self.start_session(&settings, &choice, |url| counts(rank, url));
        let mut sample = None;
        let (runs, failed) = self.measure_repeats(comm, &mut lane, (1, prompts), |settled| {
            sample = sample.take().or_else(|| answer_text(settled));
        })?;
        let samples: Vec<String> = sample.into_iter().collect();
        let sample = comm.reduce_values(samples)?.unwrap_or_default().into_iter().next();
        Ok(ModelRow {
            endpoints: choice.ready_counts.iter().sum(),
            api: Some(choice.api_name().into()),
            ..ModelRow::new(name, repeats, runs, sample, failed)
        })
    }
}

fn describe_model_row(row: &ModelRow) -> String {
    let place = row.endpoint.as_ref().map_or(String::new(), |it| format!(" at {it}"));
    let found = match (&row.figures, &row.failed) {
        (Some(RunFigures { p50_s, tokens_per_s, .. }), _) => {
            format!("{:.3} s an answer, {:.1} tokens/s", p50_s.median, tokens_per_s.median)
        }
        (None, why) => why.clone().unwrap_or_default(),
    };
    format!("{}{place}: {} of {} runs, {found}", row.model, row.runs_whole, row.runs_wanted)
}
