//! A run whose input or deciding settings have changed: what that means for its answers is told, and where it is accepted
//! they are carried over to the new input.
//!
//! Answers find their rows by what these say ([`super::row_matching`]). Settings change nothing that is there.
//!
//! # The steps, and why nothing is lost wherever they stop
//!
//! 1. The kept answers are written under their new indices to `RUN/carried-PID.part`, and to the disk.
//! 2. It becomes a shard file of a start of its own, `RUN/shards/NNNN-00000.jsonl`. Its header names the new input.
//! 3. The manifest, replaced whole, is of the new input, and says that answers count from start NNNN on.
//! 4. The earlier input's shard files go to `RUN/before-NNNN`. They are kept: only the user knows whether they are wanted.
//!
//! Up to 3 the run is the earlier input's, with all its files where they were. What 1 and 2 have made counts for nobody: a
//! shard file counts where its header names the manifest's input. The next start, with whichever input, tidies it away and
//! begins here again. From 3 on the run is the new input's, and what was kept of the earlier answers is on the disk; files
//! that 4 has not moved count for nobody, and the next start moves them. Each step is on the disk before the next begins.

use std::{
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use tracing::info;

use super::row_matching::{Answered, Moves, Told};
use crate::job::{JobError, setup::run_plan::SHARDS};
use crate::{
    input::{self, Source},
    output::{Change, InputChange, Manifest, OutputError, State},
    settings::Settings,
    shards::{self, CarriedFile, Header, ShardFile},
    site::Node,
};

/// What has changed since the run began, where it is accepted.
pub(crate) struct Changes {
    /// Settings, a sentence each.
    settings: Vec<String>,
    /// Where answers go, where the input has changed.
    moves: Option<Moves>,
    /// What that means.
    words: Option<String>,
}

impl Changes {
    /// Looks for changes, and changes nothing. An error where there are some and nobody accepts them.
    pub(crate) fn accepted(
        settings: &Settings,
        earlier: &Manifest,
        source: &Source,
        folder: &Path,
    ) -> Result<Self, JobError> {
        let differing = differing(settings, earlier);
        let same = earlier.fingerprint == source.fingerprint;
        let moves = (!same).then(|| matched(earlier, source, folder)).transpose()?;
        let rows = (earlier.rows, source.rows);
        let words = moves.as_ref().map(|moves| in_words(rows, &moves.told));
        if (moves.is_some() || !differing.is_empty()) && !settings.accept_changes {
            let away = earlier.away.as_deref().filter(|_| moves.is_some());
            return Err(JobError::Standing(refusal(words.as_deref(), away, &differing)));
        }
        Ok(Self { settings: differing, moves, words })
    }

    /// Where the input has changed: how many answers stay and how many rows are new.
    pub(crate) fn of_input(&self) -> Option<Told> {
        self.moves.as_ref().map(|moves| moves.told)
    }

    /// Makes the manifest and the answers those of the input and the settings as they are now.
    pub(crate) fn carry_out(
        self,
        settings: &Settings,
        manifest: &mut Manifest,
        source: &Source,
        folder: &Path,
    ) -> Result<(), JobError> {
        self.words.iter().for_each(|words| info!("accepted: {words}"));
        self.settings.iter().for_each(|it| info!("accepted: {it}; answers that are there stay"));
        manifest.deciding = settings.deciding();
        if let Some(moves) = self.moves {
            let mut carry = Carry::new(manifest, source, folder, moves, self.settings);
            return STEPS.iter().try_for_each(|step| step(&mut carry));
        }
        if !self.settings.is_empty() {
            let start = manifest.starts + 1;
            manifest.changes.push(Change { start, settings: self.settings, input: None });
        }
        Ok(())
    }
}

/// Settings that decide answers and are not as they were, a sentence each.
fn differing(settings: &Settings, earlier: &Manifest) -> Vec<String> {
    let now = settings.deciding();
    let differ = |(key, value): &(&String, &serde_json::Value)| {
        earlier.deciding.get(*key).is_some_and(|before| before != *value)
    };
    let told = |(key, value): (&String, &serde_json::Value)| {
        format!("{key} was {} and is {value}", earlier.deciding[key])
    };
    now.iter().filter(differ).map(told).collect()
}

fn in_words((before, now): (u64, u64), told: &Told) -> String {
    let Told { kept, new, gone, unknown } = told;
    let unknown = match unknown {
        0 => String::new(),
        some => format!(
            " ({some} of them were written by an earlier version of this program, which did not note what their rows said)"
        ),
    };
    format!(
        "the input has changed since this run began: it had {before} rows and has {now}; {kept} answers are kept, {new} rows \
         are to be asked, {gone} answers are gone with their rows{unknown}"
    )
}

/// Why the run does not go on, and what to do.
fn refusal(input: Option<&str>, away: Option<&str>, differing: &[String]) -> String {
    let settings = (!differing.is_empty()).then(|| {
        let differing = differing.join("; ");
        format!("settings that decide answers differ from this run's: {differing} (answers that are there stay)")
    });
    let away = away.map(|away| {
        format!("answers that the nodes of its last start may still have in {away} are not counted (accepted, they are brought home first)")
    });
    let what: Vec<&str> =
        input.into_iter().chain(away.as_deref()).chain(settings.as_deref()).collect();
    let back = match (input, &settings) {
        (Some(_), None) => "give it the input it began with",
        (None, _) => "give them as they were",
        (Some(_), Some(_)) => "give it what it began with",
    };
    format!(
        "{}. Go on with --accept-changes, {back}, or begin anew with --overwrite or another --output",
        what.join("; and ")
    )
}

/// Which answers of the earlier input go where. Reads its shard files and the new input over.
fn matched(earlier: &Manifest, source: &Source, folder: &Path) -> Result<Moves, JobError> {
    let mut answered = Answered::default();
    let files = shards::list(&folder.join(SHARDS))?;
    shards::read_answers(&files, &earlier.fingerprint, earlier.rows, |index, row, _| {
        if row.is_unknown() {
            answered.add_unknown();
        } else {
            answered.add(index, row.of_bytes());
        }
        Ok(())
    })?;
    let mut matching = answered.begin();
    input::hashes(source, |hash| matching.row(hash))?;
    Ok(matching.finish())
}

/// The answers on their way.
struct Carry<'c> {
    /// Of the earlier input up to the third step, then of the new one.
    manifest: &'c mut Manifest,
    source: &'c Source,
    folder: &'c Path,
    moves: Moves,
    settings: Vec<String>,
    /// The start that the carried answers are of.
    start: u32,
    part: PathBuf,
}

