//! One pass over the line: a set of prompts, and every one of them with its outcome in a shard file. Each statement's value
//! is the next one's input.
//!
//! Owns the line, and the [`Crew`], which is what passes of one job have in common: servers that are started once, the model
//! that is chosen once, the time and the signals. Does not know what becomes of the answers: `run` gathers them, `reduce`
//! makes prompts of them.

use std::{path::PathBuf, time::Instant};

use crate::job::{
    Codes, JobError,
    collect::{
        completion::{Standing, check_folder},
        line_index::Lines,
        local_shards::{Folders, bring_earlier, bring_home},
    },
    context::{Common, everywhere, told},
    dispatch::{
        shutdown::together,
        worker_start::{Lead, Start, work},
    },
    root::{Root, open},
    setup::{
        deadline::Limit,
        readiness::wait_for_endpoints,
        run_plan::{Brief, Choice},
        scan::scan,
        servers::{Servers, serve},
    },
};
use crate::{
    comm::{Comm, Tag, Typed, fence},
    domain::Surveyed,
    serve::Guard,
    site::Signals,
};

/// What the passes of a job share.
pub(crate) struct Crew {
    pub(crate) codes: Codes,
    began: Instant,
    guard: Option<Guard>,
    /// Of the job that makes one pass only, servers end with its work.
    pub(crate) passes: Passes,
    /// Of the levels of a reduce: the run folder of its leaves.
    pub(crate) tree: Option<PathBuf>,
    /// Where the logs of servers go: into the folder of the first pass.
    logs: Option<PathBuf>,
    watch: Option<(Signals, Limit)>,
    servers: Option<Servers>,
    /// This rank's endpoints, as they were found.
    found: Option<Vec<Surveyed>>,
    /// What is asked of them.
    choice: Option<Choice>,
}

/// How many passes a job makes, and what it wants of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    /// One, whose answers are gathered if they are wanted in one file.
    One,
    /// Several, each over what the one before has brought.
    Many,
    /// As many as a program calls for: whoever is asked may be asked again.
    Calls,
}

/// Who is asked for what.
struct Asked<'c> {
    servers: &'c mut Servers,
    choice: &'c Choice,
    found: &'c [Surveyed],
}

/// What a pass leaves.
pub(crate) struct Passed {
    /// On rank 0.
    pub(crate) root: Option<Root>,
    pub(crate) brief: Brief,
    pub(crate) standing: Standing,
    /// Where this rank's answers lie, if every prompt has its outcome.
    pub(crate) lines: Option<Lines>,
}

/// Collective. Answers the prompts of `inputs`; nothing where nobody is there to be asked.
pub(crate) fn pass(
    comm: &mut dyn Comm,
    common: &Common,
    crew: &mut Crew,
    inputs: &[String],
) -> Result<Option<Passed>, JobError> {
    let code = crew.codes.error;
    let start = (comm.rank() == 0).then(|| open::Start::new(common, inputs));
    let start = told(comm, start, code)?;
    let earlier = start.as_ref().and_then(|start| start.left_on_nodes(common));
    bring_earlier(comm, &common.place, earlier, code)?;
    let files = start.as_ref().map(|start| start.files.as_slice());
    let scanned = scan(comm, files, &open::rules(&common.settings));
    let begun = start.zip(scanned);
    let begun = begun.map(|(start, scanned)| start.begin(common, inputs, comm.size(), scanned));
    let mut root = told(comm, begun, code)?;
    // Who calls passes one by one puts no report together.
    root.iter_mut().for_each(|root| root.belongs_to(crew.tree.as_deref(), crew.passes));
    let (signals, limit) = crew.watch(comm, common)?;
    let brief = comm.broadcast_value(root.as_ref().map(Root::brief))?;
    let blind = check_folder(comm, &brief, &common.place, code)?;
    let folders = Folders::agreed(comm, &brief, &common.place, code)?;
    crew.logs.get_or_insert_with(|| folders.logs());
    bring_home(comm, &folders, &brief, code)?;
    let standing = Standing::read(comm, &folders, &brief, code)?;
    let done = standing.done(common.settings.retry_failed);
    let noted = root.as_mut().map(|root| root.begin_from(&standing, &done));
    told(comm, noted, code)?;

    if done.gaps().next().is_some() {
        let (codes, keeps) = (crew.codes, crew.passes != Passes::One);
        let Some(asked) = crew.choose(comm, common, root.as_mut(), limit)? else {
            folders.leave();
            return Ok(None);
        };
        let mut lead = root.as_mut().zip(blind).map(|(root, blind)| {
            let book = root.book(&done, blind.len());
            Lead { root, book, blind, limit }
        });
        let weights = &asked.choice.weights;
        let shares = lead.as_mut().map(|lead| lead.book.first(weights, &lead.blind));
        let first = comm.scatter_values(shares)?;
        let start = Start { ready: asked.servers.living(asked.found.to_vec()), first, lead };
        let over = work(comm, common, (&brief, &folders), asked.choice, start, &signals)?;
        if !keeps {
            asked.servers.close();
        }
        root = together(comm, over, root, (&brief, &folders), codes)?;
        if keeps {
            fence(comm, Tag::Job)?;
        }
    }

    let home = bring_home(comm, &folders, &brief, code);
    root.iter_mut().for_each(|root| if home.is_ok() { root.is_home() } else { root.stopped() });
    home?;
    folders.leave();
    let gathered = brief.format.is_some() || !brief.aggregate.is_empty();
    let one = crew.passes == Passes::One;
    let wanted = (!one || gathered, brief.report);
    let (standing, lines) = Standing::read_with_lines(comm, &folders, &brief, wanted, code)?;
    Ok(Some(Passed { root, brief, standing, lines }))
}

