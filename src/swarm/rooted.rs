//! Results of collective calls, which only rank 0 has.

/// The result of a collective call: a value on rank 0, the root, and nothing on the other ranks.
///
/// ```
/// # use aurora_swarm::{Environment, SwarmBuilder};
/// # use vllm_sim::{Profile, Simulator};
/// # let server = Simulator::start(Profile::instant())?;
/// # let builder = SwarmBuilder::new(Environment::of_this_process()).endpoint(server.url());
/// # let mut swarm = builder.start()?;
/// let answers = swarm.scatter_gather(["Why?"])?;
/// assert_eq!(answers.is_root(), swarm.rank() == 0);
/// if let Some(answers) = answers.into_root() {
///     println!("{} answers", answers.len());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Rooted<T>(Option<T>);

impl<T> Rooted<T> {
    pub(super) fn new(value: Option<T>) -> Self {
        Self(value)
    }

    /// Returns whether this is rank 0.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the value on rank 0, `None` on the other ranks.
    #[must_use]
    pub fn into_root(self) -> Option<T> {
        self.0
    }

    /// Returns a reference to the value on rank 0, `None` on the other ranks.
    #[must_use]
    pub fn as_root(&self) -> Option<&T> {
        self.0.as_ref()
    }

    /// Applies a function to the value on rank 0.
    pub fn map<U>(self, function: impl FnOnce(T) -> U) -> Rooted<U> {
        Rooted(self.0.map(function))
    }
}
