//! `reduce`: many answers become one text, a level of a tree at a time.
//!
//! Owns the order of it: the leaves are a pass over the line, and so is each level, over prompts that are made of what the
//! one below has brought. What the tree looks like is `reduce`'s, how a level's prompts are made `level`'s.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use tracing::info;

use super::{
    level::{Kitchen, Place, called, make},
    measurements::PassesMeasured,
    node_texts::{Fault, Texts, merge},
    provenance::write_tree,
};
use crate::job::{
    Codes, Given, JobError, Verdict,
    collect::gather::measure,
    context::{Common, agree, everywhere, told},
    pipeline::pass::{Crew, Passed, Passes, pass},
    root::Root,
};
use crate::{
    comm::{Combine, Comm, Typed},
    console,
    output::{Format, OutputError, State, TreeStands, replace},
    reduce::{Budget, DEFAULT_TEMPLATE, Recipe, Tree},
    settings::{Api, BadRows, DuplicateIds, Gather, Resume},
    shards::Bitmap,
};

/// Collective. Answers the prompts of `inputs`, and makes one text of the answers.
///
/// # Errors
/// Where settings, input or what is there already stand in the way. What is answered by then is on disk.
pub fn reduce(
    comm: &mut dyn Comm,
    mut given: Given,
    inputs: &[String],
    codes: Codes,
) -> Result<Verdict, JobError> {
    // Where ranks are lost in a pass, the job ends in there: whatever the pass came to, the text is not made.
    let in_passes = Codes { verdict: |_| crate::job::STOPPED_EARLY, ..codes };
    let mut crew = Crew::new(given.guard.take(), in_passes);
    crew.passes = Passes::Many;
    let common = agree(comm, given, codes.error)?;
    console::this_is_rank(common.place.rank, &common.place.node.host);
    grow(comm, common, &mut crew, inputs)
}

/// Collective. The same, with what is known.
pub(crate) fn grow(
    comm: &mut dyn Comm,
    mut common: Common,
    crew: &mut Crew,
    inputs: &[String],
) -> Result<Verdict, JobError> {
    let recipe = everywhere(comm, ready(&mut common), crew.codes.error)?;
    let Some(leaves) = pass(comm, &common, crew, inputs)? else {
        return Ok(Verdict::NoEndpoint);
    };
    let mut growth = Growth::of(comm, common, crew, recipe, leaves)?;
    let grown = growth.grow(comm);
    growth.crew.tree = None;
    // (without rows nothing is left to go on with, whatever is said about it)
    if !matches!(grown, Ok(Verdict::Done | Verdict::SomeFailed))
        && growth.tree.nodes(0) > 0
        && let Some(root) = &mut growth.root
    {
        root.stopped();
    }
    if let Some(root) = &growth.root {
        let ended = matches!(grown, Ok(Verdict::Done | Verdict::SomeFailed));
        root.tell_of_tree(std::mem::take(&mut growth.measured), ended);
    }
    grown
}

/// Settings that a tree needs, and its prompt.
fn ready(common: &mut Common) -> Result<Recipe, JobError> {
    let settings = &mut common.settings;
    if settings.n > 1 {
        return Err(JobError::Standing("a tree takes one answer a prompt: leave out --n".into()));
    }
    if settings.output_format.is_some() {
        return Err(JobError::Standing(
            "the output of a reduce is a text: leave out --output-format (merge writes the leaves' answers in any format)"
                .into(),
        ));
    }
    let output = Path::new(settings.output.as_deref().unwrap_or_default());
    if Format::Jsonl.unless_named(output) == Format::Parquet {
        return Err(JobError::Standing(
            "the output of a reduce is a text, and would be no Parquet: give --output another ending (merge writes the \
             leaves' answers in any format)"
                .into(),
        ));
    }
    if !settings.aggregate.is_empty() {
        return Err(JobError::Standing(
            "a reduce makes a text of the answers: leave out --aggregate (merge --aggregate makes those of the leaves)".into(),
        ));
    }
    settings.gather = Gather::None;
    let template = settings.reduce_template.get_or_insert_with(|| DEFAULT_TEMPLATE.into());
    Recipe::parse(template).map_err(JobError::Standing)
}

