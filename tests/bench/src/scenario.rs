//! What a scenario is: its name, its rows with their bars, and a way to measure it once.
//!
//! It owns these types and the folding of repeats into rows; it knows neither servers nor the
//! product.

use crate::stats;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How much is to be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// What the bars are for.
    Full,
    /// As little as shows that everything works.
    Quick,
}

impl Size {
    /// One or the other.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// What every measurement needs.
pub struct Bench {
    /// The folder of the programs that are measured.
    pub programs: PathBuf,
    /// The folder of the bench's own programs.
    pub own: PathBuf,
}

/// Why a measurement says nothing: wrong counts, a crash, a deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken(pub String);

impl Broken {
    /// With what was being done when it happened.
    pub fn at<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Self + '_ {
        move |error| Self(format!("{what}: {error}"))
    }
}

/// What one measurement gave, by name.
pub type Figures = BTreeMap<String, f64>;

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Bar {
    pub fn reached(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bar) => figure >= bar,
            Self::AtMost(bar) => figure <= bar,
        }
    }
}

/// Which of the repeats' figures is the row's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    Median,
    /// The least: for costs, of which a noisy machine only ever adds some.
    Least,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The figure's name.
    pub figure: &'static str,
    /// What it is called in the table.
    pub label: &'static str,
    pub unit: &'static str,
    pub bar: Option<Bar>,
    pub pick: Pick,
    /// The name of the figure that says what is possible at best.
    pub bound: Option<&'static str>,
}

impl Row {
    pub fn of(figure: &'static str, label: &'static str, unit: &'static str) -> Self {
        Self { figure, label, unit, bar: None, pick: Pick::Median, bound: None }
    }

    pub fn bar(mut self, bar: Bar) -> Self {
        self.bar = Some(bar);
        self
    }

    pub fn least(mut self) -> Self {
        self.pick = Pick::Least;
        self
    }

    pub fn bound(mut self, figure: &'static str) -> Self {
        self.bound = Some(figure);
        self
    }
}

/// A way to measure once.
pub type Measure = Box<dyn Fn(&Bench) -> Result<Figures, Broken>>;

/// One scenario.
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    /// Why its sizes are what they are.
    pub why: &'static str,
    pub rows: Vec<Row>,
    /// It takes long, and a second measurement would say the same.
    pub once: bool,
    /// Everything it was measured with.
    pub parameters: Value,
    pub measure: Measure,
}

/// One measurement and its circumstances.
pub struct Repeat {
    pub load_before: f64,
    pub seconds: f64,
    pub outcome: Result<Figures, Broken>,
}

/// A scenario and what came of it.
pub struct Done {
    pub scenario: Scenario,
    pub repeats: Vec<Repeat>,
}

/// A row's figure over all repeats that gave one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    pub value: f64,
    pub least: f64,
    pub most: f64,
}

impl Done {
    /// Whether any repeat was broken.
    pub fn broken(&self) -> bool {
        self.repeats.iter().any(|r| r.outcome.is_err())
    }

    /// A figure of every repeat that has it.
    pub fn all(&self, figure: &str) -> Vec<f64> {
        let figures = self.repeats.iter().filter_map(|r| r.outcome.as_ref().ok());
        figures.filter_map(|f| f.get(figure).copied()).collect()
    }

    /// A row's figure; none where every repeat was broken.
    pub fn measured(&self, row: &Row) -> Option<Measured> {
        let all = self.all(row.figure);
        let (least, most) = stats::ends(&all)?;
        let value = match row.pick {
            Pick::Median => stats::median(&all)?,
            Pick::Least => least,
        };
        Some(Measured { value, least, most })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(figures: &[Option<f64>]) -> Done {
        let outcome = |figure: &Option<f64>| match figure {
            Some(figure) => Ok(Figures::from([("share".to_owned(), *figure)])),
            None => Err(Broken("crash".to_owned())),
        };
        Done {
            scenario: Scenario {
                name: "even",
                title: "",
                why: "",
                rows: Vec::new(),
                once: false,
                parameters: Value::Null,
                measure: Box::new(|_| Ok(Figures::new())),
            },
            repeats: figures
                .iter()
                .map(|f| Repeat { load_before: 0.0, seconds: 1.0, outcome: outcome(f) })
                .collect(),
        }
    }

    #[test]
    fn a_row_is_the_median_or_the_least_of_the_repeats_that_were_not_broken() {
        let row = Row::of("share", "share", "");
        let done = done(&[Some(3.0), None, Some(1.0), Some(2.0)]);
        assert!(done.broken());
        assert_eq!(done.measured(&row), Some(Measured { value: 2.0, least: 1.0, most: 3.0 }));
        assert_eq!(done.measured(&row.least()).map(|m| m.value), Some(1.0));
        assert_eq!(done.measured(&Row::of("wall", "", "")), None);
    }

    #[test]
    fn a_bar_is_reached_when_it_is_met_exactly() {
        assert!(Bar::AtLeast(0.96).reached(0.96) && !Bar::AtLeast(0.96).reached(0.959));
        assert!(Bar::AtMost(40.0).reached(40.0) && !Bar::AtMost(40.0).reached(40.1));
    }
}
