//! A rank other than 0 while all work: it passes on what its hand has to say, until rank 0 says that it is over.
//!
//! Owns that loop, and when a rank goes no further without a word from rank 0. What letters say is `letters`', what follows
//! from them the hand's.

use std::time::{Duration, Instant};

use tracing::error;

use super::{
    lease_client::{Hand, Said},
    protocol::{Message, Over, read},
};
use crate::comm::{Event, Nap, Post, Tag, Typed};
use crate::job::JobError;

/// A rank that has heard nothing of rank 0 for so many times as long as makes a rank lost goes no further.
const ALONE: u32 = 2;

/// Until it is over.
pub(crate) fn report_until_over(
    mut post: Post<'_, Said>,
    rank: usize,
    mut hand: Hand,
    silence: Duration,
) -> Result<(Over, Hand), JobError> {
    let (mut heard, mut looked) = (Instant::now(), Instant::now());
    let mut waiting = true;
    loop {
        if waiting != hand.is_waiting() {
            waiting = hand.is_waiting();
            post.set_nap(if waiting { Nap::lively() } else { Nap::patient() });
        }
        match post.wait(hand.due()) {
            Event::Word(said) => hand.said(said),
            Event::Letter(letter) => {
                heard = Instant::now();
                match read(&letter) {
                    Some(Message::Over(over)) => return Ok((over, hand)),
                    Some(message) => hand.hear(message),
                    None => {}
                }
            }
            Event::Quiet => {}
        }
        // Who was away (stopped, swapped out) is this rank: rank 0 has had no report that it could have answered.
        if looked.elapsed() > silence / 2 {
            heard = Instant::now();
        }
        looked = Instant::now();
        for message in hand.letters(Instant::now()) {
            post.comm().send_value(0, Tag::Job, &message)?;
        }
        if hand.is_in_a_hurry() {
            post.comm().abort(crate::job::STOPPED_EARLY);
        }
        if heard.elapsed() > silence * ALONE {
            error!(rank, "rank 0 has not been heard of for {:?}: this rank ends", heard.elapsed());
            post.comm().abort(crate::job::STOPPED_EARLY);
        }
    }
}
