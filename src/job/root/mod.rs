//! What rank 0 alone does: reads the input over, opens the run folder, chooses the model, begins the ledger, keeps the
//! manifest.

mod finish;
pub(crate) mod heartbeat;
pub(crate) mod open;
pub(crate) mod report;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tracing::{info, warn};

use super::{
    JobError,
    collect::{aggregate::names, completion::Standing, local_shards},
    context::Common,
    dispatch::assignments::Book,
    pipeline::pass::Passes,
    resume::existing_run,
    setup::{
        model_selection::{Known, choose},
        run_plan::{Brief, Choice, SHARDS, TOKEN},
    },
};
use crate::{
    domain::{Merge, Surveyed, Tally},
    engine::Progress,
    input::{self, Keys, RowTable, Rules, Scanned, Source},
    ledger::Order,
    output::{
        Change, Counts, Doing, LostRank, Manifest, OutputError, Sample, State, TreeStands, now,
        write_sample,
    },
    settings::{AggregateWanted, Gather},
    shards::{self, Bitmap},
};
use heartbeat::Heart;
use open::{Start, fits, format, rules};

/// Rank 0's own.
pub(super) struct Root {
    pub(super) manifest: Manifest,
    /// Beats for as long as there is a root.
    heart: Heart,
    /// Each rank's host.
    hosts: Vec<String>,
    pub(super) folder: PathBuf,
    source: Source,
    rules: Rules,
    table: RowTable,
    /// What the order of work goes by, until there is one.
    keys: Keys,
    /// A model that all rows name.
    row_model: Option<String>,
    /// Rows that cannot be read, which are failed outcomes.
    pub(super) bad: Vec<input::BadRow>,
    pub(super) tally: Tally,
    /// What all first outcomes say: the job is wrong.
    pub(super) wrong: Option<String>,
    /// Prompts that should be open at the end.
    expected: Option<u64>,
    /// Do answers come together in one file?
    gather: bool,
    /// What is made of all of them.
    aggregate: Vec<AggregateWanted>,
    /// Had everything its outcome before this start?
    was_finished: bool,
    pub(super) began: Instant,
    /// Are lines measured, and is a report written of them?
    pub(super) report: bool,
    /// Of a level of a reduce: the run folder of its leaves.
    pub(super) tree: Option<PathBuf>,
}

/// Rank 0's own, of a start whose input is known, and its run folder open.
pub(super) fn begin(
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
    let earlier = existing_run::go_on(settings, earlier, &source, &folder, start)?;
    // A changed input has taken a start's number for what is carried over.
    let start = earlier.as_ref().map_or(start, |it| it.starts + 1);
    let mut manifest =
        earlier.unwrap_or_else(|| Manifest::begin(&output, source.rows, &source.fingerprint));
    // (a start that is told the same of a finished run makes nothing anew)
    let was_finished = manifest.state == State::Finished;
    manifest.makes(&names(&settings.aggregate, Path::new(&output)));
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
    manifest.begins();
    let away = local_shards::away(settings.local_shards.as_deref(), &output_name, &manifest.id)?;
    if let Some(before) = manifest.away.as_ref().filter(|_| manifest.away != away) {
        warn!(
            "an earlier start may have left answers in {before} of its nodes: they are asked again. Its --local-shards would \
             find them"
        );
    }
    manifest.away = away;
    if settings.reduce_template.is_some() {
        manifest.reduce = Some(TreeStands::default()); // it is gone through from the leaves on, whatever is there
    }
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
        was_finished,
        began,
        report: !settings.no_report,
        tree: None,
    };
    root.open_folder()
}

impl Root {
    /// Whose pass it is.
    pub(super) fn belongs_to(&mut self, tree: Option<&Path>, passes: Passes) {
        self.report &= passes != Passes::Calls;
        self.tree = tree.map(Path::to_owned);
    }

    fn open_folder(mut self) -> Result<Self, JobError> {
        let shards = self.folder.join(SHARDS);
        for folder in shards::folders_of(&shards, self.manifest.starts, self.manifest.ranks) {
            std::fs::create_dir_all(&folder).map_err(OutputError::io("cannot make", &folder))?;
        }
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
            report: self.report,
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
            // All there was has come home, and nothing new was written.
            self.manifest.away = None;
            self.manifest.state = State::Stopped;
            self.manifest.write(&self.folder)?;
            existing_run::tell_of_replaced(&self.folder, self.manifest.starts);
        }
        choice
    }

    /// This is asked: the run that was to be written over is not needed any more.
    pub(super) fn asks(&mut self, choice: &Choice) -> Result<(), JobError> {
        let before = self.manifest.model.replace(choice.model.clone());
        if let Some(before) = before.filter(|before| *before != choice.model) {
            let words = format!("the model was {before} and is {}", choice.model);
            let start = self.manifest.starts;
            self.manifest.changes.push(Change { start, settings: vec![words], input: None });
        }
        self.manifest.api = Some(choice.api().into());
        self.manifest.write(&self.folder)?;
        existing_run::drop_replaced(&self.folder, self.manifest.starts)
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
        self.manifest.begins_from(&standing.counts(self.source.rows));
        let all_done = done.gaps().next().is_none();
        self.heart.does(if all_done { Doing::Gathering } else { Doing::AwaitingEndpoints });
        Ok(self.manifest.write(&self.folder)?)
    }

    /// While the work goes on: what is done so far, about (a failed prompt that is asked again is counted once more).
    pub(super) fn note(&mut self, before: &Counts, progress: &Progress, lost: usize) {
        let tally = &progress.tally;
        let (answered, failed) = (before.answered + tally.answered, before.failed + tally.failed());
        self.manifest.counts = Counts::new(self.source.rows, answered, failed);
        self.manifest.did(tally, self.began.elapsed().as_secs_f64());
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

    /// What was done before this start.
    pub(super) fn counts(&self) -> Counts {
        self.manifest.counts.clone()
    }

    /// All that ranks keep on their nodes is here.
    pub(super) fn is_home(&mut self) {
        self.manifest.away = None;
    }

    /// Of a reduce: which of its passes this is.
    pub(super) fn what(&self) -> Option<String> {
        match &self.tree {
            Some(_) => {
                let name = self.folder.file_stem().unwrap_or_default().to_string_lossy();
                Some(name.replace("level-0", "level ").replace('-', " "))
            }
            None => self.manifest.reduce.map(|_| "leaves".into()),
        }
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

    /// What was asked so far: the model, and the route of texts.
    pub(super) fn asked(&self) -> (Option<String>, Option<String>) {
        (self.manifest.model.clone(), self.manifest.api.clone())
    }

    /// By which model, and by starts from which on, the answers are that count.
    pub(super) fn answered_by(&self) -> String {
        format!("{:?} {}", self.manifest.model, self.manifest.first_start())
    }

    /// Where the answers, or the text of a reduce, go.
    pub(super) fn output(&self) -> &str {
        &self.manifest.output
    }

    /// Of a reduce: how its tree stands from now on.
    pub(super) fn grows(&mut self, tree: TreeStands, state: State) -> Result<(), JobError> {
        (self.manifest.reduce, self.manifest.state) = (Some(tree), state);
        self.heart.does(Doing::Asking);
        Ok(self.manifest.write(&self.folder)?)
    }

    pub(super) fn add(&mut self, tally: Tally) {
        self.tally.merge(tally);
    }
}
