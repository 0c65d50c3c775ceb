//! What rank 0 alone does: reads the input over, opens the run folder, chooses the model, deals the shares, keeps the
//! manifest.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tracing::{info, warn};

use super::{
    JobError, Verdict,
    agree::Common,
    brief::{Brief, Choice, SHARDS, Share, TOKEN, run_folder, spool_name},
    conversations, resume,
    standing::Standing,
};
use crate::{
    comm::{Comm, RollCall},
    domain::{Facts, Merge, Probe, Route, Surveyed, Tally},
    output::{Counts, Format, Manifest, OutputError, State, now},
    prompts::{self, RowTable, Rules, Scanned, Source},
    report::{self, Finish},
    settings::{self, Api, Gather, OutputFormat},
    shards::Bitmap,
};

/// Rank 0's own.
pub(super) struct Root {
    manifest: Manifest,
    folder: PathBuf,
    source: Source,
    rules: Rules,
    table: RowTable,
    /// A model that all rows name.
    row_model: Option<String>,
    /// Rows that cannot be read, which are failed outcomes.
    pub(super) bad: Vec<prompts::BadRow>,
    pub(super) tally: Tally,
    /// What all first outcomes say: the job is wrong.
    pub(super) wrong: Option<String>,
    /// Do answers come together in one file?
    gather: bool,
    began: Instant,
}

/// Scans the input and opens the run folder. Where that cannot be, everything is left as it was.
pub(super) fn begin(common: &Common, inputs: &[String], ranks: usize) -> Result<Root, JobError> {
    let settings = &common.settings;
    let Some(output) = &settings.output else {
        return Err(JobError::Standing("run needs --output FILE".into()));
    };
    let output =
        std::path::absolute(output).map_err(OutputError::io("cannot find", Path::new(output)))?;
    let folder = run_folder(&output);
    let existed = folder.exists();
    let earlier = resume::look(settings, &output, &folder)?;
    let start = earlier.as_ref().map_or(0, |it| it.starts) + 1;
    let begun = begin_at(common, inputs, ranks, (output, folder.clone()), earlier, start);
    begun.inspect_err(|_| {
        // What this start has made and nothing else: the folder may be somebody's.
        let _ = std::fs::remove_dir_all(folder.join(spool_name(start)));
        if !existed {
            let _ = std::fs::remove_dir(&folder);
        }
    })
}

fn begin_at(
    common: &Common,
    inputs: &[String],
    ranks: usize,
    (output, folder): (PathBuf, PathBuf),
    earlier: Option<Manifest>,
    start: u32,
) -> Result<Root, JobError> {
    let settings = &common.settings;
    let rules = rules(settings);
    let began = Instant::now();
    let output = output.to_string_lossy().into_owned();
    let scanned = read_over(inputs, &rules, &folder, start)?;
    scanned.notes.iter().for_each(|note| warn!("{note}"));
    let Scanned { source, table, bad, row_model, .. } = scanned;
    info!(rows = source.rows, seconds = began.elapsed().as_secs_f64(), "the input is read over");
    if source.rows == 0 {
        warn!("the input has no rows: there is nothing to ask");
    }
    if source.any_messages && settings.api == Api::Completions {
        return Err(JobError::Standing(
            "the input has rows with messages, and --api completions takes raw texts only: leave --api out, or give \
             the rows a prompt"
                .into(),
        ));
    }
    let earlier = resume::go_on(settings, earlier, &source.fingerprint, &folder, start)?;
    let mut manifest =
        earlier.unwrap_or_else(|| Manifest::begin(&output, source.rows, &source.fingerprint));
    manifest.output = output;
    manifest.format = format(settings, &source);
    manifest.state = State::Running;
    manifest.starts = start;
    manifest.ranks = ranks;
    manifest.input = inputs.to_vec();
    manifest.deciding = settings.deciding();
    manifest.settings = serde_json::to_value(settings).unwrap_or_default();
    manifest.origins.clone_from(&common.origins);
    manifest.host.clone_from(&common.place.node.host);
    manifest.pid = std::process::id();
    manifest.job.clone_from(&common.job);
    manifest.began = now();
    let root = Root {
        manifest,
        folder,
        source,
        rules,
        table,
        row_model,
        bad,
        tally: Tally::default(),
        wrong: None,
        gather: settings.gather == Gather::Root,
        began,
    };
    root.open_folder()
}

