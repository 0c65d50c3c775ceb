//! All endpoints of a rank: pure but for instants it is given.
//!
//! Owns sums and choices over endpoints (free permits, the emptiest, the next probe), which of the job's models they
//! serve, and since when none does. The state of a single endpoint is in the folder's `mod.rs`.

use std::{
    ops::{Index, IndexMut},
    time::{Duration, Instant},
};

use super::{Endpoint, EndpointState, news::NewsLog};
use crate::{
    domain::{ModelNumber, ModelSet, Url},
    engine::EnginePolicy,
};

/// The endpoints of a rank, by number from 0.
#[derive(Debug)]
pub(crate) struct EndpointPool {
    endpoints: Vec<EndpointState>,
    /// The job's models that an endpoint that is up serves, as of the last [`Self::update_served`].
    served: ModelSet,
    /// The job's models that several such endpoints serve.
    served_twice: ModelSet,
    /// By model: since when no endpoint that is up has served it.
    unserved_since: Vec<Option<Instant>>,
    news: NewsLog,
}

impl EndpointPool {
    pub(crate) fn new(endpoints: Vec<Endpoint>, policy: &EnginePolicy, now: Instant) -> Self {
        let state = |endpoint| EndpointState::new(endpoint, policy, now);
        let mut pool = Self {
            endpoints: endpoints.into_iter().map(state).collect(),
            served: ModelSet::default(),
            served_twice: ModelSet::default(),
            unserved_since: vec![Some(now); policy.models.count()],
            news: NewsLog::default(),
        };
        pool.update_served(now);
        pool
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, EndpointState> {
        self.endpoints.iter()
    }

    fn iter_up(&self) -> impl Iterator<Item = &EndpointState> {
        self.iter().filter(|endpoint| endpoint.is_up())
    }

    fn iter_healthy(&self) -> impl Iterator<Item = &EndpointState> {
        self.iter().filter(|endpoint| endpoint.is_healthy())
    }

    /// Logs what has happened to endpoints, a second after the first event of a kind.
    pub(crate) fn log_news(&mut self, now: Instant) {
        for endpoint in &mut self.endpoints {
            for news in endpoint.news.drain(..) {
                self.news.add(&endpoint.url, news, now);
            }
        }
        self.news.log_due(now);
    }

    /// Logs what has happened to endpoints until the end.
    pub(crate) fn log_last_news(&mut self, now: Instant) {
        self.log_news(now);
        self.news.log_all();
    }

    /// Returns whether an endpoint is healthy.
    pub(crate) fn any_healthy(&self) -> bool {
        self.iter_healthy().next().is_some()
    }

    /// Returns whether an endpoint other than this one has answered a request.
    pub(crate) fn has_other_answered(&self, number: usize) -> bool {
        let mut others = self.iter().enumerate().filter(|&(other, _)| other != number);
        others.any(|(_, endpoint)| endpoint.ever_answered())
    }

    /// Returns the number of endpoints other than this one that are up and serve a model.
    pub(crate) fn other_up_count(&self, number: usize, model: ModelNumber) -> usize {
        let serves = |it: &EndpointState| it.is_up() && it.models().contains(model);
        self.iter().enumerate().filter(|&(other, it)| other != number && serves(it)).count()
    }

    /// Suspends the endpoints that have answered nothing: they refuse what endpoints of other ranks answer.
    pub(crate) fn suspend_refusers(&mut self, message: &str, now: Instant) {
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.ever_answered()) {
            endpoint.suspend_refuser(message, now);
        }
    }

    pub(crate) fn up_count(&self) -> usize {
        self.iter_up().count()
    }

    /// Returns the number of healthy endpoints that serve a model.
    pub(crate) fn healthy_count(&self, model: ModelNumber) -> usize {
        self.iter_healthy().filter(|endpoint| endpoint.models().contains(model)).count()
    }

    /// Returns the number of endpoints that are up and serve one of these models.
    pub(crate) fn up_count_for(&self, models: &ModelSet) -> usize {
        self.iter_up().filter(|endpoint| endpoint.models().intersects(models)).count()
    }

    /// Returns the sequences that may be in flight at all endpoints that are up.
    pub(crate) fn total_window(&self) -> usize {
        self.iter_up().map(EndpointState::window_size).sum()
    }

    /// Returns the prompts answered per second by all endpoints that are up.
    pub(crate) fn total_answer_rate(&self) -> f64 {
        self.iter_up().map(EndpointState::answer_rate).sum()
    }

    /// Returns the free permits of all healthy endpoints.
    pub(crate) fn healthy_free_permits(&self, now: Instant) -> usize {
        self.iter_healthy().map(|endpoint| endpoint.free_permits(now)).sum()
    }

    /// Returns the median latency of single prompts at the endpoint where it is lowest.
    pub(crate) fn min_p50_latency(&self) -> Option<Duration> {
        self.iter_up().filter_map(|endpoint| endpoint.p50_latency(1)).min()
    }

