use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    domain::{PromptId, PromptInput, RequestParams, RowHash},
    engine::policy::test_policy,
};

fn test_prompt(index: u64, text: &str, params: &[(&str, u64)]) -> Prompt {
    let mut own = RequestParams::default();
    params.iter().for_each(|(name, value)| own.set(name, value.to_string()));
    Prompt {
        index,
        id: PromptId::from_index(index),
        input: PromptInput::Text(text.into()),
        images: Vec::new(),
        params: own,
        model: None,
        route: None,
        priority: 0,
        row: None,
        row_hash: RowHash::UNKNOWN,
    }
}

fn short_prompt(index: u64) -> Prompt {
    test_prompt(index, "x", &[("max_tokens", 5)])
}

fn capacity_of(endpoint: usize, free_permits: usize, max_batch_size: usize) -> EndpointCapacity {
    EndpointCapacity {
        endpoint,
        free_permits,
        max_batch_size,
        renders_locally: false,
        is_idle: false,
        models: ModelSet::of_model(0),
        alternatives: ModelSet::default(),
    }
}

fn batch_indexes(batch: &Batch) -> Vec<u64> {
    batch.tasks().iter().map(PromptTask::index).collect()
}

fn next_indexes(
    queue: &mut TaskQueue,
    endpoint: usize,
    free_permits: usize,
    max_batch_size: usize,
) -> Vec<u64> {
    let batch = queue.next_batch(capacity_of(endpoint, free_permits, max_batch_size));
    batch.map(|batch| batch_indexes(&batch)).unwrap_or_default()
}

/// Returns the batch as it comes back from requests of which task `n` failed at `endpoints[n]`.
fn failed_at(batch: Batch, endpoints: &[usize]) -> Batch {
    let (params, mut tasks) = batch.into_parts();
    for (task, &endpoint) in tasks.iter_mut().zip(endpoints) {
        task.record_failed_attempt(endpoint, true);
    }
    Batch::new(params, tasks)
}

#[test]
fn halves_of_a_refused_batch_stay_whole_and_go_first() {
    let mut queue = TaskQueue::default();
    (0..6).for_each(|index| queue.add_prompt(short_prompt(index), &test_policy()));
    let batch = queue.next_batch(capacity_of(0, 8, 4)).expect("a batch");
    assert_eq!(batch_indexes(&batch), [0, 1, 2, 3]);
    batch.into_halves().into_iter().for_each(|half| queue.requeue_split(half));
    assert_eq!(queue.len(), 6);
    assert_eq!(next_indexes(&mut queue, 0, 8, 4), [0, 1]);
    assert_eq!(next_indexes(&mut queue, 0, 8, 4), [2, 3]);
    assert_eq!(next_indexes(&mut queue, 0, 8, 4), [4, 5]);
    assert_eq!((queue.len(), queue.content_bytes()), (0, 0));
}

#[test]
fn a_failed_task_prefers_another_endpoint() {
    let mut queue = TaskQueue::default();
    queue.add_prompt(short_prompt(0), &test_policy());
    let batch = queue.next_batch(capacity_of(3, 8, 4)).expect("a batch");
    queue.requeue_first(failed_at(batch, &[3]));
    let others = |endpoint| EndpointCapacity {
        alternatives: ModelSet::of_model(0),
        ..capacity_of(endpoint, 8, 4)
    };
    assert_eq!(queue.next_batch(others(3)), None);
    assert!(queue.next_batch(others(4)).is_some());
}

#[test]
fn delayed_tasks_are_released_when_due() {
    let (mut queue, now) = (TaskQueue::default(), Instant::now());
    queue.add_prompt(short_prompt(0), &test_policy());
    let batch = queue.next_batch(capacity_of(0, 1, 1)).expect("a batch");
    queue.requeue_delayed(now + Duration::from_secs(1), batch);
    queue.release_due(now);
    assert_eq!((queue.next_batch(capacity_of(0, 1, 1)), queue.len()), (None, 1));
    queue.release_due(now + Duration::from_secs(1));
    assert!(queue.next_batch(capacity_of(0, 1, 1)).is_some());
}

