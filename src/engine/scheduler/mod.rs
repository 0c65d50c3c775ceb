//! One loop that keeps a rank's endpoints full: takes prompts in, sends what fits, hands on what comes back.
//!
//! One task owns all state; requests under way are futures it polls. Permits are taken before a list is cut and come back
//! with its answers. Decisions are those of `stock`, `window`, `lists`, `endgame` and their like; what becomes of a request
//! that came back is in `verdicts`; this file only makes things happen.

pub(crate) mod backlog;
pub(crate) mod completion;
pub(crate) mod fail_fast;
pub(crate) mod hedging;
pub(crate) mod in_flight;
pub(crate) mod observer;
pub(crate) mod tail_policy;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::sleep_until};

use super::{
    Command, Ended, Policy, Progress, Size, Word,
    endpoint_state::{Endpoint, Server, render_check::Trust},
    queue::{Batch, Room, Stock},
};
use crate::{
    domain::{Prompt, Route, Settled, Tally},
    endpoint::Client,
};
use backlog::Telling;
use fail_fast::{Alike, MOMENT};
use in_flight::{Flight, Landed, Outgoing, UnderWay};
use observer::Watch;
use tail_policy::Speed;

/// What the loop needs to begin, and all that it knows.
pub(super) struct Driver {
    pub(super) policy: Policy,
    pub(super) client: Client,
    pub(super) servers: Vec<Server>,
    pub(super) stock: Stock,
    pub(super) tally: Tally,
    /// Sequences in flight.
    pub(super) in_flight: usize,
    pub(super) under_way: HashMap<u64, UnderWay>,
    pub(super) ids: u64,
    /// Prompts that are asked twice, by index.
    pub(super) twins: HashMap<u64, Twin>,
    pub(super) alike: Alike,
    pub(super) outcomes: Vec<Settled>,
    /// Nothing is sent until somebody decides whether the job is wrong.
    pub(super) paused: bool,
    /// More prompts may come.
    pub(super) more: bool,
    /// So many prompts were given in all; and there are no more for now.
    pub(super) given: u64,
    pub(super) ending: bool,
    /// Prompts taken in.
    pub(super) taken: u64,
    /// Somebody else has settled these, which were here or on their way.
    pub(super) forgotten: HashSet<u64>,
    /// Of the first so many prompts none is wanted that was not sent.
    pub(super) recalled: u64,
    /// These came in all the same.
    pub(super) unwanted: Vec<u64>,
    pub(super) telling: Telling,
    /// Nothing is sent any more.
    pub(super) draining: bool,
    /// No endpoint has been up since.
    pub(super) down_since: Option<Instant>,
    began: Instant,
    /// Something was settled last, or nothing was there to be.
    pub(super) moved: Instant,
    /// The loop went round last.
    pub(super) round: Instant,
    /// Prompts for a full list are being waited for since.
    pub(super) filling: Option<Instant>,
    pub(super) next_copies: Instant,
    /// The last prompts are kept from a slow endpoint: since when there are so many of them.
    withheld: Option<(Instant, usize)>,
    pub(super) watch: Watch,
}

/// A prompt that is asked twice: the first answer counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Twin {
    pub(super) requests: [u64; 2],
    pub(super) settled: bool,
}

/// What the loop woke up for.
enum Woken {
    Landed(Landed),
    Prompt(Option<Prompt>),
    Time,
    Command(Option<Command>),
}

/// Prompts read ahead, and the bytes of their texts: enough to order the work in, little enough to lose nothing by it.
const AHEAD: usize = 8_192;
const AHEAD_BYTES: usize = 16 << 20;
/// Replies taken in before what they free is used: one look at everything serves many.
const AT_ONCE: usize = 64;

impl Driver {
    pub(super) fn new(policy: Policy, client: Client, endpoints: Vec<Endpoint>) -> Self {
        let now = Instant::now();
        let server = |endpoint| Server::new(endpoint, &policy, now);
        let servers: Vec<Server> = endpoints.into_iter().map(server).collect();
        Self {
            watch: Watch::new(&servers, now),
            servers,
            alike: Alike::new(policy.alike),
            policy,
            client,
            stock: Stock::default(),
            tally: Tally::default(),
            in_flight: 0,
            under_way: HashMap::new(),
            ids: 0,
            twins: HashMap::new(),
            outcomes: Vec::new(),
            paused: false,
            more: true,
            given: 0,
            ending: false,
            taken: 0,
            forgotten: HashSet::new(),
            recalled: 0,
            unwanted: Vec::new(),
            telling: Telling::new(now),
            draining: false,
            down_since: None,
            began: now,
            moved: now,
            round: now,
            filling: None,
            next_copies: now,
            withheld: None,
        }
    }

