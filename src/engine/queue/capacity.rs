//! The capacity that an endpoint has for the next request, and the batch that is filled up to it: pure.
//!
//! Owns how many prompts of a kind fit. Which prompts go first is decided by `prefix_groups` and `bucket`, which push
//! them here.

use std::sync::Arc;

use super::task::{Batch, PromptTask};
use crate::{
    domain::{ModelNumber, ModelSet, Route},
    endpoint::BatchParams,
};

/// The capacity of one endpoint for its next request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndpointCapacity {
    /// The endpoint's number at this rank.
    pub(crate) endpoint: usize,
    /// Permits that are free, one per sequence.
    pub(crate) free_permits: usize,
    /// Prompts per request, at most.
    pub(crate) max_batch_size: usize,
    /// Whether conversations may be rendered here, and so share a request.
    pub(crate) renders_locally: bool,
    /// Whether nothing is in flight at the endpoint: then one prompt goes even if its sequences exceed the window.
    pub(crate) is_idle: bool,
    /// The models that the endpoint serves.
    pub(crate) models: ModelSet,
    /// The models that another endpoint serves too: a task for them that failed here may wait for that one.
    pub(crate) alternatives: ModelSet,
}

impl EndpointCapacity {
    /// Returns the prompts with these parameters that fit one request; 0 if the free permits do not suffice.
    fn max_prompts(&self, params: &BatchParams) -> usize {
        let can_batch =
            params.allow_lists && (params.route == Route::Completions || self.renders_locally);
        let permitted = (self.free_permits / params.n).max(usize::from(self.is_idle));
        permitted.min(if can_batch { self.max_batch_size } else { 1 })
    }

    fn rejects(&self, model: ModelNumber, task: &PromptTask) -> bool {
        task.avoids(self.endpoint) && self.alternatives.contains(model)
    }

    /// Returns whether a split batch, which must stay whole, can go to the endpoint.
    pub(crate) fn admits_whole(&self, batch: &Batch) -> bool {
        let model = batch.params().model_number;
        let fits = batch.permit_count() <= self.free_permits || self.is_idle;
        // All tasks: a half whose tasks failed at different endpoints would otherwise wait for ever.
        fits && self.models.contains(model)
            && !batch.tasks().iter().all(|task| self.rejects(model, task))
    }
}

/// A batch under construction for one endpoint.
#[derive(Debug)]
pub(crate) struct BatchBuilder {
    capacity: EndpointCapacity,
    model: ModelNumber,
    /// The parameters that the tasks share, once there is a task.
    params: Option<Arc<BatchParams>>,
    tasks: Vec<PromptTask>,
}

impl BatchBuilder {
    /// Starts a batch of tasks for one of the endpoint's models.
    pub(crate) fn new(capacity: EndpointCapacity, model: ModelNumber) -> Self {
        Self { capacity, model, params: None, tasks: Vec::new() }
    }

    pub(crate) fn endpoint(&self) -> usize {
        self.capacity.endpoint
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Returns the parameters that further tasks must have; none while any will do.
    pub(crate) fn params(&self) -> Option<&Arc<BatchParams>> {
        self.params.as_ref()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.params.as_ref().is_some_and(|params| self.remaining(params) == 0)
    }

    /// Returns the tasks with these parameters that can still be pushed.
    pub(crate) fn remaining(&self, params: &BatchParams) -> usize {
        self.capacity.max_prompts(params).saturating_sub(self.tasks.len())
    }

    /// Returns whether the task is to wait for another endpoint.
    pub(crate) fn rejects(&self, task: &PromptTask) -> bool {
        self.capacity.rejects(self.model, task)
    }

    pub(crate) fn push_task(&mut self, task: PromptTask) {
        self.tasks.push(task);
    }

    /// Fixes the parameters of the tasks pushed so far, and so of all that follow.
    pub(crate) fn set_params(&mut self, params: Arc<BatchParams>) {
        self.params = Some(params);
    }

    pub(crate) fn finish(self) -> Option<Batch> {
        let params = self.params?;
        (!self.tasks.is_empty()).then(|| Batch::new(params, self.tasks))
    }
}
