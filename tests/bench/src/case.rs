//! A case: servers, work and flags, put together into one run of the product, and the figures
//! that every such run gives.
//!
//! It owns the run's folder and what the product is given to do; which figures are held against
//! which bar is the scenarios' part.

use crate::check;
use crate::flags::{ALWAYS, LOG_OF_RANKS, owned};
use crate::http;
use crate::product::{Launch, Ran, Start};
use crate::scenario::{Bench, Broken, Figures};
use crate::schedule;
use crate::servers::{Running, Servers};
use crate::work::{self, Cost, Coster, Prompt};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use vllm_sim::{CostModel, Seen};

/// How much work there is.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// So many prompts.
    Prompts(usize),
    /// As many as take so many seconds at the bound.
    Seconds(f64),
}

/// How a prompt is made, from its place.
pub type Make = fn(u64) -> Prompt;

/// One run, described.
#[derive(Clone)]
pub struct Case {
    /// Each a process with some endpoints.
    pub servers: Vec<Servers>,
    /// The speed the bound is for: the slow factors of the endpoints that do the work. The cost
    /// model and the answers' lengths are the first servers'.
    pub speed: Vec<f64>,
    pub amount: Amount,
    pub make: Make,
    /// Changes the order in which the prompts stand in the input.
    pub order: fn(Vec<Prompt>) -> Vec<Prompt>,
    /// `--max-tokens`.
    pub max_tokens: usize,
    /// What the product is told besides.
    pub flags: Vec<String>,
    /// The program is killed after so much more than eight times the bound.
    pub patience: Duration,
    pub launch: Launch,
}

/// What a run gave.
pub struct Outcome {
    /// What its end and the servers tell.
    pub figures: Figures,
    /// The tokens that all endpoints' engines have made, about every second: (seconds since the
    /// first request, tokens).
    pub samples: Vec<(f64, f64)>,
}

impl Case {
    /// On endpoints of one process, with the product's own flags and room for a run that is eight
    /// times as slow as it could be.
    pub fn on(servers: Servers, amount: Amount, make: Make) -> Self {
        Self {
            speed: servers.slow.clone(),
            servers: vec![servers],
            amount,
            make,
            order: |prompts| prompts,
            max_tokens: 1024,
            flags: Vec::new(),
            patience: Duration::from_secs(60),
            launch: Launch::Alone,
        }
    }

    /// The same on so many ranks, watched, with a log that tells how long their stations took.
    pub fn ranks(self, ranks: usize) -> Self {
        Self { launch: Launch::Watched(ranks), ..self }.flags(owned(LOG_OF_RANKS))
    }

    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    pub fn flags(mut self, flags: Vec<String>) -> Self {
        self.flags.extend(flags);
        self
    }

    /// The shares of the bound that clients without any delay reach: in the input's order, and
    /// longest answers first.
    #[cfg(test)]
    pub fn ideals(&self) -> (f64, f64) {
        let (_, costs) = self.work(&mut Coster::new(self.servers[0].policy(), self.max_tokens));
        let model = &self.servers[0].cost;
        let bound = bound(&costs, model, &self.speed).as_secs_f64();
        let share = |costs: &[Cost]| bound / schedule::seconds(costs, model, &self.speed);
        (share(&costs), share(&schedule::longest_first(&costs)))
    }

    /// What it is measured with.
    pub fn parameters(&self) -> Value {
        json!({
            "servers": self.servers.iter().map(Servers::args).collect::<Vec<_>>(),
            "bound_for_endpoints": self.speed,
            "amount": format!("{:?}", self.amount),
            "launch": format!("{:?}", self.launch),
            "product": self.arguments(),
        })
    }

