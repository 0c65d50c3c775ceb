//! Tests of the answer: that it is pure, as long as wanted, and never the same twice.

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn params(max_tokens: usize) -> Params {
    Params { max_tokens: Some(max_tokens), ..Params::default() }
}

fn ask(text: &str, params: &Params) -> Answer {
    answer(&AnswerPolicy::default(), &tokens::encode(text), params)
}

#[test]
fn many_prompts_get_as_many_answers_even_short_ones() {
    let texts: HashSet<String> =
        (0..20_000).map(|n| ask(&format!("prompt {n}"), &params(5)).text).collect();
    assert_eq!(texts.len(), 20_000);
}

#[test]
fn the_model_ends_by_itself_or_is_cut() {
    let free = ask("one", &params(100));
    assert_eq!((free.token_ids.len(), free.finish), (64, Finish::Eos));
    let cut = ask("one", &params(10));
    assert_eq!((cut.token_ids.len(), cut.finish), (10, Finish::Length));
    assert!(free.text.starts_with(&cut.text));
}

#[test]
fn lengths_of_a_heavy_tail_have_their_median() {
    let lengths = Lengths::LogNormal { median: 100.0, sigma: 1.0 };
    let shorter = (0..10_000).filter(|n| lengths.of(mix(9, *n), 1) < 100).count();
    assert!((4_700..5_300).contains(&shorter), "{shorter}");
}

#[test]
fn a_stop_string_is_cut_out_or_left_in() {
    let stop = Params { stop: vec![" ".into()], ..params(20) };
    let out = ask("one", &stop);
    assert_eq!((out.text.len(), out.token_ids.len()), (8, 5));
    assert_eq!(out.finish, Finish::StopString(" ".into()));
    assert_eq!(ask("one", &Params { include_stop: true, ..stop }).text.len(), 9);
}

#[test]
fn a_reasoning_model_thinks_first_and_may_never_come_to_the_point() {
    let policy = AnswerPolicy { thinking: Some(Lengths::Fixed(10)), ..AnswerPolicy::default() };
    let prompt = tokens::encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    let whole = answer(&policy, &prompt, &params(200));
    let (thoughts, content) = (whole.reasoning().expect("thought"), whole.content().expect("said"));
    assert_eq!(whole.text, format!("{THINK}{thoughts}{END_THINK}{content}"));
    let short = answer(&policy, &prompt, &params(5));
    assert_eq!(short.content(), None);
    assert!(short.reasoning().is_some());
    let told = tokens::encode("assistant\n<think>\n\n</think>\n\n");
    assert_eq!(answer(&policy, &told, &params(200)).thought, None);
}

#[test]
fn a_forced_eos_ends_at_once_unless_it_is_ignored() {
    let forced = Params { forced: Some(EOS), ..params(6) };
    assert_eq!(ask("one", &forced).token_ids, [EOS]);
    let ignored = ask("one", &Params { ignore_eos: true, ..forced });
    assert_eq!((ignored.token_ids.len(), ignored.text.as_str()), (6, ""));
}

proptest! {
    #[test]
    fn an_answer_depends_on_nothing_but_its_arguments(
        text in "[a-z ]{0,60}", max in 1usize..200, ignore_eos: bool, seed: i64, sample in 0u32..9,
        temperature in 0u8..2,
    ) {
        let given = Params { ignore_eos, seed, sample, temperature: f64::from(temperature),
            ..params(max) };
        let one = ask(&text, &given);
        prop_assert_eq!(&one, &ask(&text, &given));
        if ignore_eos {
            prop_assert_eq!(one.token_ids.len(), max);
        }
        let greedy = Params { temperature: 0.0, ..given };
        prop_assert_eq!(ask(&text, &greedy), ask(&text, &Params { seed: 0, sample: 0, ..greedy }));
        prop_assert_eq!(one.text_ends().last().copied(), Some(one.text.len()));
    }
}
