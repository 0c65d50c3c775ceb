//! What rank 0 alone does: reads the input over, opens the run folder, chooses the model, begins the ledger, keeps the
//! manifest.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tracing::{info, warn};

use super::{
    JobError, Verdict,
    agree::Common,
    book::Book,
    brief::{Brief, Choice, SHARDS, TOKEN, run_folder, spool_name},
    choose::{Known, choose},
    gather::gather_alone,
    resume,
    scan::lay_out,
    standing::Standing,
};
use crate::{
    domain::{Merge, Surveyed, Tally},
    engine::Progress,
    ledger::Order,
    output::{
        Counts, Format, LostRank, Manifest, OutputError, OutputFile, Sample, State, TreeStands,
        now, write_sample,
    },
    prompts::{self, Keys, RowTable, Rules, Scanned, Source},
    report::{self, Finish},
    settings::{self, Api, Gather, OutputFormat},
    shards::Bitmap,
};

/// Rank 0's own.
pub(super) struct Root {
    manifest: Manifest,
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
    /// The input.
    pub(super) files: Vec<(PathBuf, prompts::Format)>,
}

impl Start {
    /// Looks at what is there and lays the input out. Where that cannot be, everything is left as it was.
    pub(super) fn new(common: &Common, inputs: &[String]) -> Result<Self, JobError> {
        let (settings, began) = (&common.settings, Instant::now());
        let Some(output) = &settings.output else {
            return Err(JobError::Standing("run needs --output FILE".into()));
        };
        let output = std::path::absolute(output)
            .map_err(OutputError::io("cannot find", Path::new(output)))?;
        let folder = run_folder(&output);
        let existed = folder.exists();
        let earlier = resume::look(settings, &output, &folder)?;
        let is_other = |it: &&Manifest| it.reduce.is_some() != settings.reduce_template.is_some();
        if let Some(other) = earlier.as_ref().filter(|_| !settings.overwrite).filter(is_other) {
            let (its, mine) = match other.reduce {
                Some(_) => ("reduce", "run"),
                None => ("run", "reduce"),
            };
            return Err(JobError::Standing(format!(
                "{} is the folder of a {its}, and a {mine} cannot go on with it: choose another --output, or --overwrite it",
                folder.display()
            )));
        }
        let number = earlier.as_ref().map_or(0, |it| it.starts) + 1;
        let files =
            lay_out(inputs, &folder, number).inspect_err(|_| undo(&folder, existed, number))?;
        Ok(Self { output, folder, existed, earlier, number, began, files })
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
        let begun = scanned.and_then(|scanned| begin(common, inputs, ranks, self, scanned));
        begun.inspect_err(|_| undo(&folder, existed, number))
    }
}

/// Takes away what this start has made and nothing else: the folder may be somebody's.
fn undo(folder: &Path, existed: bool, start: u32) {
    let _ = std::fs::remove_dir_all(folder.join(spool_name(start)));
    if !existed {
        let _ = std::fs::remove_dir(folder);
    }
}

