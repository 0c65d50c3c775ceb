//! One loop that keeps a rank's endpoints full: takes prompts in, sends what fits, settles what comes back.
//!
//! One task owns all state; requests in flight are futures it polls. Permits are taken before a list is cut and come back
//! with its answers. Decisions are `stock`'s, `servers'` and `policy`'s; this file only makes them happen.

use std::{pin::Pin, time::Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::sleep_until};
use tracing::{debug, info, warn};

use super::{
    Ended, Policy, Progress,
    servers::Server,
    stock::{Batch, Stock, Task},
};
use crate::{
    domain::{
        Answer, Failure, FailureKind, Input, Outcome, Probe, Prompt, Route, Settled, Tally, Url,
    },
    endpoint::{Client, Fault, Reply, ask, probe},
};

/// What the loop needs to begin.
pub(super) struct Driver {
    pub(super) policy: Policy,
    pub(super) client: Client,
    servers: Vec<Server>,
    stock: Stock,
    tally: Tally,
    /// Sequences in flight.
    in_flight: usize,
    outcomes: Vec<Settled>,
    /// No endpoint has been up since.
    down_since: Option<Instant>,
    /// Something was settled last, or nothing was there to be.
    moved: Instant,
    /// Prompts for a full list are being waited for since.
    filling: Option<Instant>,
}

type Flight = Pin<Box<dyn Future<Output = Landed>>>;

/// What came back.
enum Landed {
    Reply { server: usize, batch: Batch, result: Result<Reply, Fault>, took: f64 },
    Probe { server: usize, probe: Probe },
}

/// What the loop woke up for.
enum Woken {
    Landed(Landed),
    Prompt(Option<Prompt>),
    Time,
    Stop,
}

impl Driver {
    pub(super) fn new(policy: Policy, client: Client, urls: Vec<(Url, bool)>) -> Self {
        let now = Instant::now();
        let servers: Vec<Server> =
            urls.into_iter().map(|(url, ready)| Server::new(url, ready, now)).collect();
        Self {
            policy,
            client,
            servers,
            stock: Stock::default(),
            tally: Tally::default(),
            in_flight: 0,
            outcomes: Vec::new(),
            down_since: None,
            moved: now,
            filling: None,
        }
    }

    /// Until every prompt has its outcome, nobody is left to ask, or `stop` says so.
    pub(super) async fn run(
        mut self,
        mut prompts: mpsc::Receiver<Prompt>,
        settled: mpsc::Sender<Vec<Settled>>,
        mut stop: mpsc::Receiver<()>,
        tell: impl Fn(Progress),
    ) -> (Ended, Tally) {
        let mut flights: FuturesUnordered<Flight> = FuturesUnordered::new();
        let mut more = true;
        let mut next_word = Instant::now();
        loop {
            let now = Instant::now();
            self.stock.ripen(now);
            while more && self.wants_more() {
                match prompts.try_recv() {
                    Ok(prompt) => self.take_in(prompt),
                    Err(mpsc::error::TryRecvError::Disconnected) => more = false,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                }
            }
            if !self.is_filling(more, now) {
                self.send(&flights, now);
            }
            self.ask_again(&flights, now);
            if !self.outcomes.is_empty() || self.stock.len() == 0 {
                self.moved = now;
            }
            if !self.outcomes.is_empty()
                && settled.send(std::mem::take(&mut self.outcomes)).await.is_err()
            {
                return (Ended::NotWritten, self.tally);
            }
            if now >= next_word {
                tell(self.progress());
                next_word = now + super::WORD_EVERY;
            }
            if !more && self.stock.len() == 0 && self.in_flight == 0 {
                tell(self.progress());
                return (Ended::Finished, self.tally);
            }
            if self.nobody_left(now) {
                return (Ended::NobodyLeft, self.tally);
            }
            let wake = self.next_time(next_word);
            let woken = tokio::select! {
                Some(landed) = flights.next(), if !flights.is_empty() => Woken::Landed(landed),
                prompt = prompts.recv(), if more && self.wants_more() => Woken::Prompt(prompt),
                () = sleep_until(wake.into()) => Woken::Time,
                _ = stop.recv() => Woken::Stop,
            };
            match woken {
                Woken::Landed(landed) => self.landed(landed),
                Woken::Prompt(Some(prompt)) => self.take_in(prompt),
                Woken::Prompt(None) => more = false,
                Woken::Time => {}
                Woken::Stop => return (Ended::Stopped, self.tally),
            }
        }
    }

