//! Who is still here? Asked before a collective, since a collective with a lost rank never returns.
//!
//! Point to point and with a deadline: rank 0 collects a sign of life of every rank and tells those that gave one what it
//! found. All there: collectives may follow. Somebody missing: rank 0 ends the job by itself, and the others wait for that.

use std::time::{Duration, Instant};

use super::{Comm, CommError, MessageTag, PollBackoff, TypedComm};

/// What a roll-call found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LivenessResult {
    /// Every rank answered: collectives are safe.
    AllAlive,
    /// These did not answer in time (on rank 0). No collective may follow.
    Missing(Vec<usize>),
    /// Rank 0 gave no word in time (on the other ranks). No collective may follow.
    RootSilent,
}

/// Collective in effect, by letters. Returns on every rank that is alive, at the latest after `patience` (rank 0) or
/// twice that (the others, who start their clock before rank 0 may have).
///
/// # Errors
/// Where a rank's letter cannot be read.
pub fn check_liveness<C: Comm + ?Sized>(
    comm: &mut C,
    patience: Duration,
) -> Result<LivenessResult, CommError> {
    if comm.rank() == 0 { collect_liveness(comm, patience) } else { answer(comm, patience * 2) }
}

fn collect_liveness<C: Comm + ?Sized>(
    comm: &mut C,
    patience: Duration,
) -> Result<LivenessResult, CommError> {
    let mut here = vec![false; comm.size()];
    here[0] = true;
    let all = poll_until(patience, || {
        while let Some((rank, ())) = comm.try_receive_value(None, MessageTag::Liveness)? {
            here[rank] = true;
        }
        Ok(here.iter().all(|&it| it).then_some(()))
    })?;
    let missing: Vec<usize> = (0..here.len()).filter(|&rank| !here[rank]).collect();
    for rank in (1..here.len()).filter(|&rank| here[rank]) {
        comm.send_value(rank, MessageTag::Liveness, &missing)?;
    }
    // Letters to ranks that are here leave at once; the clock is for one that goes away meanwhile.
    poll_until(patience, || Ok((comm.pending_messages() == 0).then_some(())))?;
    Ok(if all.is_some() { LivenessResult::AllAlive } else { LivenessResult::Missing(missing) })
}

fn answer<C: Comm + ?Sized>(comm: &mut C, patience: Duration) -> Result<LivenessResult, CommError> {
    comm.send_value(0, MessageTag::Liveness, &())?;
    let word = poll_until(patience, || {
        comm.try_receive_value::<Vec<usize>>(Some(0), MessageTag::Liveness)
    })?;
    Ok(match word {
        Some((_, missing)) if missing.is_empty() => LivenessResult::AllAlive,
        Some((_, missing)) => LivenessResult::Missing(missing),
        None => LivenessResult::RootSilent,
    })
}

/// Looks, naps and looks again until there is something or time is up.
fn poll_until<T>(
    patience: Duration,
    mut look: impl FnMut() -> Result<Option<T>, CommError>,
) -> Result<Option<T>, CommError> {
    let end = Instant::now() + patience;
    let mut nap = PollBackoff::for_long_wait();
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        nap.sleep_next();
    }
}
