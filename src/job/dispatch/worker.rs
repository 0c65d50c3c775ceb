//! A rank other than 0 while all work: it passes on what its hand has to say, until rank 0 says that it is over.
//!
//! Owns that loop, and when a rank goes no further without a word from rank 0. What letters say is `letters`', what follows
//! from them the hand's.

use std::time::{Duration, Instant};

use tracing::error;

use super::{
    lease_client::{LeaseClient, LocalEvent},
    protocol::{DispatchMessage, WorkEnd, decode_message},
};
use crate::comm::{Mailbox, MailboxEvent, MessageTag, PollBackoff, TypedComm};
use crate::job::JobError;

/// A rank that has heard nothing of rank 0 for so many times as long as makes a rank lost goes no further.
const ROOT_SILENCE_FACTOR: u32 = 2;

/// Until it is over.
pub(crate) fn run_worker(
    mut post: Mailbox<'_, LocalEvent>,
    rank: usize,
    mut hand: LeaseClient,
    silence: Duration,
) -> Result<(WorkEnd, LeaseClient), JobError> {
    let (mut heard, mut looked) = (Instant::now(), Instant::now());
    let mut waiting = true;
    loop {
        if waiting != hand.is_waiting() {
            waiting = hand.is_waiting();
            post.set_backoff(if waiting {
                PollBackoff::for_active_work()
            } else {
                PollBackoff::for_long_wait()
            });
        }
        match post.wait_until(hand.next_report_time()) {
            MailboxEvent::Local(said) => hand.on_local_event(said),
            MailboxEvent::Message(letter) => {
                heard = Instant::now();
                match decode_message(&letter) {
                    Some(DispatchMessage::WorkEnd(over)) => return Ok((over, hand)),
                    Some(message) => hand.on_message(message),
                    None => {}
                }
            }
            MailboxEvent::TimedOut => {}
        }
        // Who was away (stopped, swapped out) is this rank: rank 0 has had no report that it could have answered.
        if looked.elapsed() > silence / 2 {
            heard = Instant::now();
        }
        looked = Instant::now();
        for message in hand.take_due_messages(Instant::now()) {
            post.comm_mut().send_value(0, MessageTag::Job, &message)?;
        }
        if hand.is_shutdown_forced() {
            post.comm_mut().abort(crate::job::EXIT_STOPPED_EARLY);
        }
        if heard.elapsed() > silence * ROOT_SILENCE_FACTOR {
            error!(rank, "rank 0 has not been heard of for {:?}: this rank ends", heard.elapsed());
            post.comm_mut().abort(crate::job::EXIT_STOPPED_EARLY);
        }
    }
}
