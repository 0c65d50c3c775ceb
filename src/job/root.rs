//! What rank 0 alone does: reads the input over, opens the run folder, chooses the model, begins the ledger, keeps the
//! manifest.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tracing::{info, warn};

use super::{
    JobError, Verdict,
    aggregate::report_place,
    agree::Common,
    book::Book,
    brief::{Brief, Choice, SHARDS, TOKEN, run_folder, spool_name},
    choose::{Known, choose},
    gather::gather_alone,
    heart::Heart,
    home::{self, Folders},
    resume,
    scan::lay_out,
    standing::Standing,
};
use crate::{
    domain::{Merge, Surveyed, Tally},
    engine::Progress,
    ledger::Order,
    output::{
        Change, Counts, Doing, Format, Heartbeat, LostRank, Manifest, OutputError, Sample, State,
        now, write_sample,
    },
    prompts::{self, Keys, RowTable, Rules, Scanned, Source},
    report::{self, Finish},
    settings::{self, AggregateWanted, Api, Gather, OutputFormat},
    shards::Bitmap,
};

/// Rank 0's own.
pub(super) struct Root {
    manifest: Manifest,
    /// Beats for as long as there is a root.
    heart: Heart,
    /// Each rank's host.
    hosts: Vec<String>,
    folder: PathBuf,
    source: Source,
    rules: Rules,
    table: RowTable,
    /// What the order of work goes by, until there is one.
    keys: Keys,
    /// A model that all rows name.
    row_model: Option<String>,
    /// Rows that cannot be read, which are failed outcomes.
    pub(super) bad: Vec<prompts::BadRow>,
    pub(super) tally: Tally,
    /// What all first outcomes say: the job is wrong.
    pub(super) wrong: Option<String>,
    /// Prompts that should be open at the end.
    expected: Option<u64>,
    /// Do answers come together in one file?
    gather: bool,
    /// What is made of all of them.
    aggregate: Vec<AggregateWanted>,
    began: Instant,
}

/// A start of the run, before its input is read over.
pub(super) struct Start {
    output: PathBuf,
    folder: PathBuf,
    existed: bool,
    earlier: Option<Manifest>,
    number: u32,
    began: Instant,
    heart: Heart,
    /// The input.
    pub(super) files: Vec<(PathBuf, prompts::Format)>,
}

impl Start {
    /// Looks at what is there and lays the input out. Where that cannot be, everything is left as it was.
    pub(super) fn new(common: &Common, inputs: &[String]) -> Result<Self, JobError> {
        let (settings, began) = (&common.settings, Instant::now());
        let output = resume::output(settings)?;
        let folder = run_folder(&output);
        let existed = folder.exists();
        let earlier = resume::look(settings, &output, &folder)?;
        let number = earlier.as_ref().map_or(0, |it| it.starts) + 1;
        // Where more than the folder is missing, it is made once the input is known to be good.
        let _ = std::fs::create_dir(&folder);
        let beat = Heartbeat {
            host: common.place.node.host.clone(),
            pid: std::process::id(),
            job: common.job.clone(),
            start: number,
            began: now(),
            doing: Doing::ReadingInput,
            beat: 0,
        };
        let heart = Heart::start(folder.clone(), beat);
        match lay_out(inputs, &folder, number) {
            Ok(files) => Ok(Self { output, folder, existed, earlier, number, began, heart, files }),
            Err(error) => {
                drop(heart);
                undo(&folder, existed, number);
                Err(error)
            }
        }
    }

    /// Opens the run folder, once the input is read over. Where that cannot be, everything is left as it was.
    pub(super) fn begin(
        self,
        common: &Common,
        inputs: &[String],
        ranks: usize,
        scanned: Result<Scanned, JobError>,
    ) -> Result<Root, JobError> {
        let (folder, existed, number) = (self.folder.clone(), self.existed, self.number);
        // (whatever goes wrong in here, the heartbeat is gone before the folder is)
        let begun = scanned.and_then(|scanned| begin(common, inputs, ranks, self, scanned));
        begun.inspect_err(|_| undo(&folder, existed, number))
    }
}

/// Takes away what this start has made and nothing else: the folder may be somebody's.
fn undo(folder: &Path, existed: bool, start: u32) {
    let _ = std::fs::remove_dir_all(folder.join(spool_name(start)));
    if !existed {
        let _ = std::fs::remove_file(folder.join(TOKEN));
        let _ = std::fs::remove_dir(folder.join(SHARDS));
        let _ = std::fs::remove_dir(folder);
    }
}

