//! Waiting for servers: until enough of them are ready, all ranks' together.

use std::time::Instant;

use super::{JobError, agree::Common, limit::Limit};
use crate::{
    comm::{Combine, Comm},
    domain::{Probe, Surveyed},
    engine::survey,
};

/// Collective. Every rank asks its own servers, again and again, until all ranks together have as many as `min-endpoints`
/// asks for or `ready-timeout` is over. Servers that are late join while the work goes on.
pub(super) fn wait_for_endpoints(
    comm: &mut dyn Comm,
    common: &Common,
    limit: Limit,
) -> Result<Vec<Surveyed>, JobError> {
    let began = Instant::now();
    let patience = common.settings.ready_timeout.get();
    let patience =
        limit.at.map_or(patience, |at| patience.min(at.saturating_duration_since(began)));
    loop {
        let left = patience.saturating_sub(began.elapsed());
        let found = survey(&common.urls, common.key.clone(), left);
        let ready = found.iter().filter(|it| matches!(it.probe, Probe::Ready(_))).count();
        let mut counts = [ready as u64, found.len() as u64];
        comm.all_reduce(&mut counts, Combine::Sum);
        // Rank 0's clock decides, so that no rank goes round alone.
        let mut over = [u64::from(comm.rank() == 0 && began.elapsed() >= patience)];
        comm.all_reduce(&mut over, Combine::Or);
        let [ready, all] = counts;
        if ready >= common.settings.min_endpoints.of(all).max(1) || over[0] != 0 {
            return Ok(found);
        }
    }
}
