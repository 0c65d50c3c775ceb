//! The job context: what every rank knows once the job has started, and the collectives by which the ranks agree at
//! every step whether it succeeded.
//!
//! Rank 0 resolves the settings, since environment variables differ between nodes, and decides the exit code; every rank
//! exits with it. An error on one rank reaches the others as its [`ErrorClass`] alone: one message is enough for one job.
//! The plan of a run is in `setup::run_plan`, which endpoints a rank owns is decided in `site`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ErrorClass, ExitCodeFn, JobError, PreconditionError};
use crate::{
    comm::{Comm, CommError, ReduceOp, TypedComm},
    domain::{Url, raw_json::compact_json},
    report::format::pluralize,
    serve::IdleSupervisor,
    settings::{
        ApiKey, Environment, ResolvedSettings, SettingOrigin, Settings, SettingsLayer,
        resolve_layers,
    },
    site::{
        EndpointSpec, HostfileEntry, NodeInfo, RankPlacement, assign_endpoints, parse_hostfile,
        rank_placements,
    },
    validation::{AnswerCheck, CheckError},
};

/// The command line and environment of this process, from which the settings are resolved.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Path of the settings file, from `--config`.
    pub config: Option<String>,
    /// Settings given as command-line options.
    pub flags: SettingsLayer,
    /// Environment variables of this process.
    pub environment: Environment,
    /// Supervisor process for this rank's servers; present if it was started before MPI.
    pub guard: Option<IdleSupervisor>,
    /// Exit codes, for the case that the job must abort MPI.
    pub exit_code: ExitCodeFn,
}

/// Settings, placement and endpoints of one rank, constant for the whole job.
#[derive(Clone, Debug)]
pub(super) struct JobContext {
    pub(super) settings: Settings,
    /// Source of each setting; empty on all ranks but 0.
    pub(super) origins: BTreeMap<String, SettingOrigin>,
    pub(super) api_key: Option<ApiKey>,
    pub(super) placement: RankPlacement,
    pub(super) urls: Vec<Url>,
    /// Host name of each rank; empty on all ranks but 0.
    pub(super) hosts: Vec<String>,
    /// `PBS_JOBID` of this process.
    pub(super) batch_job_id: Option<String>,
    /// Receives a copy of each answer line as soon as this rank has written it.
    pub(super) answer_sender: Option<AnswerSender>,
}

/// Sends answers to a consumer on the same rank, each as the line that is written; `None` marks the end.
pub(crate) type AnswerSender = std::sync::mpsc::Sender<Option<Vec<u8>>>;

/// The message with which rank 0 sets up another rank. Settings travel as JSON: they deserialize by
/// `deserialize_any`, which bincode does not support.
#[derive(Serialize, Deserialize)]
struct RankBootstrap {
    settings: String,
    api_key: Option<ApiKey>,
    placement: RankPlacement,
    urls: Vec<Url>,
}

/// Collective. Resolves settings, placement and endpoints on rank 0 and distributes them; an error ends the job on all
/// ranks.
pub(super) fn establish_context(
    comm: &mut dyn Comm,
    invocation: Invocation,
) -> Result<JobContext, JobError> {
    let nodes = comm.gather_values(&NodeInfo::this_node())?;
    let batch_job_id = invocation.environment.get("PBS_JOBID").map(str::to_owned);
    let hosts = nodes.iter().flatten().map(|node| node.host.clone()).collect();
    let bootstraps = nodes.map(|nodes| prepare_bootstraps(invocation, rank_placements(nodes)));
    let (bootstraps, origins) = root_result(comm, bootstraps)?.unzip();
    let bootstrap = comm.scatter_values(bootstraps)?;
    let settings = serde_json::from_str(&bootstrap.settings)
        .map_err(|error| CommError::Decode { from: 0, detail: error.to_string() })?;
    let RankBootstrap { api_key, placement, urls, .. } = bootstrap;
    Ok(JobContext {
        settings,
        origins: origins.unwrap_or_default(),
        api_key,
        placement,
        urls,
        hosts,
        batch_job_id,
        answer_sender: None,
    })
}

/// Collective. Shares the result of a step that only rank 0 runs (`None` on the others): returns rank 0's value on rank
/// 0 and `None` elsewhere, or an error on every rank.
pub(super) fn root_result<T>(
    comm: &mut dyn Comm,
    result: Option<Result<T, JobError>>,
) -> Result<Option<T>, JobError> {
    all_ok(comm, result.transpose())
}

/// Collective. Returns each rank's own value if every rank succeeded, else an error on every rank. Only the lowest rank
/// that failed keeps its message; the others get [`JobError::OtherRank`].
pub(super) fn all_ok<T>(comm: &mut dyn Comm, result: Result<T, JobError>) -> Result<T, JobError> {
    let rank = comm.rank() as u64;
    let own_class = result.as_ref().err().map(JobError::class);
    let mut first_failed = [if own_class.is_some() { rank } else { u64::MAX }];
    comm.all_reduce(&mut first_failed, ReduceOp::Min);
    if first_failed[0] == u64::MAX {
        return result;
    }
    // All ranks but one contribute zero, so that the maximum is the class of the first that failed.
    let own_class = own_class.filter(|_| first_failed[0] == rank);
    let mut class = [own_class.map_or(0, ErrorClass::to_number)];
    comm.all_reduce(&mut class, ReduceOp::Max);
    match result {
        Err(error) if own_class.is_some() => Err(error),
        _ => Err(JobError::OtherRank(ErrorClass::from_number(class[0]))),
    }
}