fn begin(
    common: &Common,
    inputs: &[String],
    ranks: usize,
    Start { output, folder, earlier, number: start, began, heart, .. }: Start,
    scanned: Scanned,
) -> Result<Root, JobError> {
    let settings = &common.settings;
    let rules = rules(settings);
    let output_name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let output = output.to_string_lossy().into_owned();
    scanned.notes.iter().for_each(|note| warn!("{note}"));
    let Scanned { source, table, keys, bad, row_model, .. } = scanned;
    info!(rows = source.rows, seconds = began.elapsed().as_secs_f64(), "the input is read over");
    if source.rows == 0 {
        warn!("the input has no rows: there is nothing to ask");
    }
    fits(settings, &source)?;
    let earlier = resume::go_on(settings, earlier, &source, &folder, start)?;
    // A changed input has taken a start's number for what is carried over.
    let start = earlier.as_ref().map_or(start, |it| it.starts + 1);
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
    manifest.lost = Vec::new();
    let away = home::away(settings.local_shards.as_deref(), &output_name, &manifest.id)?;
    if let Some(before) = manifest.away.as_ref().filter(|_| manifest.away != away) {
        warn!(
            "an earlier start may have left answers in {before} of its nodes: they are asked again. Its --local-shards would \
             find them"
        );
    }
    manifest.away = away;
    let root = Root {
        manifest,
        heart,
        hosts: common.hosts.clone(),
        folder,
        source,
        rules,
        table,
        keys,
        row_model,
        bad,
        tally: Tally::default(),
        wrong: None,
        expected: None,
        gather: settings.gather == Gather::Root,
        aggregate: settings.aggregate.clone(),
        began,
    };
    root.open_folder()
}

/// Can this input be asked by the route that was asked for?
pub(super) fn fits(settings: &settings::Settings, source: &Source) -> Result<(), JobError> {
    if source.any_messages && settings.api == Api::Completions {
        return Err(JobError::Standing(
            "the input has rows with messages, and --api completions takes raw texts only: leave --api out, or give \
             the rows a prompt"
                .into(),
        ));
    }
    Ok(())
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
        defaults: settings.sampling(),
    }
}

