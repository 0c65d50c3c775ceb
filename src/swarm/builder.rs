//! The builder of a swarm: collects the program's settings, starts MPI and agrees on the settings of all ranks.
//!
//! Precedence is that of the commands, with the program's settings in the place of the command line.

use std::{fmt::Display, mem, path::PathBuf};

use super::{Swarm, SwarmError, call_files::CallFolder};
use crate::{
    comm::{self, LauncherInfo},
    job::{Invocation, JobError, JobSession, session_exit_code},
    settings::{Environment, SettingsLayer},
};

/// Settings of a [`Swarm`] before it starts. Those of rank 0 apply to all ranks.
///
/// Common settings have methods of their own; all others are set by name with [`setting`](Self::setting).
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

    /// Sets a setting by the name that options and the settings file use: `fan-in`, `ready-timeout`. Repeatable for
    /// lists.
    #[must_use]
    pub fn setting(mut self, key: &str, value: impl Display) -> Self {
        match self.settings.iter_mut().find(|(known, _)| known == key) {
            Some((_, values)) => values.push(value.to_string()),
            None => self.settings.push((key.into(), vec![value.to_string()])),
        }
        self
    }

    fn replace(mut self, key: &str, value: impl Display) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self.setting(key, value)
    }

    /// Adds a server URL. A loopback address means a server on each rank's node.
    #[must_use]
    pub fn endpoint(self, url: impl Display) -> Self {
        self.setting("endpoint", url)
    }

    /// Sets the first port of each node's servers on 127.0.0.1.
    #[must_use]
    pub fn base_port(self, port: u16) -> Self {
        self.replace("base-port", port)
    }

    /// Sets the number of servers per node, on consecutive ports from the base port.
    #[must_use]
    pub fn endpoints_per_node(self, count: u16) -> Self {
        self.replace("endpoints-per-node", count)
    }

    /// Sets the served model to use.
    #[must_use]
    pub fn model(self, name: impl Display) -> Self {
        self.replace("model", name)
    }

    /// Sets the answer limit in tokens.
    #[must_use]
    pub fn max_tokens(self, tokens: u64) -> Self {
        self.replace("max-tokens", tokens)
    }

    /// Sets the sampling temperature, from 0 to 2.
    #[must_use]
    pub fn temperature(self, temperature: f64) -> Self {
        self.replace("temperature", temperature)
    }

    /// Sets the sampling seed.
    #[must_use]
    pub fn seed(self, seed: i64) -> Self {
        self.replace("seed", seed)
    }

    /// Sets the first message of every conversation, or `@` and the name of a file with it.
    #[must_use]
    pub fn system(self, message: impl Display) -> Self {
        self.replace("system", message)
    }

    /// Sets a fixed concurrency limit: prompts in flight per server.
    #[must_use]
    pub fn concurrency(self, limit: usize) -> Self {
        self.replace("concurrency", limit)
    }

    /// Sets the number of attempts per prompt on healthy servers.
    #[must_use]
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.replace("retries", attempts)
    }

    /// Reads settings from a TOML file; the environment and the program's own settings take precedence over it.
    #[must_use]
    pub fn config_file(mut self, path: &str) -> Self {
        self.config = Some(path.into());
        self
    }

    /// Sets the folder for rows, answers and run folders of calls, numbered in call order: `call-0001.jsonl`,
    /// `call-0001.jsonl.run`. A program that is started again with the same calls and rows resumes from it and sends no
    /// finished prompt twice. All nodes must see the folder. Without one, files are temporary and removed after each
    /// call.
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
    /// use aurora_swarm::{Environment, SwarmBuilder, SwarmErrorKind};
    ///
    /// let builder = SwarmBuilder::new(Environment::of_this_process()).setting("max-tokenz", 8);
    /// let error = builder.start().expect_err("no such setting");
    /// assert_eq!(error.kind(), SwarmErrorKind::Settings);
    /// assert!(error.to_string().contains("did you mean \"max-tokens\"?"));
    /// ```
    pub fn start(self) -> Result<Swarm, SwarmError> {
        let Self { environment, config, mut settings, folder } = self;
        let launcher =
            LauncherInfo::from_variables(|variable| environment.get(variable).map(str::to_owned));
        if launcher.is_present() {
            comm::abort_job_on_panic();
        }
        let mut comm = comm::start_comm(&launcher)?;
        // The terminal belongs to the calling program, so progress is off unless it was asked for.
        let has_progress = settings.iter().any(|(key, _)| key == "progress")
            || environment.get("AURORA_SWARM_PROGRESS").is_some();
        if !has_progress {
            settings.push(("progress".into(), vec!["none".into()]));
        }
        let temporary = environment.get("TMPDIR").unwrap_or("/tmp").to_owned();
        let flags = SettingsLayer::from_program(settings);
        let invocation =
            Invocation { config, flags, environment, guard: None, exit_code: session_exit_code };
        match JobSession::start_session(comm.as_mut(), invocation) {
            Ok(session) => {
                let call_folder = CallFolder::new(folder, temporary.into(), comm.size());
                Ok(Swarm::from_parts(comm, session, call_folder))
            }
            Err(error) => {
                match error {
                    // The error may concern this rank only, and finalising MPI would wait for the others.
                    JobError::Comm(_) => mem::forget(comm),
                    _ => comm.finalize(),
                }
                Err(error.into())
            }
        }
    }
}
