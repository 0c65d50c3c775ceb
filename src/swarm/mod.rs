//! The library's interface, re-exported at the crate root.
//!
//! Thin over [`job`](crate::job): every call is a run of its own, with shard files, retries, load balancing and resume,
//! in a folder that the program names or in a temporary one. Owns the calls and the types that their signatures name.
//! Knows nothing of the command line and of exit codes. The patterns of the Python Aurora-Swarm are compared with these
//! calls in `docs/originals.md`.

mod answer;
mod builder;
mod call_files;
mod error;
mod local;
mod rooted;

pub use crate::{
    aggregate::{
        AnswerPosition, FailureReport, MajorityVote, NumericStatistics, ObservedAnswer,
        ObservedFailure, TopK,
    },
    domain::{FailureKind, Merge, PromptFailure, TokenUsage, Url},
    job::TreeReduction,
    settings::Environment,
};
pub use answer::{AnswerIter, AnswerOrigin, SwarmAnswer, SwarmChoice};
pub use builder::SwarmBuilder;
pub use error::{SwarmError, SwarmErrorKind};
pub use rooted::Rooted;

use std::{collections::BTreeMap, fmt, mem::ManuallyDrop, panic, sync::mpsc, thread};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    aggregate::ObservedLine,
    comm::{Comm, TypedComm},
    job::{CallSpec, JobSession},
};
use call_files::CallFolder;

/// Ranks that have agreed on settings, and the servers of each rank.
///
/// Methods are blocking calls on the thread that MPI was started on. Created by [`SwarmBuilder::start`].
///
/// ```
/// use aurora_swarm::{Environment, SwarmBuilder};
/// use vllm_sim::{Profile, Simulator};
///
/// // A simulated server; on a node with vLLM drop it and use .base_port(8000).
/// let server = Simulator::start(Profile::instant())?;
///
/// let mut swarm = SwarmBuilder::new(Environment::of_this_process())
///     .endpoint(server.url())
///     .max_tokens(8)
///     .start()?;
/// let answers = swarm.scatter_gather(["Why is the sky blue?", "And at night?"])?;
/// if let Some(answers) = answers.into_root() {
///     // one answer per prompt, in order
///     assert_eq!(answers.len(), 2);
///     assert!(answers.iter().all(|answer| answer.text().is_ok()));
/// }
/// swarm.finish();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Collective and local calls
///
/// A program that is started by `mpiexec -n N` is N ranks, each with a `Swarm`. **Collective** calls are made by all
/// ranks in the same order. They use rank 0's rows (those of other ranks are ignored, and their iterators are not
/// advanced) and return [`Rooted`] values. An error is an error on every rank: one rank has the reason, the others
/// [`SwarmErrorKind::OtherRank`]. **Local** calls concern this rank alone: they use its own servers and send no
/// messages.
///
/// | call | | rows of | servers | result |
/// |---|---|---|---|---|
/// | [`SwarmBuilder::start`] | collective | | | the swarm, on every rank |
/// | [`Swarm::scatter_gather`] | collective | rank 0 | all | answers in order, on rank 0 |
/// | [`Swarm::map_gather`] | collective | rank 0 | all | the same, through a template |
/// | [`Swarm::tree_reduce`] | collective | rank 0 | all | one text, on rank 0 |
/// | [`Swarm::answers`] | collective | rank 0 | all | each rank's answers as they arrive, on that rank |
/// | [`Swarm::aggregate`] | collective | rank 0 | all | any mergeable value, on rank 0 |
/// | [`Swarm::top_k`], [`Swarm::best_of`] | collective | rank 0 | all | the best answers by a function, on rank 0 |
/// | [`Swarm::send_all_batched`] | local | this rank | this rank's | answers in order, here |
/// | [`Swarm::post_batch`] | local | this rank | one of them | answers in order, here |
/// | [`Swarm::finish`] | collective | | | |
///
/// # Rows
///
/// A row is any value that serialises to a JSON string (a prompt) or to an object as in a `.jsonl` input: `prompt` or
/// `messages`, and request parameters such as `max_tokens`.
///
/// ```
/// # use aurora_swarm::{Environment, SwarmBuilder};
/// # use vllm_sim::{Profile, Simulator};
/// # let server = Simulator::start(Profile::instant())?;
/// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
/// # let mut swarm = builder.start()?;
/// use serde_json::json;
///
/// let rows = [json!({"id": "a7", "prompt": "Why?", "max_tokens": 4}), json!("Why not?")];
/// if let Some(answers) = swarm.scatter_gather(&rows)?.into_root() {
///     assert_eq!(answers[0].id, "a7");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Output and the end
///
/// Nothing is printed to standard output. Standard error gets the log, if the program sets one up, and the list of
/// servers that are not ready. A swarm that is dropped without [`finish`](Swarm::finish) leaves MPI to the launcher,
/// which then ends the other ranks: after an error there may be no rank left to finalise MPI with.
pub struct Swarm {
    /// Dropped by [`Swarm::finish`] only, since finalising MPI waits for the other ranks.
    comm: ManuallyDrop<Box<dyn Comm>>,
    session: JobSession,
    /// Sessions of local calls: `None` for all of this rank's servers, else the index of one.
    local_sessions: BTreeMap<Option<usize>, JobSession>,
    call_folder: CallFolder,
}

