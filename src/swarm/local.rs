//! Local calls: this rank's prompts and this rank's servers. Each is a job of one rank, of which no other hears.

use serde::Serialize;

use super::{Answer, JobError, Swarm};
use crate::{comm::SoloComm, domain::Url};

impl Swarm {
    /// Local. This rank's prompts, answered by this rank's servers, in order.
    ///
    /// # Errors
    /// As [`Swarm::scatter_gather`], of this rank alone.
    ///
    /// ```
    /// # use aurora_swarm::{settings::Environment, swarm::Setup};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let mut swarm = Setup::new(Environment::of_this_process()).setting("endpoint", server.url()).start()?;
    /// let mine = swarm.send_all_batched([format!("I am rank {}.", swarm.rank())])?;
    /// assert_eq!(mine[0].served.rank, swarm.rank());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_all_batched(
        &mut self,
        prompts: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Vec<Answer>, JobError> {
        self.answer_locally(None, prompts)
    }

    /// Local. This rank's prompts, answered by one of its servers, in order. Servers count from 0, as in
    /// [`Swarm::endpoints`].
    ///
    /// # Errors
    /// As [`Swarm::send_all_batched`], and where there is no such server.
    ///
    /// ```
    /// # use aurora_swarm::{settings::Environment, swarm::Setup};
    /// # use vllm_sim::{Profile, Simulator};
    /// # let server = Simulator::start(Profile::instant())?;
    /// # let mut swarm = Setup::new(Environment::of_this_process()).setting("endpoint", server.url()).start()?;
    /// for server in 0..swarm.endpoints().len() {
    ///     let answers = swarm.post_batch(server, ["Are you well?"])?;
    ///     assert_eq!(answers.len(), 1);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn post_batch(
        &mut self,
        server: usize,
        prompts: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Vec<Answer>, JobError> {
        self.answer_locally(Some(server), prompts)
    }

    fn answer_locally(
        &mut self,
        server: Option<usize>,
        rows: impl IntoIterator<Item = impl Serialize>,
    ) -> Result<Vec<Answer>, JobError> {
        let rank = self.rank();
        let urls = match server {
            None => self.endpoints().to_vec(),
            Some(at) => vec![self.endpoint_at(at)?.clone()],
        };
        let place = self.places.next(Some(rank));
        let session = self.alone.entry(server).or_insert_with(|| self.session.solo_session(urls));
        session.gather_answers(&mut SoloComm::new(), Some(place.write_call(rows)))?;
        let mut answers = place.read_answers()?;
        answers.iter_mut().for_each(|it| it.served.rank = rank); // of one it was the first
        Ok(answers)
    }

    fn endpoint_at(&self, at: usize) -> Result<&Url, JobError> {
        let (rank, all) = (self.rank(), self.endpoints());
        all.get(at).ok_or_else(|| {
            JobError::PreconditionFailed(format!(
                "rank {rank} has {} servers, which count from 0: there is no server {at}",
                all.len()
            ))
        })
    }
}
