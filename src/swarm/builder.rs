//! How a swarm begins: what the program says, over what the environment and a file say, as with the commands.

use std::{fmt::Display, mem, path::PathBuf};

use super::{JobError, Places, Swarm};
use crate::{
    comm::{self, LauncherInfo},
    job::{Invocation, JobSession},
    settings::{Environment, SettingsLayer},
};

/// What is wanted, until all ranks agree on it. Rank 0's counts.
#[derive(Clone, Debug)]
pub struct SwarmBuilder {
    environment: Environment,
    config: Option<String>,
    settings: Vec<(String, Vec<String>)>,
    folder: Option<PathBuf>,
}

impl SwarmBuilder {
    /// Nothing but the environment: `AURORA_SWARM_*`, the launcher's variables, `TMPDIR`.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self { environment, config: None, settings: Vec::new(), folder: None }
    }

    /// A setting by its name, as the commands' options and the settings file have it: `max-tokens`, `base-port`. Again for
    /// those that are lists.
    #[must_use]
    pub fn setting(mut self, key: &str, value: impl Display) -> Self {
        match self.settings.iter_mut().find(|(its, _)| its == key) {
            Some((_, values)) => values.push(value.to_string()),
            None => self.settings.push((key.into(), vec![value.to_string()])),
        }
        self
    }

    /// A settings file, which the environment and the program's own settings go over.
    #[must_use]
    pub fn config_file(mut self, path: &str) -> Self {
        self.config = Some(path.into());
        self
    }

    /// Where calls keep their rows, answers and run folders, numbered in the order of the calls: `call-0001.jsonl`,
    /// `call-0001.jsonl.run`. The same program again goes on where it stopped, and asks nothing twice; calls and rows have to
    /// be the same then. All nodes have to see it. Without one, files are temporary, and gone when the call is over.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Collective, once in a process's life where a launcher started it; without a launcher the swarm is one rank. Starts
    /// MPI, after which a panic on any rank ends all of them, and agrees on settings.
    ///
    /// # Errors
    /// Where MPI does not start, or settings are wrong.
    ///
    /// ```
    /// use aurora_swarm::{settings::Environment, swarm::{JobError, Setup}};
    ///
    /// let setup = Setup::new(Environment::of_this_process()).setting("max-tokenz", 8);
    /// let Err(error) = setup.start() else { panic!("there is no such setting") };
    /// assert!(matches!(&error, JobError::Settings(_)));
    /// assert!(error.to_string().contains("did you mean \"max-tokens\"?"));
    /// ```
    pub fn start(self) -> Result<Swarm, JobError> {
        let Self { environment, config, mut settings, folder } = self;
        let launcher = LauncherInfo::read(|variable| environment.get(variable).map(str::to_owned));
        if launcher.is_present() {
            comm::abort_job_on_panic();
        }
        let mut comm = comm::start(&launcher)?;
        // A program's terminal is its own, unless somebody wants it otherwise.
        let progress = settings.iter().any(|(key, _)| key == "progress")
            || environment.get("AURORA_SWARM_PROGRESS").is_some();
        if !progress {
            settings.push(("progress".into(), vec!["none".into()]));
        }
        let temporary = environment.get("TMPDIR").unwrap_or("/tmp").to_owned();
        let flags = SettingsLayer::from_program(settings);
        let given = Invocation { config, flags, environment, guard: None };
        match JobSession::start_session(comm.as_mut(), given) {
            Ok(session) => {
                let places = Places::new(folder, temporary.into(), comm.size());
                Ok(Swarm::over(comm, session, places))
            }
            Err(error) => {
                match error {
                    // It may be this rank's alone, and leaving MPI would wait for the others.
                    JobError::Comm(_) => mem::forget(comm),
                    _ => comm.finish(),
                }
                Err(error)
            }
        }
    }
}