    /// Until every prompt has its outcome, nobody is left to ask, or a command says so.
    pub(super) async fn work(
        &mut self,
        prompts: &mut mpsc::Receiver<Prompt>,
        settled: &mpsc::Sender<Vec<Settled>>,
        commands: &mut mpsc::UnboundedReceiver<Command>,
        tell: &impl Fn(Word),
    ) -> Ended {
        let mut flights: FuturesUnordered<Flight> = FuturesUnordered::new();
        let mut next_word = Instant::now();
        loop {
            let now = Instant::now();
            self.was_away(now);
            self.watch(now);
            self.stock.ripen(now);
            self.take_what_is_there(prompts);
            if !self.paused && !self.draining && !self.is_filling(now) {
                self.send(&flights, now);
                self.copy(&flights, now);
                self.servers.iter_mut().for_each(|it| it.was_full = it.is_full());
            }
            self.ask_again(&flights, now);
            let all_done = self.is_ending() && self.stock.len() == 0 && self.in_flight == 0;
            if !self.paused
                && let Some((count, message)) = self.alike.verdict(all_done)
            {
                self.paused = true;
                tell(Word::AllAlike(count, message));
            }
            if !self.outcomes.is_empty() || self.stock.len() == 0 {
                self.moved = now;
            }
            if !self.outcomes.is_empty() {
                let outcomes = std::mem::take(&mut self.outcomes);
                outcomes.iter().for_each(|outcome| self.tally.count(outcome));
                self.watch_outcomes(&outcomes, now);
                if settled.send(outcomes).await.is_err() {
                    return Ended::NotWritten;
                }
            }
            if now >= next_word {
                tell(Word::Progress(self.progress()));
                next_word = now + super::WORD_EVERY;
            }
            self.say_what_is_in_hand(now, tell);
            if all_done && !self.more && !self.paused {
                tell(Word::Progress(self.progress()));
                return Ended::Finished;
            }
            if self.is_stuck(now) {
                return Ended::NobodyLeft;
            }
            let wake = self.next_time(next_word, now);
            let woken = tokio::select! {
                Some(landed) = flights.next(), if !flights.is_empty() => Woken::Landed(landed),
                prompt = prompts.recv(), if self.more && self.wants_more() => Woken::Prompt(prompt),
                () = sleep_until(wake.into()) => Woken::Time,
                command = commands.recv() => Woken::Command(command),
                // Seen here as well as by the next outcome: there may be no next one, and these would be waited for for ever.
                () = settled.closed() => return Ended::NotWritten,
            };
            match woken {
                Woken::Landed(landed) => {
                    let now = Instant::now();
                    self.landed(landed, now);
                    for _ in 0..AT_ONCE {
                        let Some(Some(landed)) = flights.next().now_or_never() else { break };
                        self.landed(landed, now);
                    }
                }
                Woken::Prompt(Some(prompt)) => self.take_in(prompt),
                Woken::Prompt(None) => self.more = false,
                Woken::Time => {}
                Woken::Command(Some(Command::GoOn)) => {
                    self.paused = false;
                    self.alike.release(&mut self.outcomes);
                }
                Woken::Command(Some(Command::Further)) => {
                    self.paused = false;
                    self.alike.further();
                }
                Woken::Command(Some(Command::Given(given, ending))) => {
                    (self.given, self.ending) = (given, ending);
                }
                Woken::Command(Some(Command::Forget(indexes))) => self.forget(&indexes),
                Woken::Command(Some(Command::GiveBack(given))) => {
                    self.recalled = given;
                    self.give_back(tell);
                }
                Woken::Command(Some(Command::Drain)) => self.draining = true,
                Woken::Command(Some(Command::Stop) | None) => return Ended::Stopped,
            }
        }
    }

