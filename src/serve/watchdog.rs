//! The watchdog of a server: finds one that is alive and listens, and does nothing.
//!
//! Owns the rule. A server hangs if requests run in it and its token counters stand still, or if it answers `/metrics` no
//! more, for all of `--serve-hang`; one without these metrics is not judged. Each server has a thread that asks it, since
//! a server that hangs also hangs whoever asks. What becomes of it is decided in `supervisor.rs`.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// A server that hangs.
#[derive(Debug)]
pub(super) struct HungServer {
    /// First process of the start that hangs.
    pub(super) leader: i32,
    pub(super) reason: String,
}

/// The watch over one start of a server. It ends when the value is dropped.
#[derive(Debug)]
pub(super) struct ServerWatch {
    is_over: Arc<AtomicBool>,
}

/// A server's state as its metrics show it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum ServerActivity {
    /// It does not answer.
    Silent,
    /// It has nothing to do, or no metrics to judge it by.
    Unjudged,
    /// It works on requests, and has read and generated this many tokens since it started.
    Busy { requests: f64, tokens: f64 },
}

/// Since when a server has shown no progress.
#[derive(Debug)]
struct ProgressRecord {
    limit: Duration,
    activity: ServerActivity,
    since: Instant,
    last_look: Instant,
}

/// Looks at a server per time limit.
const LOOKS_PER_LIMIT: u32 = 10;
const MAX_LOOK_INTERVAL: Duration = Duration::from_secs(30);
/// A busy front end may need seconds for its metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_METRICS_BYTES: u64 = 8 << 20;

impl ServerWatch {
    /// Starts to watch the server on this port. A server that hangs is reported once. None if no thread can be started.
    pub(super) fn start(
        port: u16,
        leader: i32,
        limit: Duration,
        reports: mpsc::Sender<HungServer>,
    ) -> Option<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let is_over_there = Arc::clone(&is_over);
        let watch = move || {
            let interval = (limit / LOOKS_PER_LIMIT).min(MAX_LOOK_INTERVAL);
            let mut record = ProgressRecord::new(limit, Instant::now());
            while !is_over_there.load(Ordering::Relaxed) {
                if let Some(reason) = record.observe(look_at_server(port), Instant::now()) {
                    let _ = reports.send(HungServer { leader, reason }); // the supervisor may have ended
                    return;
                }
                thread::sleep(interval);
            }
        };
        thread::Builder::new().name("watchdog".into()).spawn(watch).ok()?;
        Some(Self { is_over })
    }
}

impl Drop for ServerWatch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl ProgressRecord {
    fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, activity: ServerActivity::Unjudged, since: now, last_look: now }
    }

    /// Records what the server does. Returns why it hangs, if it does.
    fn observe(&mut self, activity: ServerActivity, now: Instant) -> Option<String> {
        // After a long gap this process was suspended, and the server may have been as well.
        let was_suspended = now - self.last_look > self.limit / 2 + METRICS_TIMEOUT;
        let stands_still = match (self.activity, activity) {
            (ServerActivity::Silent, ServerActivity::Silent) => true,
            // Requests may come and go, and the tokens of those that run stand still.
            (ServerActivity::Busy { tokens: old, .. }, ServerActivity::Busy { tokens, .. }) => {
                old.to_bits() == tokens.to_bits()
            }
            _ => false,
        };
        if !stands_still || was_suspended {
            self.since = now;
        }
        (self.activity, self.last_look) = (activity, now);
        if now - self.since < self.limit {
            return None;
        }
        let seconds = (now - self.since).as_secs();
        match activity {
            ServerActivity::Silent => Some(format!("no answer for {seconds} s")),
            ServerActivity::Busy { requests, .. } => {
                Some(format!("{requests} requests running and no token for {seconds} s"))
            }
            ServerActivity::Unjudged => None,
        }
    }
}

fn look_at_server(port: u16) -> ServerActivity {
    fetch_metrics(port).map_or(ServerActivity::Silent, |page| read_activity(&page))
}