/// The answers' format: what was asked for, else what the input is in.
pub(super) fn format(settings: &settings::Settings, source: &Source) -> Format {
    match settings.output_format {
        Some(OutputFormat::Jsonl) => Format::Jsonl,
        Some(OutputFormat::OpenaiBatch) => Format::OpenaiBatch,
        Some(OutputFormat::Csv) => Format::Csv,
        None if source.openai_batch => Format::OpenaiBatch,
        None => Format::Jsonl,
    }
}

/// The rows' rules, from the settings.
pub(super) fn rules(settings: &settings::Settings) -> Rules {
    Rules {
        template: settings.template.clone(),
        keep_row: settings.keep_row,
        model: settings.model.clone(),
        ignore_row_model: settings.ignore_row_model,
        bad_rows: match settings.bad_rows {
            settings::BadRows::Stop => prompts::BadRows::Stop,
            settings::BadRows::Fail => prompts::BadRows::Fail,
        },
        duplicate_ids: match settings.duplicate_ids {
            settings::DuplicateIds::Refuse => prompts::DuplicateIds::Refuse,
            settings::DuplicateIds::Keep => prompts::DuplicateIds::Keep,
        },
    }
}

/// The scan. What ranks could not read by ranges (standard input, packed files) is first laid out plain in the run folder.
pub(super) fn read_over(
    inputs: &[String],
    rules: &Rules,
    folder: &Path,
    start: u32,
) -> Result<Scanned, JobError> {
    let mut files = Vec::new();
    let spool = folder.join(spool_name(start));
    let named: Vec<String> = inputs.iter().filter(|it| *it != "-").cloned().collect();
    let found = if named.is_empty() { Vec::new() } else { prompts::find(&named)? };
    let plain = |number: usize, path: &Path, from: &mut dyn std::io::Read| {
        std::fs::create_dir_all(&spool).map_err(OutputError::io("cannot make", &spool))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let to = spool.join(format!("{number:05}-{name}"));
        prompts::spool(from, &to)?;
        Ok::<_, JobError>(to)
    };
    for (number, path) in found.iter().enumerate() {
        let format = prompts::format_of(path).unwrap_or(prompts::Format::Jsonl);
        let path = if prompts::is_packed(path) {
            plain(number, path, &mut prompts::open_unpacked(path)?)?
        } else {
            std::path::absolute(path).map_err(OutputError::io("cannot find", path))?
        };
        files.push((path, format));
    }
    if named.len() < inputs.len() {
        let path = plain(found.len(), Path::new("stdin.jsonl"), &mut std::io::stdin().lock())?;
        files.push((path, prompts::Format::Jsonl));
    }
    Ok(prompts::scan(&files, rules)?)
}

impl Root {
    fn open_folder(mut self) -> Result<Self, JobError> {
        let shards = self.folder.join(SHARDS);
        std::fs::create_dir_all(&shards).map_err(OutputError::io("cannot make", &shards))?;
        let token = self.folder.join(TOKEN);
        std::fs::write(&token, self.token()).map_err(OutputError::io("cannot write", &token))?;
        self.manifest.write(&self.folder)?;
        Ok(self)
    }

    /// New with every start, so that a node that sees an old copy of the folder is found out.
    fn token(&self) -> String {
        let Manifest { host, pid, began, starts, .. } = &self.manifest;
        format!("{host} {pid} {began} {starts}\n")
    }

    pub(super) fn brief(&self) -> Brief {
        Brief {
            source: self.source.clone(),
            rules: self.rules.clone(),
            folder: std::path::absolute(&self.folder).unwrap_or_else(|_| self.folder.clone()),
            output: std::path::absolute(&self.manifest.output).unwrap_or_default(),
            format: self.gather.then_some(self.manifest.format),
            start: self.manifest.starts,
            token: self.token(),
        }
    }

    /// The model, the route and who is there to be asked; `None` where nobody is.
    pub(super) fn choose(
        &mut self,
        common: &Common,
        found: &[Vec<Surveyed>],
    ) -> Result<Option<Choice>, JobError> {
        let choice = self.chosen(common, found);
        if matches!(choice, Ok(Some(_))) {
            resume::drop_replaced(&self.folder, self.manifest.starts)?;
        } else {
            self.manifest.state = State::Stopped;
            self.manifest.write(&self.folder)?;
        }
        choice
    }

