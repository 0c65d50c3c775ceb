//! Local calls: one rank's prompts and servers. Each call is a job of one rank without messages to other ranks.

use serde::Serialize;

use super::{Swarm, SwarmAnswer, SwarmError};
use crate::{
    comm::SoloComm,
    domain::Url,
    job::{JobError, PreconditionError},
};

impl Swarm {
    /// Sends this rank's prompts to this rank's servers and returns the answers in order. Local.
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`], for this rank alone.
    ///
    /// ```
    /// # use aurora_swarm::{Environment, SwarmBuilder};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
    /// # let mut swarm = builder.start()?;
    /// let mine = swarm.send_all_batched([format!("I am rank {}.", swarm.rank())])?;
    /// assert_eq!(mine[0].served.rank, swarm.rank());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_all_batched(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Vec<SwarmAnswer>, SwarmError> {
        self.answer_locally(None, prompts)
    }

    /// Sends this rank's prompts to one of its servers and returns the answers in order. Local. `server` is an index
    /// into [`Swarm::endpoints`].
    ///
    /// # Errors
    /// As [`Swarm::send_all_batched`], and if the index is out of range.
    ///
    /// ```
    /// # use aurora_swarm::{Environment, SwarmBuilder};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
    /// # let mut swarm = builder.start()?;
    /// for server in 0..swarm.endpoints().len() {
    ///     let answers = swarm.post_batch(server, ["Why?"])?;
    ///     assert_eq!(answers.len(), 1);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_batch(
        &mut self,
        server: usize,
        prompts: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Vec<SwarmAnswer>, SwarmError> {
        self.answer_locally(Some(server), prompts)
    }

    fn answer_locally(
        &mut self,
        server: Option<usize>,
        rows: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Vec<SwarmAnswer>, SwarmError> {
        let rank = self.rank();
        let urls = match server {
            None => self.endpoints().to_vec(),
            Some(index) => vec![self.endpoint_at(index)?.clone()],
        };
        let files = self.call_folder.next_call(Some(rank));
        let session =
            self.local_sessions.entry(server).or_insert_with(|| self.session.solo_session(urls));
        session.gather_answers(&mut SoloComm::new(), Some(files.write_call(rows)))?;
        let mut answers = files.read_answers()?;
        answers.iter_mut().for_each(|answer| answer.served.rank = rank); // the one-rank job has numbered itself 0
        Ok(answers)
    }

    fn endpoint_at(&self, index: usize) -> Result<&Url, JobError> {
        let (rank, all) = (self.rank(), self.endpoints());
        all.get(index).ok_or_else(|| {
            PreconditionError::ServerIndex {
                index,
                rank,
                servers: format!("{} server{}", all.len(), if all.len() == 1 { "" } else { "s" }),
            }
            .into()
        })
    }
}
