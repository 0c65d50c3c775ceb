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
    pass::{JobResources, PassMode},
    run::answer_prompts,
};
use crate::job::{
    AnswerSender, ExitCodeMap, Invocation, JobError, JobVerdict,
    context::{JobContext, all_ok, establish_context, root_result},
    setup::run_plan::run_folder,
    tree_reduce::reduce::reduce_tree,
};
use crate::{
    comm::{Comm, TypedComm},
    console,
    domain::Url,
    output::{Manifest, OutputError},
    settings::{GatherMode, OutputFormat},
};

/// Agreed on, and ready to be called.
pub struct JobSession {
    context: JobContext,
    resources: JobResources,
}

/// What is called for, on rank 0.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CallSpec {
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
pub struct TreeReduction {
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
const SESSION_EXIT_CODES: ExitCodeMap =
    ExitCodeMap { error: |_| 1, verdict: |_| crate::job::EXIT_STOPPED_EARLY };

impl JobSession {
    /// Collective. Settings, places and endpoints; from here on nothing is printed to standard output.
    ///
    /// # Errors
    /// Where settings are wrong, or do not fit a program.
    pub fn begin(comm: &mut dyn Comm, mut given: Invocation) -> Result<Self, JobError> {
        console::silence_stdout();
        let mut crew = JobResources::new(given.guard.take(), SESSION_EXIT_CODES);
        crew.pass_mode = PassMode::OnDemand;
        let common = establish_context(comm, given, SESSION_EXIT_CODES.error)?;
        all_ok(comm, check_settings(&common), SESSION_EXIT_CODES.error)?;
        console::set_log_identity(common.placement.rank, &common.placement.node.host);
        crew.watch_signals(comm, &common)?;
        Ok(Self { context: common, resources: crew })
    }

    /// Local. This rank's servers, as URLs.
    #[must_use]
    pub fn endpoint_urls(&self) -> &[Url] {
        &self.context.urls
    }

    /// Local. Runs of this rank alone, whose own these servers are.
    #[must_use]
    pub fn solo_session(&self, urls: Vec<Url>) -> Self {
        let mut common = self.context.clone();
        common.hosts = vec![common.placement.node.host.clone()];
        common.placement.rank = 0;
        common.urls = urls;
        common.settings.local_shards = None;
        Self { context: common, resources: self.resources.solo_resources() }
    }

    /// Collective. Answers what is called for, into one file of JSON lines.
    ///
    /// # Errors
    /// As a run's; and where prompts are open, or nobody was there to be asked.
    pub fn gather_answers(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
    ) -> Result<(), JobError> {
        let (mut common, inputs) = self.apply_call(comm, call)?;
        common.settings.gather = GatherMode::Root;
        require_complete(answer_prompts(comm, &common, &mut self.resources, &inputs, None)?)
    }

    /// Collective. The same into the ranks' shard files only; `tap` gets what this rank writes as it comes, and then a
    /// none, however it ends.
    ///
    /// # Errors
    /// The same.
    pub fn stream_answers(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
        tap: &AnswerSender,
    ) -> Result<(), JobError> {
        let called = self.apply_call(comm, call);
        let answered = called.and_then(|(mut common, inputs)| {
            common.answer_sender = Some(mpsc::Sender::clone(tap));
            answer_prompts(comm, &common, &mut self.resources, &inputs, None)
        });
        let _ = tap.send(None); // nobody listens any more
        require_complete(answered?)
    }

    /// Collective. The same; once all is answered, the answer that counts of each prompt goes to `each` on the rank that
    /// has it.
    ///
    /// # Errors
    /// The same.
    pub fn visit_answers(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), JobError> {
        let (common, inputs) = self.apply_call(comm, call)?;
        require_complete(answer_prompts(
            comm,
            &common,
            &mut self.resources,
            &inputs,
            Some(&mut each),
        )?)
    }

    /// Collective. Answers what is called for, and makes one text of the answers: on rank 0.
    ///
    /// # Errors
    /// As a reduce's; and where prompts are open, or nobody was there to be asked.
    pub fn reduce_to_text(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
    ) -> Result<Option<TreeReduction>, JobError> {
        let (common, inputs) = self.apply_call(comm, call)?;
        let output = PathBuf::from(common.settings.output.clone().unwrap_or_default());
        let grew = reduce_tree(comm, common, &mut self.resources, &inputs);
        self.resources.release_signals();
        require_complete(grew?)?;
        let grown = (comm.rank() == 0).then(|| read_reduction(&output));
        root_result(comm, grown, SESSION_EXIT_CODES.error)
    }

    /// Collective. What a call has for all ranks.
    fn apply_call(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
    ) -> Result<(JobContext, Vec<String>), JobError> {
        let call = root_result(comm, call, SESSION_EXIT_CODES.error)?;
        let call = comm.broadcast_value(call)?;
        self.resources.reset_selection();
        let mut common = self.context.clone();
        let settings = &mut common.settings;
        settings.output = Some(call.output.to_string_lossy().into_owned());
        settings.local_shards = settings.local_shards.take().or(call.local_shards);
        settings.template = call.template.or(settings.template.take());
        settings.reduce_template = call.reduce_template; // a run has none
        settings.gather = GatherMode::None;
        settings.output_format = None;
        settings.aggregate = Vec::new();
        if settings.reduce_template.is_none() {
            settings.output_format = Some(OutputFormat::Jsonl);
        }
        Ok((common, call.inputs))
    }
}

/// Settings that are a command's alone.
fn check_settings(common: &JobContext) -> Result<(), JobError> {
    if common.settings.serve.is_some() {
        return Err(JobError::PreconditionFailed(
            "serve is for the aurora-swarm command, which is also the servers' guard: a program asks servers that are there \
             already, named by endpoint, base-port or hostfile"
                .into(),
        ));
    }
    Ok(())
}

/// All prompts have their outcome, or it is an error.
fn require_complete(verdict: JobVerdict) -> Result<(), JobError> {
    match verdict {
        JobVerdict::Done | JobVerdict::SomeFailed => Ok(()),
        JobVerdict::NoEndpoint => Err(JobError::NoEndpoint),
        JobVerdict::PromptsOpen | JobVerdict::Refused => Err(JobError::PromptsOpen),
    }
}

fn read_reduction(output: &Path) -> Result<TreeReduction, JobError> {
    let manifest = Manifest::read(&run_folder(output))?;
    let (leaves, tree) = manifest.map(|it| (it.rows, it.reduce)).unwrap_or_default();
    let tree = tree.unwrap_or_default();
    let text = tree.text.then(|| std::fs::read_to_string(output)).transpose();
    let text = text.map_err(OutputError::io_error("cannot read", output))?;
    Ok(TreeReduction { text, leaves, missing: tree.missing, levels: tree.levels })
}
