//! A rank's own side of the ledger: what it was given, what it has settled, and when it says so.
//!
//! Owns the bookkeeping between the engine, which knows rows, and rank 0, which knows places; and when a report is due:
//! soon where work is needed or, near the end, was done; every few seconds otherwise. Rank 0 has one of its own. It knows
//! neither MPI nor HTTP: words come in, letters go out.

use std::{
    collections::HashMap,
    sync::mpsc,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use super::protocol::{Grant, Lease, Message, Report, runs};
use crate::{
    domain::Tally,
    engine::{Ended, InHand, Progress, Running, Word},
    input,
    ledger::{apart, enough},
    site::Ask,
};

/// What a rank's other threads say to its main thread.
pub(crate) enum Said {
    /// The engine.
    Word(Word),
    /// The outcomes of these rows are in the shard file.
    Written(Vec<u64>),
    /// Somebody asks this process to end.
    Asked(Ask),
    /// On rank 0: a lease for a rank, with its rows' text.
    Fetched(usize, Result<Lease, String>),
}

/// A rank's work.
pub(crate) struct Hand {
    engine: Option<Running>,
    /// To the engine's reader; without it the prompts come to their end.
    leases: Option<mpsc::Sender<input::Lease>>,
    /// The place of each row that it has.
    places: HashMap<u64, u64>,
    /// Prompts given to the engine in all.
    given: u64,
    settled: Vec<u64>,
    back: Vec<u64>,
    progress: Progress,
    in_hand: InHand,
    /// What rank 0 said last.
    ending: bool,
    left: Option<f64>,
    /// It asked for prompts and has not got any since.
    asked: bool,
    /// How often somebody asked this process to end.
    asked_to_end: u32,
    idle_told: u64,
    up_told: bool,
    answered_told: bool,
    /// To be sent as they are.
    letters: Vec<Message>,
    rhythm: Rhythm,
    /// The next report, and the next at the soonest.
    next: Instant,
    soonest: Instant,
}

/// How often a rank writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    /// At least so often.
    pub(crate) every: Duration,
    /// Letters are no closer together: rank 0 reads those of all ranks.
    pub(crate) apart: Duration,
    /// The first is sent after so long, so that not all are at once.
    first: Duration,
}

impl Rhythm {
    /// For one of so many ranks, which are lost when they are silent for so long.
    pub(crate) fn of(rank: usize, ranks: usize, silence: Duration) -> Self {
        let apart = apart(ranks);
        // A rank that is alone has nobody to spare, and somebody may look at its bar.
        let every = Duration::from_secs(if ranks == 1 { 1 } else { 5 });
        let every = every.max(apart).min(silence / 4);
        let first = every.mul_f64((rank + 1) as f64 / ranks.max(1) as f64);
        Self { every, apart, first }
    }
}

impl Hand {
    /// Of an engine at work, or none.
    pub(crate) fn new(
        engine: Option<Running>,
        leases: Option<mpsc::Sender<input::Lease>>,
        rhythm: Rhythm,
    ) -> Self {
        let now = Instant::now();
        Self {
            engine,
            leases,
            places: HashMap::new(),
            given: 0,
            settled: Vec::new(),
            back: Vec::new(),
            progress: Progress::default(),
            in_hand: InHand::default(),
            ending: false,
            left: None,
            asked: false,
            asked_to_end: 0,
            idle_told: 0,
            up_told: false,
            answered_told: false,
            letters: Vec::new(),
            rhythm,
            next: now + rhythm.first,
            soonest: now,
        }
    }

    /// When there will be something to write, if nothing happens before.
    pub(crate) fn due(&self) -> Instant {
        if self.is_urgent() { self.soonest.min(self.next) } else { self.next }
    }

    /// A thread of this rank has said something.
    pub(crate) fn said(&mut self, said: Said) {
        match said {
            Said::Word(Word::Progress(progress)) => self.progress = progress,
            Said::Word(Word::InHand(in_hand)) => self.in_hand = in_hand,
            Said::Word(Word::GivesBack(rows)) => {
                self.in_hand.waiting = 0;
                self.back.extend(rows.iter().filter_map(|row| self.places.remove(row)));
            }
            Said::Word(Word::AllAlike(count, words)) => {
                self.letters.push(Message::AllAlike(count, words));
            }
            Said::Word(Word::Watched(timeline)) => self.letters.push(Message::Watched(timeline)),
            Said::Word(Word::Ended(ended, tally)) => self.ended(ended, tally),
            Said::Written(rows) => {
                self.settled.extend(rows.iter().filter_map(|row| self.places.remove(row)));
            }
            Said::Asked(ask) => {
                self.asked_to_end += 1;
                self.letters.push(Message::Asked(ask));
            }
            Said::Fetched(rank, _) => warn!(rank, "text for a lease, which only rank 0 sends"),
        }
    }