impl Crew {
    /// Of a job that begins, with its guard.
    pub(crate) fn new(guard: Option<Guard>, codes: Codes) -> Self {
        Self {
            codes,
            began: Instant::now(),
            guard,
            passes: Passes::One,
            tree: None,
            logs: None,
            watch: None,
            servers: None,
            found: None,
            choice: None,
        }
    }

    /// Local. What comes next has nothing to do with what was before, but for who is there: model and route are chosen anew.
    pub(crate) fn anew(&mut self) {
        (self.choice, self.logs, self.tree) = (None, None, None);
    }

    /// Local. Nobody here listens to signals any more: they do what they always do.
    pub(crate) fn rest(&self) {
        if let Some((signals, _)) = &self.watch {
            signals.tell(None);
        }
    }

    /// Local. The same time and signals, for passes of this rank alone.
    pub(crate) fn alone(&self) -> Self {
        let mut alone = Self::new(None, self.codes);
        (alone.passes, alone.began, alone.watch) = (self.passes, self.began, self.watch.clone());
        alone
    }

    /// Collective. Signals and the end of the time; caught and asked for once.
    pub(crate) fn watch(
        &mut self,
        comm: &mut dyn Comm,
        common: &Common,
    ) -> Result<(Signals, Limit), JobError> {
        if let Some(watch) = &self.watch {
            return Ok(watch.clone());
        }
        let caught = Signals::catch().map_err(JobError::Signals);
        let signals = everywhere(comm, caught, self.codes.error)?;
        let limit = Limit::agreed(comm, common, self.began)?;
        Ok(self.watch.insert((signals, limit)).clone())
    }

    /// Collective. What the model's context holds, in tokens, by those who are asked; `None` where too few are ready.
    pub(crate) fn context(
        &mut self,
        comm: &mut dyn Comm,
        common: &Common,
        root: Option<&mut Root>,
    ) -> Result<Option<Option<u64>>, JobError> {
        let (_, limit) = self.watch(comm, common)?;
        let asked = self.choose(comm, common, root, limit)?;
        Ok(asked.map(|asked| asked.choice.context))
    }

    /// Local. Whoever asks this process to end before the next pass is noted so. True where the time is over.
    pub(crate) fn listen(&self, note: impl Fn() + Send + 'static) -> bool {
        let Some((signals, limit)) = &self.watch else { return false };
        signals.tell(Some(Box::new(move |_| note())));
        limit.at.is_some_and(|at| Instant::now() >= at)
    }

    /// Local. Nobody is asked any more: servers that were started here may end.
    pub(crate) fn close(&mut self) {
        if let (Some(servers), Passes::One | Passes::Many) = (&mut self.servers, self.passes) {
            servers.close();
        }
    }

    /// Collective. The servers that are there, and the model and the route: found and chosen once. `None` where too few
    /// are ready.
    fn choose(
        &mut self,
        comm: &mut dyn Comm,
        common: &Common,
        root: Option<&mut Root>,
        limit: Limit,
    ) -> Result<Option<Asked<'_>>, JobError> {
        let code = self.codes.error;
        if let Some(choice) = &self.choice {
            let noted = root.map(|root| root.asks(choice));
            told(comm, noted, code)?;
        } else {
            let logs = self.logs.clone().unwrap_or_default(); // known since the first pass began
            let servers = match self.servers.take() {
                Some(servers) => servers,
                None => serve(comm, common, self.guard.take(), &logs, code)?,
            };
            let servers = self.servers.insert(servers);
            let found = match self.found.take() {
                Some(found) => found,
                None => wait_for_endpoints(comm, common, servers, limit)?,
            };
            let all = comm.gather_values(&found)?;
            let chosen = root.zip(all).map(|(root, found)| root.choose(common, &found));
            let chosen = told(comm, chosen, code)?.flatten();
            self.choice = comm.broadcast_value(Some(chosen))?;
            self.found = self.choice.is_some().then_some(found); // too few: they are looked for again
        }
        let asked = self.servers.as_mut().zip(self.choice.as_ref()).zip(self.found.as_deref());
        Ok(asked.map(|((servers, choice), found)| Asked { servers, choice, found }))
    }
}