    /// As much again as the windows hold: enough to cut full lists from, little enough to lose nothing by it.
    fn wants_more(&self) -> bool {
        let windows = self.policy.window * self.servers.iter().filter(|it| it.is_up()).count();
        self.stock.len() < windows.max(1) + self.policy.batch
    }

    fn take_in(&mut self, prompt: Prompt) {
        if matches!(&prompt.input, Input::Text(text) if text.trim().is_empty()) {
            let failure = Failure {
                kind: FailureKind::EmptyPrompt,
                message: "the prompt is empty: nothing was asked".into(),
                status: None,
            };
            let task = Task { prompt, attempts: 0, tried: 0, avoid: None };
            self.settle(task, Outcome::Failed(failure), None, 0.0);
            return;
        }
        self.stock.add(prompt, &self.policy);
    }

    /// Are prompts on their way that would make a full list of what is a short one now? Waited for a moment only.
    fn is_filling(&mut self, more: bool, now: Instant) -> bool {
        if !more || self.stock.len() >= self.policy.batch {
            self.filling = None;
            return false;
        }
        now - *self.filling.get_or_insert(now) < FILL
    }

    /// Sends requests while there are permits and prompts.
    fn send(&mut self, flights: &FuturesUnordered<Flight>, now: Instant) {
        let up: Vec<usize> =
            (0..self.servers.len()).filter(|&it| self.servers[it].is_up()).collect();
        self.down_since = if up.is_empty() { self.down_since.or(Some(now)) } else { None };
        // The next request goes to the endpoint with the fewest in flight, so that few prompts are spread over all.
        let mut open = up.clone();
        while let Some(&server) = open.iter().min_by_key(|&&it| self.servers[it].taken) {
            match self.cut(server, up.len() > 1) {
                Some(batch) => flights.push(self.launch(server, batch)),
                None => open.retain(|&it| it != server),
            }
        }
    }

    fn cut(&mut self, server: usize, others: bool) -> Option<Batch> {
        let (taken, free) =
            (self.servers[server].taken, self.servers[server].free(self.policy.window));
        if free == 0 {
            return None;
        }
        let most = self.policy.batch.min(self.policy.window).min(self.servers[server].longest_list);
        self.stock.cut(server, free, most, taken == 0, others)
    }

    fn launch(&mut self, server: usize, mut batch: Batch) -> Flight {
        let permits = batch.permits();
        self.servers[server].taken += permits;
        self.in_flight += permits;
        self.tally.requests += 1;
        batch.tasks.iter_mut().for_each(|task| task.attempts += 1);
        let (client, url) = (self.client.clone(), self.servers[server].url.clone());
        let limit = self.policy.limit(batch.tasks.len());
        let system = self.policy.system.clone().filter(|_| batch.shared.route == Route::Chat);
        Box::pin(async move {
            let sent = Instant::now();
            let prompts: Vec<&Prompt> = batch.tasks.iter().map(|task| &task.prompt).collect();
            let result =
                ask(&client, &url, &batch.shared, &prompts, system.as_deref(), limit).await;
            Landed::Reply { server, batch, result, took: sent.elapsed().as_secs_f64() }
        })
    }

    fn ask_again(&mut self, flights: &FuturesUnordered<Flight>, now: Instant) {
        for (server, it) in self.servers.iter_mut().enumerate() {
            if it.ask_now(now) {
                let (client, url) = (self.client.clone(), it.url.clone());
                flights.push(Box::pin(async move {
                    Landed::Probe { server, probe: probe(&client, &url).await }
                }));
            }
        }
    }

