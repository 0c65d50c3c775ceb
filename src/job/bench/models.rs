//! `bench models`: measures each served model, or each endpoint, one after the other since they share GPUs and hosts.

use super::measure::{BenchContext, BenchOptions, BenchPlan, answer_text};
use crate::{
    bench::{ModelRow, ModelsReport, RunFigures},
    comm::{Comm, TypedComm},
    console,
    domain::{EndpointStatus, ProbeResult, Url},
    job::{Invocation, JobError, JobVerdict, setup::run_plan::ModelSelection},
    settings::{AutoOrCount, Settings},
};

/// Default number of prompts per endpoint and run.
const MODELS_PROMPTS: u64 = 8;

/// Model, or endpoint with its model, that is measured by itself.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct BenchSubject {
    model: String,
    /// Owner rank and URL if a single endpoint is measured; the rank is needed since loopback URLs are the same on
    /// every node.
    single_endpoint: Option<(usize, Url)>,
}

/// Collective. Measures these models, or all served ones, and prints a table, or JSON, on rank 0.
///
/// # Errors
/// Fails if settings or the input are invalid, or the report cannot be written.
pub(crate) fn bench_models(
    comm: &mut dyn Comm,
    invocation: Invocation,
    options: BenchOptions,
    models: &[String],
    per_endpoint: bool,
) -> Result<JobVerdict, JobError> {
    let (prompts, repeats) = (options.prompts.unwrap_or(MODELS_PROMPTS), options.repeats);
    let plan = BenchPlan {
        rejected_keys: (&[], ""),
        // One request at a time measures the model's latency; throughput under load is what a sweep measures.
        apply_defaults: |settings, is_set| {
            if !is_set("concurrency") {
                settings.concurrency = AutoOrCount::Count(usize::try_from(settings.n).unwrap_or(1));
            }
        },
        // All subjects get the same prompts, so they count once.
        prompts_per_endpoint: prompts * u64::from(repeats) + 1,
    };
    let Some(mut bench) = BenchContext::start_bench(comm, invocation, options, &plan)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    let subjects = bench.all_endpoints().map(|found| list_subjects(found, models, per_endpoint));
    let subjects = comm.broadcast_value(subjects)?;
    let mut rows = Vec::new();
    for subject in subjects {
        bench.rewind_prompts();
        let row = match bench.skip_reason() {
            None => measure_subject(&mut bench, comm, &subject, repeats, prompts)?,
            Some(reason) => {
                let label = subject.table_label(comm.size());
                ModelRow::new(label, repeats, Vec::new(), None, Some(reason))
            }
        };
        bench.print_progress(|| describe_model_row(&row));
        rows.push(row);
    }
    let report = bench.is_root().then(|| {
        let conditions = bench.bench_conditions(comm, None);
        let report = ModelsReport::new(conditions, rows);
        let verdict = if report.is_whole() { JobVerdict::Done } else { JobVerdict::SomeFailed };
        let table = console::models_table(&report);
        (report, table, verdict)
    });
    bench.finish_report(comm, report, |_| Vec::new())
}

impl BenchSubject {
    /// Returns the model and the endpoint as shown in the table of a job with this number of ranks.
    fn table_label(&self, ranks: usize) -> (String, Option<String>) {
        let endpoint = self.single_endpoint.as_ref().map(|(rank, url)| match ranks {
            1 => url.to_string(),
            _ => format!("{url} of rank {rank}"),
        });
        (self.model.clone(), endpoint)
    }
}

/// Lists what to measure, in order and without duplicate models. `endpoints` are those of all ranks; `named` are the
/// models that the user asked for, or none for all.
fn list_subjects(
    endpoints: &[Vec<EndpointStatus>],
    named: &[String],
    per_endpoint: bool,
) -> Vec<BenchSubject> {
    let mut served: Vec<(&str, (usize, &Url))> = Vec::new();
    for (rank, statuses) in endpoints.iter().enumerate() {
        for status in statuses {
            if let ProbeResult::Ready(info) = &status.probe {
                let models = info.models.iter();
                served.extend(models.map(|model| (model.id.as_str(), (rank, &status.url))));
            }
        }
    }
    let models: Vec<&str> = match named {
        [] => served.iter().map(|(model, _)| *model).collect(),
        named => named.iter().map(String::as_str).collect(),
    };
    let mut subjects: Vec<BenchSubject> = Vec::new();
    for model in models {
        if subjects.iter().any(|subject| subject.model == model) {
            continue;
        }
        let count_before = subjects.len();
        let owners = served.iter().filter(|(id, _)| *id == model && per_endpoint);
        subjects.extend(owners.map(|(_, (rank, url))| BenchSubject {
            model: model.to_owned(),
            single_endpoint: Some((*rank, (*url).clone())),
        }));
        // A model that no endpoint serves is listed too, and becomes a row with the reason.
        if subjects.len() == count_before {
            subjects.push(BenchSubject { model: model.to_owned(), single_endpoint: None });
        }
    }
    subjects
}

/// Collective. Measures one subject; a failure becomes a row of the table.
fn measure_subject(
    bench: &mut BenchContext,
    comm: &mut dyn Comm,
    subject: &BenchSubject,
    repeats: u32,
    prompts: u64,
) -> Result<ModelRow, JobError> {
    let settings = Settings { model: Some(subject.model.clone()), ..bench.settings().clone() };
    let is_counted = |rank: usize, url: &Url| {
        let single = subject.single_endpoint.as_ref();
        single.is_none_or(|(owner, single)| *owner == rank && single == url)
    };
    let selection = bench.select_model(&settings, is_counted);
    // As text, since a failure is not the job's but a row's.
    let selection = selection.map(|result| result.map_err(|error| error.to_string()));
    let selection: Result<ModelSelection, String> = comm.broadcast_value(selection)?;
    let label = subject.table_label(comm.size());
    let selection = match selection {
        Ok(selection) => selection,
        Err(reason) => return Ok(ModelRow::new(label, repeats, Vec::new(), None, Some(reason))),
    };
    let rank = comm.rank();
    let mut session = bench.start_session(&settings, &selection, |url| is_counted(rank, url));
    let mut sample = None;
    let (runs, failed) = bench.measure_repeats(comm, &mut session, 1, prompts, |result| {
        sample = sample.take().or_else(|| answer_text(result));
    })?;
    let samples: Vec<String> = sample.into_iter().collect();
    let sample = comm.reduce_values(samples)?.unwrap_or_default().into_iter().next();
    Ok(ModelRow {
        endpoints: selection.ready_counts.iter().sum(),
        api: Some(selection.api_name().into()),
        ..ModelRow::new(label, repeats, runs, sample, failed)
    })
}

fn describe_model_row(row: &ModelRow) -> String {
    let endpoint =
        row.endpoint.as_ref().map_or(String::new(), |endpoint| format!(" at {endpoint}"));
    let result = match (&row.figures, &row.failed) {
        (Some(RunFigures { p50_s, tokens_per_s, .. }), _) => {
            format!("median latency {:.3} s, {:.1} tokens/s", p50_s.median, tokens_per_s.median)
        }
        (None, reason) => reason.clone().unwrap_or_default(),
    };
    format!("{}{endpoint}: {} of {} runs, {result}", row.model, row.runs_whole, row.runs_wanted)
}
