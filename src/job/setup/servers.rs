//! The servers that the job starts (`--serve`): each rank's supervisor starts those whose endpoint the rank owns.
//!
//! Processes, restarts and logs are the business of [`serve`](crate::serve).

use std::path::Path;

use crate::job::{
    JobError,
    context::{JobContext, all_ok},
};
use crate::{
    comm::Comm,
    domain::{EndpointStatus, ProbeResult, Url},
    serve::{IdleSupervisor, ServerContext, SupervisorHandle, WatchLimits, plan_servers},
    settings::{HumanDuration, Settings},
};

/// The servers that this rank has started, if any.
#[derive(Debug)]
pub(crate) struct LocalServers {
    supervisor: Option<SupervisorHandle>,
    ports: Vec<(Url, u16)>,
}

/// Collective. Starts this rank's servers, if the settings demand any, with their logs in `folder`. They end when the value
/// is dropped, and also if the rank ends in any other way.
pub(crate) fn start_servers(
    comm: &mut dyn Comm,
    context: &JobContext,
    supervisor: Option<IdleSupervisor>,
    folder: &Path,
) -> Result<LocalServers, JobError> {
    let ports = own_ports(&context.settings, &context.urls);
    let started = start_supervised(context, supervisor, folder, &ports).map_err(|why| {
        JobError::ServerStart(context.placement.rank, context.placement.node.host.clone(), why)
    });
    let supervisor = all_ok(comm, started)?;
    Ok(LocalServers { supervisor, ports })
}

fn start_supervised(
    context: &JobContext,
    supervisor: Option<IdleSupervisor>,
    folder: &Path,
    ports: &[(Url, u16)],
) -> Result<Option<SupervisorHandle>, String> {
    let JobContext { settings, placement, .. } = context;
    if ports.is_empty() {
        return Ok(None); // dropping the supervisor ends it
    }
    let Some(supervisor) = supervisor else {
        return Err("--serve was not known before MPI started, so this rank has no server supervisor\nhint: give --serve \
                    on the command line, or AURORA_SWARM_SERVE or the settings file to every rank"
            .into());
    };
    let base = settings.base_port.unwrap_or_default();
    let numbers = ports.iter().map(|&(_, port)| port.saturating_sub(base));
    let server_context = ServerContext {
        host: &placement.node.host,
        local_rank: placement.local_rank,
        log_folder: folder,
    };
    let unless_zero = |it: HumanDuration| Some(it.to_duration()).filter(|time| !time.is_zero());
    let limits = WatchLimits {
        hang: unless_zero(settings.serve_hang),
        max_age: unless_zero(settings.serve_max_age),
    };
    let servers = plan_servers(settings, numbers, server_context);
    SupervisorHandle::start_servers(supervisor, servers, limits).map(Some)
}

/// Returns URL and port of each server that this rank must start; empty without `--serve`.
fn own_ports(settings: &Settings, urls: &[Url]) -> Vec<(Url, u16)> {
    let (Some(_), Some(base)) = (&settings.serve, settings.base_port) else { return Vec::new() };
    let ports = (base..=u16::MAX).take(usize::from(settings.endpoints_per_node.unwrap_or(1)));
    ports.map(|port| (Url::loopback(port), port)).filter(|(url, _)| urls.contains(url)).collect()
}

impl LocalServers {
    /// Returns why the server at this URL has failed for good, if it was started here and has.
    pub(crate) fn given_up_reason(&self, url: &Url) -> Option<String> {
        let (_, port) = self.ports.iter().find(|(its, _)| its == url)?;
        self.supervisor.as_ref()?.give_up_reason(*port)
    }

    /// Marks failed servers as not ready, even if another process answers at their port.
    pub(crate) fn mark_given_up(&self, found: Vec<EndpointStatus>) -> Vec<EndpointStatus> {
        let mark = |status: EndpointStatus| match self.given_up_reason(&status.url) {
            Some(reason) => EndpointStatus { probe: ProbeResult::NotReady(reason), ..status },
            None => status,
        };
        found.into_iter().map(mark).collect()
    }

    /// Returns the endpoints whose server has not failed for good.
    pub(crate) fn without_given_up(&self, found: Vec<EndpointStatus>) -> Vec<EndpointStatus> {
        found.into_iter().filter(|status| self.given_up_reason(&status.url).is_none()).collect()
    }

    /// Asks the servers to end, without waiting for it.
    pub(crate) fn close(&mut self) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.begin_shutdown();
        }
    }
}
