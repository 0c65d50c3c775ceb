//! Liveness check (roll-call) before a collective, since a collective with a lost rank never returns.
//!
//! It uses point-to-point messages with a deadline. Rank 0 collects a sign of life from every rank and sends the
//! result to those that gave one. If all ranks answered, collectives may follow. If some are missing, rank 0 ends the
//! job by itself and the other ranks wait for that. Liveness *during* the work, by the age of each rank's last
//! report, is the ledger's (`crate::ledger`).

use std::time::{Duration, Instant};

use super::{Comm, CommError, MessageTag, PollBackoff, TypedComm};

/// Result of a liveness check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LivenessResult {
    /// Every rank answered: collectives are safe.
    AllAlive,
    /// These ranks did not answer in time. No collective may follow.
    Missing(Vec<usize>),
    /// Rank 0 sent no result in time (returned on the other ranks only). No collective may follow.
    RootSilent,
}

/// Collective in effect, by point-to-point messages. Returns on every living rank: on rank 0 after `timeout` at the
/// latest, on the others after twice that, since their clock may start before rank 0's.
///
/// # Errors
/// Returns [`CommError::Decode`] if a rank's message cannot be decoded.
pub fn check_liveness<C: Comm + ?Sized>(
    comm: &mut C,
    timeout: Duration,
) -> Result<LivenessResult, CommError> {
    if comm.rank() == 0 {
        collect_liveness(comm, timeout)
    } else {
        report_liveness(comm, timeout * 2)
    }
}

fn collect_liveness<C: Comm + ?Sized>(
    comm: &mut C,
    timeout: Duration,
) -> Result<LivenessResult, CommError> {
    let mut is_alive = vec![false; comm.size()];
    is_alive[0] = true;
    let all_alive = poll_until(timeout, || {
        while let Some((rank, ())) = comm.try_receive_value(None, MessageTag::Liveness)? {
            is_alive[rank] = true;
        }
        Ok(is_alive.iter().all(|&it| it).then_some(()))
    })?;
    let missing: Vec<usize> = (0..is_alive.len()).filter(|&rank| !is_alive[rank]).collect();
    for rank in (1..is_alive.len()).filter(|&rank| is_alive[rank]) {
        comm.send_value(rank, MessageTag::Liveness, &missing)?;
    }
    // Messages to living ranks leave at once; the deadline is for a rank that is lost meanwhile.
    poll_until(timeout, || Ok((comm.pending_messages() == 0).then_some(())))?;
    Ok(if all_alive.is_some() {
        LivenessResult::AllAlive
    } else {
        LivenessResult::Missing(missing)
    })
}

fn report_liveness<C: Comm + ?Sized>(
    comm: &mut C,
    timeout: Duration,
) -> Result<LivenessResult, CommError> {
    comm.send_value(0, MessageTag::Liveness, &())?;
    let reply = poll_until(timeout, || {
        comm.try_receive_value::<Vec<usize>>(Some(0), MessageTag::Liveness)
    })?;
    Ok(match reply {
        Some((_, missing)) if missing.is_empty() => LivenessResult::AllAlive,
        Some((_, missing)) => LivenessResult::Missing(missing),
        None => LivenessResult::RootSilent,
    })
}

/// Polls until `poll` returns a value or the time is up.
fn poll_until<T>(
    timeout: Duration,
    mut poll: impl FnMut() -> Result<Option<T>, CommError>,
) -> Result<Option<T>, CommError> {
    let end = Instant::now() + timeout;
    let mut backoff = PollBackoff::for_long_wait();
    loop {
        if let Some(value) = poll()? {
            return Ok(Some(value));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        backoff.sleep_next();
    }
}