impl Root {
    fn open_folder(mut self) -> Result<Self, JobError> {
        let shards = self.folder.join(SHARDS);
        std::fs::create_dir_all(&shards).map_err(OutputError::io("cannot make", &shards))?;
        let token = self.folder.join(TOKEN);
        std::fs::write(&token, self.token()).map_err(OutputError::io("cannot write", &token))?;
        self.manifest.write(&self.folder)?;
        self.heart.does(Doing::ReadingAnswers);
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
            aggregate: self.aggregate.clone(),
            start: self.manifest.starts,
            local: self.manifest.away.clone(),
            token: self.token(),
        }
    }

    /// The model, the route and who is there to be asked; `None` where nobody is.
    pub(super) fn choose(
        &mut self,
        common: &Common,
        found: &[Vec<Surveyed>],
    ) -> Result<Option<Choice>, JobError> {
        let known = Known {
            source: &self.source,
            row_model: self.row_model.as_deref(),
            model: self.manifest.model.as_deref(),
            api: self.manifest.api.as_deref(),
        };
        let choice = choose(&common.settings, &known, found);
        if let Ok(Some(choice)) = &choice {
            let before = self.manifest.model.replace(choice.model.clone());
            if let Some(before) = before.filter(|before| *before != choice.model) {
                let words = format!("the model was {before} and is {}", choice.model);
                let start = self.manifest.starts;
                self.manifest.changes.push(Change { start, settings: vec![words], input: None });
            }
            self.manifest.api = Some(choice.api().into());
            self.manifest.write(&self.folder)?;
            resume::drop_replaced(&self.folder, self.manifest.starts)?;
        } else {
            // All there was has come home, and nothing new was written.
            self.manifest.away = None;
            self.manifest.state = State::Stopped;
            self.manifest.write(&self.folder)?;
        }
        choice
    }

    /// The ledger of what is to do, in the order of work. Rows that cannot be read have their outcome.
    pub(super) fn book(&mut self, done: &Bitmap, ranks: usize) -> Book {
        self.heart.does(Doing::Asking);
        let mut done = done.clone();
        self.bad.iter().for_each(|bad| done.insert(bad.index));
        let keys = std::mem::take(&mut self.keys);
        let order = match keys.order(self.source.rows, |row| !done.has(row)) {
            Some(rows) => Order::Sorted(rows),
            None => Order::straight(done.gaps().map(|(from, to)| from..to)),
        };
        Book::new(order, std::mem::take(&mut self.table), ranks)
    }

    /// What the shard files say was done before: the manifest of a run that was killed is behind them.
    pub(super) fn begin_from(
        &mut self,
        standing: &Standing,
        done: &Bitmap,
    ) -> Result<(), JobError> {
        self.bad.retain(|bad| !done.has(bad.index));
        self.manifest.counts = standing.counts(self.source.rows);
        let all_done = done.gaps().next().is_none();
        self.heart.does(if all_done { Doing::Gathering } else { Doing::AwaitingEndpoints });
        Ok(self.manifest.write(&self.folder)?)
    }

    /// While the work goes on: what is done so far, about (a failed prompt that is asked again is counted once more).
    pub(super) fn note(&mut self, before: &Counts, progress: &Progress, lost: usize) {
        let tally = &progress.tally;
        let (answered, failed) = (before.answered + tally.answered, before.failed + tally.failed());
        self.manifest.counts = Counts::new(self.source.rows, answered, failed);
        let sample = Sample {
            start: self.manifest.starts,
            seconds: self.began.elapsed().as_secs_f64(),
            answered,
            failed,
            prompt_tokens: tally.prompt_tokens,
            completion_tokens: tally.completion_tokens,
            requests: tally.requests,
            in_flight: progress.in_flight,
            endpoints_up: progress.up,
            ranks_lost: lost as u64,
        };
        if let Err(error) = write_sample(&self.folder, &sample) {
            warn!("{error}");
        }
        if let Err(error) = self.manifest.write(&self.folder) {
            warn!("the manifest cannot be written: {error}");
        }
    }

    /// The end without an end: what is counted so far is left as it is.
    pub(super) fn stopped(&mut self) {
        self.manifest.state = State::Stopped;
        if let Err(error) = self.manifest.write(&self.folder) {
            warn!("the manifest cannot be written: {error}");
        }
        self.heart.stop();
    }

    /// What was done before this start.
    pub(super) fn counts(&self) -> Counts {
        self.manifest.counts.clone()
    }

    /// All that ranks keep on their nodes is here.
    pub(super) fn is_home(&mut self) {
        self.manifest.away = None;
    }

    /// The end, written last of all. It is none where the answers could not be gathered.
    pub(super) fn end(mut self, standing: &Standing, gathered: bool) -> Result<Verdict, JobError> {
        let counts = standing.counts(self.source.rows);
        self.manifest.counts = counts.clone();
        let finished = counts.open == 0 && gathered;
        self.manifest.state = if finished { State::Finished } else { State::Stopped };
        self.manifest.seconds += self.began.elapsed().as_secs_f64();
        self.manifest.requests += self.tally.requests;
        // Whatever becomes of the manifest, people hear how the run stands.
        let written = self.manifest.write(&self.folder).map_err(JobError::from);
        let written =
            written.and_then(|()| resume::drop_replaced(&self.folder, self.manifest.starts));
        let missing = self.expected.map_or(0, |open| counts.open.saturating_sub(open));
        if missing > 0 {
            let (folder, away) = (self.folder.display(), self.manifest.away.as_ref());
            let why = away.map_or_else(
                || format!("were files of {folder} removed?"),
                |away| format!("they may be in {away} of nodes whose ranks are not here any more"),
            );
            warn!("{missing} prompts that were settled have no outcome in the shard files: {why}");
        }
        let gathered = self.gather && finished;
        let aggregated = !self.aggregate.is_empty() && finished;
        let aggregate = report_place(Path::new(&self.manifest.output));
        report::print(
            &Finish {
                counts: &counts,
                tally: &self.tally,
                seconds: self.began.elapsed().as_secs_f64(),
                ranks: self.manifest.ranks,
                output: gathered.then_some(self.manifest.output.as_str()),
                aggregate: aggregated.then(|| aggregate.to_string_lossy()).as_deref(),
                folder: &self.folder.to_string_lossy(),
            }
            .to_string(),
        );
        if let Some(words) = self.wrong {
            return Err(JobError::AllAlike(words));
        }
        written.map_err(JobError::unfinished)?;
        Ok(match counts {
            Counts { open: 1.., .. } => Verdict::Open,
            Counts { failed: 1.., .. } => Verdict::SomeFailed,
            _ => Verdict::Done,
        })
    }

    /// The work is over, and so many prompts are open by the ledger: what is written is read and put together.
    pub(super) fn expects_open(&mut self, open: u64) {
        self.heart.does(if open == 0 { Doing::Gathering } else { Doing::ReadingAnswers });
        self.expected = Some(open);
    }

    /// These ranks are not here any more.
    pub(super) fn are_lost(&mut self, ranks: &[usize]) {
        let host = |&rank: &usize| self.hosts.get(rank).cloned().unwrap_or_default();
        self.manifest.lost =
            ranks.iter().map(|rank| LostRank { rank: *rank, host: host(rank) }).collect();
    }

    /// Ranks that are not here any more.
    pub(super) fn lost(&self) -> Vec<usize> {
        self.manifest.lost.iter().map(|it| it.rank).collect()
    }

    /// The end without the ranks that are lost: no collective is possible any more. Rank 0 alone reads what all have
    /// written; if nothing is open, it writes the answers.
    pub(super) fn end_without(self, brief: &Brief, folders: &Folders) -> Result<Verdict, JobError> {
        let named: Vec<String> =
            self.manifest.lost.iter().map(|it| format!("{} ({})", it.rank, it.host)).collect();
        warn!("the job ends without ranks that are lost: {}", named.join(", "));
        if let Err(error) = home::bring_alone(folders, brief) {
            warn!("{error}");
        }
        let Source { rows, fingerprint, .. } = &self.source;
        let (standing, lines) = Standing::of_folder_with_lines(&self.folder, *rows, fingerprint)?;
        let counts = standing.counts(*rows);
        let gathered = if counts.open == 0 {
            gather_alone(lines, &counts, &brief.output, brief.format, &brief.aggregate)
        } else {
            Ok(())
        };
        let ended = self.end(&standing, gathered.is_ok());
        gathered.and(ended)
    }

    pub(super) fn add(&mut self, tally: Tally) {
        self.tally.merge(tally);
    }
}
