//! The script: which faults befall which requests.
//!
//! It owns the choice, drawn from a seed and the request's number, so that a run can be had
//! again; carrying a fault out is the routes' and the server's part.

use crate::cache::mix;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// This status with an error body: 503 and 500 in vLLM's words.
    Status(u16),
    /// The head and part of the body, then the connection ends.
    CutBody,
    /// The connection stays open and silent.
    Hang,
    /// The connection ends without a byte.
    Eof,
    /// A stream ends with an error under status 200; others get 500.
    StreamError,
    /// The first byte comes this many milliseconds late.
    SlowFirstByte(u64),
    /// A proxy in between gives up after this many milliseconds: 504, if the answer is not there by then.
    GatewayTimeout(u64),
    /// The choices come in reversed order, each with its right index.
    ReverseChoices,
    /// The last choice is missing.
    MissingChoice,
    /// The last choice has the first one's index.
    DoubledIndex,
    /// The last choice was given up in its middle, as when the engine is paused.
    Abort,
    /// Status 200 with an error for a body.
    ErrorUnder200,
    /// The engine dies: 500 for all that is under way, refusals afterwards.
    EngineDeath,
    /// The engine stands still from now on, while `/health` says 200.
    Stall,
}

/// A fault and the requests it befalls: all those that every condition holds for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// What goes wrong.
    pub fault: Fault,
    /// How likely.
    #[serde(default = "always")]
    pub p: f64,
    /// From the how-manyth request on; the first is 1.
    #[serde(default)]
    pub from: u64,
    /// How many times at most.
    #[serde(default)]
    pub count: Option<u64>,
    /// Not before so many seconds after the start.
    #[serde(default)]
    pub after: f64,
    /// Only prompts that contain this text.
    #[serde(default)]
    pub containing: Option<String>,
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// This fault for every request.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self { fault, p: 1.0, from: 0, count: None, after: 0.0, containing: None }
    }

    /// This fault for so many requests, the first ones.
    #[must_use]
    pub fn times(fault: Fault, count: u64) -> Self {
        Self { count: Some(count), ..Self::always(fault) }
    }

    /// Reads `KIND[=VALUE][,p=0.1][,from=10][,count=3][,after=2.5][,containing=TEXT]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let mut rule = Self::always(fault(parts.next().unwrap_or_default())?);
        for part in parts {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("in fault `{text}`: `{part}` is not NAME=VALUE"))?;
            let bad = || format!("in fault `{text}`: `{value}` is no value for {name}");
            match name {
                "p" => rule.p = value.parse().map_err(|_| bad())?,
                "from" => rule.from = value.parse().map_err(|_| bad())?,
                "count" => rule.count = Some(value.parse().map_err(|_| bad())?),
                "after" => rule.after = value.parse().map_err(|_| bad())?,
                "containing" => rule.containing = Some(value.to_owned()),
                _ => return Err(format!("in fault `{text}`: there is no condition `{name}`")),
            }
        }
        Ok(rule)
    }
}

fn fault(text: &str) -> Result<Fault, String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let number = |what: &str| {
        value.parse::<u64>().map_err(|_| format!("fault `{name}` wants {what}: {name}=NUMBER"))
    };
    Ok(match name.replace('_', "-").as_str() {
        "status" => Fault::Status(number("a status")? as u16),
        "cut-body" => Fault::CutBody,
        "hang" => Fault::Hang,
        "eof" => Fault::Eof,
        "stream-error" => Fault::StreamError,
        "slow-first-byte" => Fault::SlowFirstByte(number("milliseconds")?),
        "gateway-timeout" => Fault::GatewayTimeout(number("milliseconds")?),
        "reverse-choices" => Fault::ReverseChoices,
        "missing-choice" => Fault::MissingChoice,
        "doubled-index" => Fault::DoubledIndex,
        "abort" => Fault::Abort,
        "error-under-200" => Fault::ErrorUnder200,
        "engine-death" => Fault::EngineDeath,
        "stall" => Fault::Stall,
        _ => return Err(format!("there is no fault `{name}`")),
    })
}

/// Rules in their order; the first that fits a request befalls it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Script {
    /// What the drawing starts from.
    pub seed: u64,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// A script that is being played: it counts requests and faults.
#[derive(Debug, Default)]
pub struct Play {
    script: Script,
    requests: u64,
    fired: Vec<u64>,
}

impl Play {
    /// Starts a script; requests are counted from here.
    #[must_use]
    pub fn of(script: Script) -> Self {
        let fired = vec![0; script.rules.len()];
        Self { script, requests: 0, fired }
    }

    /// Whether there is anything to play.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.script.rules.is_empty()
    }

    /// The fault of the next request; `body` is searched for the texts that rules name.
    pub fn next(&mut self, since_start: Duration, body: &[u8]) -> Option<Fault> {
        self.requests += 1;
        for (at, rule) in self.script.rules.iter().enumerate() {
            let draw = mix(mix(self.script.seed, at as u64), self.requests);
            let drawn = ((draw >> 11) as f64 / (1u64 << 53) as f64) < rule.p;
            let due = self.requests >= rule.from && since_start.as_secs_f64() >= rule.after;
            let left = rule.count.is_none_or(|count| self.fired[at] < count);
            if drawn && due && left && holds(rule.containing.as_deref(), body) {
                self.fired[at] += 1;
                return Some(rule.fault.clone());
            }
        }
        None
    }
}

fn holds(text: Option<&str>, body: &[u8]) -> bool {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return true };
    body.windows(text.len()).any(|window| window == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_from_a_flag() {
        let rule = Rule::parse("status=503,p=0.5,count=2").expect("a good rule");
        assert_eq!(rule, Rule { p: 0.5, ..Rule::times(Fault::Status(503), 2) });
        assert!(Rule::parse("hang,often").is_err());
        assert!(Rule::parse("sing").is_err());
    }

    #[test]
    fn a_count_runs_out_and_the_next_rule_takes_over() {
        let rules = vec![Rule::times(Fault::Eof, 2), Rule { from: 4, ..Rule::always(Fault::Hang) }];
        let mut play = Play::of(Script { seed: 1, rules });
        let drawn: Vec<_> = (0..4).map(|_| play.next(Duration::ZERO, b"")).collect();
        assert_eq!(drawn, [Some(Fault::Eof), Some(Fault::Eof), None, Some(Fault::Hang)]);
    }

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let rules = vec![Rule { p: 0.3, ..Rule::always(Fault::Eof) }];
        let draw = || {
            let mut play = Play::of(Script { seed: 7, rules: rules.clone() });
            (0..1000).map(|_| play.next(Duration::ZERO, b"").is_some()).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        let hit = draw().into_iter().filter(|hit| *hit).count();
        assert!((250..350).contains(&hit), "{hit}");
    }
}