/// A tree while it grows.
struct Growth<'c> {
    common: Common,
    crew: &'c mut Crew,
    recipe: Recipe,
    tree: Tree,
    /// Of the leaves, on rank 0.
    root: Option<Root>,
    leaves: Option<Leaves>,
    /// The leaves' run folder.
    folder: std::path::PathBuf,
    /// What the next level is made of, as a name.
    made_of: String,
    /// On rank 0.
    measured: PassesMeasured,
    /// Somebody asked this process to end, between two passes.
    asked_to_end: Arc<AtomicBool>,
}

/// The pass over the leaves, until it is looked at.
struct Leaves {
    brief: crate::job::setup::run_plan::Brief,
    standing: crate::job::collect::completion::Standing,
    lines: Option<crate::job::collect::line_index::Lines>,
}

impl<'c> Growth<'c> {
    /// Collective.
    fn of(
        comm: &mut dyn Comm,
        common: Common,
        crew: &'c mut Crew,
        recipe: Recipe,
        Passed { root, brief, standing, lines }: Passed,
    ) -> Result<Self, JobError> {
        let tree = Tree::new(brief.source.rows, common.settings.fan_in);
        // What is made of the leaves is another tree where the input or what decides answers is another, and where the leaves
        // were answered anew because the input had been another meanwhile.
        let deciding = serde_json::to_string(&common.settings.deciding()).unwrap_or_default();
        let leaves = root.as_ref().map(Root::answered_by);
        let made_of =
            leaves.map(|leaves| format!("{} {leaves} {deciding}", brief.source.fingerprint));
        let made_of = comm.broadcast_value(made_of)?;
        let folder = brief.folder.clone();
        let leaves = Some(Leaves { brief, standing, lines });
        let asked_to_end = Arc::default();
        Ok(Self {
            common,
            crew,
            recipe,
            tree,
            root,
            leaves,
            folder,
            made_of,
            measured: PassesMeasured::default(),
            asked_to_end,
        })
    }

    /// Collective. From the leaves to the root.
    fn grow(&mut self, comm: &mut dyn Comm) -> Result<Verdict, JobError> {
        let code = self.crew.codes.error;
        let Some(Leaves { brief, standing, mut lines }) = self.leaves.take() else {
            return Ok(Verdict::Open);
        };
        let counts = standing.counts(brief.source.rows);
        self.measured.leaves = measure(comm, &brief, lines.as_mut(), &counts, code)?;
        let measured = self.measured.leaves.as_ref();
        let ended = self.root.as_mut().map(|root| root.end(&standing, true, measured));
        let ended = told(comm, ended, code)?;
        if comm.broadcast_value(ended)? == Verdict::Open {
            return Ok(Verdict::Open);
        }
        if brief.source.rows == 0 {
            self.stands(comm, TreeStands::default(), State::Finished)?;
            let none = "the input has no rows: there is nothing to make a text of";
            return everywhere(comm, Err(JobError::Standing(none.into())), code);
        }
        let asked = comm.broadcast_value(self.root.as_ref().map(Root::asked))?;
        let mut stamp = Stamp::of(&self.made_of).and(standing.answered());
        let any = standing.answered().count() > 0;
        let mut below = everywhere(comm, Texts::of(lines, None, &[]), code)?;
        self.crew.tree = Some(self.folder.clone());
        for level in 1..=self.tree.levels() {
            if self.is_asked_to_end(comm) {
                return Ok(Verdict::Open);
            }
            let levels = self.tree.levels();
            self.stands(
                comm,
                TreeStands { levels, level, ..TreeStands::default() },
                State::Running,
            )?;
            let place = Place::of(&self.folder, level);
            if !self.make(comm, &place, &stamp, &mut below, &brief, any)? {
                return Ok(Verdict::NoEndpoint);
            }
            drop(below); // the level has its own memory to take
            let readers = seeing(comm, &brief);
            let (called, passed) = called(comm, &place, self.tree, readers, code)?;
            let (mut lines, mut answered) = (None, Bitmap::new(0));
            if called.count() > 0 {
                if comm.rank() == 0 {
                    info!(
                        level,
                        of = levels,
                        prompts = called.count(),
                        "a level of the tree begins"
                    );
                }
                let common = self.of_level(&place, &asked);
                let inputs = [place.prompts().to_string_lossy().into_owned()];
                let Some(mut done) = pass(comm, &common, self.crew, &inputs)? else {
                    return Ok(Verdict::NoEndpoint);
                };
                let counts = done.standing.counts(done.brief.source.rows);
                let measured = measure(comm, &done.brief, done.lines.as_mut(), &counts, code)?;
                let ended =
                    done.root.as_mut().map(|it| it.end(&done.standing, true, measured.as_ref()));
                self.measured.levels.resize(level as usize - 1, None);
                self.measured.levels.push(measured);
                let ended = told(comm, ended, code)?;
                if comm.broadcast_value(ended)? == Verdict::Open {
                    return Ok(Verdict::Open);
                }
                (lines, answered) = (done.lines, done.standing.answered().clone());
            }
            stamp = stamp.and(&answered);
            below = everywhere(comm, Texts::of(lines, Some(called), &passed), code)?;
        }
        self.end(comm, &mut below)
    }