type Step = fn(&mut Carry<'_>) -> Result<(), JobError>;

const STEPS: [Step; 4] = [|it| it.write(), |it| it.place(), |it| it.note(), |it| it.put_aside()];

impl<'c> Carry<'c> {
    fn new(
        manifest: &'c mut Manifest,
        source: &'c Source,
        folder: &'c Path,
        moves: Moves,
        settings: Vec<String>,
    ) -> Self {
        let start = manifest.starts + 1;
        let part = folder.join(format!("{PART}{}.part", std::process::id()));
        Self { manifest, source, folder, moves, settings, start, part }
    }

    fn header(&self) -> Header {
        Header::new(self.start, 0, &Node::here().host, &self.source.fingerprint)
    }

    fn write(&self) -> Result<(), JobError> {
        let files = shards::list(&self.folder.join(SHARDS))?;
        let mut carried = CarriedFile::create(&self.part, &self.header())?;
        let Manifest { fingerprint, rows, .. } = &*self.manifest;
        shards::read_answers(&files, fingerprint, *rows, |index, row, line| {
            self.moves.of(index).map_or(Ok(()), |new| carried.add(line, new, row.has_own_id()))
        })?;
        Ok(carried.finish()?)
    }

    fn place(&self) -> Result<(), JobError> {
        let there = Manifest::read(self.folder)?;
        if there.is_none_or(|it| it.starts != self.manifest.starts) {
            return Err(JobError::Standing(format!(
                "{} was started again by somebody else meanwhile: let that run end first",
                self.folder.display()
            )));
        }
        let shards = self.folder.join(SHARDS);
        rename(&self.part, &shards.join(self.header().file_name()))?;
        sync(&shards)
    }

    fn note(&mut self) -> Result<(), JobError> {
        let Told { kept, new, gone, .. } = self.moves.told;
        let Manifest { rows, fingerprint, .. } = &*self.manifest;
        let (rows_before, fingerprint_before) = (*rows, fingerprint.clone());
        let input = InputChange { rows_before, fingerprint_before, kept, new, gone };
        let settings = std::mem::take(&mut self.settings);
        self.manifest.changes.push(Change { start: self.start, settings, input: Some(input) });
        self.manifest.fingerprint.clone_from(&self.source.fingerprint);
        self.manifest.rows = self.source.rows;
        self.manifest.starts = self.start;
        self.manifest.state = State::Stopped;
        self.manifest.counts = crate::output::Counts::new(self.source.rows, kept, 0);
        self.manifest.write(self.folder)?;
        sync(self.folder)
    }

    fn put_aside(&self) -> Result<(), JobError> {
        put_aside(self.folder, self.manifest)
    }
}

const PART: &str = "carried-";

/// What a start that was stopped while it carried answers over has left: see the steps. Only with the manifest of the run.
pub(crate) fn tidy(folder: &Path, manifest: &Manifest) -> Result<(), JobError> {
    let entries = std::fs::read_dir(folder).map_err(OutputError::io("cannot list", folder))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(PART) && name.ends_with(".part") {
            std::fs::remove_file(&path).map_err(OutputError::io("cannot remove", &path))?;
        }
    }
    for file in shards::list(&folder.join(SHARDS))? {
        // No start has this number yet, so that it may be given again.
        if file.start > manifest.starts
            && shards::fingerprint_of(&file)?.is_none_or(|its| its != manifest.fingerprint)
        {
            move_to(folder, file.start, &file)?;
        }
    }
    put_aside(folder, manifest)
}