    /// One run, and the figures that every run gives:
    /// `prompts`, `bound_s`, `wall_s` (last answer − first request), `share` (bound / wall),
    /// `in_order_share` and `longest_first_share` (the same of clients without any delay, see
    /// `schedule`), `served` (prompts served / prompts),
    /// `prompts_per_s`, `cpu_us` (a prompt), `process_s`, `requests`,
    /// `largest_list`, `in_flight` (the most at an endpoint), `faults` (carried out), `output_mb`;
    /// where all endpoints still live at the end `hit_rate` and `work` (tokens made / tokens
    /// needed); and what `Ran::costs` and, on ranks, `Ran::stations` tell.
    pub fn run(&self, bench: &Bench) -> Result<Outcome, Broken> {
        let mut coster = Coster::new(self.servers[0].policy(), self.max_tokens);
        let (prompts, costs) = self.work(&mut coster);
        let model = &self.servers[0].cost;
        let bound = bound(&costs, model, &self.speed);
        let folder = tempfile::tempdir().map_err(Broken::at("a folder for the run"))?;
        let (input, answers) =
            (folder.path().join("input.jsonl"), folder.path().join("answers.jsonl"));
        work::write(&prompts, &input).map_err(Broken::at("writing the input"))?;

        let running: Vec<Running> =
            self.servers.iter().map(|s| s.start(bench)).collect::<Result<_, _>>()?;
        let urls: Vec<&str> = running.iter().flat_map(|r| &r.urls).map(String::as_str).collect();
        let mut samples = Vec::new();
        let ran = Start {
            command: "run",
            folder: folder.path(),
            input: &input,
            answers: &answers,
            urls: &urls,
            arguments: &self.arguments(),
            launch: self.launch,
            deadline: self.patience + self.limit(bound, prompts.len()),
        }
        .run(bench, || samples.extend(sum(&urls, TOKENS).map(|tokens| (now(), tokens))))?;
        check::all_answered(&answers, prompts.len(), |at| prompts[at].clone(), &coster)?;

        let (tokens, hits) = (sum(&urls, TOKENS), hit_rate(&urls));
        let mut seen = Vec::new();
        for servers in running {
            seen.extend(servers.finish()?);
        }
        let first = first_request(&seen);
        let mut figures = self.figures(&costs, bound, &ran, &seen)?;
        figures.extend(ran.stations(first));
        let bytes = answers.metadata().map_err(Broken::at("the answers"))?.len();
        figures.insert("output_mb".to_owned(), bytes as f64 / 1e6);
        let needed: usize = costs.iter().map(|c| c.output).sum();
        figures.extend(tokens.map(|made| ("work".to_owned(), made / needed as f64)));
        figures.extend(hits.map(|rate| ("hit_rate".to_owned(), rate)));
        let samples = samples.into_iter().map(|(at, tokens)| (at - first, tokens)).collect();
        Ok(Outcome { figures, samples })
    }

    /// Servers that answer at once have no bound: there it is a thousand prompts a second, a tenth of the slowest.
    fn limit(&self, bound: Duration, prompts: usize) -> Duration {
        let at_once = self.servers.iter().all(|servers| servers.instant);
        if at_once { Duration::from_millis(prompts as u64) } else { bound * 8 }
    }

    fn arguments(&self) -> Vec<String> {
        let fixed = ALWAYS.iter().map(|flag| (*flag).to_owned());
        let tokens = ["--max-tokens".to_owned(), self.max_tokens.to_string()];
        fixed.chain(tokens).chain(self.flags.clone()).collect()
    }

    fn work(&self, coster: &mut Coster) -> (Vec<Prompt>, Vec<Cost>) {
        let model = &self.servers[0].cost;
        let (mut prompts, mut costs, mut seconds) = (Vec::new(), Vec::new(), 0.0);
        let enough = |count: usize, seconds: f64| match self.amount {
            Amount::Prompts(n) => count >= n,
            Amount::Seconds(wanted) => seconds >= wanted,
        };
        while !enough(prompts.len(), seconds) {
            let prompt = (self.make)(prompts.len() as u64);
            let cost = coster.cost(&prompt);
            seconds += bound(&[cost], model, &self.speed).as_secs_f64();
            costs.push(cost);
            prompts.push(prompt);
        }
        let ordered = (self.order)(prompts);
        // In another order another prompt of a group is its first; what they cost all in all is
        // the same.
        let mut again = Coster::new(self.servers[0].policy(), self.max_tokens);
        costs = ordered.iter().map(|prompt| again.cost(prompt)).collect();
        (ordered, costs)
    }

