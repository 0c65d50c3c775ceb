//! What came back, and what becomes of its prompts: settled, tried again, or left to another request.
//!
//! Owns the consequences of answers and faults. What a fault means was found by `endpoint`; when something is sent again is
//! the driver's.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use tracing::{debug, info, warn};

use super::{
    Driver, Twin,
    in_flight::{Landed, UnderWay},
};
use crate::engine::{
    Count,
    endpoint_state::concurrency::Sample,
    queue::{Batch, Task},
};
use crate::{
    domain::{Answer, Failure, FailureKind, Outcome, Probe, Prompt, Settled},
    endpoint::{Canary, Fault, Load, Reply},
};

/// So many times the tries it has may a prompt be sent to servers that are not well.
const BREAKS_SERVERS: u32 = 8;

/// No server is waited for longer, whatever it asks for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A request that came back, without its prompts.
#[derive(Clone, Copy)]
struct Back {
    id: u64,
    server: usize,
    now: Instant,
    took: f64,
    /// Its limit was tighter than what was asked for, and it ran into it.
    cut_short: bool,
}

impl Driver {
    pub(crate) fn landed(&mut self, landed: Landed, now: Instant) {
        match landed {
            Landed::Probe { server, probe } => self.probed(server, &probe, now),
            Landed::Load { server, load } => self.load_told(server, load, now),
            Landed::Reply { id, result, canary } => {
                let Some(under_way) = self.under_way.remove(&id) else { return };
                let UnderWay { server, batch, sent, level, limit, tight, .. } = under_way;
                let full = self.servers[server].was_full;
                self.free(server, &batch);
                let took = now - sent;
                let cut_short = tight && took >= limit;
                let back = Back { id, server, now, took: took.as_secs_f64(), cut_short };
                if let Some(canary) = canary {
                    self.canary_back(server, canary);
                }
                match result {
                    Ok(reply) => {
                        self.measure(server, &batch, &reply, level, full, now);
                        self.replied(back, batch, reply);
                    }
                    Err(fault) => {
                        // (whoever else is asked for its prompts, the endpoint has failed)
                        let batch = self.without_twins(id, batch);
                        self.failed(back, batch, fault, level);
                    }
                }
            }
            Landed::Cancelled { id } => {
                let Some(under_way) = self.under_way.remove(&id) else { return };
                self.free(under_way.server, &under_way.batch);
                if under_way.canary {
                    self.servers[under_way.server].trust.came_back(None);
                }
                for task in &under_way.batch.tasks {
                    self.twins.remove(&task.prompt.index);
                }
            }
        }
    }

    fn free(&mut self, server: usize, batch: &Batch) {
        let permits = batch.permits();
        self.servers[server].taken -= permits;
        self.in_flight -= permits;
    }

    fn probed(&mut self, server: usize, probe: &Probe, now: Instant) {
        let served = |facts: &crate::domain::Facts| {
            facts.models.iter().any(|model| model.id == self.policy.model)
        };
        let ready = matches!(probe, Probe::Ready(facts) if served(facts));
        if self.servers[server].was_asked(ready, now) {
            info!(endpoint = %self.servers[server].url, "the endpoint is ready");
        }
    }

    fn load_told(&mut self, server: usize, load: Option<Load>, now: Instant) {
        let it = &mut self.servers[server];
        if let Some(Load { running, waiting, preemptions }) = load {
            let sample = Sample { running, waiting, preemptions };
            let list = it.lists.wish();
            let changed = it.window.sampled(sample, it.taken, list, now);
            if changed {
                let window = it.window.size();
                debug!(endpoint = %it.url, window, running, waiting, list, "the window is changed");
            }
        }
        it.load_told(load.is_some(), now);
    }

    fn canary_back(&mut self, server: usize, canary: Canary) {
        let it = &mut self.servers[server];
        let same = match &canary {
            Canary::Same => Some(true),
            Canary::Differs(_) => Some(false),
            Canary::Unknown => None,
        };
        if it.trust.came_back(same) {
            match canary {
                Canary::Differs(why) => {
                    info!(endpoint = %it.url, "conversations go one by one: {why}");
                }
                _ => {
                    info!(endpoint = %it.url, "conversations are rendered here and may go in lists")
                }
            }
        }
    }