type BootstrapWithOrigins = (Vec<RankBootstrap>, BTreeMap<String, SettingOrigin>);

/// Builds on rank 0 the first message to each rank.
fn prepare_bootstraps(
    invocation: Invocation,
    places: Vec<RankPlacement>,
) -> Result<BootstrapWithOrigins, JobError> {
    let Invocation { config, flags, environment, .. } = invocation;
    let ResolvedSettings { settings, origins } = resolve_settings(config, flags, &environment)?;
    if let Some(expected) = settings.expect_ranks.filter(|&expected| expected != places.len()) {
        return Err(JobError::RankCount { expected, started: places.len() });
    }
    let owned = assign_endpoints(&read_endpoint_spec(&settings)?, &places)?;
    check_endpoints(&settings, &owned)?;
    let settings_json =
        serde_json::to_string(&settings).map_err(|error| CommError::Encode(error.to_string()))?;
    let api_key = environment.get(ApiKey::ENV_VARIABLE).map(ApiKey::new).transpose()?.flatten();
    let bootstrap = |(placement, urls)| RankBootstrap {
        settings: settings_json.clone(),
        api_key: api_key.clone(),
        placement,
        urls,
    };
    Ok((places.into_iter().zip(owned).map(bootstrap).collect(), origins))
}

/// Refuses endpoints with which the job could only wait in vain.
fn check_endpoints(settings: &Settings, owned: &[Vec<Url>]) -> Result<(), PreconditionError> {
    let all = owned.iter().map(Vec::len).sum::<usize>() as u64;
    let required = settings.min_endpoints.count_of(all);
    if all > 0 && required > all {
        let verb = if all == 1 { "is" } else { "are" };
        let endpoints = format!("{} {verb}", pluralize(all, "endpoint"));
        return Err(PreconditionError::TooFewEndpoints { required, endpoints });
    }
    let needs_tls = |url: &&Url| url.as_str().starts_with("https://");
    match owned.iter().flatten().find(needs_tls) {
        Some(url) if !cfg!(feature = "tls") => Err(PreconditionError::TlsNotBuilt(url.clone())),
        _ => Ok(()),
    }
}

/// Local. Merges the layers of settings (file, environment, options) and replaces texts given as `@FILE` by the
/// file's content, less a final newline.
pub(super) fn resolve_settings(
    config: Option<String>,
    flags: SettingsLayer,
    environment: &Environment,
) -> Result<ResolvedSettings, JobError> {
    let file = config.map(|path| SettingsLayer::from_file(&path)).transpose()?;
    let layers = [file.unwrap_or_default(), SettingsLayer::from_environment(environment), flags];
    let mut resolved = resolve_layers(layers)?;
    for (what, text) in [
        ("--template file", &mut resolved.settings.template),
        ("--reduce-template file", &mut resolved.settings.reduce_template),
        ("--system file", &mut resolved.settings.system),
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
    resolve_answer_check(&mut resolved)?;
    Ok(resolved)
}

/// Replaces the name of the schema's file by its content, and checks that the rules for answers can be used.
fn resolve_answer_check(resolved: &mut ResolvedSettings) -> Result<(), JobError> {
    let mut origin = String::new();
    if let Some(path) = resolved.settings.schema.take() {
        let unreadable =
            |error| JobError::Unreadable { what: "--schema file", path: path.clone(), error };
        let text = std::fs::read_to_string(&path).map_err(unreadable)?;
        resolved.settings.schema = Some(compact_json(&text).into_owned());
        origin = path;
    }
    let Settings { schema, check, .. } = &resolved.settings;
    AnswerCheck::compile(schema.as_deref(), check.as_deref()).map_err(|error| match error {
        CheckError::Schema(_) => {
            resolved.value_error("schema", format!("--schema {origin}: {error}"))
        }
        CheckError::Pattern(_) => resolved.value_error("check", format!("--check: {error}")),
    })?;
    Ok(())
}

fn read_endpoint_spec(settings: &Settings) -> Result<EndpointSpec, JobError> {
    if let Some(path) = &settings.hostfile {
        let text = std::fs::read_to_string(path).map_err(|error| JobError::Unreadable {
            what: "--hostfile",
            path: path.clone(),
            error,
        })?;
        let entries = parse_hostfile(&text)
            .map_err(|errors| JobError::Hostfile { path: path.clone(), errors })?;
        let entries: Vec<HostfileEntry> =
            entries.into_iter().filter(|entry| entry.has_tags(&settings.tag)).collect();
        return Ok(EndpointSpec::Hosts { entries, remote: settings.remote_endpoints });
    }
    Ok(match settings.base_port {
        Some(base) => EndpointSpec::Ports { base, count: settings.endpoints_per_node.unwrap_or(1) },
        None if settings.endpoint.is_empty() => EndpointSpec::Ports { base: 8000, count: 1 },
        None => EndpointSpec::Urls(settings.endpoint.clone()),
    })
}