    fn chosen(
        &mut self,
        common: &Common,
        found: &[Vec<Surveyed>],
    ) -> Result<Option<Choice>, JobError> {
        let settings = &common.settings;
        let all: Vec<&Surveyed> = found.iter().flatten().collect();
        let ready: Vec<&Facts> = all.iter().filter_map(|it| facts(it)).collect();
        let least = settings.min_endpoints.of(all.len() as u64);
        if ready.is_empty() || (ready.len() as u64) < least {
            report::complain_of_endpoints(&all, least);
            return Ok(None);
        }
        let wanted = settings.model.as_deref().or(self.row_model.as_deref());
        let model = one_model(wanted, &ready).map_err(JobError::Model)?;
        if let Some(before) = self.manifest.model.as_ref().filter(|before| **before != model) {
            return Err(JobError::Standing(format!(
                "this run's answers are of the model {before}, and {model} is served now: serve {before} again, or begin \
                 anew with --overwrite"
            )));
        }
        let serving: Vec<&Facts> = ready.iter().copied().filter(|it| serves(it, &model)).collect();
        let text_route = match settings.api {
            Api::Completions => Route::Completions,
            Api::Chat => Route::Chat,
            Api::Auto if serving.iter().all(|it| it.chat_template) => Route::Chat,
            Api::Auto => Route::Completions,
        };
        if text_route == Route::Completions && settings.system.is_some() && self.source.any_text {
            return Err(JobError::Standing(
                "--system is the first message of conversations, and these prompts go out as raw texts: use --api chat, \
                 or put it into --template"
                    .into(),
            ));
        }
        let chat_template = if text_route == Route::Chat || self.source.any_messages {
            conversations::template(settings, &serving, &model)?
        } else {
            None
        };
        let context = settings.max_context.or_else(|| context(&serving, &model));
        let api = match text_route {
            Route::Completions => "completions",
            Route::Chat => "chat",
        };
        let weight = |urls: &Vec<Surveyed>| {
            urls.iter().filter(|it| facts(it).is_some_and(|facts| serves(facts, &model))).count()
                as u64
        };
        let weights: Vec<u64> = found.iter().map(weight).collect();
        info!(
            api,
            model,
            context = context.map_or("unknown".into(), |it: u64| it.to_string()),
            endpoints = serving.len(),
            ranks = found.len(),
            prompts = self.source.rows,
            "the work begins"
        );
        self.manifest.model = Some(model.clone());
        self.manifest.api = Some(api.into());
        self.manifest.write(&self.folder)?;
        Ok(Some(Choice { model, text_route, context, chat_template, weights }))
    }

    /// What is to do, dealt over the ranks by their ready endpoints: contiguous stretches, in rank order.
    pub(super) fn shares(&self, done: &Bitmap, choice: &Choice) -> Vec<Share> {
        let all = self.source.rows - done.count();
        let weight: u64 = choice.weights.iter().sum::<u64>().max(1);
        let mut gaps = done.gaps();
        let (mut from, mut to) = gaps.next().unwrap_or_default();
        let (mut seen, mut given) = (0, 0);
        let mut share = |its: &u64| {
            seen += its;
            let mut wanted = all * seen / weight - given;
            given += wanted;
            let mut stretches = Vec::new();
            while wanted > 0 && from < to {
                let end = to.min(from + wanted);
                stretches.extend(self.table.stretches(from, end));
                wanted -= end - from;
                from = end;
                if from == to {
                    (from, to) = gaps.next().unwrap_or_default();
                }
            }
            stretches
        };
        choice.weights.iter().map(&mut share).collect()
    }

    /// What the shard files say was done before: the manifest of a run that was killed is behind them.
    pub(super) fn begin_from(
        &mut self,
        standing: &Standing,
        done: &Bitmap,
    ) -> Result<(), JobError> {
        self.bad.retain(|bad| !done.has(bad.index));
        self.manifest.counts = standing.counts(self.source.rows);
        Ok(self.manifest.write(&self.folder)?)
    }

