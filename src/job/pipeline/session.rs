//! Runs that a program calls for, one after the other: settings are agreed on once, servers are found once, and the signals
//! and the end of the time are the same for all of them.
//!
//! Owns what a call changes of the settings. What a call is for and what becomes of its answers is `swarm`'s.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
};

use serde::{Deserialize, Serialize};

use super::{
    pass::{Crew, Passes},
    run::answer,
};
use crate::job::{
    Codes, Given, JobError, Tap, Verdict,
    context::{Common, agree, everywhere, told},
    setup::run_plan::run_folder,
    tree_reduce::reduce::grow,
};
use crate::{
    comm::{Comm, Typed},
    console,
    domain::Url,
    output::{Manifest, OutputError},
    settings::{Gather, OutputFormat},
};

/// Agreed on, and ready to be called.
pub struct Session {
    common: Common,
    crew: Crew,
}

/// What is called for, on rank 0.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Call {
    /// The files of its rows.
    pub inputs: Vec<String>,
    /// Where its answers go, or its text; the run folder is this name and `.run`.
    pub output: PathBuf,
    /// Ranks may keep their answers here, if the settings name no other place.
    pub local_shards: Option<String>,
    /// The rows' template, if not that of the settings.
    pub template: Option<String>,
    /// The template that makes one text of many.
    pub reduce_template: Option<String>,
}

/// What grew from a reduce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grown {
    /// The text at the root; none where nothing was left to make it of.
    pub text: Option<String>,
    /// How many leaves there are.
    pub leaves: u64,
    /// How many of them are not in the text: they failed, were blank, or a group above them failed.
    pub missing: u64,
    /// Levels above the leaves.
    pub levels: u32,
}

/// What ends as an error has this code on the other ranks, and where ranks are lost the job ends with the other: what it
/// came to is nobody's any more, but the run folder's.
const CODES: Codes = Codes { error: |_| 1, verdict: |_| crate::job::STOPPED_EARLY };

impl Session {
    /// Collective. Settings, places and endpoints; from here on nothing is printed to standard output.
    ///
    /// # Errors
    /// Where settings are wrong, or do not fit a program.
    pub fn begin(comm: &mut dyn Comm, mut given: Given) -> Result<Self, JobError> {
        console::leave_stdout_alone();
        let mut crew = Crew::new(given.guard.take(), CODES);
        crew.passes = Passes::Calls;
        let common = agree(comm, given, CODES.error)?;
        everywhere(comm, fits(&common), CODES.error)?;
        console::this_is_rank(common.place.rank, &common.place.node.host);
        crew.watch(comm, &common)?;
        Ok(Self { common, crew })
    }

    /// Local. This rank's servers, as URLs.
    #[must_use]
    pub fn endpoints(&self) -> &[Url] {
        &self.common.urls
    }

    /// Local. Runs of this rank alone, whose own these servers are.
    #[must_use]
    pub fn alone(&self, urls: Vec<Url>) -> Self {
        let mut common = self.common.clone();
        common.hosts = vec![common.place.node.host.clone()];
        common.place.rank = 0;
        common.urls = urls;
        common.settings.local_shards = None;
        Self { common, crew: self.crew.alone() }
    }

    /// Collective. Answers what is called for, into one file of JSON lines.
    ///
    /// # Errors
    /// As a run's; and where prompts are open, or nobody was there to be asked.
    pub fn gather(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<Call, JobError>>,
    ) -> Result<(), JobError> {
        let (mut common, inputs) = self.called(comm, call)?;
        common.settings.gather = Gather::Root;
        whole(answer(comm, &common, &mut self.crew, &inputs, None)?)
    }

    /// Collective. The same into the ranks' shard files only; `tap` gets what this rank writes as it comes, and then a
    /// none, however it ends.
    ///
    /// # Errors
    /// The same.
    pub fn tell(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<Call, JobError>>,
        tap: &Tap,
    ) -> Result<(), JobError> {
        let called = self.called(comm, call);
        let answered = called.and_then(|(mut common, inputs)| {
            common.tap = Some(mpsc::Sender::clone(tap));
            answer(comm, &common, &mut self.crew, &inputs, None)
        });
        let _ = tap.send(None); // nobody listens any more
        whole(answered?)
    }

    /// Collective. The same; once all is answered, the answer that counts of each prompt goes to `each` on the rank that
    /// has it.
    ///
    /// # Errors
    /// The same.
    pub fn visit(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<Call, JobError>>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), JobError> {
        let (common, inputs) = self.called(comm, call)?;
        whole(answer(comm, &common, &mut self.crew, &inputs, Some(&mut each))?)
    }

    /// Collective. Answers what is called for, and makes one text of the answers: on rank 0.
    ///
    /// # Errors
    /// As a reduce's; and where prompts are open, or nobody was there to be asked.
    pub fn reduce(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<Call, JobError>>,
    ) -> Result<Option<Grown>, JobError> {
        let (common, inputs) = self.called(comm, call)?;
        let output = PathBuf::from(common.settings.output.clone().unwrap_or_default());
        let grew = grow(comm, common, &mut self.crew, &inputs);
        self.crew.rest();
        whole(grew?)?;
        let grown = (comm.rank() == 0).then(|| grown(&output));
        told(comm, grown, CODES.error)
    }

    /// Collective. What a call has for all ranks.
    fn called(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<Call, JobError>>,
    ) -> Result<(Common, Vec<String>), JobError> {
        let call = told(comm, call, CODES.error)?;
        let call = comm.broadcast_value(call)?;
        self.crew.anew();
        let mut common = self.common.clone();
        let settings = &mut common.settings;
        settings.output = Some(call.output.to_string_lossy().into_owned());
        settings.local_shards = settings.local_shards.take().or(call.local_shards);
        settings.template = call.template.or(settings.template.take());
        settings.reduce_template = call.reduce_template; // a run has none
        settings.gather = Gather::None;
        settings.output_format = None;
        settings.aggregate = Vec::new();
        if settings.reduce_template.is_none() {
            settings.output_format = Some(OutputFormat::Jsonl);
        }
        Ok((common, call.inputs))
    }
}

/// Settings that are a command's alone.
fn fits(common: &Common) -> Result<(), JobError> {
    if common.settings.serve.is_some() {
        return Err(JobError::Standing(
            "serve is for the aurora-swarm command, which is also the servers' guard: a program asks servers that are there \
             already, named by endpoint, base-port or hostfile"
                .into(),
        ));
    }
    Ok(())
}

/// All prompts have their outcome, or it is an error.
fn whole(verdict: Verdict) -> Result<(), JobError> {
    match verdict {
        Verdict::Done | Verdict::SomeFailed => Ok(()),
        Verdict::NoEndpoint => Err(JobError::NoEndpoint),
        Verdict::Open | Verdict::Refused => Err(JobError::Open),
    }
}

fn grown(output: &Path) -> Result<Grown, JobError> {
    let manifest = Manifest::read(&run_folder(output))?;
    let (leaves, tree) = manifest.map(|it| (it.rows, it.reduce)).unwrap_or_default();
    let tree = tree.unwrap_or_default();
    let text = tree.text.then(|| std::fs::read_to_string(output)).transpose();
    let text = text.map_err(OutputError::io("cannot read", output))?;
    Ok(Grown { text, leaves, missing: tree.missing, levels: tree.levels })
}
