//! `bench models`: each served model by itself, or each endpoint, one after the other: they share GPUs and hosts.

use super::{Bench, Measuring, Plan, compare::text, is_ready};
use crate::{
    bench::{Figures, ModelRow, ModelsReport},
    comm::{Comm, Typed},
    console,
    domain::{Probe, Url},
    job::{CodeOf, Given, JobError, Verdict, setup::run_plan::Choice},
    settings::{Amount, Settings},
};

/// Prompts an endpoint and run.
const PROMPTS: u64 = 8;

/// One line of the table.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Subject {
    model: String,
    /// One endpoint, and the rank whose it is: loopback addresses are the same on every node.
    only: Option<(usize, Url)>,
}

/// Collective. Of these models, or of all that are served. Prints a table (or JSON) on rank 0.
///
/// # Errors
/// Where settings or the input cannot be, or the report not be written.
pub fn models(
    comm: &mut dyn Comm,
    given: Given,
    measuring: Measuring,
    (models, per_endpoint): (&[String], bool),
    code: CodeOf,
) -> Result<Verdict, JobError> {
    let (prompts, repeats) = (measuring.prompts.unwrap_or(PROMPTS), measuring.repeats);
    let plan = Plan {
        instead: (&[], ""),
        // One at a time is what a model takes; how many at a time servers bear is a sweep's question.
        defaults: |settings, said| {
            if !said("concurrency") {
                settings.concurrency = Amount::Exactly(usize::try_from(settings.n).unwrap_or(1));
            }
        },
        // The same prompts for each.
        prompts: prompts * u64::from(repeats) + 1,
    };
    let Some(mut bench) = Bench::begin(comm, given, measuring, &plan, code)? else {
        return Ok(Verdict::NoEndpoint);
    };
    let subjects = bench.found.as_ref().map(|_| bench.subjects(models, per_endpoint));
    let subjects = comm.broadcast_value(subjects)?;
    let mut rows = Vec::new();
    for subject in subjects {
        bench.pool.rewind();
        let row = match bench.not_measured() {
            None => bench.subject(comm, &subject, prompts)?,
            Some(why) => {
                ModelRow::new(bench.named(comm, &subject), repeats, Vec::new(), None, Some(why))
            }
        };
        bench.say(|| line(&row));
        rows.push(row);
    }
    let report = bench.found.is_some().then(|| {
        let conditions = bench.conditions(comm, None);
        let report = ModelsReport::new(conditions, rows);
        let verdict = if report.is_whole() { Verdict::Done } else { Verdict::SomeFailed };
        let table = console::models_table(&report);
        (report, table, verdict)
    });
    bench.end(comm, report, |_| Ok(Vec::new()))
}

impl Bench {
    /// Rank 0: what there is to measure, in order; a name that is given twice is one.
    fn subjects(&self, named: &[String], per_endpoint: bool) -> Vec<Subject> {
        let mut subjects: Vec<Subject> = Vec::new();
        let ranks = self.found.iter().flatten().enumerate();
        let ready = ranks.flat_map(|(rank, its)| its.iter().map(move |it| (rank, it)));
        let mut served: Vec<(String, (usize, Url))> = Vec::new();
        for (rank, it) in ready.filter(|(_, it)| is_ready(it)) {
            if let Probe::Ready(facts) = &it.probe {
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
            subjects.extend(
                places
                    .map(|(_, place)| Subject { model: model.clone(), only: Some(place.clone()) }),
            );
            if subjects.len() == before {
                subjects.push(Subject { model, only: None });
            }
        }
        subjects
    }

    /// What it is called in the table.
    fn named(
        &self,
        comm: &dyn Comm,
        Subject { model, only }: &Subject,
    ) -> (String, Option<String>) {
        let label = only.as_ref().map(|(rank, url)| match comm.size() {
            1 => url.to_string(),
            _ => format!("{url} of rank {rank}"),
        });
        (model.clone(), label)
    }

    /// Collective. One of them: a failure is a line of the table.
    fn subject(
        &mut self,
        comm: &mut dyn Comm,
        subject: &Subject,
        prompts: u64,
    ) -> Result<ModelRow, JobError> {
        let Subject { model, only } = subject;
        let settings = Settings { model: Some(model.clone()), ..self.common.settings.clone() };
        let counts = |rank: usize, url: &Url| {
            only.as_ref().is_none_or(|(its, only)| *its == rank && only == url)
        };
        let chosen = self.choose(&settings, counts);
        let chosen = chosen.map(|it| it.map_err(|error| error.to_string()));
        let chosen: Result<Choice, String> = comm.broadcast_value(chosen)?;
        let name = self.named(comm, subject);
        let repeats = self.measuring.repeats;
        let choice = match chosen {
            Ok(choice) => choice,
            Err(why) => return Ok(ModelRow::new(name, repeats, Vec::new(), None, Some(why))),
        };
        let rank = comm.rank();
        let mut lane = self.lane(&settings, &choice, |url| counts(rank, url));
        let mut sample = None;
        let (runs, failed) = self.runs(comm, &mut lane, (1, prompts), |settled| {
            sample = sample.take().or_else(|| text(settled));
        })?;
        let samples: Vec<String> = sample.into_iter().collect();
        let sample = comm.reduce(samples)?.unwrap_or_default().into_iter().next();
        Ok(ModelRow {
            endpoints: choice.weights.iter().sum(),
            api: Some(choice.api().into()),
            ..ModelRow::new(name, repeats, runs, sample, failed)
        })
    }
}

fn line(row: &ModelRow) -> String {
    let place = row.endpoint.as_ref().map_or(String::new(), |it| format!(" at {it}"));
    let found = match (&row.figures, &row.failed) {
        (Some(Figures { p50_s, tokens_per_s, .. }), _) => {
            format!("{:.3} s an answer, {:.1} tokens/s", p50_s.median, tokens_per_s.median)
        }
        (None, why) => why.clone().unwrap_or_default(),
    };
    format!("{}{place}: {} of {} runs, {found}", row.model, row.runs_whole, row.runs_wanted)
}
