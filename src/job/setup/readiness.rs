//! The wait for servers at the start of a job: until enough of them are ready, counted over all ranks.
//!
//! Owns how long is waited and how the wait is reported. A single probe is in [`endpoint`](crate::endpoint); servers that
//! become ready later are found by the engine.

use std::time::{Duration, Instant};

use super::{deadline::Deadline, servers::LocalServers};
use crate::job::{JobError, context::JobContext};
use crate::{
    comm::{Comm, ReduceOp, TypedComm},
    console,
    domain::{
        EndpointStatus, JobModel, JobModels, ModelSet, ProbeTarget, ReadinessCounts, Route, Url,
    },
    engine::ReadyChecker,
    settings::{ApiMode, Settings},
};

/// Time for stragglers. Servers that are started together are ready at about the same time: once enough are, the others get
/// as much time again as these took. Servers that the job starts itself get this at least, since none of them works
/// without the job; others get this at most, since a node that never gets ready must not hold up thousands that are.
const STRAGGLER_GRACE: Duration = Duration::from_secs(10);
/// Interval at which ranks compare their counts; between, each probes on its own.
const PROBE_ROUND: Duration = Duration::from_secs(2);
/// Least time for the first probes, whatever the timeout.
const FIRST_ROUND: Duration = Duration::from_secs(1);
/// Interval between two reports of the wait.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// The wait so far, on this rank.
struct EndpointWait {
    began: Instant,
    timeout: Duration,
    starts_servers: bool,
    /// The time after which enough servers were ready.
    enough_after: Option<Duration>,
    /// When the wait is reported next, since its beginning.
    next_report: Duration,
}

/// Counts over all ranks.
struct EndpointCounts {
    ready: u64,
    all: u64,
    /// Servers for which waiting is in vain.
    failed: u64,
    required: u64,
    /// Whether the ready servers serve all models that rows name.
    all_served: bool,
}

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
    let settings = &context.settings;
    let mut wait = EndpointWait::begin(settings, deadline);
    let named = |name: &String| JobModel { name: name.clone(), max_model_len: None };
    let models = JobModels::new(row_models.iter().map(named).collect());
    let given_up = |url: &Url| servers.given_up_reason(url).is_some();
    let host = Some(context.placement.node.host.as_str()).filter(|_| comm.size() > 1);
    let target = probe_target(settings, row_models);
    let mut checker = ReadyChecker::start(&context.urls, context.api_key.clone(), &target);
    let mut round = FIRST_ROUND.max(PROBE_ROUND.min(wait.left()));
    loop {
        checker.run_round(round, given_up);
        let found = servers.mark_given_up(checker.statuses());
        let counts = EndpointCounts::over_all_ranks(comm, settings, &found, &models, given_up);
        // Rank 0's clock decides, so that no rank enters another round of collectives alone.
        let is_root = comm.rank() == 0;
        let mut decisions = [
            u64::from(is_root && wait.is_over(&counts)),
            u64::from(is_root && wait.is_report_due()),
        ];
        comm.all_reduce(&mut decisions, ReduceOp::Or);
        let [is_over, is_report_due] = decisions.map(|it| it != 0);
        // If the work cannot begin, the error says the same.
        let is_reported = if is_over { counts.is_enough() } else { is_report_due };
        if is_reported {
            let states = comm.reduce_values(ReadinessCounts::of_statuses(&found, host))?;
            if let Some(states) = states.filter(|it| it.ready < it.all) {
                console::report_waiting(&states, wait.began.elapsed(), is_over);
            }
        }
        if is_over {
            return Ok(found);
        }
        round = PROBE_ROUND.min(wait.left());
    }
}

/// Returns what the servers are asked for.
fn probe_target(settings: &Settings, row_models: &[String]) -> ProbeTarget {
    let own = settings.model.iter().cloned();
    let mut models: Vec<String> = own.chain(row_models.iter().cloned()).collect();
    models.dedup();
    let route = match settings.api {
        ApiMode::Auto => None,
        ApiMode::Chat => Some(Route::Chat),
        ApiMode::Completions => Some(Route::Completions),
    };
    ProbeTarget { models, route }
}

impl EndpointWait {
    fn begin(settings: &Settings, deadline: Deadline) -> Self {
        let began = Instant::now();
        let timeout = settings.ready_timeout.to_duration();
        let until_deadline = deadline.at.map(|at| at.saturating_duration_since(began));
        Self {
            began,
            timeout: until_deadline.map_or(timeout, |left| left.min(timeout)),
            starts_servers: settings.serve.is_some(),
            enough_after: None,
            next_report: Duration::ZERO,
        }
    }

    fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.began.elapsed())
    }

    /// Returns whether the work can begin, or never will.
    fn is_over(&mut self, counts: &EndpointCounts) -> bool {
        let elapsed = self.began.elapsed();
        self.decide(counts, elapsed)
    }

    fn decide(&mut self, counts: &EndpointCounts, elapsed: Duration) -> bool {
        let &EndpointCounts { ready, all, failed, required, all_served } = counts;
        let is_enough = counts.is_enough();
        let enough_after = is_enough.then(|| *self.enough_after.get_or_insert(elapsed));
        let grace_over = enough_after.is_some_and(|took| {
            let grace = match self.starts_servers || !all_served {
                true => took.max(STRAGGLER_GRACE),
                false => took.min(STRAGGLER_GRACE),
            };
            elapsed >= took + grace
        });
        let none_is_late = is_enough && ready + failed >= all;
        // Also if there are fewer endpoints than the minimum: waiting would not add any.
        let is_unreachable = all - failed < required;
        none_is_late || grace_over || is_unreachable || elapsed >= self.timeout
    }

    /// Returns whether the wait is to be reported now, and counts it as reported.
    fn is_report_due(&mut self) -> bool {
        let elapsed = self.began.elapsed();
        let is_due = elapsed >= self.next_report;
        if is_due {
            self.next_report = elapsed + REPORT_INTERVAL;
        }
        is_due
    }
}

impl EndpointCounts {
    fn is_enough(&self) -> bool {
        self.ready >= self.required
    }

    /// Collective.
    fn over_all_ranks(
        comm: &mut dyn Comm,
        settings: &Settings,
        found: &[EndpointStatus],
        row_models: &JobModels,
        given_up: impl Fn(&Url) -> bool,
    ) -> Self {
        let ready = found.iter().filter(|status| status.probe.is_ready()).count();
        let is_failed =
            |status: &&EndpointStatus| status.probe.is_unusable() || given_up(&status.url);
        let failed = found.iter().filter(is_failed).count();
        let mut counts = [ready as u64, found.len() as u64, failed as u64];
        comm.all_reduce(&mut counts, ReduceOp::Sum);
        let [ready, all, failed] = counts;
        let infos = found.iter().filter_map(|status| status.probe.ready_info());
        let mut served = infos.fold(ModelSet::default(), |served, server| {
            served.union(&row_models.served_by(server))
        });
        comm.all_reduce(served.words_mut(), ReduceOp::Or);
        Self {
            ready,
            all,
            failed,
            required: settings.min_endpoints.count_of(all).max(1),
            all_served: served.members().len() == row_models.count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(starts_servers: bool) -> EndpointWait {
        EndpointWait {
            began: Instant::now(),
            timeout: Duration::from_secs(600),
            starts_servers,
            enough_after: None,
            next_report: Duration::ZERO,
        }
    }

    fn counts(ready: u64, failed: u64) -> EndpointCounts {
        EndpointCounts { ready, all: 12, failed, required: 3, all_served: true }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn stragglers_get_as_long_again_and_ten_seconds_at_most_unless_the_job_starts_them() {
        let mut external = wait(false);
        assert!(!external.decide(&counts(2, 0), seconds(1)));
        assert!(!external.decide(&counts(3, 0), seconds(2)), "the others may be as fast");
        assert!(external.decide(&counts(3, 0), seconds(4)));
        let mut slow = wait(false);
        assert!(!slow.decide(&counts(3, 0), seconds(300)));
        assert!(slow.decide(&counts(3, 0), seconds(310)), "a dead node holds up no others");
        let mut own = wait(true);
        assert!(!own.decide(&counts(3, 0), seconds(2)) && !own.decide(&counts(3, 0), seconds(11)));
        assert!(own.decide(&counts(3, 0), seconds(12)));
        let mut unserved = wait(false);
        let few = EndpointCounts { all_served: false, ..counts(3, 0) };
        assert!(!unserved.decide(&few, seconds(2)) && !unserved.decide(&few, seconds(11)));
        assert!(unserved.decide(&few, seconds(12)), "a model that no server has yet");
    }

    #[test]
    fn the_wait_ends_when_none_is_late_or_the_minimum_cannot_be_reached() {
        assert!(wait(false).decide(&counts(12, 0), seconds(0)));
        assert!(wait(true).decide(&counts(3, 9), seconds(0)));
        assert!(wait(true).decide(&counts(0, 10), seconds(0)));
        assert!(!wait(true).decide(&counts(0, 9), seconds(0)));
        assert!(wait(false).decide(&counts(0, 0), seconds(600)), "--ready-timeout");
    }
}