impl Swarm {
    /// Returns this process's rank, from 0. Local.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.comm.rank()
    }

    /// Returns the number of ranks. Local.
    #[must_use]
    pub fn size(&self) -> usize {
        self.comm.size()
    }

    /// Returns this rank's servers, in the order that [`Swarm::post_batch`] counts. Local.
    #[must_use]
    pub fn endpoints(&self) -> &[Url] {
        self.session.endpoint_urls()
    }

    /// Sends rank 0's prompts to all ranks' servers and returns the answers in order, on rank 0. Collective.
    ///
    /// All answers are in rank 0's memory at the end; for larger sets use [`Swarm::answers`], [`Swarm::aggregate`] or
    /// the command `run`. There is an example at [`Swarm`].
    ///
    /// # Errors
    /// If rows are invalid, too few servers are ready, or the call is stopped early. A prompt that fails is not an
    /// error: it has a failed answer.
    pub fn scatter_gather(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Rooted<Vec<SwarmAnswer>>, SwarmError> {
        self.gather_answers(prompts, None)
    }

    /// Sends rank 0's items to all ranks' servers, each put into a template. Collective.
    ///
    /// A text replaces `{{item}}`; the fields of an object replace placeholders of their names. Braces inside an item
    /// stay text.
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`], and if the template has no placeholder, or one that no item has.
    ///
    /// ```
    /// # use aurora_swarm::{Environment, SwarmBuilder};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
    /// # let mut swarm = builder.start()?;
    /// let capitals = swarm.map_gather(["France", "Peru"], "What is the capital of {{item}}?")?;
    /// if let Some(capitals) = capitals.into_root() {
    ///     assert_eq!(capitals[1].prompt.as_deref(), Some("What is the capital of Peru?"));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map_gather(
        &mut self,
        items: impl IntoIterator<Item = impl Serialize>,
        template: &str,
    ) -> Result<Rooted<Vec<SwarmAnswer>>, SwarmError> {
        self.gather_answers(items, Some(template.to_owned()))
    }

    /// Sends rank 0's prompts to all ranks' servers and merges the answers into one text by a tree. Collective.
    ///
    /// Groups of `fan-in` (a setting) answers are put into `reduce_template` at `{{responses}}`, and so are the texts
    /// that result, until one is left. Each level is a file that all ranks see: on several nodes name a
    /// [folder](SwarmBuilder::folder).
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`], and if a template or `fan-in` cannot merge texts. Missing leaves are not an error:
    /// they are counted.
    ///
    /// ```
    /// # use aurora_swarm::{Environment, SwarmBuilder};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
    /// let mut swarm = builder.setting("fan-in", 2).start()?;
    /// let pages = ["Summarise page 1", "Summarise page 2", "Summarise page 3"];
    /// let summary = swarm.tree_reduce(pages, "Make one summary of:\n{{responses}}")?;
    /// if let Some(summary) = summary.into_root() {
    ///     assert!(summary.text.is_some());
    ///     assert_eq!((summary.leaves, summary.missing, summary.levels), (3, 0, 2));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tree_reduce(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        reduce_template: &str,
    ) -> Result<Rooted<TreeReduction>, SwarmError> {
        let files = self.call_folder.next_call(None);
        // Levels are exchanged through the run folder, so shard files cannot stay local.
        let call = self.is_root().then(|| {
            let reduce_template = Some(reduce_template.to_owned());
            Ok(CallSpec { reduce_template, local_shards: None, ..files.write_call(prompts)? })
        });
        Ok(Rooted::new(self.session.reduce_to_text(self.comm.as_mut(), call)?))
    }

    /// Sends rank 0's prompts to all ranks' servers; on every rank `consume` gets an iterator over **this rank's**
    /// answers, in order of arrival, while requests are in flight. Collective. Returns the result of `consume`.
    ///
    /// `consume` runs on a thread of its own. Answers are on disk before the iterator returns them, and wait in memory
    /// until then. It sees the answers of this call only, not those that a [folder](SwarmBuilder::folder) has from an
    /// earlier session. In rare cases (a rank that was silent for long) a prompt is answered on two ranks.
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`].
    ///
    /// ```
    /// # use aurora_swarm::{Environment, SwarmBuilder};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
    /// # let mut swarm = builder.start()?;
    /// let longest = swarm.answers(["Why?", "How?"], |answers| {
    ///     answers.filter_map(|answer| Some(answer.text().ok()?.len())).max()
    /// })?;
    /// assert!(longest > Some(0)); // of this rank's answers
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn answers<T: Send>(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        consume: impl FnOnce(AnswerIter) -> T + Send,
    ) -> Result<T, SwarmError> {
        let files = self.call_folder.next_call(None);
        let call = self.is_root().then(|| files.write_call(prompts));
        let (sender, lines) = mpsc::channel();
        thread::scope(|scope| {
            let consumer = scope.spawn(move || consume(AnswerIter::from_receiver(lines)));
            let streamed = self.session.stream_answers(self.comm.as_mut(), call, &sender);
            // The session has sent the end mark, also after an error, so the consumer returns.
            let result = consumer.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked));
            streamed.map(|()| result)
        })
        .map_err(SwarmError::from)
    }

    /// Sends rank 0's prompts to all ranks' servers, aggregates each rank's answers into its `value` with `add`, and
    /// merges the values up the tree of ranks into one, on rank 0. Collective.
    ///
    /// Answers stay on their ranks, and each counts once, including those of an earlier session. All ranks pass the
    /// same empty value: [`MajorityVote`], [`NumericStatistics`], [`TopK`], [`FailureReport`], or any other that
    /// implements [`Merge`].
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`], and if values cannot be serialised.
    ///
    /// ```
    /// # use aurora_swarm::{Environment, SwarmBuilder};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
    /// # let mut swarm = builder.start()?;
    /// use aurora_swarm::MajorityVote;
    ///
    /// let prompts = ["Yes or no?"; 5];
    /// let empty = MajorityVote::new(None);
    /// let votes = swarm.aggregate(prompts, empty, |votes, answer| votes.add_answer(answer))?;
    /// if let Some(votes) = votes.into_root() {
    ///     assert_eq!(votes.to_json()["votes"], 5); // the same prompt, the same answer
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn aggregate<T: Merge + Serialize + DeserializeOwned>(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        mut value: T,
        mut add: impl FnMut(&mut T, &ObservedAnswer<'_>),
    ) -> Result<Rooted<T>, SwarmError> {
        let files = self.call_folder.next_call(None);
        let call = self.is_root().then(|| files.write_call(prompts));
        self.session.visit_answers(self.comm.as_mut(), call, |line| {
            // A line that does not parse was damaged on disk; its prompt counts as failed.
            let line = ObservedLine::parse_line(line);
            line.iter()
                .flat_map(ObservedLine::observed_answers)
                .for_each(|answer| add(&mut value, &answer));
        })?;
        Ok(Rooted::new(self.comm.reduce_values(value)?))
    }

    /// Sends rank 0's prompts to all ranks' servers and returns the `k` answers with the highest scores, on rank 0.
    /// Collective.
    ///
    /// `score` is called for each answer that is not blank, on the rank that has it. Equal scores are ordered by input
    /// position.
    ///
    /// # Errors
    /// As [`Swarm::aggregate`]. An answer without a score is not an error: it is counted and listed.
    ///
    /// ```
    /// # use aurora_swarm::{Environment, SwarmBuilder};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
    /// # let mut swarm = builder.start()?;
    /// let prompts = ["A name for a cat?", "A name for a dog?", "A name for a boat?"];
    /// let longest = swarm.top_k(prompts, 2, |answer| Ok(answer.len() as f64))?;
    /// if let Some(longest) = longest.into_root() {
    ///     assert_eq!(longest.best_scored().count(), 2);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn top_k(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        k: usize,
        mut score: impl FnMut(&str) -> Result<f64, String>,
    ) -> Result<Rooted<TopK>, SwarmError> {
        let empty = TopK::new(k, None);
        self.aggregate(prompts, empty, |top, answer| top.add_scored(answer, &mut score))
    }

    /// Sends rank 0's prompts to all ranks' servers and returns the answer with the highest score and that score, on
    /// rank 0; `None` there if no answer has a score. Collective.
    ///
    /// # Errors
    /// As [`Swarm::top_k`].
    ///
    /// ```
    /// # use aurora_swarm::{Environment, SwarmBuilder};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
    /// # let mut swarm = builder.start()?;
    /// let shortest = swarm.best_of(["Why?", "How?"], |answer| Ok(-(answer.len() as f64)))?;
    /// if let Some(Some((score, text))) = shortest.into_root() {
    ///     assert_eq!(score, -(text.len() as f64));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn best_of(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        score: impl FnMut(&str) -> Result<f64, String>,
    ) -> Result<Rooted<Option<(f64, String)>>, SwarmError> {
        let top = self.top_k(prompts, 1, score)?;
        Ok(top.map(|top| top.best_scored().next().map(|(score, text)| (score, text.to_owned()))))
    }

    /// Waits for all ranks and finalises MPI. Collective.
    pub fn finish(self) {
        ManuallyDrop::into_inner(self.comm).finalize();
    }

    fn gather_answers(
        &mut self,
        rows: impl IntoIterator<Item = impl Serialize>,
        template: Option<String>,
    ) -> Result<Rooted<Vec<SwarmAnswer>>, SwarmError> {
        let files = self.call_folder.next_call(None);
        let call = self.is_root().then(|| Ok(CallSpec { template, ..files.write_call(rows)? }));
        self.session.gather_answers(self.comm.as_mut(), call)?;
        let answers = self.is_root().then(|| files.read_answers()).transpose()?;
        Ok(Rooted::new(answers))
    }

    fn is_root(&self) -> bool {
        self.comm.rank() == 0
    }

    fn from_parts(comm: Box<dyn Comm>, session: JobSession, call_folder: CallFolder) -> Self {
        Self {
            comm: ManuallyDrop::new(comm),
            session,
            local_sessions: BTreeMap::new(),
            call_folder,
        }
    }
}

impl fmt::Debug for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Swarm")
            .field("rank", &self.rank())
            .field("size", &self.size())
            .field("endpoints", &self.endpoints())
            .finish_non_exhaustive()
    }
}