    fn take_what_is_there(&mut self, prompts: &mut mpsc::Receiver<Prompt>) {
        while self.more && self.wants_more() {
            match prompts.try_recv() {
                Ok(prompt) => self.take_in(prompt),
                Err(mpsc::error::TryRecvError::Disconnected) => self.more = false,
                Err(mpsc::error::TryRecvError::Empty) => break,
            }
        }
    }

    fn wants_more(&self) -> bool {
        let (prompts, bytes) = (self.stock.len(), self.stock.bytes());
        if prompts < AHEAD && bytes < AHEAD_BYTES {
            return true;
        }
        // However long they are, what the windows can hold is needed.
        let windows: usize =
            self.servers.iter().filter(|it| it.is_up()).map(|it| it.window.size()).sum();
        prompts < windows
    }

    fn take_in(&mut self, prompt: Prompt) {
        self.taken += 1;
        if self.forgotten.contains(&prompt.index) {
            return;
        }
        if self.taken <= self.recalled {
            self.unwanted.push(prompt.index);
        } else if prompt.input.is_blank() {
            self.settle_blank(prompt);
        } else {
            self.stock.add(prompt, &self.policy);
        }
    }

    /// Sends requests while there are permits and prompts.
    fn send(&mut self, flights: &FuturesUnordered<Flight>, now: Instant) {
        let up = self.servers.iter().filter(|it| it.is_up()).count();
        self.down_since = if up == 0 { self.down_since.or(Some(now)) } else { None };
        if self.stock.len() == 0 {
            return;
        }
        let free = |servers: &[Server], it: usize| servers[it].free(now) > 0;
        let mut open: Vec<usize> =
            (0..self.servers.len()).filter(|&it| free(&self.servers, it)).collect();
        // The next request goes to the emptiest endpoint, so that few prompts are spread over all.
        let passed = now - self.began;
        // (with nothing under way there is nothing to wait for)
        while (self.under_way.is_empty() || !self.alike.holds_back(self.tally.requests, passed))
            && let Some(&server) = open.iter().min_by(|&&a, &&b| {
                let fill = |it: usize| {
                    let server = &self.servers[it];
                    server.taken as f64 / server.window.size() as f64
                };
                fill(a).total_cmp(&fill(b))
            })
        {
            match self.cut(server, up, now) {
                Some(batch) => self.launch(flights, server, batch, now),
                None => open.retain(|&it| it != server),
            }
            if !free(&self.servers, server) {
                open.retain(|&it| it != server);
            }
        }
    }

    fn cut(&mut self, server: usize, up: usize, now: Instant) -> Option<Batch> {
        let waiting = self.stock.len();
        let (mut most, window) = (self.servers[server].most(), self.servers[server].window.size());
        if self.is_ending() {
            if self.policy.batch == Size::Auto {
                // The last lists are short, so that they end together.
                most = most.min((waiting / (4 * up)).max(1));
            }
            if up > 1 && waiting < window * up && self.withholds(server, waiting, now) {
                return None;
            }
        }
        let it = &self.servers[server];
        let room = Room {
            endpoint: server,
            free: it.free(now),
            most,
            renders: it.trust == Trust::Given,
            idle: it.taken == 0,
            others: up > 1,
        };
        self.stock.cut(room)
    }

    fn withholds(&mut self, server: usize, waiting: usize, now: Instant) -> bool {
        let speed = |it: &Server| Speed { usual: it.patience.usual(1), rate: it.lists.rate() };
        let others = self.servers.iter().enumerate();
        let others: Vec<Speed> = others
            .filter(|(place, it)| *place != server && it.is_well())
            .map(|(_, it)| speed(it))
            .collect();
        let mine = speed(&self.servers[server]);
        if !tail_policy::withholds(mine, &others, waiting) {
            return false;
        }
        // For no longer than the others go on: they may have come to a standstill.
        match self.withheld {
            Some((since, then)) if then == waiting => {
                mine.usual.is_some_and(|usual| now - since < usual)
            }
            _ => {
                self.withheld = Some((now, waiting));
                true
            }
        }
    }