/// Returns the response to `GET /metrics`, whatever its status.
fn fetch_metrics(port: u16) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, METRICS_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(METRICS_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(METRICS_TIMEOUT)).ok()?;
    // Of HTTP/1.0, so that the connection ends with the page.
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").ok()?;
    let mut page = Vec::new();
    stream.take(MAX_METRICS_BYTES).read_to_end(&mut page).ok()?;
    (!page.is_empty()).then(|| String::from_utf8_lossy(&page).into_owned())
}

/// Reads the lines that vLLM writes, with one per engine and metric.
fn read_activity(page: &str) -> ServerActivity {
    let (mut requests, mut tokens) = (0.0, None);
    for line in page.lines() {
        let Some((name, value)) = line.strip_prefix("vllm:").and_then(|it| it.rsplit_once(' '))
        else {
            continue;
        };
        let Ok(value) = value.trim().parse::<f64>() else { continue };
        match name.split('{').next().unwrap_or(name) {
            "num_requests_running" => requests += value,
            "prompt_tokens_total" | "generation_tokens_total" => {
                tokens = Some(tokens.unwrap_or(0.0) + value);
            }
            _ => {}
        }
    }
    match tokens {
        Some(tokens) if requests > 0.0 => ServerActivity::Busy { requests, tokens },
        _ => ServerActivity::Unjudged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    /// Returns the look, of one per minute, at which the server is found to hang.
    fn hangs_at(activity: impl Fn(u64) -> ServerActivity) -> Option<u64> {
        let start = Instant::now();
        let mut record = ProgressRecord::new(LIMIT, start);
        (0..60).find(|&minute| {
            record.observe(activity(minute), start + Duration::from_secs(60 * minute)).is_some()
        })
    }

    #[test]
    fn a_server_hangs_if_its_tokens_stand_still_while_requests_run() {
        let busy = |tokens: u64| ServerActivity::Busy { requests: 3.0, tokens: tokens as f64 };
        assert_eq!(hangs_at(busy), None, "it works");
        assert_eq!(hangs_at(|minute| busy(minute.min(5))), Some(15));
        assert_eq!(hangs_at(|minute| busy(minute / 9)), None, "it is slow");
        assert_eq!(hangs_at(|_| ServerActivity::Unjudged), None, "it is idle");
        let pauses = |minute| if minute % 9 == 8 { ServerActivity::Unjudged } else { busy(1) };
        assert_eq!(hangs_at(pauses), None, "each burst is judged alone");
        assert_eq!(hangs_at(|_| ServerActivity::Silent), Some(10), "since the first look");
    }

    #[test]
    fn the_time_in_which_the_watchdog_was_suspended_does_not_count() {
        let start = Instant::now();
        let mut record = ProgressRecord::new(LIMIT, start);
        let busy = ServerActivity::Busy { requests: 1.0, tokens: 7.0 };
        assert_eq!(record.observe(busy, start), None);
        assert_eq!(record.observe(busy, start + LIMIT * 9), None);
        assert_eq!(record.observe(busy, start + LIMIT * 9 + LIMIT / 4), None);
    }

    #[test]
    fn activity_is_read_from_the_lines_of_all_engines() {
        let page = "HTTP/1.0 200 OK\r\n\r\nvllm:num_requests_running{engine=\"0\"} 2.0\n\
            vllm:num_requests_running{engine=\"1\"} 1.0\nvllm:prompt_tokens_total{engine=\"0\"} 40.0\n\
            vllm:generation_tokens_total{engine=\"0\"} 2.0\nvllm:generation_tokens_created{} 9.0\n";
        assert_eq!(read_activity(page), ServerActivity::Busy { requests: 3.0, tokens: 42.0 });
        let idle = page.replace(" 2.0", " 0.0").replace(" 1.0", " 0.0");
        assert_eq!(read_activity(&idle), ServerActivity::Unjudged);
        assert_eq!(read_activity("HTTP/1.0 404 Not Found\r\n\r\n"), ServerActivity::Unjudged);
    }
}