    fn figures(
        &self,
        costs: &[Cost],
        bound: Duration,
        ran: &Ran,
        seen: &[Seen],
    ) -> Result<Figures, Broken> {
        let total = |of: fn(&Seen) -> u64| seen.iter().map(of).sum::<u64>();
        let most = |of: fn(&Seen) -> u64| seen.iter().map(of).max().unwrap_or_default() as f64;
        let (n, served) = (costs.len() as f64, total(|s| s.served));
        let sums = costs.iter().fold((0, 0), |sum, c| (sum.0 + c.prompt, sum.1 + c.output));
        let told = (total(|s| s.prompt_tokens) as usize, total(|s| s.completion_tokens) as usize);
        if served as usize == costs.len() && told != sums {
            let what = "the bound is made of other (prompt, answer) tokens than were served";
            return Err(Broken(format!("{what}: {sums:?}, not {told:?}")));
        }
        let wall = most(|s| s.last_answer_us) / 1e6 - first_request(seen);
        let model = &self.servers[0].cost;
        let bound = bound.as_secs_f64();
        let ideal = |costs: &[Cost]| bound / schedule::seconds(costs, model, &self.speed);
        let mut figures: Figures = [
            ("prompts", n),
            ("bound_s", bound),
            ("in_order_share", ideal(costs)),
            ("longest_first_share", ideal(&schedule::longest_first(costs))),
            ("wall_s", wall),
            ("share", bound / wall),
            ("served", served as f64 / n),
            ("prompts_per_s", n / wall),
            ("process_s", ran.ended.wall.as_secs_f64()),
            ("requests", total(|s| s.requests) as f64),
            ("largest_list", most(|s| s.largest_list)),
            ("in_flight", most(|s| s.most_in_flight)),
            ("faults", total(|s| s.faults) as f64),
        ]
        .map(|(name, figure)| (name.to_owned(), figure))
        .into();
        figures.extend(ran.costs());
        let cpu = figures.get("cpu_s").map(|cpu_s| cpu_s * 1e6 / n);
        figures.extend(cpu.map(|us| ("cpu_us".to_owned(), us)));
        Ok(figures)
    }
}

const TOKENS: &str = "vllm:generation_tokens_total";

/// A metric's sum over all endpoints; none where one of them does not tell.
fn sum(urls: &[&str], metric: &str) -> Option<f64> {
    urls.iter().map(|url| http::metric(&http::get(url, "/metrics").ok()?, metric)).sum()
}

fn hit_rate(urls: &[&str]) -> Option<f64> {
    let hits = sum(urls, "vllm:prefix_cache_hits_total")?;
    let queries = sum(urls, "vllm:prefix_cache_queries_total")?;
    (queries > 0.0).then_some(hits / queries)
}

fn bound(costs: &[Cost], model: &CostModel, speed: &[f64]) -> Duration {
    model.bound(costs.iter().map(|c| (c.fresh, c.output)), speed)
}

/// In seconds since 1970.
pub fn first_request(seen: &[Seen]) -> f64 {
    let times = seen.iter().map(|s| s.first_request_us).filter(|us| *us > 0);
    times.min().unwrap_or_default() as f64 / 1e6
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::child::Ended;
    use crate::lengths::text;
    use crate::watch::Usage;
    use vllm_sim::Lengths;

    fn case(amount: Amount) -> Case {
        let servers = Servers::even(4, Lengths::Fixed(48));
        Case::on(servers, amount, |at| Prompt::plain(text(at, 20)))
    }

    #[test]
    fn work_is_as_long_as_was_wanted() {
        let case = case(Amount::Seconds(1.0));
        let (prompts, costs) = case.work(&mut Coster::new(case.servers[0].policy(), 64));
        let bound = bound(&costs, &CostModel::default(), &[1.0; 4]).as_secs_f64();
        assert_eq!(prompts.len(), costs.len());
        assert!((1.0..1.01).contains(&bound), "{bound}");
    }

    #[test]
    fn a_run_against_servers_that_answer_at_once_has_a_limit_of_its_own() {
        let (bound, mut case) = (Duration::from_secs(100), case(Amount::Prompts(3000)));
        assert_eq!(case.limit(bound, 3000), Duration::from_secs(800));
        case.servers[0].instant = true;
        assert_eq!(case.limit(bound, 3000), Duration::from_secs(3));
    }

    #[test]
    fn other_tokens_than_the_bounds_are_noticed() {
        let case = case(Amount::Prompts(2));
        let costs = [Cost { prompt: 20, fresh: 20, output: 48 }; 2];
        let ended = Ended {
            code: Some(0),
            cpu: Duration::from_micros(80),
            peak_rss_bytes: 5_000_000,
            wall: Duration::from_secs(3),
            late: false,
        };
        let mut seen = Seen {
            served: 2,
            prompt_tokens: 40,
            completion_tokens: 96,
            first_request_us: 1_000_000,
            last_answer_us: 3_000_000,
            ..Seen::default()
        };
        let bound = Duration::from_secs(1);
        let ran = Ran::of(ended, "", vec![Usage { cpu_s: 4e-5, peak_rss_mb: 9.0 }; 2]);
        let figures = case.figures(&costs, bound, &ran, &[seen.clone(), Seen::default()]);
        let figures = figures.unwrap();
        assert_eq!((figures["share"], figures["served"], figures["cpu_us"]), (0.5, 1.0, 40.0));
        seen.completion_tokens = 95;
        assert!(case.figures(&costs, bound, &ran, &[seen]).is_err());
    }
}