    /// What an answered request shows of its endpoint.
    fn measure(
        &mut self,
        server: usize,
        batch: &Batch,
        reply: &Reply,
        level: usize,
        full: bool,
        now: Instant,
    ) {
        let up = self.servers.iter().filter(|it| it.is_up()).count();
        let tokens = reply.answers.iter().flatten().map(tokens_of).sum();
        let it = &mut self.servers[server];
        it.answered();
        it.window.admitted(level, batch.permits(), tokens, full, now);
        it.lists.answered(batch.tasks.len(), up, now);
        it.patience.saw(batch.tasks.len(), reply.took);
    }

    fn replied(&mut self, back: Back, batch: Batch, reply: Reply) {
        let mut again = Vec::new();
        for (task, answer) in batch.tasks.into_iter().zip(reply.answers) {
            if self.is_asked_elsewhere() && self.is_for_its_twin(back.id, &task, answer.is_some()) {
                continue;
            }
            match answer {
                Some(answer) => self.answered(back, task, answer),
                None => again.push(task),
            }
        }
        if !again.is_empty() {
            let what = "the reply has no answer, or two, for this prompt".to_owned();
            let batch = Batch { shared: batch.shared, tasks: again };
            self.try_again(back, batch, &what, Some(200));
        }
    }

    fn answered(&mut self, back: Back, task: Task, mut answer: Answer) {
        self.stock.saw(task.class, tokens_of(&answer));
        if self.policy.usage == Count::Off {
            answer.usage = None;
        }
        self.settle(task, Outcome::Answered(answer), Some(back));
    }

    fn is_asked_elsewhere(&self) -> bool {
        !(self.twins.is_empty() && self.forgotten.is_empty())
    }

    /// Of a prompt that is asked twice: has the other request answered it, or will it? Then there is nothing to do here.
    fn is_for_its_twin(&mut self, id: u64, task: &Task, answered: bool) -> bool {
        if self.forgotten.contains(&task.prompt.index) {
            return true;
        }
        let Some(twin) = self.twins.get_mut(&task.prompt.index) else { return false };
        if twin.settled || !answered {
            self.twins.remove(&task.prompt.index);
            return true;
        }
        twin.settled = true;
        let other = twin.requests.into_iter().find(|&it| it != id);
        self.cancel_if_nobody_waits(other);
        false
    }

    fn without_twins(&mut self, id: u64, mut batch: Batch) -> Batch {
        if self.is_asked_elsewhere() {
            batch.tasks.retain(|task| !self.is_for_its_twin(id, task, false));
        }
        batch
    }

    /// The connection is closed when nobody wants anything in it any more: the server then stops working on it.
    pub(crate) fn cancel_if_nobody_waits(&self, id: Option<u64>) {
        let Some(under_way) = id.and_then(|id| self.under_way.get(&id)) else { return };
        let settled = |task: &Task| {
            let index = task.prompt.index;
            self.forgotten.contains(&index)
                || self.twins.get(&index).is_some_and(|twin: &Twin| twin.settled)
        };
        if under_way.batch.tasks.iter().all(settled) {
            under_way.cancel.abort();
        }
    }

