//! The wait until a rank's servers are ready, before an engine starts.
//!
//! Owns the probes of a rank's servers, which go on between two rounds of the wait, and their pace. A single probe is in
//! `endpoint::probe`; how long servers are waited for is decided over all ranks, in `job/setup/readiness.rs`. Endpoints
//! that are suspended while the engine runs are probed by the scheduler.

use std::time::Duration;

use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    domain::{EndpointStatus, ProbeResult, ProbeTarget, Url},
    endpoint::{HttpClient, ServerProber},
    settings::ApiKey,
};

const FIRST_PROBE_PAUSE: Duration = Duration::from_millis(100);

/// The probes of a rank's servers, each of which is probed until it is ready or can never be. They end with this value.
pub(crate) struct ReadyChecker {
    urls: Vec<Url>,
    /// The last result of each server.
    found: Vec<Option<ProbeResult>>,
    /// None if there is nothing to probe.
    prober: Option<RunningProbes>,
}

struct RunningProbes {
    runtime: Runtime,
    results: mpsc::UnboundedReceiver<(usize, ProbeResult)>,
    _tasks: JoinSet<()>,
}

impl ReadyChecker {
    /// Local. Begins to probe the servers; probes make progress during [`Self::run_round`].
    pub(crate) fn start(urls: &[Url], key: Option<ApiKey>, target: &ProbeTarget) -> Self {
        let started =
            if urls.is_empty() { Ok(None) } else { start_probes(urls, key, target).map(Some) };
        let (prober, failure) = match started {
            Ok(prober) => (prober, None),
            Err(reason) => (None, Some(ProbeResult::NotReady(reason))),
        };
        Self { urls: urls.to_vec(), found: vec![failure; urls.len()], prober }
    }

    /// Local. Probes until all servers are ready, unusable or given up, or `limit` is over; the first round also ends when
    /// each has been probed once. Blocks the calling thread.
    pub(crate) fn run_round(&mut self, limit: Duration, is_given_up: impl Fn(&Url) -> bool) {
        let is_first = self.found.iter().all(Option::is_none);
        let Self { urls, found, prober: Some(prober) } = self else { return };
        let RunningProbes { runtime, results, .. } = prober;
        let is_over = |found: &[Option<ProbeResult>]| {
            let is_settled = |(url, probe): (&Url, &Option<ProbeResult>)| {
                probe.as_ref().is_some_and(|it| it.is_ready() || it.is_unusable())
                    || is_given_up(url)
            };
            urls.iter().zip(found).all(is_settled)
                || (is_first && found.iter().all(Option::is_some))
        };
        runtime.block_on(async {
            let deadline = Instant::now() + limit;
            while !is_over(found)
                && let Ok(Some((number, probe))) = timeout_at(deadline, results.recv()).await
            {
                found[number] = Some(probe);
            }
        });
    }

    /// Returns the last result of each server, in the order of the URLs.
    pub(crate) fn statuses(&self) -> Vec<EndpointStatus> {
        let unanswered = || ProbeResult::NotReady("no answer yet".into());
        let status = |(url, probe): (&Url, &Option<ProbeResult>)| EndpointStatus {
            url: url.clone(),
            probe: probe.clone().unwrap_or_else(unanswered),
        };
        self.urls.iter().zip(&self.found).map(status).collect()
    }
}

fn start_probes(
    urls: &[Url],
    key: Option<ApiKey>,
    target: &ProbeTarget,
) -> Result<RunningProbes, String> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot create the async runtime: {error}"))?;
    let client = HttpClient::new(key).map_err(|error| error.to_string())?;
    let (sender, results) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for (number, url) in urls.iter().cloned().enumerate() {
        let prober = ServerProber::new(client.clone(), url, target.clone());
        tasks.spawn_on(probe_until_ready(prober, number, sender.clone()), runtime.handle());
    }
    Ok(RunningProbes { runtime, results, _tasks: tasks })
}

async fn probe_until_ready(
    mut prober: ServerProber,
    number: usize,
    sender: mpsc::UnboundedSender<(usize, ProbeResult)>,
) {
    let mut pause = FIRST_PROBE_PAUSE;
    loop {
        let probe = prober.probe().await;
        let is_over = probe.is_ready() || probe.is_unusable();
        if sender.send((number, probe)).is_err() || is_over {
            return;
        }
        pause = pause.min(prober.max_pause());
        sleep(pause).await;
        pause *= 2;
    }
}
