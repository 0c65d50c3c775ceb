//! The builder of a swarm: collects the program's settings, starts MPI and agrees on the settings of all ranks.
//!
//! Precedence is that of the commands, with the program's settings in the place of the command line.

use std::{fmt::Display, mem, path::PathBuf};

use super::{CallFolder, JobError, Swarm};
use crate::{
    comm::{self, LauncherInfo},
    job::{Invocation, JobSession, session_exit_code},
    settings::{Environment, SettingsLayer},
};

/// Settings of a [`Swarm`] before it starts. Those of rank 0 apply to all ranks.
#[derive(Clone, Debug)]
pub struct SwarmBuilder {
    environment: Environment,
    config: Option<String>,
    settings: Vec<(String, Vec<String>)>,
    folder: Option<PathBuf>,
}

impl SwarmBuilder {
    /// Creates a builder that knows only the environment: `AURORA_SWARM_*`, the launcher's variables and `TMPDIR`.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self { environment, config: None, settings: Vec::new(), folder: None }
    }

    /// Sets a setting by the name that options and the settings file use: `max-tokens`, `base-port`. Repeatable for lists.
    #[must_use]
    pub fn setting(mut self, key: &str, value: impl Display) -> Self {
        match self.settings.iter_mut().find(|(its, _)| its == key) {
            Some((_, values)) => values.push(value.to_string()),
            None => self.settings.push((key.into(), vec![value.to_string()])),
        }
        self
    }

    /// Reads settings from a TOML file; the environment and the program's own settings take precedence over it.
    #[must_use]
    pub fn config_file(mut self, path: &str) -> Self {
        self.config = Some(path.into());
        self
    }

    /// Sets the folder for rows, answers and run folders of calls, numbered in call order: `call-0001.jsonl`,
    /// `call-0001.jsonl.run`. A program that is started again with the same calls and rows resumes from it and sends no
    /// finished prompt twice. All nodes must see the folder. Without one, files are temporary and removed after each call.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Starts MPI and agrees on the settings. Collective; under a launcher it can be called once per process. Without a
    /// launcher the swarm has one rank. Afterwards a panic on any rank ends the whole job.
    ///
    /// # Errors
    /// If MPI does not start or a setting is invalid.
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
        let launcher =
            LauncherInfo::from_variables(|variable| environment.get(variable).map(str::to_owned));
        if launcher.is_present() {
            comm::abort_job_on_panic();
        }
        let mut comm = comm::start_comm(&launcher)?;
        // The terminal belongs to the calling program, so progress is off unless it was asked for.
        let progress = settings.iter().any(|(key, _)| key == "progress")
            || environment.get("AURORA_SWARM_PROGRESS").is_some();
        if !progress {
            settings.push(("progress".into(), vec!["none".into()]));
        }
        let temporary = environment.get("TMPDIR").unwrap_or("/tmp").to_owned();
        let flags = SettingsLayer::from_program(settings);
        let given =
            Invocation { config, flags, environment, guard: None, exit_code: session_exit_code };
        match JobSession::start_session(comm.as_mut(), given) {
            Ok(session) => {
                let places = CallFolder::new(folder, temporary.into(), comm.size());
                Ok(Swarm::from_parts(comm, session, places))
            }
            Err(error) => {
                match error {
                    // The error may concern this rank only, and finalising MPI would wait for the others.
                    JobError::Comm(_) => mem::forget(comm),
                    _ => comm.finalize(),
                }
                Err(error)
            }
        }
    }
}
