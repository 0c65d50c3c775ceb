//! All endpoints of a rank: pure but for instants it is given.
//!
//! Owns sums and choices over endpoints (free permits, the emptiest, the next probe) and since when all of them are
//! down. The state of a single endpoint is in the folder's `mod.rs`.

use std::{
    ops::{Index, IndexMut},
    time::{Duration, Instant},
};

use super::{Endpoint, EndpointState};
use crate::{domain::Url, engine::EnginePolicy};

/// The endpoints of a rank, by number from 0.
#[derive(Debug)]
pub(crate) struct EndpointPool {
    endpoints: Vec<EndpointState>,
    all_down_since: Option<Instant>,
}

impl EndpointPool {
    pub(crate) fn new(endpoints: Vec<Endpoint>, policy: &EnginePolicy, now: Instant) -> Self {
        let state = |endpoint| EndpointState::new(endpoint, policy, now);
        Self { endpoints: endpoints.into_iter().map(state).collect(), all_down_since: None }
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

    pub(crate) fn up_count(&self) -> usize {
        self.iter_up().count()
    }

    pub(crate) fn healthy_count(&self) -> usize {
        self.iter_healthy().count()
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

    /// Returns since when no endpoint has been up, as of the last [`Self::update_all_down`].
    pub(crate) fn all_down_since(&self) -> Option<Instant> {
        self.all_down_since
    }

    pub(crate) fn update_all_down(&mut self, up_count: usize, now: Instant) {
        self.all_down_since = if up_count == 0 { self.all_down_since.or(Some(now)) } else { None };
    }

    /// Starts the time in which all are down again: this process was suspended, not only the endpoints.
    pub(crate) fn restart_all_down(&mut self, now: Instant) {
        self.all_down_since = self.all_down_since.map(|_| now);
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
