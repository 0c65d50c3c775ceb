//! What all ranks agree on: the settings at the start, the verdict at the end.
//!
//! Rank 0 resolves the settings, since environments differ between nodes, and decides the exit code; every rank exits
//! with it. An error on rank 0 is told to the others as its code alone: one message is enough for one job.

use serde::{Deserialize, Serialize};

use crate::{
    comm::{Comm, CommError, Typed},
    domain::Url,
    settings::{Environment, Layer, Resolved, Secret, Settings, SettingsError, resolve},
    site::{DealError, HostLine, HostfileError, Node, Place, Wanted, deal, parse_hostfile, places},
};

/// What the command line and the environment of this process say.
#[derive(Debug)]
pub struct Given {
    /// `--config`.
    pub config: Option<String>,
    /// The flags.
    pub flags: Layer,
    /// The environment.
    pub environment: Environment,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// All is well.
    Done,
    /// No endpoint was ever ready.
    NoEndpoint,
}

/// A job that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Settings that cannot be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Ranks that cannot talk.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// The hostfile cannot be read.
    #[error("the hostfile {path} cannot be read: {error}")]
    HostfileUnreadable {
        /// Which.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The hostfile has bad lines.
    #[error("the hostfile {path} has bad lines:\n{}", lines(.errors))]
    Hostfile {
        /// Which.
        path: String,
        /// All of them.
        errors: Vec<HostfileError>,
    },
    /// Servers that no rank can own.
    #[error(transparent)]
    Deal(#[from] DealError),
    /// Another number of ranks than the user expects.
    #[error(
        "{expected} ranks were expected (expect-ranks) and there are {there}: is this the mpiexec of the MPI that the \
         program was built with, and are all nodes up?"
    )]
    Ranks {
        /// By the settings.
        expected: usize,
        /// In MPI.
        there: usize,
    },
    /// Rank 0 has said what is wrong; this rank only leaves with its code.
    #[error("rank 0 has ended the job")]
    Elsewhere(u8),
}

/// What every rank knows once the job has begun.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) settings: Settings,
    pub(super) key: Option<Secret>,
    pub(super) place: Place,
    pub(super) urls: Vec<Url>,
}

/// As it travels: bincode cannot carry settings, which read themselves in more than one way; JSON can.
#[derive(Serialize, Deserialize)]
struct Opening {
    settings: String,
    key: Option<Secret>,
    place: Place,
    urls: Vec<Url>,
}

/// Collective. Settings, places and endpoints, or the reason why there is no job.
pub(super) fn agree(
    comm: &mut dyn Comm,
    given: Given,
    code: impl Fn(&JobError) -> u8,
) -> Result<Common, JobError> {
    let nodes = comm.gather_values(&Node::here())?;
    let openings = nodes.map(|nodes| openings(given, places(nodes)));
    let openings = told(comm, openings, code)?;
    let opening = comm.scatter_values(openings)?;
    let settings = serde_json::from_str(&opening.settings)
        .map_err(|error| CommError::Garbled { from: 0, detail: error.to_string() })?;
    Ok(Common { settings, key: opening.key, place: opening.place, urls: opening.urls })
}

/// Collective. Rank 0's result: its value on rank 0, nothing on the others, or on all ranks the error's code.
pub(super) fn told<T>(
    comm: &mut dyn Comm,
    result: Option<Result<T, JobError>>,
    code: impl Fn(&JobError) -> u8,
) -> Result<Option<T>, JobError> {
    let result = result.transpose();
    let failed = comm.broadcast_value(Some(result.as_ref().err().map(code)))?;
    match (result, failed) {
        (Ok(value), None) => Ok(value),
        (Ok(_), Some(code)) => Err(JobError::Elsewhere(code)),
        (Err(error), _) => Err(error),
    }
}

/// Rank 0: what each rank is told first.
fn openings(given: Given, places: Vec<Place>) -> Result<Vec<Opening>, JobError> {
    let Given { config, flags, environment } = given;
    let file = config.map(|path| Layer::of_file(&path)).transpose()?;
    let layers = [file.unwrap_or_default(), Layer::of_environment(&environment), flags];
    let Resolved { settings, .. } = resolve(layers)?;
    if let Some(expected) = settings.expect_ranks.filter(|&expected| expected != places.len()) {
        return Err(JobError::Ranks { expected, there: places.len() });
    }
    let owned = deal(&wanted(&settings)?, &places)?;
    let text =
        serde_json::to_string(&settings).map_err(|error| CommError::Encode(error.to_string()))?;
    let key = environment.get(Secret::VARIABLE).and_then(Secret::new);
    let opening = |(place, urls)| Opening { settings: text.clone(), key: key.clone(), place, urls };
    Ok(places.into_iter().zip(owned).map(opening).collect())
}

fn wanted(settings: &Settings) -> Result<Wanted, JobError> {
    if let Some(path) = &settings.hostfile {
        let text = std::fs::read_to_string(path)
            .map_err(|error| JobError::HostfileUnreadable { path: path.clone(), error })?;
        let lines = parse_hostfile(&text)
            .map_err(|errors| JobError::Hostfile { path: path.clone(), errors })?;
        let lines: Vec<HostLine> =
            lines.into_iter().filter(|line| line.has_tags(&settings.tag)).collect();
        return Ok(Wanted::Hosts { lines, remote: settings.remote_endpoints });
    }
    Ok(match settings.base_port {
        Some(base) => Wanted::Ports { base, count: settings.endpoints_per_node.unwrap_or(1) },
        None if settings.endpoint.is_empty() => Wanted::Ports { base: 8000, count: 1 },
        None => Wanted::Urls(settings.endpoint.clone()),
    })
}

fn lines(errors: &[HostfileError]) -> String {
    errors.iter().take(20).map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n")
}
