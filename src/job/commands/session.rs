//! Job sessions of the library: several runs in one MPI job, with settings, servers, signal handlers and deadline set up
//! once for all of them.
//!
//! Owns the settings that a call overrides. The meaning of a call and the use of its answers are in `swarm`.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
};

use serde::{Deserialize, Serialize};

use crate::job::{
    AnswerSender, EXIT_STOPPED_EARLY, ErrorClass, Invocation, JobError, JobVerdict,
    PreconditionError,
    context::{JobContext, all_ok, establish_context, root_result},
    pipeline::{pass::JobResources, run::answer_prompts},
    setup::run_plan::{PassMode, run_folder},
    tree_reduce::reduce::reduce_tree,
};
use crate::{
    comm::{Comm, TypedComm},
    console,
    domain::Url,
    output::{Manifest, OutputError},
    settings::{GatherMode, OutputFormat},
};

/// An established job that accepts calls, each a run or a reduce of its own.
pub(crate) struct JobSession {
    context: JobContext,
    resources: JobResources,
}

/// The parameters of one call, as rank 0 gives them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CallSpec {
    /// Input files.
    pub inputs: Vec<String>,
    /// Path of the answers or of the reduced text; the run folder is this path with `.run` appended.
    pub output: PathBuf,
    /// Directory for local shard files, used if the settings name none.
    pub local_shards: Option<String>,
    /// Prompt template; `None` keeps that of the settings.
    pub template: Option<String>,
    /// Template that combines several texts; present if the call is a reduce.
    pub reduce_template: Option<String>,
}

/// The result of a reduce: the text at the root of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeReduction {
    /// Text at the root; `None` if all leaves are missing.
    pub text: Option<String>,
    /// Number of leaves.
    pub leaves: u64,
    /// Number of leaves that are not in the text: they failed, were blank, or a group above them failed.
    pub missing: u64,
    /// Number of levels above the leaves.
    pub levels: u32,
}

/// Exit code of a program whose job must abort MPI inside a library call, where the program cannot choose one: 1 for an
/// error, else the code for an early stop, since only the run folder holds the result then.
pub(crate) fn session_exit_code(ended: Result<JobVerdict, ErrorClass>) -> u8 {
    match ended {
        Ok(_) => EXIT_STOPPED_EARLY,
        Err(_) => 1,
    }
}

impl JobSession {
    /// Collective. Resolves settings, placement and endpoints. From here on nothing is printed to standard output.
    ///
    /// # Errors
    /// A setting is invalid or only available to commands (`serve`).
    pub(crate) fn start_session(
        comm: &mut dyn Comm,
        mut invocation: Invocation,
    ) -> Result<Self, JobError> {
        console::silence_stdout();
        let mut resources = JobResources::new(invocation.guard.take(), invocation.exit_code);
        resources.pass_mode = PassMode::OnDemand;
        let context = establish_context(comm, invocation)?;
        all_ok(comm, check_settings(&context))?;
        console::set_log_identity(context.placement.rank, &context.placement.node.host);
        resources.watch_signals(comm, &context)?;
        Ok(Self { context, resources })
    }

    /// Local. Returns the URLs of this rank's endpoints.
    #[must_use]
    pub(crate) fn endpoint_urls(&self) -> &[Url] {
        &self.context.urls
    }

    /// Local. Returns a session for runs of this rank alone, on the given endpoints.
    #[must_use]
    pub(crate) fn solo_session(&self, urls: Vec<Url>) -> Self {
        let mut context = self.context.clone();
        context.hosts = vec![context.placement.node.host.clone()];
        context.placement.rank = 0;
        context.urls = urls;
        context.settings.local_shards = None;
        Self { context, resources: self.resources.solo_resources() }
    }

    /// Collective. Answers the call's prompts into one file of JSON lines.
    ///
    /// # Errors
    /// The errors of a run; [`JobError::PromptsOpen`] if prompts remain, [`JobError::NoEndpoint`] if no endpoint was
    /// ready.
    pub(crate) fn gather_answers(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
    ) -> Result<(), JobError> {
        let (mut context, inputs) = self.apply_call(comm, call)?;
        context.settings.gather = GatherMode::Root;
        require_complete(answer_prompts(comm, &context, &mut self.resources, &inputs, None)?)
    }

