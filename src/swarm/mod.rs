//! The library: what Aurora-Swarm's pools and patterns are to a Python program, over MPI ranks, for a Rust program.
//!
//! A [`Swarm`] has the ranks and what they have agreed on, and its methods are blocking calls on the thread that MPI was
//! started on. It is thin over [`job`](crate::job): every call is a run of its own, with shard files, retries, balance and
//! all, in a folder that the program names ([`Setup::folder`]: then a program that is started again goes on where it
//! stopped) or in a temporary one.
//!
//! ```
//! use aurora_swarm::{settings::Environment, swarm::Setup};
//! use vllm_sim::{Profile, Simulator};
//!
//! // A simulated server; on a node with vLLM leave it out and say .setting("base-port", 8000).
//! let server = Simulator::start(Profile::instant())?;
//!
//! let mut swarm = Setup::new(Environment::of_this_process())
//!     .setting("endpoint", server.url())
//!     .setting("max-tokens", 8)
//!     .start()?;
//! let answers = swarm.scatter_gather(["Why is the sky blue?", "And at night?"])?;
//! if let Some(answers) = answers {
//!     // on rank 0: one for each prompt, in order
//!     assert_eq!(answers.len(), 2);
//!     assert!(answers.iter().all(|answer| answer.text().is_ok()));
//! }
//! swarm.finish();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Collective and local calls
//!
//! Started by `mpiexec -n N`, a program is N ranks, each with a `Swarm`. **Collective** calls are made by every rank, in the
//! same order. They take rank 0's argument (what other ranks pass as rows is not looked at, nor is their iterator asked for
//! anything) and give `Some` on rank 0 only; an error is one on every rank, with the reason on one of them and
//! [`JobError::Elsewhere`] on the others. **Local** calls are this rank's alone: they ask its own servers, and no other rank
//! hears of them.
//!
//! | call | | rows of | asks | gives |
//! |---|---|---|---|---|
//! | [`Setup::start`] | collective | | | the swarm, on every rank |
//! | [`Swarm::scatter_gather`] | collective | rank 0 | all servers | answers in order, on rank 0 |
//! | [`Swarm::map_gather`] | collective | rank 0 | all servers | the same, through a template |
//! | [`Swarm::tree_reduce`] | collective | rank 0 | all servers | one text, on rank 0 |
//! | [`Swarm::answers`] | collective | rank 0 | all servers | each rank's answers as they come, on that rank |
//! | [`Swarm::aggregate`] | collective | rank 0 | all servers | any mergeable value, on rank 0 |
//! | [`Swarm::top_k`], [`Swarm::best_of`] | collective | rank 0 | all servers | the best by a function, on rank 0 |
//! | [`Swarm::send_all_batched`] | local | this rank | this rank's servers | answers in order, here |
//! | [`Swarm::post_batch`] | local | this rank | one of them | answers in order, here |
//! | [`Swarm::finish`] | collective | | | |
//!
//! Rows are whatever serialises to a JSON string (a prompt) or to an object as it stands in a `.jsonl` input: `prompt` or
//! `messages`, and own parameters such as `max_tokens`.
//!
//! ```
//! # use aurora_swarm::{settings::Environment, swarm::Setup};
//! # use vllm_sim::{Profile, Simulator};
//! # let server = Simulator::start(Profile::instant())?;
//! # let mut swarm = Setup::new(Environment::of_this_process()).setting("endpoint", server.url()).start()?;
//! use serde_json::json;
//!
//! let rows = [json!({"id": "a7", "prompt": "Why?", "max_tokens": 4}), json!("Why not?")];
//! if let Some(answers) = swarm.scatter_gather(&rows)? {
//!     assert_eq!(answers[0].id, "a7");
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Beside Aurora-Swarm (Python)
//!
//! Tests are those of `tests/integration`, by file and name. Aggregators have a table of their own, in
//! [`aggregate`](crate::aggregate).
//!
//! | there | here | what differs, and why | shown by |
//! |---|---|---|---|
//! | `AgentPool`, `VLLMPool` | [`Setup`], [`Swarm`] | endpoints belong to ranks, so that asking is node-local; settings have the commands' names and checks | `swarm::wrong_settings_are_an_error_on_every_rank` |
//! | `post_batch(agent, prompts, max_tokens)` | [`Swarm::post_batch`] | `max_tokens` and all else by row or setting; retries and split lists instead of six tries of everything | `swarm::every_call_holds_on_one_rank_and_on_three` |
//! | choices by position | by their `index` | there, reversed choices went to the wrong prompts and a missing one lost all answers of all agents | `swarm::reversed_and_missing_choices_cost_no_answer` |
//! | `send_all`, `send_all_batched` | [`Swarm::send_all_batched`] | over this rank's servers; no list is larger than a window | `swarm::every_call_holds_on_one_rank_and_on_three` |
//! | `scatter_gather` | [`Swarm::scatter_gather`] | over all ranks' servers; chat models are asked by chat; work is pulled and not dealt by `i % size`; every prompt has its outcome, on disk as it comes | `swarm::every_call_holds_on_one_rank_and_on_three`, `swarm::a_named_folder_is_gone_on_with` |
//! | no endpoint | [`JobError::NoEndpoint`] | there, a division by zero | `swarm::no_endpoint_is_an_error_and_not_an_accident`, `swarm::servers_that_come_later_are_found_by_the_next_call` |
//! | `map_gather` | [`Swarm::map_gather`] | a placeholder that no row has, or a template without any, is an error | `swarm::every_call_holds_on_one_rank_and_on_three` |
//! | `tree_reduce` | [`Swarm::tree_reduce`] | the tree does not depend on the number of ranks, and what is missing is counted | `reduce::the_tree_and_its_text_are_the_same_on_any_number_of_ranks_and_gaps_stay_gaps` |
//! | of one leaf | its own text | the same | `reduce::one_leaf_is_its_own_root`, `swarm::trees_of_one_leaf_of_none_left_and_with_a_fan_in_of_one` |
//! | `fanin` 1 | refused | there, calls without end | `reduce::what_cannot_become_one_text_says_so`, `swarm::trees_of_one_leaf_of_none_left_and_with_a_fan_in_of_one` |
//! | all leaves failed | [`Grown::text`] is none | there, a failure without numbers | `swarm::trees_of_one_leaf_of_none_left_and_with_a_fan_in_of_one` |
//! | `{level}`, `{responses}` in an answer | stays text | there, filled in | `swarm::placeholders_inside_an_answer_stay_text` |
//! | `majority_vote`, `statistics`, … | [`Swarm::aggregate`] of a [`Majority`](crate::aggregate::Majority), … | reduced over MPI: answers stay where they are, and each counts once | `swarm::every_call_holds_on_one_rank_and_on_three`, `swarm::prompts_that_failed_first_and_were_answered_later_count_once` |
//! | of non-numeric answers | named, and the others count | there, one was an error for all | `swarm::answers_that_are_no_numbers_cost_nothing_else` |
//! | `best_of`, `top_k` | [`Swarm::best_of`], [`Swarm::top_k`] | ties by the input; an answer without a score is named | `swarm::every_call_holds_on_one_rank_and_on_three` |
//! | `asyncio.as_completed` over a pool | [`Swarm::answers`] | each rank sees its own; what was seen is on disk | `swarm::answers_come_while_the_work_goes_on` |
//! | `broadcast`, `pipeline`, `Blackboard`, embeddings | | not there | |
//!
//! # What it refuses to know
//!
//! The command line, and what ends mean as exit codes. Nothing goes to standard output; to standard error go the log, if the
//! program sets one up, and which endpoints are not ready. A swarm that is dropped and not finished leaves MPI to the
//! launcher, which ends the other ranks: on an error there may be nobody to end together with.

