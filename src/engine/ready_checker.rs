//! Asking all of a rank's servers at once, until they are ready or it is time to begin without the rest.

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

/// Servers that start together are ready at about the same time: once the first is, the others get as long again as it
/// took, and at least this.
const READY_GRACE: Duration = Duration::from_secs(10);
const MAX_PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Local. Asks each of the servers until all are ready, `patience` is over, or some have been ready for long while others
/// are not; those that are `given_up` are not waited for. In their order. Blocks the calling thread. What is not ready then
/// may join later.
#[must_use]
pub fn wait_until_ready(
    urls: &[Url],
    key: Option<ApiKey>,
    patience: Duration,
    given_up: impl Fn(&Url) -> bool,
) -> Vec<EndpointStatus> {
    let unusable = |why: String| {
        let probe = |url: &Url| EndpointStatus {
            url: url.clone(),
            probe: ProbeResult::NotReady(why.clone()),
        };
        urls.iter().map(probe).collect()
    };
    if urls.is_empty() {
        return Vec::new();
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return unusable(format!("no asynchronous runtime: {error}")),
    };
    let client = match HttpClient::new(key) {
        Ok(client) => client,
        Err(trouble) => return unusable(trouble.to_string()),
    };
    runtime.block_on(probe_endpoints(urls, &client, patience, &given_up))
}

#[expect(clippy::disallowed_methods, reason = "engine owns tasks, and ends these with their set")]
async fn probe_endpoints(
    urls: &[Url],
    client: &HttpClient,
    patience: Duration,
    given_up: &impl Fn(&Url) -> bool,
) -> Vec<EndpointStatus> {
    let began = Instant::now();
    let mut end = began + patience;
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut asking = JoinSet::new();
    for (place, url) in urls.iter().cloned().enumerate() {
        asking.spawn(probe_until_ready(client.clone(), place, url, tell.clone()));
    }
    drop(tell);
    let none = || ProbeResult::NotReady(format!("no answer within {patience:?}"));
    let mut found: Vec<ProbeResult> = urls.iter().map(|_| none()).collect();
    // At least once: a patience of 0 still asks. The channel closes when all are ready.
    let least = began + Duration::from_secs(1);
    while let Ok(Some((place, probe))) = timeout_at(end.max(least).into(), told.recv()).await {
        if matches!(probe, ProbeResult::Ready(_)) {
            end = end.min(Instant::now() + began.elapsed().max(READY_GRACE));
        }
        found[place] = probe;
        let settled = |(url, probe): (&Url, &ProbeResult)| {
            matches!(probe, ProbeResult::Ready(_)) || given_up(url)
        };
        if Instant::now() >= end.max(least) || urls.iter().zip(&found).all(settled) {
            break;
        }
    }
    urls.iter().cloned().zip(found).map(|(url, probe)| EndpointStatus { url, probe }).collect()
}

async fn probe_until_ready(
    client: HttpClient,
    place: usize,
    url: Url,
    tell: mpsc::UnboundedSender<(usize, ProbeResult)>,
) {
    let mut pause = Duration::from_millis(100);
    loop {
        let probe = probe_server(&client, &url).await;
        let ready = matches!(probe, ProbeResult::Ready(_));
        if tell.send((place, probe)).is_err() || ready {
            return;
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PROBE_INTERVAL);
    }
}
