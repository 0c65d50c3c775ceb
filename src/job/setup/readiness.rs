//! The wait for servers at the start of a job: until enough of them are ready, counted over all ranks.
//!
//! A single probe is in [`endpoint`](crate::endpoint); servers that become ready later are found by the engine.

use std::time::{Duration, Instant};

use super::{deadline::Deadline, servers::LocalServers};
use crate::job::{JobError, context::JobContext};
use crate::{
    comm::{Comm, ReduceOp},
    domain::{EndpointStatus, JobModel, JobModels, ModelSet, ProbeResult, Url},
    engine::wait_until_ready,
};

/// Least time for stragglers. Servers that are started together are ready at about the same time: once enough are, the
/// others get as much time again as these took, and at least this. A node that never gets ready must not hold up thousands
/// that are.
const STRAGGLER_GRACE: Duration = Duration::from_secs(10);
/// Interval at which ranks that start servers compare their counts; between, each probes on its own.
const PROBE_ROUND: Duration = Duration::from_secs(2);

/// Collective. Each rank probes its own endpoints until `--min-endpoints` of all ranks' are ready and serve the models that
/// rows name, `--ready-timeout` or the deadline has passed, or too many servers have failed for the minimum to be reached.
/// Models that none of the first endpoints serves are awaited no longer than other stragglers. Returns the status of this rank's
/// endpoints; those that become ready later join during the work.
pub(crate) fn wait_for_endpoints(
    comm: &mut dyn Comm,
    context: &JobContext,
    servers: &LocalServers,
    deadline: Deadline,
    row_models: &[String],
) -> Result<Vec<EndpointStatus>, JobError> {
    let began = Instant::now();
    let timeout = context.settings.ready_timeout.to_duration();
    let timeout =
        deadline.at.map_or(timeout, |at| timeout.min(at.saturating_duration_since(began)));
    let starts_servers = context.settings.serve.is_some();
    let is_ready = |status: &EndpointStatus| matches!(status.probe, ProbeResult::Ready(_));
    let named = |name: &String| JobModel { name: name.clone(), max_model_len: None };
    let row_models = JobModels::new(row_models.iter().map(named).collect());
    let given_up = |url: &Url| servers.given_up_reason(url).is_some();
    let mut found: Vec<EndpointStatus> = Vec::new();
    let mut enough_after = None;
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        let round = if starts_servers { left.min(PROBE_ROUND) } else { left };
        let is_waiting =
            |url: &&Url| !found.iter().any(|status| status.url == **url && is_ready(status));
        let waiting: Vec<Url> = context.urls.iter().filter(is_waiting).cloned().collect();
        let probed = wait_until_ready(&waiting, context.api_key.clone(), round, given_up);
        found.retain(is_ready);
        found.extend(probed);
        found = servers.mark_given_up(found);
        let ready = found.iter().filter(|status| is_ready(status)).count();
        let failed = found.iter().filter(|status| given_up(&status.url)).count();
        let mut counts = [ready as u64, found.len() as u64, failed as u64];
        comm.all_reduce(&mut counts, ReduceOp::Sum);
        let [ready, all, failed] = counts;
        let mut served =
            found.iter().fold(ModelSet::default(), |served, status| match &status.probe {
                ProbeResult::Ready(server) => served.union(&row_models.served_by(server)),
                ProbeResult::NotReady(_) => served,
            });
        comm.all_reduce(served.words_mut(), ReduceOp::Or);
        let all_served = served.members().len() == row_models.count();
        let required = context.settings.min_endpoints.count_of(all).max(1);
        let elapsed = began.elapsed();
        if ready >= required {
            enough_after.get_or_insert(elapsed);
        }
        let grace_over =
            enough_after.is_some_and(|took: Duration| elapsed >= took + took.max(STRAGGLER_GRACE));
        // Rank 0's clock decides, so that no rank enters another round of collectives alone.
        let mut timed_out = [u64::from(comm.rank() == 0 && (grace_over || elapsed >= timeout))];
        comm.all_reduce(&mut timed_out, ReduceOp::Or);
        // Servers started here that are neither ready nor failed are worth waiting for.
        let enough =
            ready >= required && ((!starts_servers && all_served) || ready + failed >= all);
        // Also if there are fewer endpoints than the minimum: waiting would not add any.
        let unreachable = all - failed < required;
        if enough || unreachable || timed_out[0] != 0 {
            found.sort_by_key(|status| context.urls.iter().position(|url| *url == status.url));
            return Ok(found);
        }
    }
}
