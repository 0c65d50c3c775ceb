//! Simulators for plain tests: started with a call, stopped by being dropped.
//!
//! It owns a thread with a runtime of its own, so that a test needs none; `Fleet` is several
//! endpoints in one such thread.

use crate::endpoint::{Endpoint, Phase};
use crate::profile::Profile;
use crate::script::Script;
use crate::seen::Seen;
use crate::server::{Port, serve};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

/// One endpoint.
pub struct Simulator {
    fleet: Fleet,
}

impl Simulator {
    /// Starts an endpoint and returns when it listens (or is loading).
    pub fn start(profile: Profile) -> io::Result<Self> {
        Fleet::start(vec![profile]).map(|fleet| Self { fleet })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.fleet.addresses[0]
    }

    /// `http://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        self.fleet.url(0)
    }

    /// What it has seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.fleet.seen(0)
    }

    /// Plays another fault script from now on.
    pub fn set_script(&self, script: Script) {
        self.fleet.endpoint(0).set_script(script);
    }

    /// The endpoint behind it: phases, kills, counters.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        self.fleet.endpoint(0)
    }

    /// Ends it at once: connections are cut.
    pub fn stop(self) {}
}

/// Several endpoints in one thread.
pub struct Fleet {
    endpoints: Vec<Arc<Endpoint>>,
    addresses: Vec<SocketAddr>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Fleet {
    /// Starts an endpoint for each profile and returns when all listen (or are loading).
    pub fn start(profiles: Vec<Profile>) -> io::Result<Self> {
        Self::on_threads(profiles, 1)
    }

    /// The same with more than one thread for all of them.
    pub fn on_threads(profiles: Vec<Profile>, threads: usize) -> io::Result<Self> {
        let ports: Vec<Port> =
            profiles.iter().map(|p| Port::bind(p.port)).collect::<io::Result<_>>()?;
        let addresses: Vec<SocketAddr> = ports.iter().map(|port| port.address).collect();
        let endpoints: Vec<Arc<Endpoint>> = profiles
            .into_iter()
            .zip(&addresses)
            .map(|(profile, address)| Endpoint::new(Profile { port: address.port(), ..profile }))
            .collect();
        let all: Vec<_> = endpoints.iter().cloned().zip(ports).collect();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("vllm-sim".to_owned())
            .spawn(move || run(all, threads, &ready))?;
        for _ in &endpoints {
            // An error means that the thread has ended early; its reason comes with it.
            if is_ready.recv().is_err() {
                break;
            }
        }
        Ok(Self { endpoints, addresses, thread: Some(thread) })
    }

    /// How many endpoints there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The endpoint at a place.
    #[must_use]
    pub fn endpoint(&self, at: usize) -> &Arc<Endpoint> {
        &self.endpoints[at]
    }

    /// All endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The URL of the endpoint at a place.
    #[must_use]
    pub fn url(&self, at: usize) -> String {
        format!("http://{}", self.addresses[at])
    }

    /// All URLs.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        (0..self.len()).map(|at| self.url(at)).collect()
    }

    /// What the endpoint at a place has seen.
    #[must_use]
    pub fn seen(&self, at: usize) -> Seen {
        self.endpoints[at].tally.seen()
    }

    /// Waits until every endpoint has come to its end.
    pub fn wait(mut self) -> io::Result<()> {
        self.thread.take().map_or(Ok(()), joined)
    }

    /// Ends all of them at once.
    pub fn stop(self) {}
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for endpoint in &self.endpoints {
            endpoint.enter(Phase::Gone);
        }
        // What went wrong in there has been seen by whoever used it.
        let _ = self.thread.take().map(joined);
    }
}

fn joined(thread: JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the simulator's thread panicked")))
}

fn run(
    all: Vec<(Arc<Endpoint>, Port)>,
    threads: usize,
    ready: &mpsc::Sender<()>,
) -> io::Result<()> {
    let mut builder =
        if threads > 1 { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    let runtime = builder.worker_threads(threads.max(1)).enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for (endpoint, port) in all {
            let ready = ready.clone();
            // The test may have given up waiting.
            tasks.spawn(serve(endpoint, port, move || {
                let _ = ready.send(());
            }));
        }
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(io::Error::other)??;
        }
        Ok(())
    })
}