    /// Rank 0 has written.
    pub(crate) fn hear(&mut self, message: Message) {
        match message {
            Message::Grant(grant) => self.granted(grant),
            Message::Needless(rows) => {
                for row in &rows {
                    self.places.remove(row);
                }
                self.with_engine(|engine| engine.forget(rows));
            }
            Message::Recall => {
                let given = self.given;
                self.with_engine(|engine| engine.give_back(given));
            }
            Message::GoOn => self.with_engine(Running::go_on),
            Message::Further => self.with_engine(Running::further),
            Message::Drain => {
                self.ending = true;
                self.with_engine(Running::drain);
            }
            Message::Stop => self.with_engine(Running::stop),
            Message::Over(_) => {}
            Message::Report(_)
            | Message::Watched(_)
            | Message::Ended(..)
            | Message::AllAlike(..)
            | Message::Asked(_) => {
                warn!("a letter that only rank 0 reads");
            }
        }
    }

    /// The letters that are due.
    pub(crate) fn letters(&mut self, now: Instant) -> Vec<Message> {
        let mut letters = Vec::new();
        // What was done is told before that it is over.
        if now >= self.due() || !self.letters.is_empty() {
            (self.next, self.soonest) = (now + self.rhythm.every, now + self.rhythm.apart);
            letters.push(Message::Report(self.report()));
        }
        letters.append(&mut self.letters);
        letters
    }

    /// Has it asked for something that it needs soon, or is the end near? Then letters are looked for often.
    pub(crate) fn is_waiting(&self) -> bool {
        self.asked || self.ending
    }

    /// Was this process asked to end more than once? Then nothing is waited for any more.
    pub(crate) fn is_in_a_hurry(&self) -> bool {
        self.asked_to_end > 1
    }

    /// Ends the engine and waits for its threads.
    pub(crate) fn end(mut self) {
        self.leases = None;
        if let Some(engine) = self.engine.take() {
            engine.stop();
            engine.join();
        }
    }

    fn with_engine(&self, tell: impl FnOnce(&Running)) {
        if let Some(engine) = &self.engine {
            tell(engine);
        }
    }

    fn granted(&mut self, grant: Grant) {
        let Grant { lease, ending, left } = grant;
        let has_more = lease.is_some();
        if let Some(lease) = lease {
            self.asked = false;
            let places: Vec<(u64, u64)> = lease.pairs().collect();
            if self.leases.as_ref().is_some_and(|leases| leases.send(lease.rows).is_ok()) {
                self.given += places.len() as u64;
                self.places.extend(places);
            } else {
                // The reader has met its end, and the engine will: it needs nothing more.
                self.leases = None;
                self.back.extend(places.into_iter().map(|(_, place)| place));
            }
        }
        self.left = left;
        if has_more || ending != self.ending {
            self.ending = ending;
            let given = self.given;
            self.with_engine(|engine| engine.given(given, ending));
        }
    }

    fn ended(&mut self, ended: Ended, tally: Tally) {
        match &ended {
            Ended::Finished | Ended::Stopped | Ended::NotWritten => {} // the last was told where it happened
            Ended::NobodyLeft => warn!(
                "this rank's endpoints do nothing but refuse, for as long as --ready-timeout bears: its prompts go to others"
            ),
            Ended::NotRead(why) => error!("the input cannot be read on: {why}"),
            Ended::NotStarted(why) => error!("this rank cannot work: {why}"),
        }
        self.progress = Progress { tally: tally.clone(), in_flight: 0, up: 0 };
        self.in_hand = InHand { taken: self.given, ..InHand::default() };
        self.letters.push(Message::Ended(ended, tally));
    }

    fn is_urgent(&self) -> bool {
        let asks = !self.asked && self.want() > 0;
        // Where there is ample work, what was done is told with the next question after more.
        let did = (self.ending || self.asked) && !self.settled.is_empty();
        let idles = self.ending && self.in_hand.idle != self.idle_told;
        // The first answer is news: others may wait to hear whether there is any.
        let answered = self.progress.tally.answered > 0 && !self.answered_told;
        let turned = (self.progress.up > 0) != self.up_told;
        asks || did || idles || answered || turned || !self.back.is_empty()
    }