    pub(super) fn launch(
        &mut self,
        flights: &FuturesUnordered<Flight>,
        server: usize,
        mut batch: Batch,
        now: Instant,
    ) {
        // Where nothing of it can go this way it is back in stock.
        let Some(outgoing) = self.outgoing(server, &mut batch) else { return };
        let permits = batch.permits();
        self.servers[server].begins(permits, self.policy.rate_limit, now);
        self.in_flight += permits;
        self.tally.requests += 1;
        let first = batch.tasks.iter().all(|task| task.attempts == 0);
        batch.tasks.iter_mut().for_each(|task| task.attempts += 1);
        let it = &self.servers[server];
        let whole = self.policy.limit(batch.tasks.len());
        let tight = it.patience.limit(batch.tasks.len()).filter(|&tight| first && tight < whole);
        let limit = tight.unwrap_or(whole);
        self.ids += 1;
        let id = self.ids;
        let canary = matches!(outgoing, Outgoing::Canary(_));
        let (client, policy) = (&self.client, &self.policy);
        let (flight, cancel) =
            in_flight::request(client, &it.url, policy, id, outgoing, &batch, limit);
        let (level, tight) = (it.taken, tight.is_some());
        let under_way = UnderWay { server, batch, sent: now, level, limit, tight, canary, cancel };
        self.under_way.insert(id, under_way);
        flights.push(flight);
    }

    fn outgoing(&mut self, server: usize, batch: &mut Batch) -> Option<Outgoing> {
        let conversations = batch.shared.route == Route::Chat && batch.shared.lists;
        if conversations && batch.tasks.len() > 1 {
            let (question, left) = in_flight::rendered(&self.policy, batch);
            if let Some(left) = left {
                self.stock.back(left);
            }
            return question.map(Outgoing::Question);
        }
        if conversations && self.servers[server].trust.takes_canary() {
            let kwargs = batch.shared.params.get(super::policy::TEMPLATE_ARGUMENTS);
            match in_flight::text(&self.policy, &batch.tasks[0].prompt, kwargs) {
                Some(text) => return Some(Outgoing::Canary(text)),
                None => {
                    self.servers[server].trust.came_back(None);
                }
            }
        }
        Some(Outgoing::Question(in_flight::plain(&self.policy, batch)))
    }

    fn ask_again(&mut self, flights: &FuturesUnordered<Flight>, now: Instant) {
        for (server, it) in self.servers.iter_mut().enumerate() {
            if it.ask_now(now) {
                flights.push(in_flight::asks_ready(&self.client, &it.url, server));
            }
            if it.load_due().is_some_and(|due| due <= now) {
                it.asks_load();
                flights.push(in_flight::asks_load(&self.client, &it.url, server));
            }
        }
    }

    /// Endpoints are up, and do nothing but refuse.
    fn is_stuck(&self, now: Instant) -> bool {
        let Policy { patience, timeout, .. } = self.policy;
        let stuck = now - self.moved >= patience.max(timeout * 2);
        self.in_flight == 0 && !self.paused && stuck
    }

    fn next_time(&self, next_word: Instant, now: Instant) -> Instant {
        let probes = self.servers.iter().filter_map(Server::due);
        let loads = self.servers.iter().filter_map(Server::load_due);
        let starts = self.servers.iter().filter_map(|it| it.starts_at(now));
        let given_back = self.gives_back_at();
        let telling = self.telling.due(self);
        let moment = Some(self.began + MOMENT).filter(|&it| it > now);
        let copies = (self.is_ending() && !self.under_way.is_empty()).then_some(self.next_copies);
        let withheld = self.withheld.map(|_| now + hedging::EVERY);
        let filled = self.filling.map(|since| since + self.policy.max_wait);
        let all = probes.chain(loads).chain(self.stock.due()).chain(given_back);
        let all = all
            .chain(telling)
            .chain(copies)
            .chain(moment)
            .chain(withheld)
            .chain(filled.filter(|&it| it > now));
        // What is due already is waited for by something else (a probe under way, a permit): not by spinning.
        let least = now + Duration::from_millis(5);
        let wake = all.fold(next_word, Instant::min).max(least);
        // A rate limit may allow more than one request in that time.
        starts.fold(wake, Instant::min)
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            tally: self.tally.clone(),
            in_flight: self.in_flight as u64,
            up: self.servers.iter().filter(|it| it.is_up()).count() as u64,
        }
    }
}