    fn failed(&mut self, back: Back, batch: Batch, fault: Fault, level: usize) {
        let Back { server, now, .. } = back;
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
                self.fail_all(back, batch, kind, &what, Some(status));
            }
            Fault::ListTooLong => {
                let what = "the server takes no list, not even of one";
                self.fail_all(back, batch, FailureKind::BadRequest, what, Some(400));
            }
            Fault::Request { what, status } => {
                self.servers[server].answered();
                let status = Some(status).filter(|&status| status > 0);
                self.fail_all(back, batch, FailureKind::BadRequest, &what, status);
            }
            Fault::TooManyTokens { left, what } => self.shrink(back, batch, left, &what),
            Fault::Busy { after } => {
                self.servers[server].refused(level, batch.permits(), now);
                // A server that names hours is asked again in a minute: it may have been another's hour.
                let wait = after.unwrap_or_default().min(LONGEST_WAIT);
                let attempts = batch.tasks.iter().map(|task| task.attempts).max().unwrap_or(1);
                self.stock.later(now + wait.max(pause(attempts.min(3))), batch);
            }
            Fault::Passing { what, status } => {
                let briefly = status.is_some() && self.is_tried_only();
                if self.servers[server].stumbled(now, briefly) {
                    warn!(endpoint = %url, "the endpoint is put aside after faults in a row: {what}");
                    self.stock.release(server);
                }
                self.try_again(back, batch, &what, status);
            }
            Fault::Gone { what } => {
                if self.servers[server].gone(now) {
                    warn!(endpoint = %url, "the endpoint is gone: {what}");
                    self.stock.release(server);
                }
                // Not the prompts' fault: no try of theirs is used up.
                self.tally.retried += batch.tasks.len() as u64;
                self.stock.back(batch);
            }
        }
    }

    /// The server counted, and less is left than was asked for: ask for that.
    fn shrink(&mut self, back: Back, mut batch: Batch, left: u64, what: &str) {
        self.servers[back.server].answered();
        let asked = batch.shared.params.number("max_tokens");
        if batch.tasks.len() > 1 {
            batch.halves().into_iter().for_each(|half| self.stock.whole(half));
        } else if asked.is_none_or(|asked| asked > left) {
            let mut shared = (*batch.shared).clone();
            shared.params.set("max_tokens", left.to_string());
            batch.shared = shared.into();
            self.stock.whole(batch);
        } else {
            self.fail_all(back, batch, FailureKind::TooLong, what, Some(400));
        }
    }

    /// Another try for those that have one left.
    fn try_again(&mut self, back: Back, batch: Batch, what: &str, status: Option<u16>) {
        let Batch { shared, mut tasks } = batch;
        // A server that has answered nothing since it came up is not well, whatever it says of itself: what it does is no
        // try of the prompts', unless they have been around for so long that they may be what breaks it.
        // Where only such prompts are left that failed before, a status is an answer: they must not be open for ever
        // because nothing else is left that could show how well the server is.
        let it = &self.servers[back.server];
        let speaks = status.is_some() && it.ever_answered && self.is_tried_only();
        let well = (it.has_answered || speaks) && !back.cut_short;
        for task in &mut tasks {
            let around = task.attempts >= self.policy.tries.saturating_mul(BREAKS_SERVERS);
            task.tried += u32::from(well || around);
            task.avoid = Some(back.server);
        }
        let (over, again): (Vec<Task>, Vec<Task>) =
            tasks.into_iter().partition(|task| task.tried >= self.policy.tries);
        if let Some(attempts) = again.iter().map(|task| task.attempts).max() {
            self.tally.retried += again.len() as u64;
            let batch = Batch { shared: shared.clone(), tasks: again };
            self.stock.later(back.now + pause(attempts), batch);
        }
        let batch = Batch { shared, tasks: over };
        let what = format!("no answer in {} tries; the last: {what}", self.policy.tries);
        self.fail_all(back, batch, FailureKind::Exhausted, &what, status);
    }

    /// Was everything that is left asked before?
    fn is_tried_only(&self) -> bool {
        self.is_ending() && self.stock.fresh() == 0
    }

    fn fail_all(
        &mut self,
        back: Back,
        batch: Batch,
        kind: FailureKind,
        what: &str,
        status: Option<u16>,
    ) {
        for task in batch.tasks {
            let failure = Failure { kind, message: what.to_owned(), status };
            self.settle(task, Outcome::Failed(failure), Some(back));
        }
    }

    /// An empty prompt is not sent.
    pub(crate) fn settle_blank(&mut self, prompt: Prompt) {
        let failure = Failure {
            kind: FailureKind::EmptyPrompt,
            message: "the prompt is empty: nothing was asked".into(),
            status: None,
        };
        let outcome = Outcome::Failed(failure);
        let settled = Settled { prompt, outcome, endpoint: None, latency: 0.0, attempts: 0 };
        self.alike.pass(settled, &mut self.outcomes);
    }

    fn settle(&mut self, task: Task, outcome: Outcome, back: Option<Back>) {
        let Task { prompt, attempts, .. } = task;
        let endpoint = back.map(|back| self.servers[back.server].label.clone());
        let latency = back.map_or(0.0, |back| back.took);
        let settled = Settled { prompt, outcome, endpoint, latency, attempts };
        self.alike.pass(settled, &mut self.outcomes);
    }
}

/// Tokens of an answer; where they are not counted, about.
fn tokens_of(answer: &Answer) -> u64 {
    match answer.usage {
        Some(usage) => usage.completion_tokens,
        None => answer.choices.iter().map(|it| it.text.len() as u64 / 4).sum(),
    }
}

/// How long to wait before another try: half a second, doubling to 8 s, with jitter. A server that needs longer is put
/// aside, with pauses of its own.
fn pause(tried: u32) -> Duration {
    let mut steps = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(8))
        .without_max_times()
        .with_jitter()
        .build();
    steps.nth(tried.saturating_sub(1).min(16) as usize).unwrap_or_default()
}
