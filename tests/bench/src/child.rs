//! One process to its end: with a deadline, a tick for who wants to look around meanwhile, and
//! what the kernel says it has cost.
//!
//! It owns waiting and killing, and knows nothing of what runs.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

/// How a process ended and what it cost.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Its own processor time, user and system.
    pub cpu: Duration,
    /// The most memory it held at once.
    pub peak_rss_bytes: u64,
    /// From its start to its end.
    pub wall: Duration,
    /// Whether the deadline ended it.
    pub late: bool,
}

/// Runs a command to its end, or kills it when the deadline has passed. `tick` is called about
/// every `period` meanwhile, in this thread.
pub fn run(
    command: &mut Command,
    deadline: Duration,
    period: Duration,
    mut tick: impl FnMut(),
) -> io::Result<Ended> {
    let began = Instant::now();
    let child = command.spawn()?;
    let pid = Pid::from_child(&child);
    let fd = pidfd_open(pid, PidfdFlags::empty())?;
    let (mut next, mut late) = (period, false);
    loop {
        let until = next.min(if late { Duration::MAX } else { deadline });
        if ends_within(&fd, until.saturating_sub(began.elapsed()))? {
            break;
        }
        if began.elapsed() >= deadline && !late {
            late = true;
            pidfd_send_signal(&fd, Signal::KILL)?;
        } else if began.elapsed() >= next {
            tick();
            next = (next + period).max(began.elapsed());
        }
    }
    let wall = began.elapsed();
    let (status, usage) = reap(pid)?;
    let seconds = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec as u64) + Duration::from_micros(t.tv_usec as u64)
    };
    Ok(Ended {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        peak_rss_bytes: usage.ru_maxrss as u64 * 1024,
        wall,
        late,
    })
}

/// Whether the process behind a pidfd ends within a time.
pub fn ends_within(fd: impl std::os::fd::AsFd, time: Duration) -> io::Result<bool> {
    let time = Timespec {
        tv_sec: time.as_secs().min(86_400) as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Collects a process that has ended. (std's `wait` throws the usage away.)
fn reap(pid: Pid) -> io::Result<(libc::c_int, libc::rusage)> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to locals that outlive the call, and a rusage of zeros is a valid
    // one where the kernel does not fill it in.
    let (got, usage) = unsafe {
        let got = libc::wait4(pid.as_raw_nonzero().get(), &mut status, 0, usage.as_mut_ptr());
        (got, usage.assume_init())
    };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok((status, usage)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, deadline_ms: u64) -> (Ended, u32) {
        let mut ticks = 0;
        let (deadline, period) = (Duration::from_millis(deadline_ms), Duration::from_millis(20));
        let ended = run(Command::new("sh").args(["-c", script]), deadline, period, || ticks += 1);
        (ended.unwrap(), ticks)
    }

    #[test]
    fn code_cpu_and_memory_are_told() {
        let (ended, _) = sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exit 3", 20_000);
        assert_eq!((ended.code, ended.late), (Some(3), false));
        assert!(ended.cpu > Duration::ZERO && ended.peak_rss_bytes > 100_000, "{ended:?}");
    }

    #[test]
    fn the_deadline_ends_it_and_ticks_come_until_then() {
        let (ended, ticks) = sh("exec sleep 60", 300);
        assert_eq!((ended.code, ended.late), (None, true));
        assert!(ended.wall < Duration::from_secs(20) && (3..=15).contains(&ticks), "{ticks}");
    }
}