    /// Returns the largest batch that any endpoint takes now.
    pub(crate) fn max_batch_size(&self) -> usize {
        self.iter().map(EndpointState::max_batch_size).max().unwrap_or(1)
    }

    /// Returns the job's models that an endpoint that is up serves, as of the last [`Self::update_served`].
    pub(crate) fn served(&self) -> &ModelSet {
        &self.served
    }

    /// Returns whether every model of the job is served.
    pub(crate) fn serves_all(&self) -> bool {
        self.unserved_since.iter().all(Option::is_none)
    }

    /// Returns the job's models that several endpoints that are up serve.
    pub(crate) fn served_twice(&self) -> &ModelSet {
        &self.served_twice
    }

    /// Returns since when no endpoint that is up has served a model.
    pub(crate) fn unserved_since(&self, model: ModelNumber) -> Option<Instant> {
        self.unserved_since.get(usize::from(model)).copied().flatten()
    }

    /// Determines which models are served now.
    pub(crate) fn update_served(&mut self, now: Instant) {
        let (mut once, mut twice) = (ModelSet::default(), ModelSet::default());
        for endpoint in self.iter_up() {
            twice = twice.union(&once.intersection(endpoint.models()));
            once = once.union(endpoint.models());
        }
        self.served_twice = twice;
        if once == self.served {
            return;
        }
        self.served = once;
        for (model, since) in (0..=ModelNumber::MAX).zip(&mut self.unserved_since) {
            *since = if once.contains(model) { None } else { since.or(Some(now)) };
        }
    }

    /// Starts the times without an endpoint again: this process was suspended, not only the endpoints.
    pub(crate) fn restart_unserved(&mut self, now: Instant) {
        self.unserved_since.iter_mut().flatten().for_each(|since| *since = now);
    }

    /// Returns the numbers of the endpoints that have free permits.
    pub(crate) fn with_free_permits(&self, now: Instant) -> Vec<usize> {
        (0..self.endpoints.len()).filter(|&it| self[it].free_permits(now) > 0).collect()
    }

    /// Returns the numbers of the healthy endpoints that have free permits, those with the lowest latency first.
    pub(crate) fn free_by_latency(&self, now: Instant) -> Vec<usize> {
        let is_free = |it: &usize| self[*it].is_healthy() && self[*it].free_permits(now) > 0;
        let mut free: Vec<usize> = (0..self.endpoints.len()).filter(is_free).collect();
        free.sort_by_key(|&it| self[it].p50_latency(1).unwrap_or(Duration::MAX));
        free
    }

    /// Returns that of the given endpoints whose window is used least: load balancing that spreads few prompts over
    /// all.
    pub(crate) fn emptiest_of(&self, candidates: &[usize]) -> Option<usize> {
        let fill = |it: usize| self[it].permits_taken() as f64 / self[it].window_size() as f64;
        candidates.iter().copied().min_by(|&a, &b| fill(a).total_cmp(&fill(b)))
    }

    /// Remembers of each endpoint whether its window is used up, after everything was sent that could be.
    pub(crate) fn note_window_use(&mut self) {
        self.endpoints.iter_mut().for_each(EndpointState::note_window_use);
    }

    /// Counts the probes that are due as under way, and returns their endpoints.
    pub(crate) fn begin_due_probes(&mut self, now: Instant) -> impl Iterator<Item = (usize, &Url)> {
        let endpoints = self.endpoints.iter_mut().enumerate();
        endpoints.filter_map(move |(number, endpoint)| {
            let is_due = endpoint.begin_due_probe(now);
            let endpoint: &EndpointState = endpoint;
            is_due.then(|| (number, endpoint.url()))
        })
    }

    /// Counts the load polls that are due as under way, and returns their endpoints.
    pub(crate) fn begin_due_load_polls(
        &mut self,
        now: Instant,
    ) -> impl Iterator<Item = (usize, &Url)> {
        let endpoints = self.endpoints.iter_mut().enumerate();
        endpoints.filter_map(move |(number, endpoint)| {
            let is_due = endpoint.begin_due_load_poll(now);
            let endpoint: &EndpointState = endpoint;
            is_due.then(|| (number, endpoint.url()))
        })
    }

    /// Returns when the next probe or load poll is due.
    pub(crate) fn next_poll(&self) -> Option<Instant> {
        let due = |endpoint: &EndpointState| [endpoint.next_probe(), endpoint.load_poll_due()];
        self.iter().flat_map(due).flatten().min()
    }

    /// Returns when the first endpoint that is throttled may be sent a request.
    pub(crate) fn next_throttle_end(&self, now: Instant) -> Option<Instant> {
        self.iter().filter_map(|endpoint| endpoint.throttled_until(now)).min()
    }
}

impl Index<usize> for EndpointPool {
    type Output = EndpointState;

    fn index(&self, number: usize) -> &EndpointState {
        &self.endpoints[number]
    }
}

impl IndexMut<usize> for EndpointPool {
    fn index_mut(&mut self, number: usize) -> &mut EndpointState {
        &mut self.endpoints[number]
    }
}