#[test]
fn priority_goes_first_and_then_the_longest_expected() {
    let mut queue = TaskQueue::default();
    let known = |index, tokens| {
        let mut prompt = test_prompt(index, "x", &[("max_tokens", tokens)]);
        prompt.params.set("ignore_eos", "true");
        prompt
    };
    for (index, tokens) in [(0, 10), (1, 1000), (2, 100), (3, 1000)] {
        queue.add_prompt(known(index, tokens), &test_policy());
    }
    queue.add_prompt(Prompt { priority: 5, ..known(4, 1) }, &test_policy());
    queue.add_prompt(Prompt { priority: -1, ..known(5, 9999) }, &test_policy());
    let order: Vec<Vec<u64>> = (0..5).map(|_| next_indexes(&mut queue, 0, 8, 4)).collect();
    assert_eq!(order, [vec![4], vec![1, 3], vec![2], vec![0], vec![5]]);
}

#[test]
fn batches_are_filled_from_shorter_classes_with_the_same_parameters() {
    let mut queue = TaskQueue::default();
    for (index, length) in [(0, 4000), (1, 40), (2, 400)] {
        queue.add_prompt(test_prompt(index, &"word ".repeat(length / 5), &[]), &test_policy());
    }
    assert_eq!(next_indexes(&mut queue, 0, 8, 8), [0, 2, 1]);
}

/// Adds 3 documents with 8 questions each, shuffled.
fn add_documents(queue: &mut TaskQueue) {
    let documents = ["a", "b", "c"].map(|name| name.repeat(3000));
    for index in 0..24 {
        let document = &documents[(index * 7 % 24) % 3];
        queue.add_prompt(
            test_prompt(index as u64, &format!("{document}{index}"), &[]),
            &test_policy(),
        );
    }
}

fn document_of(index: u64) -> u64 {
    (index * 7 % 24) % 3
}

#[test]
fn a_prefix_group_goes_to_one_endpoint_and_is_split_at_the_end() {
    let mut queue = TaskQueue::default();
    add_documents(&mut queue);
    let first = next_indexes(&mut queue, 0, 8, 1)[0];
    let second = next_indexes(&mut queue, 1, 8, 1)[0];
    assert_ne!(document_of(first), document_of(second), "each endpoint begins its own");
    let mine: Vec<u64> = (0..7).map(|_| next_indexes(&mut queue, 0, 8, 1)[0]).collect();
    assert!(mine.iter().all(|&it| document_of(it) == document_of(first)), "whole: {mine:?}");
    let third = next_indexes(&mut queue, 0, 8, 1)[0];
    assert!(![document_of(first), document_of(second)].contains(&document_of(third)));
    (0..7).for_each(|_| drop(next_indexes(&mut queue, 0, 8, 1)));
    assert_eq!(queue.len(), 7, "only the second endpoint's group is left");
    let stolen = next_indexes(&mut queue, 0, 8, 1);
    assert_eq!(document_of(stolen[0]), document_of(second));
    let own = next_indexes(&mut queue, 1, 8, 8);
    assert!((3..=4).contains(&own.len()), "half of them: {own:?}");
}

#[test]
fn an_endpoint_that_is_down_holds_no_prefix_group_back() {
    let mut queue = TaskQueue::default();
    add_documents(&mut queue);
    let first = next_indexes(&mut queue, 0, 8, 1)[0];
    queue.release_endpoint(0);
    let all: Vec<u64> = (0..3).flat_map(|_| next_indexes(&mut queue, 1, 8, 8)).collect();
    assert!(all.iter().any(|&it| document_of(it) == document_of(first)));
    assert_eq!(all.len() + queue.len(), 23);
}

#[test]
fn a_prefix_of_every_prompt_does_not_tie_prompts_to_an_endpoint() {
    let mut queue = TaskQueue::default();
    let header = "h".repeat(600);
    for index in 0..1200 {
        queue.add_prompt(test_prompt(index, &format!("{header}{index}"), &[]), &test_policy());
    }
    let (mut taken, mut by_endpoint) = (0, [0, 0]);
    while !queue.is_empty() {
        for (endpoint, count) in by_endpoint.iter_mut().enumerate() {
            let batch = next_indexes(&mut queue, endpoint, 16, 16).len();
            *count += batch;
            taken += batch;
        }
    }
    assert_eq!(taken, 1200);
    assert!(by_endpoint[0] > 500 && by_endpoint[1] > 500, "{by_endpoint:?}");
}

