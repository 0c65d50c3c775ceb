//! The models of a job: their numbers, and sets of them.
//!
//! Owns the limit of models per job and the numbering, in which 0 is the job's own model. Which endpoint serves which
//! model is found by probing; which rows name which model is the scan's.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::ServerInfo;

/// Models that a job may have, at most: the job's own and those that rows name.
pub(crate) const MAX_JOB_MODELS: usize = 256;

/// Number of a model of the job. 0 is the job's own model, which prompts use whose rows name none.
pub(crate) type ModelNumber = u8;

/// A model of the job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobModel {
    pub name: String,
    /// Context length in tokens: prompt and answer together, at most. None if unknown.
    pub max_model_len: Option<u64>,
}

/// The models of a job by number and by name.
#[derive(Clone, Debug)]
pub(crate) struct JobModels {
    models: Vec<JobModel>,
    numbers: HashMap<String, ModelNumber>,
}

impl JobModels {
    /// Returns the models, of which the first is the job's own. Models beyond [`MAX_JOB_MODELS`] have no number.
    pub(crate) fn new(models: Vec<JobModel>) -> Self {
        let numbered = models.iter().zip(0..=ModelNumber::MAX);
        let numbers = numbered.map(|(model, number)| (model.name.clone(), number)).collect();
        Self { models, numbers }
    }

    /// Returns the number of a model; 0 for a prompt that names none.
    pub(crate) fn number_of(&self, name: Option<&str>) -> Option<ModelNumber> {
        name.map_or(Some(0), |name| self.numbers.get(name).copied())
    }

    pub(crate) fn count(&self) -> usize {
        self.models.len()
    }

    /// Returns the name of a model.
    pub(crate) fn name(&self, number: ModelNumber) -> &str {
        self.models.get(usize::from(number)).map_or("", |model| &model.name)
    }

    /// Returns the names of all models.
    pub(crate) fn names(&self) -> Vec<String> {
        self.models.iter().map(|model| model.name.clone()).collect()
    }

    /// Returns the context length of a model in tokens, if it is known.
    pub(crate) fn max_model_len(&self, number: ModelNumber) -> Option<u64> {
        self.models.get(usize::from(number))?.max_model_len
    }

    /// Returns those of the models that a server serves.
    pub(crate) fn served_by(&self, server: &ServerInfo) -> ModelSet {
        let names = server.models.iter().map(|served| served.id.as_str());
        names.filter_map(|name| self.number_of(Some(name))).collect()
    }
}

/// A set of models of the job.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub(crate) struct ModelSet([u64; MAX_JOB_MODELS / 64]);

impl ModelSet {
    /// Returns the set of one model.
    pub(crate) fn of_model(number: ModelNumber) -> Self {
        std::iter::once(number).collect()
    }

    pub(crate) fn insert(&mut self, number: ModelNumber) {
        self.0[usize::from(number / 64)] |= 1 << (number % 64);
    }

    pub(crate) fn contains(&self, number: ModelNumber) -> bool {
        self.0[usize::from(number / 64)] & (1 << (number % 64)) != 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Whether the set has all models of the other.
    pub(crate) fn is_superset(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(own, its)| its & !own == 0)
    }

    /// Whether the sets have a model in common.
    pub(crate) fn intersects(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).any(|(own, its)| own & its != 0)
    }

    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(own, its)| *own |= its);
        self
    }

    pub(crate) fn intersection(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(own, its)| *own &= its);
        self
    }

    /// Returns the numbers of the models in order.
    pub(crate) fn members(&self) -> Vec<ModelNumber> {
        let all = 0..=ModelNumber::MAX;
        if self.is_empty() { Vec::new() } else { all.filter(|&it| self.contains(it)).collect() }
    }

    /// Returns the words of the set, for an MPI reduction.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }
}

impl FromIterator<ModelNumber> for ModelSet {
    fn from_iter<I: IntoIterator<Item = ModelNumber>>(numbers: I) -> Self {
        let mut set = Self::default();
        numbers.into_iter().for_each(|number| set.insert(number));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_models_have_the_laws_of_sets() {
        let set = |numbers: &[ModelNumber]| numbers.iter().copied().collect::<ModelSet>();
        let (some, other) = (set(&[0, 63, 64, 255]), set(&[64, 128]));
        assert_eq!(some.members(), [0, 63, 64, 255]);
        assert!(some.contains(255) && !some.contains(254) && !some.is_empty());
        assert_eq!(some.union(&other), set(&[0, 63, 64, 128, 255]));
        assert_eq!(some.intersection(&other), ModelSet::of_model(64));
        assert!(some.intersects(&other) && !some.is_superset(&other));
        assert!(some.is_superset(&set(&[63])) && some.is_superset(&ModelSet::default()));
        assert!(ModelSet::default().is_empty() && !some.intersects(&ModelSet::default()));
    }

    #[test]
    fn the_first_model_is_that_of_prompts_that_name_none() {
        let model = |name: &str| JobModel { name: name.into(), max_model_len: None };
        let models = JobModels::new(vec![model("base"), model("lora")]);
        assert_eq!((models.number_of(None), models.number_of(Some("lora"))), (Some(0), Some(1)));
        assert_eq!((models.number_of(Some("x")), models.name(1)), (None, "lora"));
    }
}
