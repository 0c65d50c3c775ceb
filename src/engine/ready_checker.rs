//! The wait until a rank's servers are ready, before an engine starts.
//!
//! Owns how long servers that are late are waited for. A single probe is in `endpoint::probe`; endpoints that are
//! suspended while the engine runs are probed by the scheduler.

use std::time::{Duration, Instant};

use tokio::{
    runtime::Builder,
    sync::mpsc,
    task::JoinSet,
    time::{sleep, timeout_at},
};

use crate::{
    domain::{EndpointStatus, ProbeResult, Url},
    endpoint::{HttpClient, probe_server},
    settings::ApiKey,
};

/// Servers that are started together are ready at about the same time: once the first is, the others get as long again
/// as it took, and at least this.
const READY_GRACE: Duration = Duration::from_secs(10);
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Local. Probes all servers until they are ready, `timeout` is over, or some have been ready for long while others are
/// not; servers for which `is_given_up` is true are not waited for. Returns their states in the order of `urls`. Blocks
/// the calling thread. Servers that are not ready then may join later.
#[must_use]
pub(crate) fn wait_until_ready(
    urls: &[Url],
    key: Option<ApiKey>,
    timeout: Duration,
    is_given_up: impl Fn(&Url) -> bool,
) -> Vec<EndpointStatus> {
    let all_not_ready = |reason: String| {
        let status = |url: &Url| EndpointStatus {
            url: url.clone(),
            probe: ProbeResult::NotReady(reason.clone()),
        };
        urls.iter().map(status).collect()
    };
    if urls.is_empty() {
        return Vec::new();
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return all_not_ready(format!("cannot create the async runtime: {error}")),
    };
    let client = match HttpClient::new(key) {
        Ok(client) => client,
        Err(error) => return all_not_ready(error.to_string()),
    };
    runtime.block_on(probe_endpoints(urls, &client, timeout, &is_given_up))
}

#[expect(clippy::disallowed_methods, reason = "engine owns tasks, and ends these with their set")]
async fn probe_endpoints(
    urls: &[Url],
    client: &HttpClient,
    timeout: Duration,
    is_given_up: &impl Fn(&Url) -> bool,
) -> Vec<EndpointStatus> {
    let started = Instant::now();
    let mut deadline = started + timeout;
    let (probe_sender, mut probes) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for (number, url) in urls.iter().cloned().enumerate() {
        tasks.spawn(probe_until_ready(client.clone(), number, url, probe_sender.clone()));
    }
    drop(probe_sender);
    let unanswered = || ProbeResult::NotReady(format!("no answer within {timeout:?}"));
    let mut found: Vec<ProbeResult> = urls.iter().map(|_| unanswered()).collect();
    // A timeout of 0 still probes once. The channel closes when all servers are ready.
    let earliest_end = started + Duration::from_secs(1);
    while let Ok(Some((number, probe))) =
        timeout_at(deadline.max(earliest_end).into(), probes.recv()).await
    {
        if matches!(probe, ProbeResult::Ready(_)) {
            deadline = deadline.min(Instant::now() + started.elapsed().max(READY_GRACE));
        }
        found[number] = probe;
        let is_settled = |(url, probe): (&Url, &ProbeResult)| {
            matches!(probe, ProbeResult::Ready(_)) || is_given_up(url)
        };
        if Instant::now() >= deadline.max(earliest_end) || urls.iter().zip(&found).all(is_settled) {
            break;
        }
    }
    urls.iter().cloned().zip(found).map(|(url, probe)| EndpointStatus { url, probe }).collect()
}

async fn probe_until_ready(
    client: HttpClient,
    number: usize,
    url: Url,
    probe_sender: mpsc::UnboundedSender<(usize, ProbeResult)>,
) {
    let mut pause = Duration::from_millis(100);
    loop {
        let probe = probe_server(&client, &url).await;
        let is_ready = matches!(probe, ProbeResult::Ready(_));
        if probe_sender.send((number, probe)).is_err() || is_ready {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PROBE_INTERVAL);
    }
}