    fn landed(&mut self, landed: Landed) {
        let now = Instant::now();
        match landed {
            Landed::Probe { server, probe } => {
                let served = |facts: &crate::domain::Facts| {
                    facts.models.iter().any(|model| model.id == self.policy.model)
                };
                let ready = matches!(&probe, Probe::Ready(facts) if served(facts));
                if self.servers[server].was_asked(ready, now) {
                    info!(endpoint = %self.servers[server].url, "the endpoint is ready");
                }
            }
            Landed::Reply { server, batch, result, took } => {
                let permits = batch.permits();
                self.servers[server].taken -= permits;
                self.in_flight -= permits;
                match result {
                    Ok(reply) => self.replied(server, batch, reply, took),
                    Err(fault) => self.failed(server, batch, fault, now, took),
                }
            }
        }
    }

    fn replied(&mut self, server: usize, batch: Batch, reply: Reply, took: f64) {
        self.servers[server].answered();
        let mut again = Vec::new();
        for (task, answer) in batch.tasks.into_iter().zip(reply.answers) {
            match answer {
                Some(answer) => self.answered(server, task, answer, took),
                None => again.push(task),
            }
        }
        if !again.is_empty() {
            let what = "the reply has no answer, or two, for this prompt".to_owned();
            let batch = Batch { shared: batch.shared, tasks: again };
            self.try_again(server, batch, what, Some(200), Instant::now(), took);
        }
    }

    fn answered(&mut self, server: usize, task: Task, mut answer: Answer, took: f64) {
        if !self.policy.usage {
            answer.usage = None;
        }
        let url = Some(self.servers[server].url.to_string());
        self.settle(task, Outcome::Answered(answer), url, took);
    }

    fn failed(&mut self, server: usize, batch: Batch, fault: Fault, now: Instant, took: f64) {
        let url = self.servers[server].url.clone();
        debug!(endpoint = %url, prompts = batch.tasks.len(), ?fault, "a request failed");
        match fault {
            Fault::Prompt { .. } | Fault::ListTooLong if batch.tasks.len() > 1 => {
                self.servers[server].answered();
                if fault == Fault::ListTooLong {
                    self.servers[server].takes_fewer_than(batch.tasks.len());
                }
                batch.halves().into_iter().for_each(|half| self.stock.whole(half));
            }
            Fault::Prompt { too_long, what, status } => {
                self.servers[server].answered();
                let kind = if too_long { FailureKind::TooLong } else { FailureKind::Refused };
                self.fail_all(server, batch, kind, &what, Some(status), took);
            }
            Fault::ListTooLong => {
                let what = "the server takes no list, not even of one";
                self.fail_all(server, batch, FailureKind::BadRequest, what, Some(400), took);
            }
            Fault::Request { what, status } => {
                self.servers[server].answered();
                let status = Some(status).filter(|&status| status > 0);
                self.fail_all(server, batch, FailureKind::BadRequest, &what, status, took);
            }
            Fault::TooManyTokens { left, what } => self.shrink(server, batch, left, &what, took),
            Fault::Busy { after } => {
                self.servers[server].refused(batch.permits());
                let wait = after.unwrap_or_default().max(pause(batch.tasks[0].attempts.min(3)));
                self.stock.later(now + wait, batch);
            }
            Fault::Passing { what, status } => {
                if self.servers[server].stumbled(now) {
                    warn!(endpoint = %url, "the endpoint is put aside after faults in a row: {what}");
                }
                self.try_again(server, batch, what, status, now, took);
            }
            Fault::Gone { what } => {
                if self.servers[server].gone(now) {
                    warn!(endpoint = %url, "the endpoint is gone: {what}");
                }
                // Not the prompts' fault: no try of theirs is used up.
                self.tally.retried += batch.tasks.len() as u64;
                self.stock.back(batch);
            }
        }
    }

    /// The server counted, and less is left than was asked for: ask for that.
    fn shrink(&mut self, server: usize, mut batch: Batch, left: u64, what: &str, took: f64) {
        self.servers[server].answered();
        let asked = batch.shared.params.number("max_tokens");
        if batch.tasks.len() > 1 {
            batch.halves().into_iter().for_each(|half| self.stock.whole(half));
        } else if asked.is_none_or(|asked| asked > left) {
            let mut shared = (*batch.shared).clone();
            shared.params.set("max_tokens", left.to_string());
            batch.shared = shared.into();
            self.stock.whole(batch);
        } else {
            self.fail_all(server, batch, FailureKind::TooLong, what, Some(400), took);
        }
    }