    /// While the work goes on: what is done so far, about (a failed prompt that is asked again is counted once more).
    pub(super) fn note(&mut self, before: &Counts, tally: &Tally) {
        let (answered, failed) = (before.answered + tally.answered, before.failed + tally.failed());
        self.manifest.counts = Counts::new(self.source.rows, answered, failed);
        if let Err(error) = self.manifest.write(&self.folder) {
            warn!("the manifest cannot be written: {error}");
        }
    }

    /// What was done before this start.
    pub(super) fn counts(&self) -> Counts {
        self.manifest.counts.clone()
    }

    /// The end, written last of all.
    pub(super) fn end(mut self, standing: &Standing) -> Result<Verdict, JobError> {
        let counts = standing.counts(self.source.rows);
        self.manifest.counts = counts.clone();
        self.manifest.state = if counts.open == 0 { State::Finished } else { State::Stopped };
        self.manifest.seconds += self.began.elapsed().as_secs_f64();
        self.manifest.requests += self.tally.requests;
        self.manifest.write(&self.folder)?;
        resume::drop_replaced(&self.folder, self.manifest.starts)?;
        let gathered = self.gather && counts.open == 0;
        report::print(
            &Finish {
                counts: &counts,
                tally: &self.tally,
                seconds: self.began.elapsed().as_secs_f64(),
                ranks: self.manifest.ranks,
                output: gathered.then_some(self.manifest.output.as_str()),
                folder: &self.folder.to_string_lossy(),
            }
            .to_string(),
        );
        if let Some(words) = self.wrong {
            return Err(JobError::AllAlike(words));
        }
        Ok(match counts {
            Counts { open: 1.., .. } => Verdict::Open,
            Counts { failed: 1.., .. } => Verdict::SomeFailed,
            _ => Verdict::Done,
        })
    }

    /// The end without the ranks that are lost: no collective is possible any more.
    pub(super) fn end_without(&mut self, comm: &dyn Comm, brief: &Brief, lost: &RollCall) -> ! {
        warn!(?lost, "ranks are lost: the job ends without them, and the same command goes on");
        match Standing::read_alone(brief) {
            Ok(standing) => self.manifest.counts = standing.counts(self.source.rows),
            Err(error) => warn!("the shard files cannot be counted: {error}"),
        }
        self.manifest.state = State::Stopped;
        if let Err(error) = self.manifest.write(&self.folder) {
            warn!("the manifest cannot be written: {error}");
        }
        comm.abort(super::STOPPED_EARLY)
    }

    pub(super) fn add(&mut self, tally: Tally) {
        self.tally.merge(tally);
    }
}

fn facts(surveyed: &Surveyed) -> Option<&Facts> {
    match &surveyed.probe {
        Probe::Ready(facts) => Some(facts),
        Probe::NotReady(_) => None,
    }
}

fn serves(facts: &Facts, model: &str) -> bool {
    facts.models.iter().any(|it| it.id == model)
}

fn one_model(wanted: Option<&str>, ready: &[&Facts]) -> Result<String, String> {
    let mut served: Vec<&str> =
        ready.iter().flat_map(|facts| facts.models.iter().map(|model| model.id.as_str())).collect();
    served.sort_unstable();
    served.dedup();
    match (wanted, served.as_slice()) {
        (Some(model), served) if served.contains(&model) => Ok(model.to_owned()),
        (Some(model), served) => Err(format!(
            "the model {model:?} is not served; the endpoints serve: {}",
            served.join(", ")
        )),
        (None, [only]) => Ok((*only).to_owned()),
        (None, several) => Err(format!(
            "the endpoints serve several models ({}): name one with --model",
            several.join(", ")
        )),
    }
}

/// The shortest context of those that say; endpoints that differ are worth a warning.
fn context(serving: &[&Facts], model: &str) -> Option<u64> {
    let models = serving.iter().flat_map(|facts| &facts.models).filter(|it| it.id == model);
    let lengths: Vec<u64> = models.filter_map(|it| it.max_model_len).collect();
    let (least, most) = (lengths.iter().min().copied(), lengths.iter().max().copied());
    if least != most {
        warn!(?least, ?most, "the endpoints have different context lengths: the shortest is used");
    }
    if least.is_none() {
        warn!(
            "no endpoint says how long its context is: answers are not fitted to it (--max-context)"
        );
    }
    least
}
