//! How jobs end that cannot go on: never by a hang, always with a code and a sentence.

use std::time::Duration;

use crate::support::{
    Job,
    work::{Work, made_up},
};

#[test]
fn a_panic_on_one_rank_ends_the_job_in_seconds() {
    for more in [&["--rank", "1"][..], &["--rank", "0"], &["--rank", "1", "--thread"]] {
        let ended = Job::of("panic").args(more.iter().copied()).ranks(3).run().in_time();
        assert!(ended.took < Duration::from_secs(15), "{:?}", ended.took);
        assert_eq!(ended.code, Some(70), "{}", ended.err);
        ended.complains("a panic on purpose").complains("this is a bug");
    }
}

#[test]
fn a_panic_without_ranks_ends_the_process() {
    for more in [&["--rank", "0"][..], &["--rank", "0", "--thread"]] {
        Job::of("panic")
            .args(more.iter().copied())
            .run()
            .with_code(70)
            .complains("a panic on purpose");
    }
}

#[test]
fn clap_ends_the_process_before_mpi_starts() {
    let ended = Job::of("check").arg("--no-such-option").ranks(3).run().in_time();
    assert_eq!(ended.code, Some(2), "{}", ended.err);
    Job::of("check")
        .arg("--help")
        .ranks(2)
        .run()
        .with_code(0)
        .says("Test MPI, nodes and servers", 2);
}

#[test]
fn wrong_command_lines_end_with_code_2_and_the_usage() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(3));
    for (args, words) in [
        (&[][..], "missing --output FILE"),
        (
            &["--output", "x.jsonl", "--temperature", "3"],
            "--temperature 3: must be between 0 and 2",
        ),
        (&["--output", "x.jsonl", "--bad-rows", "ignore"], "[possible values: stop, fail]"),
    ] {
        let job = Job::of("run").arg(&input).args(["--endpoint", &work.fleet.urls()[0]]);
        let ended = args.iter().fold(job, |job, arg| job.arg(arg)).run().with_code(2);
        ended.complains(words).complains("--help");
    }
    assert_eq!(work.requests(), 0);
    Job::of("help").arg("resume").run().with_code(0).says("# Resume", 1);
    Job::of("help").arg("resme").run().with_code(2).complains("did you mean \"resume\"?");
}

#[test]
fn settings_that_cannot_be_end_every_rank_with_one_message() {
    let bad = Job::of("check").args(["--base-port", "99999"]).ranks(3).run().with_code(2);
    assert_eq!(bad.err.matches("--base-port").count(), 1, "{}", bad.err);
    let unknown = Job::of("check").env("AURORA_SWARM_MODELL", "x").ranks(2).run().with_code(5);
    assert_eq!(unknown.err.matches("did you mean \"model\"").count(), 1, "{}", unknown.err);
    Job::of("check")
        .args(["--hostfile", "/nowhere/hosts"])
        .run()
        .with_code(5)
        .complains("/nowhere/hosts");
    Job::of("check")
        .args(["--expect-ranks", "4"])
        .ranks(2)
        .run()
        .with_code(5)
        .complains("--expect-ranks 4, but MPI started");
}

#[test]
fn a_foreign_launcher_is_refused() {
    // N singletons, each of which believes to be the whole job: what Open MPI's program is under MPICH's mpiexec, and the
    // other way round. The variables are what the launchers leave.
    for (name, value) in [("PALS_LOCAL_SIZE", "4"), ("PALS_RANKID", "1")] {
        let ended = Job::of("check").env(name, value).run().with_code(71);
        ended
            .complains("does not belong to the MPI that aurora-swarm was built with")
            .complains(name);
    }
}

#[test]
fn the_other_mpis_mpiexec_is_refused() {
    // Where the other MPI is installed beside ours (AURORA_OTHER_MPIEXEC), the real thing.
    let Ok(other) = std::env::var("AURORA_OTHER_MPIEXEC") else {
        println!("no other MPI here: set AURORA_OTHER_MPIEXEC to its mpiexec for the real thing");
        return;
    };
    let ended = Job::program(&other)
        .args(["-n", "2", env!("CARGO_BIN_EXE_aurora-swarm"), "check"])
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe")
        .run()
        .in_time();
    assert_ne!(ended.code, Some(0));
    ended.complains("does not belong to the MPI that aurora-swarm was built with");
}
