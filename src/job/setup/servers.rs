//! The node's own servers as the job sees them: every rank's guard starts those whose endpoint the rank owns.

use std::path::Path;

use crate::job::{
    ErrorCodeFn, JobError,
    context::{JobContext, all_ok},
};
use crate::{
    comm::Comm,
    domain::{EndpointStatus, ProbeResult, Url},
    serve::{IdleSupervisor, ServerContext, SupervisorHandle, plan_servers},
    settings::Settings,
};

/// This rank's servers, where there are any.
#[derive(Debug)]
pub(crate) struct LocalServers {
    supervisor: Option<SupervisorHandle>,
    ports: Vec<(Url, u16)>,
}

/// Collective. Starts this rank's servers, where servers are to be started; their logs go to `folder`. They end when this
/// value is dropped, and however else the rank ends.
pub(crate) fn start_servers(
    comm: &mut dyn Comm,
    common: &JobContext,
    guard: Option<IdleSupervisor>,
    folder: &Path,
    code: ErrorCodeFn,
) -> Result<LocalServers, JobError> {
    let ports = own_ports(&common.settings, &common.urls);
    let begun = start_supervised(common, guard, folder, &ports).map_err(|why| {
        JobError::ServerStart(common.placement.rank, common.placement.node.host.clone(), why)
    });
    let keeper = all_ok(comm, begun, code)?;
    Ok(LocalServers { supervisor: keeper, ports })
}

fn start_supervised(
    common: &JobContext,
    guard: Option<IdleSupervisor>,
    folder: &Path,
    ports: &[(Url, u16)],
) -> Result<Option<SupervisorHandle>, String> {
    let JobContext { settings, placement: place, .. } = common;
    if ports.is_empty() {
        return Ok(None); // a guard that is not needed ends here
    }
    let Some(guard) = guard else {
        return Err("this rank was not told early enough that there are servers to start: give --serve on the command \
                    line, or AURORA_SWARM_SERVE or the settings file to every rank"
            .into());
    };
    let base = settings.base_port.unwrap_or_default();
    let numbers = ports.iter().map(|&(_, port)| port.saturating_sub(base));
    let whose = ServerContext { host: &place.node.host, local_rank: place.local_rank, folder };
    SupervisorHandle::start(guard, plan_servers(settings, numbers, whose)).map(Some)
}

/// The servers that this rank is to start, by their URLs; none where nobody asked for any.
fn own_ports(settings: &Settings, urls: &[Url]) -> Vec<(Url, u16)> {
    let (Some(_), Some(base)) = (&settings.serve, settings.base_port) else { return Vec::new() };
    let ports = (base..=u16::MAX).take(usize::from(settings.endpoints_per_node.unwrap_or(1)));
    ports.map(|port| (Url::loopback(port), port)).filter(|(url, _)| urls.contains(url)).collect()
}

impl LocalServers {
    /// Why nobody needs to wait for the server at this URL any more.
    pub(crate) fn given_up_reason(&self, url: &Url) -> Option<String> {
        let (_, port) = self.ports.iter().find(|(its, _)| its == url)?;
        self.supervisor.as_ref()?.give_up_reason(*port)
    }

    /// What was found, with those that are given up said to be so, whoever answers there.
    pub(crate) fn mark_given_up(&self, found: Vec<EndpointStatus>) -> Vec<EndpointStatus> {
        let judged = |it: EndpointStatus| match self.given_up_reason(&it.url) {
            Some(why) => EndpointStatus { probe: ProbeResult::NotReady(why), ..it },
            None => it,
        };
        found.into_iter().map(judged).collect()
    }

    /// Those whom it makes sense to ask.
    pub(crate) fn without_given_up(&self, found: Vec<EndpointStatus>) -> Vec<EndpointStatus> {
        found.into_iter().filter(|it| self.given_up_reason(&it.url).is_none()).collect()
    }

    /// They are needed no more; nobody waits for their end yet.
    pub(crate) fn close(&mut self) {
        if let Some(keeper) = &mut self.supervisor {
            keeper.begin_shutdown();
        }
    }
}
