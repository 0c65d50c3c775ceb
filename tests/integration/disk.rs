//! Disks that are too small: what was written is kept, the end says what is missing, and with more room the same command goes
//! on.

use std::{fs, io::Write};

use serde_json::Value;

use crate::support::{
    Job,
    disk::SmallDisk,
    job::Ended,
    work::{Work, assert_equal, made_up},
};

/// A run whose output is on a small disk, and the same run undisturbed.
struct Small {
    work: Work,
    disk: SmallDisk,
    input: String,
    ranks: Option<usize>,
    expected: Vec<Value>,
}

const PROMPTS: u64 = 2_000;

impl Small {
    /// `None` where no such disk can be had; the test has said so then.
    fn of(kib: usize, ranks: Option<usize>) -> Option<Self> {
        let work = Work::instant(2);
        let disk = SmallDisk::at(&work.path("disk"), kib)?;
        let input = work.prompts(&made_up(PROMPTS as usize));
        work.run_to(&input, "expected.jsonl").args(["--max-tokens", "24"]).run().with_code(0);
        let expected = work.answers("expected.jsonl");
        Some(Self { work, disk, input, ranks, expected })
    }

    fn run(&self) -> Ended {
        let job = self.work.run_to(&self.input, "disk/answers.jsonl").args(["--max-tokens", "24"]);
        let job = job.within(self.disk.within());
        match self.ranks {
            Some(ranks) => job.ranks(ranks).run(),
            None => job.run(),
        }
    }

    fn seen(&self, name: &str) -> String {
        self.disk.seen(name).to_string_lossy().into_owned()
    }

    fn output(&self) -> String {
        self.seen("answers.jsonl")
    }

    /// What `status` counts from the files: submitted, answered, failed, open.
    fn status(&self, code: i32) -> [u64; 4] {
        let run = self.work.path("disk/answers.jsonl");
        let job = Job::of("status").args([&*run.to_string_lossy(), "--json", "--exit-code"]);
        let said = job.within(self.disk.within()).run().with_code(code).out;
        let said: Value = serde_json::from_str(&said).expect("JSON");
        ["submitted", "answered", "failed", "open"].map(|name| said[name].as_u64().expect(name))
    }

    /// With room, the same command completes the run, and asks only what is open.
    fn goes_on(&self, open: u64) {
        self.disk.resize(16 << 10);
        let before = self.work.served();
        self.run().with_code(0);
        // (the last few of a busy machine may be asked twice)
        let asked = self.work.served() - before;
        assert!((open..=open + open.min(32)).contains(&asked), "{asked} asked, {open} were open");
        assert_equal(&self.work.answers(&self.output()), &self.expected);
        assert_eq!(self.status(0), [PROMPTS, PROMPTS, 0, 0]);
    }
}

fn full_in_mid_run(ranks: Option<usize>) {
    let Some(small) = Small::of(256, ranks) else { return };
    let ended = small.run().with_code(75);
    let ended = ended.complains("answers.jsonl.run/shards/0001-0000");
    ended.complains("No space left on device").complains("prompts remaining");
    assert!(!small.disk.seen("answers.jsonl").exists(), "an output is whole or absent");
    let [submitted, answered, failed, open] = small.status(75);
    assert_eq!((submitted, failed), (PROMPTS, 0));
    assert!(answered > 100 && open > 100, "{answered} answered");
    // Without more room it cannot go on, and loses nothing.
    let again = small.run().in_time();
    assert!(matches!(again.code, Some(5 | 75)), "{:?}\n{}", again.code, again.err);
    again.complains("No space left on device");
    let [_, still, _, open] = small.status(75);
    assert!(still >= answered);
    small.goes_on(open);
}

#[test]
fn a_disk_full_in_mid_run_ends_it_and_with_room_it_goes_on() {
    full_in_mid_run(None);
}

#[test]
fn a_disk_full_in_mid_run_ends_all_ranks_and_with_room_they_go_on() {
    full_in_mid_run(Some(2));
}

#[test]
fn a_disk_that_holds_the_answers_once_is_full_while_they_are_gathered() {
    for ranks in [None, Some(2)] {
        let Some(small) = Small::of(4 << 10, ranks) else { return };
        let shards = small.work.path("expected.jsonl.run/shards/0001-00000.jsonl");
        let bytes = fs::metadata(shards).expect("there").len() as usize;
        small.disk.resize((bytes + bytes / 2) >> 10);
        let ended = small.run().with_code(75).complains("answers.jsonl.part: No space left");
        ended.complains("run the same command again to resume");
        assert!(!small.disk.seen("answers.jsonl").exists(), "an output is whole or absent");
        assert!(!small.disk.seen("answers.jsonl.part").exists(), "its bytes are needed");
        let counts = &small.work.manifest(&small.output())["counts"];
        assert_eq!(counts["answered"], PROMPTS, "the manifest is true");
        assert_eq!(small.status(75), [PROMPTS, PROMPTS, 0, 0], "all answered, not finished");
        small.goes_on(0);
    }
}

#[test]
fn a_disk_full_at_the_start_is_told_before_anybody_is_asked_and_leaves_nothing() {
    for ranks in [None, Some(2)] {
        let Some(small) = Small::of(64, ranks) else { return };
        let filler = small.disk.seen("filler");
        let mut file = fs::File::create(&filler).expect("made");
        while file.write_all(&[7; 1024]).is_ok() {}
        let before = small.work.requests();
        let ended = small.run().with_code(5).complains("answers.jsonl.run/");
        ended.complains("No space left on device");
        assert_eq!(small.work.requests(), before, "nobody was asked");
        assert!(!small.disk.seen("answers.jsonl.run").exists(), "nothing is left behind");
        // Room for the first two files of the run folder, heartbeat and token, and for no more.
        file.set_len(file.metadata().expect("there").len() - 2 * 4096).expect("shorter");
        small.run().with_code(5).complains("manifest.json.part: No space left on device");
        assert!(!small.disk.seen("answers.jsonl.run").exists(), "nothing is left behind");
        // What is read from standard input is laid out there first.
        let spool = Job::of("run").args(["-", "--endpoint", &small.work.fleet.urls()[0]]);
        let output = small.work.path("disk/answers.jsonl");
        let spool = spool.args(["--output", &output.to_string_lossy()]).within(small.disk.within());
        let rows = "{\"prompt\":\"a longer prompt than the disk has room for\"}\n".repeat(900);
        spool.run_with_input(rows.as_bytes()).with_code(5).complains("No space left on device");
        assert!(!small.disk.seen("answers.jsonl.run").exists(), "nothing is left behind");
        drop(file);
        fs::remove_file(filler).expect("removed");
        small.goes_on(PROMPTS);
    }
}