    fn report(&mut self) -> Report {
        let want = self.want();
        self.asked |= want > 0;
        self.idle_told = self.in_hand.idle;
        self.up_told = self.progress.up > 0;
        self.answered_told = self.progress.tally.answered > 0;
        Report {
            progress: self.progress.clone(),
            settled: runs(std::mem::take(&mut self.settled)),
            back: runs(std::mem::take(&mut self.back)),
            want,
            idle: self.in_hand.idle,
            usual: self.in_hand.usual,
        }
    }

    /// How many more prompts its windows can use soon: nothing while it has half of that.
    fn want(&self) -> u64 {
        if self.leases.is_none() {
            return 0;
        }
        let InHand { taken, waiting, windows, rate, .. } = self.in_hand;
        let have = waiting + self.given.saturating_sub(taken);
        let target = enough(windows, rate, self.left, self.rhythm.apart);
        if have * 2 > target { 0 } else { target.saturating_sub(have) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Stretch;

    fn grant(first: u64, rows: u64, ending: bool) -> Message {
        let stretch = Stretch { file: 0, first, rows, offset: 0, bytes: 0 };
        let rows_of = input::Lease { stretches: vec![stretch], text: None };
        let lease = Lease { places: vec![(first, rows)], rows: rows_of };
        Message::Grant(Grant { lease: Some(lease), ending, left: None })
    }

    fn hand() -> (Hand, mpsc::Receiver<input::Lease>) {
        let (leases, given) = mpsc::channel();
        (Hand::new(None, Some(leases), Rhythm::of(3, 4, Duration::from_secs(60))), given)
    }

    fn in_hand(taken: u64, waiting: u64) -> Said {
        Said::Word(Word::InHand(InHand { taken, waiting, windows: 64, ..InHand::default() }))
    }

    fn reports(letters: Vec<Message>) -> Vec<Report> {
        let report = |it| match it {
            Message::Report(report) => Some(report),
            _ => None,
        };
        letters.into_iter().filter_map(report).collect()
    }

    #[test]
    fn work_is_asked_for_once_when_half_of_what_is_enough_is_left() {
        let (mut hand, given) = hand();
        let soon = Instant::now() + Duration::from_millis(50);
        hand.hear(grant(0, 128, false));
        assert_eq!(given.try_recv().expect("a lease").stretches.len(), 1);
        hand.said(in_hand(64, 30));
        assert!(hand.letters(soon).is_empty(), "30 wait, 64 are on their way in");
        hand.said(in_hand(128, 63));
        let asked = reports(hand.letters(soon));
        assert_eq!(asked.iter().map(|it| it.want).collect::<Vec<_>>(), [65]);
        hand.said(in_hand(128, 10));
        assert!(hand.letters(soon + Duration::from_secs(1)).is_empty(), "it has asked");
        hand.hear(grant(128, 10, false));
        assert_eq!(reports(hand.letters(soon + Duration::from_secs(1)))[0].want, 108);
    }

    #[test]
    fn what_was_done_is_told_by_places_and_near_the_end_at_once() {
        let (mut hand, _given) = hand();
        let soon = Instant::now() + Duration::from_millis(50);
        hand.hear(grant(100, 128, false));
        hand.said(in_hand(128, 128));
        let _ = hand.letters(soon);
        hand.said(Said::Written(vec![101, 100, 104, 999]));
        let later = soon + Duration::from_secs(1);
        assert!(hand.letters(later).is_empty(), "there is time");
        hand.hear(Message::Grant(Grant { ending: true, ..Grant::default() }));
        assert_eq!(reports(hand.letters(later))[0].settled, [(100, 2), (104, 1)]);
        hand.said(Said::Word(Word::GivesBack(vec![105, 100])));
        let letters = reports(hand.letters(later + Duration::from_secs(1)));
        assert_eq!(letters[0].back, [(105, 1)], "100 was settled");
    }

    #[test]
    fn the_last_report_comes_before_the_end() {
        let (mut hand, _given) = hand();
        hand.hear(grant(0, 2, true));
        hand.said(Said::Written(vec![0, 1]));
        hand.said(Said::Word(Word::Ended(Ended::Finished, Tally::default())));
        let letters = hand.letters(Instant::now());
        assert!(
            matches!(&letters[..], [Message::Report(it), Message::Ended(..)] if it.settled == [(0, 2)])
        );
    }
}