    /// Collective. The level's prompts, unless they are there, made of the same; false where nobody is there to be asked.
    fn make(
        &mut self,
        comm: &mut dyn Comm,
        place: &Place,
        stamp: &Stamp,
        below: &mut Texts,
        leaves: &crate::job::setup::run_plan::Brief,
        any: bool,
    ) -> Result<bool, JobError> {
        let (code, rank, began) = (self.crew.codes.error, comm.rank(), Instant::now());
        let is_whole = (rank == 0).then(|| place.is_whole(&stamp.name()));
        if comm.broadcast_value(is_whole)? {
            return Ok(true);
        }
        // How much fits a prompt is known once somebody is there who says so.
        let context = if any {
            match self.crew.context(comm, &self.common, self.root.as_mut())? {
                Some(context) => context,
                None => return Ok(false),
            }
        } else {
            None
        };
        let begun = (rank == 0).then(|| {
            remove(&leaves.output)?;
            remove(&self.folder.join("tree.jsonl"))?;
            place.begin(&self.folder, self.tree.levels())
        });
        told(comm, begun, code)?;
        let settings = &self.common.settings;
        let budget = Budget {
            fixed: settings.max_tokens_aggregation,
            leaf: settings.max_tokens,
            context,
            buffer: settings.buffer,
        };
        let cooks = seeing(comm, leaves);
        let kitchen = Kitchen { tree: self.tree, recipe: &self.recipe, budget, cooks };
        make(comm, place, &kitchen, below, code)?;
        let seconds = began.elapsed().as_secs_f64();
        told(comm, (rank == 0).then(|| place.end(&stamp.name(), seconds)), code)?;
        Ok(true)
    }

    /// The settings of a level's pass: those of the job, but for what its own rows say and what was chosen for the leaves.
    fn of_level(&self, place: &Place, asked: &(Option<String>, Option<String>)) -> Common {
        let mut common = self.common.clone();
        let settings = &mut common.settings;
        settings.output = Some(place.output.to_string_lossy().into_owned());
        (settings.overwrite, settings.resume) = (false, Resume::Auto);
        (settings.template, settings.reduce_template) = (None, None);
        (settings.keep_row, settings.no_echo) = (false, true);
        (settings.bad_rows, settings.duplicate_ids) = (BadRows::Stop, DuplicateIds::Keep);
        let (model, api) = asked;
        settings.model = model.clone().or(settings.model.take());
        settings.api = match api.as_deref() {
            Some("chat") => Api::Chat,
            Some("completions") => {
                settings.system = None; // raw texts have no place for it
                Api::Completions
            }
            _ => settings.api,
        };
        common
    }

