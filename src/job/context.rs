//! What all ranks agree on: the settings at the start, and at every step whether it went well.
//!
//! Rank 0 resolves the settings, since environments differ between nodes, and decides the exit code; every rank exits
//! with it. An error on one rank is told to the others as its code alone: one message is enough for one job.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::JobError;
use crate::{
    comm::{Comm, CommError, ReduceOp, TypedComm},
    domain::Url,
    serve::IdleSupervisor,
    settings::{
        ApiKey, Environment, ResolvedSettings, SettingOrigin, Settings, SettingsLayer,
        resolve_layers,
    },
    site::{
        EndpointSpec, HostfileEntry, NodeInfo, Place, assign_endpoints, parse_hostfile, places,
    },
};

/// What the command line and the environment of this process say.
#[derive(Debug)]
pub struct Invocation {
    /// `--config`.
    pub config: Option<String>,
    /// The flags.
    pub flags: SettingsLayer,
    /// The environment.
    pub environment: Environment,
    /// The process that starts and ends this rank's servers, where one was started early enough.
    pub guard: Option<IdleSupervisor>,
}

/// How an error becomes an exit code: the command line's business, needed here because ranks tell each other codes.
pub type ErrorCodeFn = fn(&JobError) -> u8;

/// What every rank knows once the job has begun.
#[derive(Clone, Debug)]
pub(super) struct JobContext {
    pub(super) settings: Settings,
    /// On rank 0 only.
    pub(super) origins: BTreeMap<String, SettingOrigin>,
    pub(super) api_key: Option<ApiKey>,
    pub(super) placement: Place,
    pub(super) urls: Vec<Url>,
    /// Each rank's host, on rank 0 only.
    pub(super) hosts: Vec<String>,
    /// The batch job's id, on rank 0 only.
    pub(super) batch_job_id: Option<String>,
    /// Who else gets the answers that this rank writes, as they come.
    pub(super) answer_sender: Option<AnswerSender>,
}

/// Answers on their way to somebody of this rank, each as the line that is written. None is the last.
pub type AnswerSender = std::sync::mpsc::Sender<Option<Vec<u8>>>;

/// As it travels: bincode cannot carry settings, which read themselves in more than one way; JSON can.
#[derive(Serialize, Deserialize)]
struct RankBootstrap {
    settings: String,
    api_key: Option<ApiKey>,
    placement: Place,
    urls: Vec<Url>,
}

/// Collective. Settings, places and endpoints, or the reason why there is no job.
pub(super) fn establish_context(
    comm: &mut dyn Comm,
    given: Invocation,
    code: ErrorCodeFn,
) -> Result<JobContext, JobError> {
    let nodes = comm.gather_values(&NodeInfo::this_node())?;
    let job = given.environment.get("PBS_JOBID").map(str::to_owned);
    let hosts = nodes.iter().flatten().map(|node| node.host.clone()).collect();
    let openings = nodes.map(|nodes| prepare_bootstraps(given, places(nodes)));
    let (openings, origins) = root_result(comm, openings, code)?.unzip();
    let opening = comm.scatter_values(openings)?;
    let settings = serde_json::from_str(&opening.settings)
        .map_err(|error| CommError::Decode { from: 0, detail: error.to_string() })?;
    let RankBootstrap { api_key: key, placement: place, urls, .. } = opening;
    let origins = origins.unwrap_or_default();
    Ok(JobContext {
        settings,
        origins,
        api_key: key,
        placement: place,
        urls,
        hosts,
        batch_job_id: job,
        answer_sender: None,
    })
}

/// Collective. Rank 0's result: its value on rank 0, nothing on the others, or on all ranks the error's code.
pub(super) fn root_result<T>(
    comm: &mut dyn Comm,
    result: Option<Result<T, JobError>>,
    code: ErrorCodeFn,
) -> Result<Option<T>, JobError> {
    all_ok(comm, result.transpose(), code)
}

