//! The node's own servers as the job sees them: every rank's guard starts those whose endpoint the rank owns.

use std::path::Path;

use crate::job::{
    CodeOf, JobError,
    context::{Common, everywhere},
};
use crate::{
    comm::Comm,
    domain::{Probe, Surveyed, Url},
    serve::{Guard, Keeper, Plan, plan},
    settings::Settings,
};

/// This rank's servers, where there are any.
#[derive(Debug)]
pub(crate) struct Servers {
    keeper: Option<Keeper>,
    ports: Vec<(Url, u16)>,
}

/// Collective. Starts this rank's servers, where servers are to be started; their logs go to `folder`. They end when this
/// value is dropped, and however else the rank ends.
pub(crate) fn serve(
    comm: &mut dyn Comm,
    common: &Common,
    guard: Option<Guard>,
    folder: &Path,
    code: CodeOf,
) -> Result<Servers, JobError> {
    let ports = own_ports(&common.settings, &common.urls);
    let begun = begin(common, guard, folder, &ports)
        .map_err(|why| JobError::Servers(common.place.rank, common.place.node.host.clone(), why));
    let keeper = everywhere(comm, begun, code)?;
    Ok(Servers { keeper, ports })
}

fn begin(
    common: &Common,
    guard: Option<Guard>,
    folder: &Path,
    ports: &[(Url, u16)],
) -> Result<Option<Keeper>, String> {
    let Common { settings, place, .. } = common;
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
    let whose = Plan { host: &place.node.host, local_rank: place.local_rank, folder };
    Keeper::start(guard, plan(settings, numbers, whose)).map(Some)
}

/// The servers that this rank is to start, by their URLs; none where nobody asked for any.
fn own_ports(settings: &Settings, urls: &[Url]) -> Vec<(Url, u16)> {
    let (Some(_), Some(base)) = (&settings.serve, settings.base_port) else { return Vec::new() };
    let ports = (base..=u16::MAX).take(usize::from(settings.endpoints_per_node.unwrap_or(1)));
    ports.map(|port| (Url::loopback(port), port)).filter(|(url, _)| urls.contains(url)).collect()
}

impl Servers {
    /// Why nobody needs to wait for the server at this URL any more.
    pub(crate) fn given_up(&self, url: &Url) -> Option<String> {
        let (_, port) = self.ports.iter().find(|(its, _)| its == url)?;
        self.keeper.as_ref()?.given_up(*port)
    }

    /// What was found, with those that are given up said to be so, whoever answers there.
    pub(crate) fn judged(&self, found: Vec<Surveyed>) -> Vec<Surveyed> {
        let judged = |it: Surveyed| match self.given_up(&it.url) {
            Some(why) => Surveyed { probe: Probe::NotReady(why), ..it },
            None => it,
        };
        found.into_iter().map(judged).collect()
    }

    /// Those whom it makes sense to ask.
    pub(crate) fn living(&self, found: Vec<Surveyed>) -> Vec<Surveyed> {
        found.into_iter().filter(|it| self.given_up(&it.url).is_none()).collect()
    }

    /// They are needed no more; nobody waits for their end yet.
    pub(crate) fn close(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.close();
        }
    }
}