/// The shard files that are of an earlier input.
fn put_aside(folder: &Path, manifest: &Manifest) -> Result<(), JobError> {
    let first = manifest.first_start();
    let files = shards::list(&folder.join(SHARDS))?;
    files.iter().filter(|file| file.start < first).try_for_each(|it| move_to(folder, first, it))
}

fn move_to(folder: &Path, start: u32, file: &ShardFile) -> Result<(), JobError> {
    let aside = folder.join(format!("before-{start:04}"));
    let shards = folder.join(SHARDS);
    let place = aside.join(file.path.strip_prefix(&shards).unwrap_or(&file.path));
    let around = place.parent().unwrap_or(&aside);
    std::fs::create_dir_all(around).map_err(OutputError::io("cannot make", around))?;
    rename(&file.path, &place)?;
    // The last one of a folder of some leaves it empty.
    let _ = file.path.parent().filter(|it| *it != shards).map(std::fs::remove_dir);
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), JobError> {
    Ok(std::fs::rename(from, to).map_err(OutputError::io("cannot put into place", to))?)
}

/// What was renamed in the folder stays renamed, though the node dies.
fn sync(folder: &Path) -> Result<(), JobError> {
    match File::open(folder).and_then(|it| it.sync_all()) {
        // Not every file system can do that for a folder; those see to it themselves.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Ok(())
        }
        synced => Ok(synced.map_err(OutputError::io("cannot write", folder))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::{
            Answer, Choice, Failure, FailureKind, Id, Input, Outcome, Params, Prompt, Route,
            RowHash, Settled,
        },
        shards::{LineStyle, ShardWriter},
    };
    use std::collections::BTreeMap;

    /// A run folder whose input was these rows, of which some were answered in two starts.
    struct Run {
        folder: tempfile::TempDir,
        files: Vec<input::InputFile>,
    }

    const BEFORE: &str = "a\nb\nsame\nc\nsame\nd\n";
    const AFTER: &str = "new\nsame\nd\nsame\nsame\nb\n";

    impl Run {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let input = folder.path().join("rows.txt");
            let run =
                Self { files: vec![input::InputFile::new(input, input::Format::Text)], folder };
            let source = run.source(BEFORE);
            let mut hashes = Vec::new();
            input::hashes(&source, |hash| hashes.push(hash)).expect("hashed");
            std::fs::create_dir(run.shards()).expect("made");
            for (start, rows) in [(1, &[0, 5][..]), (2, &[2, 1, 4][..])] {
                let header = Header::new(start, 0, "n1", &source.fingerprint);
                let mut writer =
                    ShardWriter::create(&run.shards(), &header, style()).expect("a file");
                let answers: Vec<Settled> =
                    rows.iter().map(|&row| settled(row, hashes[row as usize], true)).collect();
                writer.append(&answers).expect("written");
                writer.append(&[settled(3, hashes[3], false)]).expect("written");
            }
            let mut manifest = Manifest::begin("answers.jsonl", source.rows, &source.fingerprint);
            manifest.starts = 2;
            manifest.write(run.folder()).expect("written");
            run
        }

        fn folder(&self) -> &Path {
            self.folder.path()
        }

        fn shards(&self) -> PathBuf {
            self.folder().join(SHARDS)
        }

        /// The input as it is now.
        fn source(&self, text: &str) -> Source {
            std::fs::write(&self.files[0].path, text).expect("written");
            input::scan(&self.files, &input::Rules::default()).expect("good rows").source
        }

        fn manifest(&self) -> Manifest {
            Manifest::read(self.folder()).expect("read").expect("there")
        }

        /// What a start does: only so many steps where it has to carry over.
        fn start(&self, source: &Source, steps: usize) -> Manifest {
            let mut manifest = self.manifest();
            tidy(self.folder(), &manifest).expect("tidied");
            if manifest.fingerprint != source.fingerprint {
                let moves = matched(&manifest, source, self.folder()).expect("matched");
                let mut carry = Carry::new(&mut manifest, source, self.folder(), moves, Vec::new());
                STEPS.iter().take(steps).for_each(|step| step(&mut carry).expect("done"));
            }
            manifest
        }

        /// What the row's text was, by the index of its answer, as everybody reads it.
        fn answers(&self, source: &Source) -> BTreeMap<u64, String> {
            let files = shards::list(&self.shards()).expect("listed");
            let mut answers = BTreeMap::new();
            let rows = source.rows;
            shards::read_answers(&files, &source.fingerprint, rows, |index, _, line| {
                let line: serde_json::Value = serde_json::from_slice(line).expect("JSON");
                assert_eq!(line["id"], index.to_string());
                answers.insert(index, line["response"].as_str().expect("text").to_owned());
                Ok(())
            })
            .expect("read");
            answers
        }
    }

    fn style() -> LineStyle {
        LineStyle {
            echo: false,
            model: "m".into(),
            text_route: Route::Chat,
            rank: 0,
            host: "n1".into(),
        }
    }

    fn settled(index: u64, hash: u64, success: bool) -> Settled {
        let text = index.to_string();
        let outcome = if success {
            let choices = vec![Choice { text, ..Choice::default() }];
            Outcome::Answered(Answer { choices, ..Answer::default() })
        } else {
            let kind = FailureKind::TooLong;
            Outcome::Failed(Failure { kind, message: "no".into(), status: None })
        };
        let prompt = Prompt {
            index,
            id: Id::of_index(index),
            input: Input::Text(String::new()),
            params: Params::default(),
            route: None,
            priority: 0,
            row: None,
            hash: RowHash::new(hash, false),
        };
        Settled { prompt, outcome, endpoint: None, latency: 0.0, attempts: 1 }
    }

    /// The answers are named after the old rows: of AFTER's `same d same b`.
    fn expected() -> BTreeMap<u64, String> {
        [(1, "2"), (2, "5"), (3, "4"), (5, "1")].map(|(row, old)| (row, old.to_owned())).into()
    }

    #[test]
    fn wherever_the_steps_stop_the_next_start_goes_on_and_nothing_is_lost() {
        for stopped in 0..=STEPS.len() {
            let run = Run::new();
            let after = run.source(AFTER);
            run.start(&after, stopped);
            // Of a process that was ended while it wrote.
            std::fs::write(run.folder().join("carried-1.part"), "{").expect("written");
            let manifest = run.start(&after, STEPS.len());
            assert_eq!(run.answers(&after), expected(), "stopped after {stopped} steps");
            assert_eq!(manifest, run.manifest());
            let [change] = manifest.changes.as_slice() else { panic!("one change") };
            assert_eq!((manifest.starts, manifest.first_start(), manifest.rows), (3, 3, 6));
            let InputChange { rows_before, kept, new, gone, .. } =
                change.input.clone().expect("of the input");
            assert_eq!((rows_before, kept, new, gone), (6, 4, 2, 1));
            let names = |folder: PathBuf| {
                shards::list(&folder).expect("listed").iter().map(|it| it.start).collect::<Vec<_>>()
            };
            assert_eq!(names(run.shards()), [3], "stopped after {stopped} steps");
            let aside = names(run.folder().join("before-0003"));
            assert_eq!(aside[..2], [1, 2], "the earlier answers are all there");
            let parts = std::fs::read_dir(run.folder()).expect("listed").flatten();
            assert!(!parts.into_iter().any(|it| it.file_name().to_string_lossy().contains("part")));
        }
    }

    #[test]
    fn up_to_the_manifest_the_earlier_input_can_be_gone_on_with() {
        for stopped in 0..=2 {
            let run = Run::new();
            run.start(&run.source(AFTER), stopped);
            let before = run.source(BEFORE);
            let manifest = run.start(&before, STEPS.len());
            assert_eq!((manifest.starts, manifest.changes.len()), (2, 0));
            assert_eq!(run.answers(&before).into_keys().collect::<Vec<_>>(), [0, 1, 2, 4, 5]);
            // The next start's file is not in anybody's way.
            let header = Header::new(3, 0, "n1", &before.fingerprint);
            ShardWriter::create(&run.shards(), &header, style()).expect("a file");
        }
    }

    #[test]
    fn an_input_that_changes_back_keeps_what_was_never_gone() {
        for stopped in 0..=STEPS.len() {
            let run = Run::new();
            let after = run.source(AFTER);
            run.start(&after, STEPS.len());
            let before = run.source(BEFORE);
            run.start(&before, stopped);
            let manifest = run.start(&before, STEPS.len());
            assert_eq!((manifest.starts, manifest.first_start()), (4, 4));
            let answers = [(1, "1"), (2, "2"), (4, "4"), (5, "5")];
            assert_eq!(
                run.answers(&before),
                answers.map(|(row, old)| (row, old.to_owned())).into(),
                "stopped after {stopped} steps"
            );
        }
    }

    #[test]
    fn a_run_that_somebody_else_has_started_is_left_alone() {
        let run = Run::new();
        let after = run.source(AFTER);
        let mut manifest = run.manifest();
        let moves = matched(&manifest, &after, run.folder()).expect("matched");
        let carry = Carry::new(&mut manifest, &after, run.folder(), moves, Vec::new());
        carry.write().expect("done");
        let mut theirs = run.manifest();
        theirs.starts += 1;
        theirs.write(run.folder()).expect("written");
        assert!(carry.place().is_err());
    }

    #[test]
    fn what_is_refused_is_told_with_what_to_do() {
        let told = Told { kept: 4, new: 2, gone: 1, unknown: 0 };
        let input = in_words((6, 7), &told);
        assert_eq!(
            input,
            "the input has changed since this run began: it had 6 rows and has 7; 4 answers are kept, 2 rows are to be asked, \
             1 answers are gone with their rows"
        );
        let settings = ["n was 1 and is 2".to_owned()];
        let both = refusal(Some(&input), None, &settings);
        assert!(
            both.starts_with(&input) && both.contains("; and settings") && both.contains("n was")
        );
        for text in [both, refusal(Some(&input), None, &[]), refusal(None, None, &settings)] {
            assert!(text.contains("--accept-changes") && text.contains("--overwrite"), "{text}");
        }
        assert!(in_words((6, 7), &Told { unknown: 1, ..told }).contains("earlier version"));
    }
}