fn begin(
    common: &Common,
    inputs: &[String],
    ranks: usize,
    Start { output, folder, earlier, number: start, began, .. }: Start,
    scanned: Scanned,
) -> Result<Root, JobError> {
    let settings = &common.settings;
    let rules = rules(settings);
    let output = output.to_string_lossy().into_owned();
    scanned.notes.iter().for_each(|note| warn!("{note}"));
    let Scanned { source, table, keys, bad, row_model, .. } = scanned;
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
    manifest.lost = Vec::new();
    if settings.reduce_template.is_some() {
        manifest.reduce.get_or_insert_default();
    }
    let root = Root {
        manifest,
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
        let known = Known {
            source: &self.source,
            row_model: self.row_model.as_deref(),
            model: self.manifest.model.as_deref(),
            api: self.manifest.api.as_deref(),
        };
        let choice = choose(&common.settings, &known, found);
        if let Ok(Some(choice)) = &choice {
            self.asks(choice)?;
        } else {
            self.manifest.state = State::Stopped;
            self.manifest.write(&self.folder)?;
        }
        choice
    }

    /// This is asked: the run that was to be written over is not needed any more.
    pub(super) fn asks(&mut self, choice: &Choice) -> Result<(), JobError> {
        self.manifest.model = Some(choice.model.clone());
        self.manifest.api = Some(choice.api().into());
        self.manifest.write(&self.folder)?;
        resume::drop_replaced(&self.folder, self.manifest.starts)
    }

    /// The ledger of what is to do, in the order of work. Rows that cannot be read have their outcome.
    pub(super) fn book(&mut self, done: &Bitmap, ranks: usize) -> Book {
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
    }

    /// What was done before this start.
    pub(super) fn counts(&self) -> Counts {
        self.manifest.counts.clone()
    }

    /// The end, written last of all. Of a reduce it is the end of the leaves, and nothing is finished.
    pub(super) fn end(&mut self, standing: &Standing) -> Result<Verdict, JobError> {
        let counts = standing.counts(self.source.rows);
        self.manifest.counts = counts.clone();
        let is_finished = counts.open == 0 && self.manifest.reduce.is_none();
        self.manifest.state = if is_finished { State::Finished } else { State::Stopped };
        self.manifest.seconds += self.began.elapsed().as_secs_f64();
        self.manifest.requests += self.tally.requests;
        self.manifest.write(&self.folder)?;
        resume::drop_replaced(&self.folder, self.manifest.starts)?;
        (self.table, self.keys) = Default::default(); // a reduce goes on, and needs no more of the leaves' rows
        let missing = self.expected.map_or(0, |open| counts.open.saturating_sub(open));
        if missing > 0 {
            warn!(
                "{missing} prompts that were settled have no outcome in the shard files: were files of {} removed?",
                self.folder.display()
            );
        }
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
        if let Some(words) = self.wrong.take() {
            return Err(JobError::AllAlike(words));
        }
        Ok(match counts {
            Counts { open: 1.., .. } => Verdict::Open,
            Counts { failed: 1.., .. } => Verdict::SomeFailed,
            _ => Verdict::Done,
        })
    }

    /// So many prompts are open by the ledger.
    pub(super) fn expects_open(&mut self, open: u64) {
        self.expected = Some(open);
    }

    /// These ranks are not here any more.
    pub(super) fn are_lost(&mut self, ranks: &[usize]) {
        let host = |&rank: &usize| self.hosts.get(rank).cloned().unwrap_or_default();
        self.manifest.lost =
            ranks.iter().map(|rank| LostRank { rank: *rank, host: host(rank) }).collect();
    }

    /// The end without the ranks that are lost: no collective is possible any more. Rank 0 alone reads what all have
    /// written; if nothing is open, it writes the answers.
    pub(super) fn end_without(mut self, brief: &Brief) -> Result<Verdict, JobError> {
        let named: Vec<String> =
            self.manifest.lost.iter().map(|it| format!("{} ({})", it.rank, it.host)).collect();
        warn!("the job ends without ranks that are lost: {}", named.join(", "));
        let Source { rows, fingerprint, .. } = &self.source;
        let (standing, lines) = Standing::of_folder_with_lines(&self.folder, *rows, fingerprint)?;
        if let Some(format) = brief.format
            && standing.counts(*rows).open == 0
        {
            let mut output = OutputFile::create(&brief.output, format)?;
            gather_alone(lines, *rows, &mut output)?;
            output.finish()?;
        }
        self.end(&standing)
    }

    /// What was asked so far: the model, and the route of texts.
    pub(super) fn asked(&self) -> (Option<String>, Option<String>) {
        (self.manifest.model.clone(), self.manifest.api.clone())
    }

    /// Where the answers, or the text of a reduce, go.
    pub(super) fn output(&self) -> &str {
        &self.manifest.output
    }

    /// Of a reduce: how its tree stands from now on.
    pub(super) fn grows(&mut self, tree: TreeStands, state: State) -> Result<(), JobError> {
        (self.manifest.reduce, self.manifest.state) = (Some(tree), state);
        Ok(self.manifest.write(&self.folder)?)
    }

    pub(super) fn add(&mut self, tally: Tally) {
        self.tally.merge(tally);
    }
}