    /// Another try for those that have one left.
    fn try_again(
        &mut self,
        server: usize,
        batch: Batch,
        what: String,
        status: Option<u16>,
        now: Instant,
        took: f64,
    ) {
        let Batch { shared, mut tasks } = batch;
        // A server that has answered nothing since it came up is not well, whatever it says of itself: what it does is no
        // try of the prompts', unless they have been around for so long that they may be what breaks it.
        let well = self.servers[server].has_answered;
        for task in &mut tasks {
            let around = task.attempts >= self.policy.tries.saturating_mul(BREAKS_SERVERS);
            task.tried += u32::from(well || around);
            task.avoid = Some(server);
        }
        let (over, again): (Vec<Task>, Vec<Task>) =
            tasks.into_iter().partition(|task| task.tried >= self.policy.tries);
        if let Some(attempts) = again.iter().map(|task| task.attempts).max() {
            self.tally.retried += again.len() as u64;
            let batch = Batch { shared: shared.clone(), tasks: again };
            self.stock.later(now + pause(attempts), batch);
        }
        let batch = Batch { shared, tasks: over };
        let what = format!("no answer in {} tries; the last: {what}", self.policy.tries);
        self.fail_all(server, batch, FailureKind::Exhausted, &what, status, took);
    }

    fn fail_all(
        &mut self,
        server: usize,
        batch: Batch,
        kind: FailureKind,
        what: &str,
        status: Option<u16>,
        took: f64,
    ) {
        let url = self.servers[server].url.to_string();
        for task in batch.tasks {
            let failure = Failure { kind, message: what.to_owned(), status };
            self.settle(task, Outcome::Failed(failure), Some(url.clone()), took);
        }
    }

    fn settle(&mut self, task: Task, outcome: Outcome, endpoint: Option<String>, latency: f64) {
        let Task { prompt, attempts, .. } = task;
        let settled = Settled { prompt, outcome, endpoint, latency, attempts };
        self.tally.count(&settled);
        self.outcomes.push(settled);
    }

    /// No endpoint is up for as long as patience lasts; or some are and do nothing but refuse.
    fn nobody_left(&self, now: Instant) -> bool {
        let Policy { patience, timeout, .. } = self.policy;
        let down = self.down_since.is_some_and(|since| now - since >= patience);
        let stuck = now - self.moved >= patience.max(timeout * 2);
        self.in_flight == 0 && (down || stuck)
    }

    fn next_time(&self, next_word: Instant) -> Instant {
        let probes = self.servers.iter().filter_map(Server::due);
        let given_up = self.down_since.map(|since| since + self.policy.patience);
        let all = probes.chain(self.stock.due()).chain(given_up);
        // What is due already is waited for by something else (a probe under way, a permit): not by spinning.
        let least = Instant::now() + std::time::Duration::from_millis(5);
        all.fold(next_word, Instant::min).max(least)
    }

    fn progress(&self) -> Progress {
        Progress {
            tally: self.tally.clone(),
            in_flight: self.in_flight as u64,
            up: self.servers.iter().filter(|it| it.is_up()).count() as u64,
        }
    }
}

/// How long a list may wait to be filled.
const FILL: std::time::Duration = std::time::Duration::from_millis(20);
/// So many times the tries it has may a prompt be sent to servers that are not well.
const BREAKS_SERVERS: u32 = 8;

/// How long to wait before another try: half a second, doubling to 8 s, with jitter. A server that needs longer is put
/// aside, with pauses of its own.
fn pause(tried: u32) -> std::time::Duration {
    let mut steps = ExponentialBuilder::default()
        .with_min_delay(std::time::Duration::from_millis(500))
        .with_max_delay(std::time::Duration::from_secs(8))
        .without_max_times()
        .with_jitter()
        .build();
    steps.nth(tried.saturating_sub(1).min(16) as usize).unwrap_or_default()
}