/// Collective. Every rank's own value if all went well; else an error on every rank, the words only on the lowest rank
/// that has any.
pub(super) fn all_ok<T>(
    comm: &mut dyn Comm,
    result: Result<T, JobError>,
    code: ErrorCodeFn,
) -> Result<T, JobError> {
    let rank = comm.rank() as u64;
    let mine = result.as_ref().err().map(code);
    let mut first = [if mine.is_some() { rank } else { u64::MAX }];
    comm.all_reduce(&mut first, ReduceOp::Min);
    if first[0] == u64::MAX {
        return result;
    }
    let mut its = [if first[0] == rank { u64::from(mine.unwrap_or_default()) } else { 0 }];
    comm.all_reduce(&mut its, ReduceOp::Max);
    match result {
        Err(error) if first[0] == rank => Err(error),
        _ => Err(JobError::OtherRank(u8::try_from(its[0]).unwrap_or(u8::MAX))),
    }
}

type BootstrapWithOrigins = (Vec<RankBootstrap>, BTreeMap<String, SettingOrigin>);

/// Rank 0: what each rank is told first.
fn prepare_bootstraps(
    given: Invocation,
    places: Vec<Place>,
) -> Result<BootstrapWithOrigins, JobError> {
    let Invocation { config, flags, environment, .. } = given;
    let ResolvedSettings { settings, origins } = resolve_settings(config, flags, &environment)?;
    if let Some(expected) = settings.expect_ranks.filter(|&expected| expected != places.len()) {
        return Err(JobError::RankCount { expected, there: places.len() });
    }
    let owned = assign_endpoints(&read_endpoint_spec(&settings)?, &places)?;
    let text =
        serde_json::to_string(&settings).map_err(|error| CommError::Encode(error.to_string()))?;
    let key = environment.get(ApiKey::ENV_VARIABLE).and_then(ApiKey::new);
    let opening = |(place, urls)| RankBootstrap {
        settings: text.clone(),
        api_key: key.clone(),
        placement: place,
        urls,
    };
    Ok((places.into_iter().zip(owned).map(opening).collect(), origins))
}

/// Local. All layers into one; texts that stand in files (`@FILE`) are read.
pub(super) fn resolve_settings(
    config: Option<String>,
    flags: SettingsLayer,
    environment: &Environment,
) -> Result<ResolvedSettings, JobError> {
    let file = config.map(|path| SettingsLayer::from_file(&path)).transpose()?;
    let layers = [file.unwrap_or_default(), SettingsLayer::from_environment(environment), flags];
    let mut resolved = resolve_layers(layers)?;
    for (what, text) in [
        ("the template", &mut resolved.settings.template),
        ("the reduce template", &mut resolved.settings.reduce_template),
        ("the system message", &mut resolved.settings.system),
    ] {
        if let Some(path) = text.as_deref().and_then(|text| text.strip_prefix('@')) {
            let read = std::fs::read_to_string(path).map_err(|error| JobError::Unreadable {
                what,
                path: path.into(),
                error,
            })?;
            *text = Some(read.strip_suffix('\n').unwrap_or(&read).to_owned());
        }
    }
    Ok(resolved)
}

fn read_endpoint_spec(settings: &Settings) -> Result<EndpointSpec, JobError> {
    if let Some(path) = &settings.hostfile {
        let text = std::fs::read_to_string(path).map_err(|error| JobError::Unreadable {
            what: "the hostfile",
            path: path.clone(),
            error,
        })?;
        let lines = parse_hostfile(&text)
            .map_err(|errors| JobError::Hostfile { path: path.clone(), errors })?;
        let lines: Vec<HostfileEntry> =
            lines.into_iter().filter(|line| line.has_tags(&settings.tag)).collect();
        return Ok(EndpointSpec::Hosts { lines, remote: settings.remote_endpoints });
    }
    Ok(match settings.base_port {
        Some(base) => EndpointSpec::Ports { base, count: settings.endpoints_per_node.unwrap_or(1) },
        None if settings.endpoint.is_empty() => EndpointSpec::Ports { base: 8000, count: 1 },
        None => EndpointSpec::Urls(settings.endpoint.clone()),
    })
}