proptest! {
    #[test]
    fn every_prompt_comes_out_once_and_batches_keep_their_limits(
        given in prop::collection::vec((1u64..4, 1u64..4, 0usize..5, 0i64..2), 0..60),
        free in 0usize..10, most in 1usize..6, endpoints in 1usize..4,
    ) {
        let mut queue = TaskQueue::default();
        for (index, &(max_tokens, n, document, priority)) in (0..).zip(&given) {
            let text = ["a", "b", "c", "d", "e"][document].repeat(document * 700 + 1);
            let prompt = test_prompt(index, &text, &[("max_tokens", max_tokens), ("n", n)]);
            queue.add_prompt(Prompt { priority, ..prompt }, &test_policy());
        }
        let mut seen = Vec::new();
        let mut priorities = Vec::new();
        for turn in 0.. {
            let capacity =
                EndpointCapacity { is_idle: true, ..capacity_of(turn % endpoints, free, most) };
            let Some(batch) = queue.next_batch(capacity) else { break };
            prop_assert!(batch.len() <= most);
            prop_assert!(batch.permit_count() <= free || batch.len() == 1);
            let first = batch.tasks()[0].prompt();
            let shared = |task: &PromptTask| task.prompt().params == first.params;
            prop_assert!(batch.tasks().iter().all(shared), "a batch shares its parameters");
            priorities.push(first.priority);
            seen.extend(batch_indexes(&batch));
        }
        prop_assert!(priorities.is_sorted_by(|a, b| a >= b));
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..given.len() as u64).collect::<Vec<_>>());
        prop_assert_eq!((queue.len(), queue.content_bytes()), (0, 0));
    }
}

#[test]
fn no_task_goes_out_with_anothers_parameters() {
    let mut queue = TaskQueue::default();
    let policy = test_policy();
    let text = |head: &str, n: usize| format!("{}{n:04}", head.repeat(600));
    let own = |seed: u64| [("max_tokens", 5), ("seed", seed)];
    // A waits in its length class with seed=1; B begins as A does: both are now a prefix group.
    queue.add_prompt(test_prompt(0, &text("a", 0), &own(1)), &policy);
    queue.add_prompt(test_prompt(1, &text("a", 1), &own(1)), &policy);
    // The group goes first; its slots are free now.
    let group = queue.next_batch(capacity_of(0, 2, 2)).expect("the group");
    assert_eq!(batch_indexes(&group), [0, 1]);
    // C and D have other parameters; E has those of A.
    queue.add_prompt(test_prompt(2, &text("c", 2), &own(2)), &policy);
    queue.add_prompt(test_prompt(3, &text("d", 3), &own(2)), &policy);
    queue.add_prompt(test_prompt(4, &text("e", 4), &own(1)), &policy);
    let mut seen = Vec::new();
    while let Some(batch) = queue.next_batch(capacity_of(0, 8, 1)) {
        for task in batch.tasks() {
            let own_seed = task.prompt().params.get_u64("seed");
            seen.push((task.index(), own_seed, batch.params().params.get_u64("seed")));
        }
    }
    seen.sort_unstable();
    assert!(seen.iter().all(|(_, own, sent)| own == sent), "{seen:?}");
    assert_eq!(queue.len(), 0);
}

#[test]
fn no_task_is_stranded_when_its_slot_is_reused() {
    let mut queue = TaskQueue::default();
    let policy = test_policy();
    let text = |head: &str, n: usize| format!("{}{n:04}", head.repeat(600));
    let own = [("max_tokens", 5)];
    let with = |index, head: &str, priority| Prompt {
        priority,
        ..test_prompt(index, &text(head, index as usize), &own)
    };
    queue.add_prompt(with(0, "a", 1), &policy);
    queue.add_prompt(with(1, "a", 1), &policy);
    assert_eq!(queue.next_batch(capacity_of(0, 2, 2)).expect("the group").len(), 2);
    // Both slots are free: a task of low priority gets one that still has an entry in the high level's queue.
    queue.add_prompt(with(2, "b", 0), &policy);
    queue.add_prompt(with(3, "c", 0), &policy);
    queue.add_prompt(with(4, "d", 1), &policy);
    let mut seen = Vec::new();
    for _ in 0..10 {
        if let Some(batch) = queue.next_batch(capacity_of(0, 8, 1)) {
            seen.extend(batch_indexes(&batch));
        }
    }
    assert_eq!(queue.len(), 0, "stranded; sent {seen:?}");
}