    /// Collective. Answers the call's prompts into the ranks' shard files only. `answer_sender` receives each line that this
    /// rank writes, and at the end `None`, also after an error.
    ///
    /// # Errors
    /// Those of [`gather_answers`](Self::gather_answers).
    pub(crate) fn stream_answers(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
        answer_sender: &AnswerSender,
    ) -> Result<(), JobError> {
        let called = self.apply_call(comm, call);
        let answered = called.and_then(|(mut context, inputs)| {
            context.answer_sender = Some(mpsc::Sender::clone(answer_sender));
            answer_prompts(comm, &context, &mut self.resources, &inputs, None)
        });
        let _ = answer_sender.send(None); // fails only if the receiver is gone, which needs no end mark
        require_complete(answered?)
    }

    /// Collective. Answers the call's prompts, then passes the valid answer of each prompt to `visit_line` on the rank that
    /// stores it.
    ///
    /// # Errors
    /// Those of [`gather_answers`](Self::gather_answers).
    pub(crate) fn visit_answers(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
        mut visit_line: impl FnMut(&[u8]),
    ) -> Result<(), JobError> {
        let (context, inputs) = self.apply_call(comm, call)?;
        require_complete(answer_prompts(
            comm,
            &context,
            &mut self.resources,
            &inputs,
            Some(&mut visit_line),
        )?)
    }

    /// Collective. Answers the call's prompts and reduces the answers to one text, which rank 0 returns.
    ///
    /// # Errors
    /// The errors of a reduce, and those of [`gather_answers`](Self::gather_answers).
    pub(crate) fn reduce_to_text(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
    ) -> Result<Option<TreeReduction>, JobError> {
        let (context, inputs) = self.apply_call(comm, call)?;
        let output = PathBuf::from(context.settings.output.clone().unwrap_or_default());
        let reduced = reduce_tree(comm, context, &mut self.resources, &inputs);
        self.resources.release_signals();
        require_complete(reduced?)?;
        let reduction = (comm.rank() == 0).then(|| read_reduction(&output));
        root_result(comm, reduction)
    }

    /// Collective. Distributes the call, and returns the context with its overrides and its input files.
    fn apply_call(
        &mut self,
        comm: &mut dyn Comm,
        call: Option<Result<CallSpec, JobError>>,
    ) -> Result<(JobContext, Vec<String>), JobError> {
        let call = root_result(comm, call)?;
        let call = comm.broadcast_value(call)?;
        self.resources.reset_selection();
        let mut context = self.context.clone();
        let settings = &mut context.settings;
        settings.output = Some(call.output.to_string_lossy().into_owned());
        settings.local_shards = settings.local_shards.take().or(call.local_shards);
        settings.template = call.template.or(settings.template.take());
        settings.reduce_template = call.reduce_template; // `None` makes it a run
        settings.gather = GatherMode::None;
        settings.output_format = None;
        settings.aggregate = Vec::new();
        if settings.reduce_template.is_none() {
            settings.output_format = Some(OutputFormat::Jsonl);
        }
        Ok((context, call.inputs))
    }
}

/// Refuses settings that only commands support.
fn check_settings(context: &JobContext) -> Result<(), JobError> {
    if context.settings.serve.is_some() {
        return Err(PreconditionError::ServeInProgram.into());
    }
    Ok(())
}

/// Turns a verdict that leaves prompts without an outcome into an error.
fn require_complete(verdict: JobVerdict) -> Result<(), JobError> {
    match verdict {
        JobVerdict::Done | JobVerdict::SomeFailed => Ok(()),
        JobVerdict::NoEndpoint => Err(JobError::NoEndpoint),
        JobVerdict::PromptsOpen | JobVerdict::Refused => Err(JobError::PromptsOpen),
    }
}

fn read_reduction(output: &Path) -> Result<TreeReduction, JobError> {
    let manifest = Manifest::read_from(&run_folder(output))?;
    let (leaves, tree) =
        manifest.map(|manifest| (manifest.rows, manifest.reduce)).unwrap_or_default();
    let tree = tree.unwrap_or_default();
    let text = tree.text.then(|| std::fs::read_to_string(output)).transpose();
    let text = text.map_err(OutputError::io_error("cannot read", output))?;
    Ok(TreeReduction { text, leaves, missing: tree.loss.missing, levels: tree.levels })
}
