//! A rank other than 0 while all work: it passes on what its hand has to say, until rank 0 says that it is over.
//!
//! Owns that loop and what a rank does whom rank 0 has left alone. What letters say is `letters`', what follows from them
//! the hand's.

use std::time::{Duration, Instant};

use tracing::error;

use super::{
    JobError,
    hand::{Hand, Said},
    letters::{Message, Over, read},
};
use crate::comm::{Comm, Event, Post, Tag, Typed};

/// How long rank 0 waits for the roll-call's answers.
pub(super) const ROLL_CALL: Duration = Duration::from_secs(30);
/// A rank that has heard nothing of rank 0 for so many times as long as makes a rank lost goes no further.
const ALONE: u32 = 2;
/// How long rank 0 may take to end a job by itself: it reads all that was written, and writes the answers.
const LONGEST_END: Duration = Duration::from_secs(6 * 3600);

/// A rank whose end is rank 0's to bring about; bounded, in case rank 0 is lost.
pub(super) fn wait_to_be_ended(comm: &dyn Comm) -> ! {
    std::thread::sleep(LONGEST_END);
    comm.abort(super::STOPPED_EARLY)
}

/// Until it is over.
pub(super) fn report_until_over(
    mut post: Post<'_, Said>,
    rank: usize,
    mut hand: Hand,
    silence: Duration,
) -> Result<(Over, Hand), JobError> {
    let (mut heard, mut looked) = (Instant::now(), Instant::now());
    loop {
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
            post.comm().abort(super::STOPPED_EARLY);
        }
        if heard.elapsed() > silence * ALONE {
            error!(rank, "rank 0 has not been heard of for {:?}: this rank ends", heard.elapsed());
            post.comm().abort(super::STOPPED_EARLY);
        }
    }
}