#[test]
fn a_half_whose_tasks_failed_at_different_endpoints_is_still_sent() {
    let mut queue = TaskQueue::default();
    (0..2).for_each(|index| queue.add_prompt(short_prompt(index), &test_policy()));
    let batch = queue.next_batch(capacity_of(0, 8, 4)).expect("a batch");
    queue.requeue_split(failed_at(batch, &[0, 1]));
    let others = |endpoint| EndpointCapacity {
        alternatives: ModelSet::of_model(0),
        is_idle: true,
        ..capacity_of(endpoint, 8, 4)
    };
    assert!(queue.next_batch(others(0)).is_some() || queue.next_batch(others(1)).is_some());
}

fn two_models() -> EnginePolicy {
    let model = |name: &str| crate::domain::JobModel { name: name.into(), max_model_len: None };
    let models = crate::domain::JobModels::new(vec![model("a"), model("b")]);
    EnginePolicy { models, ..test_policy() }
}

fn prompt_of_model(index: u64, model: Option<&str>) -> Prompt {
    Prompt { model: model.map(Into::into), ..short_prompt(index) }
}

#[test]
fn an_endpoint_gets_prompts_of_its_models_alone_and_batches_do_not_mix_models() {
    let mut queue = TaskQueue::default();
    for index in 0..6 {
        let model = [None, Some("b"), Some("a")][index as usize % 3];
        queue.add_prompt(prompt_of_model(index, model), &two_models());
    }
    let of = |models: &[ModelNumber]| EndpointCapacity {
        models: models.iter().copied().collect(),
        ..capacity_of(0, 8, 8)
    };
    assert_eq!(queue.next_batch(of(&[])), None);
    assert_eq!(queue.waiting_for(&ModelSet::of_model(1)), 2);
    let batch = queue.next_batch(of(&[1])).expect("a batch");
    assert_eq!((batch.params().model.as_str(), batch_indexes(&batch)), ("b", vec![1, 4]));
    assert_eq!(queue.next_batch(of(&[1])), None);
    queue.requeue_split(batch);
    assert_eq!(queue.waiting_models(), [0, 1].into_iter().collect());
    let batch = queue.next_batch(of(&[0])).expect("a batch");
    assert_eq!((batch.params().model.as_str(), batch_indexes(&batch)), ("a", vec![0, 2, 3, 5]));
    assert_eq!(queue.next_batch(of(&[0])), None, "the half that came back is another model's");
    assert!(queue.next_batch(of(&[0, 1])).is_some() && queue.is_empty());
}

#[test]
fn prompts_that_begin_alike_form_a_group_for_each_model() {
    let mut queue = TaskQueue::default();
    let text = "the same long beginning ".repeat(200);
    for index in 0..8 {
        let prompt = test_prompt(index, &format!("{text}{index}"), &[]);
        let model = (index % 2 == 1).then(|| "b".into());
        queue.add_prompt(Prompt { model, ..prompt }, &two_models());
    }
    let of = |endpoint, model| EndpointCapacity {
        models: ModelSet::of_model(model),
        ..capacity_of(endpoint, 8, 2)
    };
    let mut seen = Vec::new();
    while let Some(batch) = queue.next_batch(of(1, 1)) {
        seen.extend(batch_indexes(&batch));
    }
    assert_eq!(seen, [1, 3, 5, 7]);
    assert_eq!(batch_indexes(&queue.next_batch(of(0, 0)).expect("a batch")), [0, 2]);
    let removed = queue.remove_matching(|model, _| model == 0);
    assert_eq!(
        (removed, queue.len(), queue.waiting_models()),
        (vec![4, 6], 0, ModelSet::default())
    );
}

#[test]
fn a_failed_task_waits_only_for_an_endpoint_that_serves_its_model() {
    let mut queue = TaskQueue::default();
    queue.add_prompt(prompt_of_model(0, Some("b")), &two_models());
    let capacity = EndpointCapacity {
        models: ModelSet::of_model(1),
        alternatives: ModelSet::of_model(0),
        ..capacity_of(3, 8, 4)
    };
    let batch = queue.next_batch(capacity).expect("a batch");
    queue.requeue_first(failed_at(batch, &[3]));
    assert!(queue.next_batch(capacity).is_some(), "no other endpoint serves it");
}