    /// Collective. The text at the root, into its file, and the tree beside it.
    fn end(&mut self, comm: &mut dyn Comm, top: &mut Texts) -> Result<Verdict, JobError> {
        let code = self.crew.codes.error;
        self.crew.close();
        let mut mine = Vec::new();
        let read = top.read(&(0..1), &mut mine);
        everywhere(comm, read, code)?;
        let all = comm.gather_values(&mine)?;
        let mut root = self.root.take();
        let verdict = root.as_mut().zip(all).map(|(root, all)| {
            let mut told = std::collections::BTreeMap::new();
            all.iter().for_each(|bytes| merge(bytes, &mut told));
            let text = told.remove(&0).map(super::node_texts::Told::text);
            let output = root.output().to_owned();
            let fault: Result<(), Option<Fault>> = match &text {
                Some(Ok(_)) => Ok(()),
                Some(Err(fault)) => Err(Some(fault.clone())),
                None => Err(None),
            };
            let missing = write_tree(&self.folder, self.tree, &fault)?;
            match text {
                Some(Ok(text)) => replace(Path::new(&output), text.as_bytes())?,
                _ => remove(Path::new(&output))?,
            }
            let levels = self.tree.levels();
            let text = fault.is_ok();
            let tree = TreeStands { levels, level: levels, text, missing };
            root.grows(tree, State::Finished)?;
            Ok(if text && missing == 0 { Verdict::Done } else { Verdict::SomeFailed })
        });
        self.root = root;
        let verdict = told(comm, verdict, code)?;
        Ok(comm.broadcast_value(verdict)?)
    }

    /// Collective. Notes how far the tree is.
    fn stands(
        &mut self,
        comm: &mut dyn Comm,
        tree: TreeStands,
        state: State,
    ) -> Result<(), JobError> {
        let noted = self.root.as_mut().map(|root| root.grows(tree, state));
        told(comm, noted, self.crew.codes.error).map(drop)
    }

    /// Collective. Was anybody asked to end since this was looked at first, or is the time over? From the first call on,
    /// signals between passes are noted here.
    fn is_asked_to_end(&self, comm: &mut dyn Comm) -> bool {
        let note = Arc::clone(&self.asked_to_end);
        let over = self.crew.listen(move || note.store(true, Ordering::Relaxed));
        let mut end = [u64::from(over || self.asked_to_end.load(Ordering::Relaxed))];
        comm.all_reduce(&mut end, Combine::Or);
        end != [0]
    }
}

/// So many ranks, the first ones, are sure to see the run folder: where answers are kept on nodes, rank 0 alone.
fn seeing(comm: &dyn Comm, leaves: &crate::job::setup::run_plan::Brief) -> usize {
    if leaves.local.is_some() { 1 } else { comm.size() }
}

/// What a level is made of, as a name that another making does not have.
struct Stamp(u64);

impl Stamp {
    fn of(text: &str) -> Self {
        Self(0xcbf2_9ce4_8422_2325).bytes(text.as_bytes())
    }

    /// And of the answers of these.
    fn and(self, answered: &Bitmap) -> Self {
        let pair = |it: Self, (from, to): (u64, u64)| {
            it.bytes(&from.to_le_bytes()).bytes(&to.to_le_bytes())
        };
        answered.gaps().fold(self, pair).bytes(&answered.count().to_le_bytes())
    }

    /// FNV-1a: the same on every machine and in every version.
    fn bytes(self, bytes: &[u8]) -> Self {
        let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(self.0, step))
    }

    fn name(&self) -> String {
        format!("{:016x}", self.0)
    }
}

fn remove(path: &Path) -> Result<(), JobError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(OutputError::io("cannot remove", path)(error).into())
        }
        _ => Ok(()),
    }
}
