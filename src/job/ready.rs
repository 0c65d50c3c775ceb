//! Waiting for servers: until enough of them are ready, all ranks' together.

use std::time::Instant;

use super::{JobError, agree::Common, servers::Servers};
use crate::{
    comm::{Combine, Comm},
    domain::{Probe, Surveyed, Url},
    engine::survey,
};

/// Collective. Every rank asks its own servers, again and again, until all ranks together have as many as `min-endpoints`
/// asks for or `ready-timeout` is over, or so many of the servers started here are given up
/// that there cannot be enough. Servers that are late join while the work goes on.
pub(super) fn wait_for_endpoints(
    comm: &mut dyn Comm,
    common: &Common,
    servers: &Servers,
) -> Result<Vec<Surveyed>, JobError> {
    let patience = common.settings.ready_timeout.get();
    let began = Instant::now();
    loop {
        let left = patience.saturating_sub(began.elapsed());
        let given_up = |url: &Url| servers.given_up(url).is_some();
        let found = survey(&common.urls, common.key.clone(), left, given_up);
        let found = servers.judged(found);
        let ready = found.iter().filter(|it| matches!(it.probe, Probe::Ready(_))).count();
        let hopeless = found.iter().filter(|it| given_up(&it.url)).count();
        let mut counts = [ready as u64, found.len() as u64, hopeless as u64];
        comm.all_reduce(&mut counts, Combine::Sum);
        // Rank 0's clock decides, so that no rank goes round alone.
        let mut over = [u64::from(comm.rank() == 0 && began.elapsed() >= patience)];
        comm.all_reduce(&mut over, Combine::Or);
        let [ready, all, hopeless] = counts;
        let least = common.settings.min_endpoints.of(all).max(1);
        // What is neither ready nor given up may still be.
        let in_vain = hopeless > 0 && all - hopeless < least;
        if ready >= least || in_vain || over[0] != 0 {
            return Ok(found);
        }
    }
}
