//! Waiting for servers: until enough of them are ready, all ranks' together.

use std::time::{Duration, Instant};

use super::{deadline::Deadline, servers::LocalServers};
use crate::job::{JobError, context::JobContext};
use crate::{
    comm::{Comm, ReduceOp},
    domain::{EndpointStatus, ProbeResult, Url},
    engine::wait_until_ready,
};

/// Servers that are started together are ready at about the same time: once there are enough, the others get as long again
/// as that took, and at least this. A node that never gets ready must not hold up thousands that are.
const STRAGGLER_GRACE: Duration = Duration::from_secs(10);
/// How long ranks that start their own servers ask by themselves before they look at what all have.
const PROBE_ROUND: Duration = Duration::from_secs(2);

/// Collective. Every rank asks its own servers, again and again, until all ranks together have as many as `min-endpoints`
/// asks for or `ready-timeout` is over, or so many of the servers started here are given up that there cannot be enough.
/// Servers that are late join while the work goes on.
pub(crate) fn wait_for_endpoints(
    comm: &mut dyn Comm,
    common: &JobContext,
    servers: &LocalServers,
    limit: Deadline,
) -> Result<Vec<EndpointStatus>, JobError> {
    let began = Instant::now();
    let patience = common.settings.ready_timeout.to_duration();
    let patience =
        limit.at.map_or(patience, |at| patience.min(at.saturating_duration_since(began)));
    let own = common.settings.serve.is_some();
    let given_up = |url: &Url| servers.given_up_reason(url).is_some();
    let mut found: Vec<EndpointStatus> = Vec::new();
    let mut enough_after = None;
    loop {
        let left = patience.saturating_sub(began.elapsed());
        let round = if own { left.min(PROBE_ROUND) } else { left };
        let is_ready = |it: &EndpointStatus| matches!(it.probe, ProbeResult::Ready(_));
        let known = |url: &&Url| !found.iter().any(|it| it.url == **url && is_ready(it));
        let asked: Vec<Url> = common.urls.iter().filter(known).cloned().collect();
        let more = wait_until_ready(&asked, common.api_key.clone(), round, given_up);
        found.retain(is_ready);
        found.extend(more);
        found = servers.mark_given_up(found);
        let ready = found.iter().filter(|it| is_ready(it)).count();
        let hopeless = found.iter().filter(|it| given_up(&it.url)).count();
        let mut counts = [ready as u64, found.len() as u64, hopeless as u64];
        comm.all_reduce(&mut counts, ReduceOp::Sum);
        let [ready, all, hopeless] = counts;
        let least = common.settings.min_endpoints.of(all).max(1);
        let now = began.elapsed();
        if ready >= least {
            enough_after.get_or_insert(now);
        }
        let late = enough_after.is_some_and(|it: Duration| now >= it + it.max(STRAGGLER_GRACE));
        // Rank 0's clock decides, so that no rank goes round alone.
        let mut over = [u64::from(comm.rank() == 0 && (late || now >= patience))];
        comm.all_reduce(&mut over, ReduceOp::Or);
        // What is neither ready nor given up may still be.
        let enough = ready >= least && (!own || ready + hopeless >= all);
        let in_vain = hopeless > 0 && all - hopeless < least;
        if enough || in_vain || over[0] != 0 {
            found.sort_by_key(|it| common.urls.iter().position(|url| *url == it.url));
            return Ok(found);
        }
    }
}
