//! What can be said only of all rows together, as it adds up row by row.
//!
//! Owns the counting. Does not know what follows from it: that is the scan's last word.

use serde::{Deserialize, Serialize};

use crate::input::row::{Row, object::Ask};

/// A file's number and a line in it.
pub(crate) type At = (u32, u64);

/// What adds up over the rows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    pub texts: u64,
    pub messages: u64,
    pub batch: u64,
    pub longest: u64,
    pub streams: Seen,
    pub empty: Seen,
}

/// How often something was seen, and where first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub count: u64,
    pub first: At,
}

/// Which models rows name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Models {
    pub named: Option<(String, At)>,
    pub others: Seen,
    pub other: String,
}

/// Which of the template's placeholders some row had a column for.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Columns {
    had: Vec<bool>,
    /// Did any row lack one?
    lacked: bool,
    /// The columns of the first row that lacked one.
    pub there: Vec<String>,
}

impl Totals {
    pub(crate) fn add(&mut self, row: &Row<'_>, at: At) {
        match &row.ask {
            Ask::Text(text) => {
                self.texts += 1;
                if text.trim_ascii_start().is_empty() {
                    self.empty.see(at);
                }
            }
            Ask::Messages(_) => self.messages += 1,
        }
        self.batch += u64::from(row.route.is_some());
        if row.given.streams {
            self.streams.see(at);
        }
    }

    /// What the rows that follow add, with so many lines before them.
    pub(crate) fn append(&mut self, other: Self, lines: u64) {
        let Self { texts, messages, batch, longest, streams, empty } = other;
        self.texts += texts;
        self.messages += messages;
        self.batch += batch;
        self.longest = self.longest.max(longest);
        self.streams.append(streams, lines);
        self.empty.append(empty, lines);
    }
}

impl Seen {
    pub(crate) fn see(&mut self, at: At) {
        if self.count == 0 {
            self.first = at;
        }
        self.count += 1;
    }

    fn append(&mut self, other: Self, lines: u64) {
        if self.count == 0 {
            self.first = (other.first.0, other.first.1 + lines);
        }
        self.count += other.count;
    }
}

impl Models {
    pub(crate) fn add(&mut self, model: &str, at: At, job: Option<&str>) {
        if self.named.is_none() {
            self.named = Some((model.to_owned(), at));
        }
        let wanted = job.or(self.named.as_ref().map(|(named, _)| named.as_str()));
        if wanted != Some(model) {
            if self.others.count == 0 {
                model.clone_into(&mut self.other);
            }
            self.others.see(at);
        }
    }

    /// What the rows that follow name, with so many lines before them.
    pub(crate) fn append(&mut self, other: Self, lines: u64, job: Option<&str>) {
        let Some((model, (file, line))) = other.named else { return };
        let at = (file, line + lines);
        let Some((named, _)) = &self.named else {
            self.named = Some((model, at));
            self.other = other.other;
            self.others.append(other.others, lines);
            return;
        };
        let before = self.others.count;
        // The first model among them was theirs to hold others against; here it may be another one itself.
        if job.is_none() && *named != model {
            self.others.see(at);
            self.others.count += other.others.count;
            if before == 0 {
                self.other = model;
            }
        } else {
            if before == 0 {
                self.other = other.other;
            }
            self.others.append(other.others, lines);
        }
    }
}

impl Columns {
    pub(crate) fn of(placeholders: usize) -> Self {
        Self { had: vec![false; placeholders], ..Self::default() }
    }

    /// A row had them all.
    pub(crate) fn all(&mut self) {
        self.had.fill(true);
    }

    /// A row lacked these.
    pub(crate) fn without(&mut self, lacks: &[usize], there: Vec<String>) {
        for (at, had) in self.had.iter_mut().enumerate() {
            *had |= !lacks.contains(&at);
        }
        if !std::mem::replace(&mut self.lacked, true) {
            self.there = there;
        }
    }

    /// What the rows that follow had and lacked.
    pub(crate) fn append(&mut self, other: Self) {
        self.had.iter_mut().zip(other.had).for_each(|(had, its)| *had |= its);
        if other.lacked && !std::mem::replace(&mut self.lacked, true) {
            self.there = other.there;
        }
    }

    /// The first that no row had. Without a row that lacks it, a placeholder was never looked for.
    pub(crate) fn never(&self) -> Option<usize> {
        self.had.iter().position(|had| !had).filter(|_| self.lacked)
    }
}