mod answer;
mod builder;
mod call_files;
mod local;

pub use crate::job::{JobError, TreeReduction};
pub use answer::{AnswerIter, AnswerOrigin, SwarmAnswer};
pub use builder::SwarmBuilder;

use std::{collections::BTreeMap, mem::ManuallyDrop, panic, sync::mpsc, thread};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    aggregate::{ObservedAnswer, ObservedLine, TopK},
    comm::{Comm, TypedComm},
    domain::{Merge, Url},
    job::{CallSpec, JobSession},
};
use call_files::CallFolder;

/// Ranks that have agreed on settings, and the servers of each. See the [module](self).
pub struct Swarm {
    /// Dropped by [`Swarm::finish`] alone: leaving MPI waits for the others.
    comm: ManuallyDrop<Box<dyn Comm>>,
    session: JobSession,
    /// For local calls: by which of this rank's servers they ask, if not all.
    local_sessions: BTreeMap<Option<usize>, JobSession>,
    call_folder: CallFolder,
}

impl Swarm {
    /// Local. Which rank this is, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.comm.rank()
    }

    /// Local. How many ranks there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.comm.size()
    }

    /// Local. This rank's servers, as [`Swarm::post_batch`] counts them.
    #[must_use]
    pub fn endpoints(&self) -> &[Url] {
        self.session.endpoint_urls()
    }

    /// Collective. Rank 0's prompts, answered by all ranks' servers: in order, on rank 0. All of them are in its memory
    /// then; what is too much for that is for [`Swarm::answers`], [`Swarm::aggregate`] or the `run` command.
    ///
    /// # Errors
    /// Where rows cannot be read, nobody is there to be asked, or the work has ended early. Prompts that fail are no error:
    /// they have failed answers.
    ///
    /// The example is at the head of the [module](self).
    pub fn scatter_gather(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Option<Vec<SwarmAnswer>>, JobError> {
        self.gather_answers(prompts, None)
    }

    /// Collective. The same for rank 0's items, each put into the template: texts at `{{item}}`, objects by their fields.
    /// Braces inside an item stay text.
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`]; and where the template has no placeholder, or one that no item has.
    ///
    /// ```
    /// # use aurora_swarm::{settings::Environment, swarm::Setup};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let mut swarm = Setup::new(Environment::of_this_process()).setting("endpoint", server.url()).start()?;
    /// let capitals = swarm.map_gather(["France", "Peru"], "What is the capital of {{item}}?")?;
    /// if let Some(capitals) = capitals {
    ///     assert_eq!(capitals[1].prompt.as_deref(), Some("What is the capital of Peru?"));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map_gather(
        &mut self,
        items: impl IntoIterator<Item = impl Serialize>,
        template: &str,
    ) -> Result<Option<Vec<SwarmAnswer>>, JobError> {
        self.gather_answers(items, Some(template.to_owned()))
    }

    /// Collective. Rank 0's prompts, answered, and the answers made into one text by a tree: groups of `fan-in` (a setting)
    /// are put into `reduce_template` at `{{responses}}`, and so are the texts that come of it, until one is left.
    ///
    /// Every level is a file that all ranks see: on more than one node, name a [folder](Setup::folder).
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`]; and where a template or `fan-in` cannot make one text. Leaves that are missing are no
    /// error: they are counted.
    ///
    /// ```
    /// # use aurora_swarm::{settings::Environment, swarm::Setup};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let setup = Setup::new(Environment::of_this_process()).setting("endpoint", server.url());
    /// let mut swarm = setup.setting("fan-in", 2).start()?;
    /// let pages = ["Sum up page 1", "Sum up page 2", "Sum up page 3"];
    /// if let Some(summary) = swarm.tree_reduce(pages, "Make one summary of:\n{{responses}}")? {
    ///     assert!(summary.text.is_some());
    ///     assert_eq!((summary.leaves, summary.missing, summary.levels), (3, 0, 2));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tree_reduce(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        reduce_template: &str,
    ) -> Result<Option<TreeReduction>, JobError> {
        let place = self.call_folder.next_call(None);
        // (its levels lie in the run folder: ranks have no other place for what they write)
        let call = self.is_root().then(|| {
            let reduce_template = Some(reduce_template.to_owned());
            Ok(CallSpec { reduce_template, local_shards: None, ..place.write_call(prompts)? })
        });
        self.session.reduce_to_text(self.comm.as_mut(), call)
    }

    /// Collective. Rank 0's prompts, answered by all ranks' servers; on every rank `take` gets an iterator over **this
    /// rank's** answers, in the order in which they come, while the work goes on. It runs on a thread of its own, and what it
    /// makes of them is given back. Answers are on disk before they are seen; what is not taken yet is in memory.
    ///
    /// Only what this call has asked is seen: where a [folder](Setup::folder) has answers of an earlier start, those are
    /// not. In rare cases (a rank that was silent for long) a prompt is answered on two ranks.
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`].
    ///
    /// ```
    /// # use aurora_swarm::{settings::Environment, swarm::Setup};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let mut swarm = Setup::new(Environment::of_this_process()).setting("endpoint", server.url()).start()?;
    /// let longest = swarm.answers(["Why?", "How?"], |answers| {
    ///     answers.filter_map(|it| Some(it.text().ok()?.len())).max()
    /// })?;
    /// assert!(longest > Some(0)); // of this rank's
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn answers<T: Send>(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        take: impl FnOnce(AnswerIter) -> T + Send,
    ) -> Result<T, JobError> {
        let place = self.call_folder.next_call(None);
        let call = self.is_root().then(|| place.write_call(prompts));
        let (tap, lines) = mpsc::channel();
        thread::scope(|scope| {
            let taker = scope.spawn(move || take(AnswerIter::from_receiver(lines)));
            let told = self.session.stream_answers(self.comm.as_mut(), call, &tap);
            // (the tap has been told the end, so that whoever listens comes to one)
            let taken = taker.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked));
            told.map(|()| taken)
        })
    }

    /// Collective. Rank 0's prompts, answered by all ranks' servers; every rank puts what it has of them into its own
    /// `value` by `add`, and what comes of it is merged up the tree of ranks: one value, on rank 0. No answer leaves its
    /// rank, and each counts once, also those that were there from an earlier start.
    ///
    /// All ranks give the same empty value. [`aggregate`](crate::aggregate) has some; any other that merges will do.
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`]; and where values cannot travel.
    ///
    /// ```
    /// # use aurora_swarm::{settings::Environment, swarm::Setup};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let mut swarm = Setup::new(Environment::of_this_process()).setting("endpoint", server.url()).start()?;
    /// use aurora_swarm::aggregate::Majority;
    ///
    /// let prompts = ["Yes or no?"; 5];
    /// let votes = swarm.aggregate(prompts, Majority::new(None), |votes, seen| votes.add(seen))?;
    /// if let Some(votes) = votes {
    ///     assert_eq!(votes.finish()["votes"], 5); // the same prompt, the same answer
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn aggregate<T: Merge + Serialize + DeserializeOwned>(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        mut value: T,
        mut add: impl FnMut(&mut T, &ObservedAnswer<'_>),
    ) -> Result<Option<T>, JobError> {
        let place = self.call_folder.next_call(None);
        let call = self.is_root().then(|| place.write_call(prompts));
        self.session.visit_answers(self.comm.as_mut(), call, |line| {
            // (a line that is none was damaged on disk: its prompt is as good as failed)
            let line = ObservedLine::parse_line(line);
            line.iter()
                .flat_map(ObservedLine::observed_answers)
                .for_each(|seen| add(&mut value, &seen));
        })?;
        Ok(self.comm.reduce_values(value)?)
    }

    /// Collective. The `k` answers of rank 0's prompts that this function gives the highest scores, on rank 0. It is asked
    /// about every answer that is not blank, on the rank that has it; equal scores go by the input.
    ///
    /// # Errors
    /// As [`Swarm::aggregate`]. An answer without a score is no error: it is counted and named.
    ///
    /// ```
    /// # use aurora_swarm::{settings::Environment, swarm::Setup};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let mut swarm = Setup::new(Environment::of_this_process()).setting("endpoint", server.url()).start()?;
    /// let prompts = ["A name for a cat?", "A name for a dog?", "A name for a boat?"];
    /// let longest = swarm.top_k(prompts, 2, |answer| Ok(answer.len() as f64))?;
    /// if let Some(longest) = longest {
    ///     assert_eq!(longest.best().count(), 2);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn top_k(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        k: usize,
        mut score: impl FnMut(&str) -> Result<f64, String>,
    ) -> Result<Option<TopK>, JobError> {
        let empty = TopK::new(k, None);
        self.aggregate(prompts, empty, |top, seen| top.add_scored(seen, &mut score))
    }

    /// Collective. The one answer with the highest score and that score, on rank 0; none there if no answer has one.
    ///
    /// # Errors
    /// As [`Swarm::top_k`].
    ///
    /// ```
    /// # use aurora_swarm::{settings::Environment, swarm::Setup};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let mut swarm = Setup::new(Environment::of_this_process()).setting("endpoint", server.url()).start()?;
    /// let shortest = swarm.best_of(["Why?", "How?"], |answer| Ok(-(answer.len() as f64)))?;
    /// if let Some(Some((score, text))) = shortest {
    ///     assert_eq!(score, -(text.len() as f64));
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn best_of(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
        score: impl FnMut(&str) -> Result<f64, String>,
    ) -> Result<Option<Option<(f64, String)>>, JobError> {
        let top = self.top_k(prompts, 1, score)?;
        Ok(top.map(|top| top.best_scored().next().map(|(score, text)| (score, text.to_owned()))))
    }

    /// Collective. The orderly end: waits until all ranks are here, and leaves MPI.
    pub fn finish(self) {
        ManuallyDrop::into_inner(self.comm).finalize();
    }

    fn gather_answers(
        &mut self,
        rows: impl IntoIterator<Item = impl Serialize>,
        template: Option<String>,
    ) -> Result<Option<Vec<SwarmAnswer>>, JobError> {
        let place = self.call_folder.next_call(None);
        let call = self.is_root().then(|| Ok(CallSpec { template, ..place.write_call(rows)? }));
        self.session.gather_answers(self.comm.as_mut(), call)?;
        self.is_root().then(|| place.read_answers()).transpose()
    }

    fn is_root(&self) -> bool {
        self.comm.rank() == 0
    }

    fn from_parts(comm: Box<dyn Comm>, session: JobSession, places: CallFolder) -> Self {
        Self {
            comm: ManuallyDrop::new(comm),
            session,
            local_sessions: BTreeMap::new(),
            call_folder: places,
        }
    }
}
