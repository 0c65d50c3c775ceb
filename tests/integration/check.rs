//! `check`: who drives which server, and is it ready?

use std::time::Duration;

use serde_json::Value;
use vllm_sim::{Flavor, Profile, Simulator};

use crate::support::Job;

fn simulator(change: impl FnOnce(&mut Profile)) -> Simulator {
    let mut profile = Profile::instant();
    change(&mut profile);
    Simulator::start(profile).expect("a port on loopback")
}

fn json(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[test]
fn every_rank_is_named_with_its_servers_and_what_they_are() {
    let servers = [simulator(|_| ()), simulator(|_| ())];
    let job = Job::of("check").arg("--json").ranks(3);
    let job = servers.iter().fold(job, |job, it| job.args(["--endpoint", &it.url()]));
    let report = json(&job.run().with_code(0).out);
    assert_eq!(report["ready"], 2);
    assert!(report["mpi"].as_str().unwrap().contains("funneled"), "{report}");
    let ranks = report["ranks"].as_array().unwrap();
    let owned: Vec<usize> =
        ranks.iter().map(|it| it["endpoints"].as_array().unwrap().len()).collect();
    assert_eq!(owned, [1, 1, 0]);
    let facts = &ranks[1]["endpoints"][0]["probe"]["ready"];
    assert_eq!(ranks[1]["endpoints"][0]["url"], servers[1].url());
    assert_eq!(facts["models"][0]["id"], "tiny");
    assert_eq!(facts["models"][0]["max_model_len"], 2048);
    assert_eq!(facts["version"], "0.32.0");
    for route in ["completions", "chat", "chat_batch", "tokenize", "metrics"] {
        assert_eq!(facts["routes"][route], true, "{route}");
    }
    for (rank, it) in ranks.iter().enumerate() {
        assert_eq!(it["rank"], rank);
        assert_eq!(it["local_rank"], rank);
        assert_eq!(it["local_size"], 3);
        assert!(!it["host"].as_str().unwrap().is_empty());
    }
}

#[test]
fn the_table_tells_the_same_to_people() {
    let server = simulator(|_| ());
    let ended = Job::of("check").args(["--endpoint", &server.url()]).ranks(2).run().with_code(0);
    for words in
        ["1 of 1 endpoints ready on 2 ranks", "MPI: ", "tiny", "2048", "0.32.0", "chat-batch"]
    {
        assert!(ended.out.contains(words), "{words}\n{}", ended.out);
    }
    assert!(ended.out.contains("1 rank has no endpoint"), "{}", ended.out);
}

#[test]
fn no_server_ready_is_code_6_in_time_and_says_why() {
    let ended = Job::of("check")
        .args(["--endpoint", "http://127.0.0.1:9", "--ready-timeout", "1s"])
        .ranks(2)
        .deadline(Duration::from_secs(30))
        .run()
        .with_code(6);
    assert!(ended.took < Duration::from_secs(15), "{:?}", ended.took);
    assert!(ended.out.contains("0 of 1 endpoints ready"), "{}", ended.out);
    assert!(ended.out.to_lowercase().contains("connect"), "{}", ended.out);
}

#[test]
fn a_server_that_loads_is_waited_for() {
    let server = simulator(|profile| profile.loading = Duration::from_secs(2));
    let ended =
        Job::of("check").args(["--endpoint", &server.url(), "--ready-timeout", "20s"]).run();
    assert!(ended.with_code(0).took >= Duration::from_secs(1));
}

#[test]
fn the_key_reaches_the_server_and_nothing_else() {
    let server = simulator(|profile| profile.api_key = Some("sesame-7".into()));
    let job = || Job::of("check").args(["--endpoint", &server.url(), "--ready-timeout", "1s"]);
    let without = job().run().with_code(5);
    for words in ["401", "hint: set AURORA_SWARM_API_KEY"] {
        assert!(without.out.contains(words), "{words}\n{}", without.out);
    }
    let with = job().env("AURORA_SWARM_API_KEY", "sesame-7").env("AURORA_SWARM_LOG", "trace");
    let with = with.ranks(2).run().with_code(0);
    assert!(
        !with.out.contains("sesame") && !with.err.contains("sesame"),
        "{}{}",
        with.out,
        with.err
    );
}

#[test]
fn no_proxy_stands_between_a_rank_and_its_server() {
    let server = simulator(|_| ());
    let job = Job::of("check").args(["--endpoint", &server.url(), "--ready-timeout", "2s"]);
    let proxied = ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"];
    proxied.iter().fold(job, |job, name| job.env(name, "http://127.0.0.1:9")).run().with_code(0);
}

#[test]
fn a_server_with_less_than_vllm_has_is_found_out_by_asking() {
    let server = simulator(|profile| profile.flavor = Flavor::Bare);
    let ended = Job::of("check").args(["--endpoint", &server.url(), "--json"]).run().with_code(0);
    let facts = &json(&ended.out)["ranks"][0]["endpoints"][0]["probe"]["ready"];
    assert_eq!(facts["models"][0]["max_model_len"], Value::Null);
    assert_eq!(facts["version"], Value::Null);
    assert_eq!(facts["routes"]["completions"], true);
    assert_eq!(facts["routes"]["chat"], true);
    for route in ["chat_batch", "tokenize", "metrics"] {
        assert_eq!(facts["routes"][route], false, "{route}");
    }
}

#[test]
fn ports_hostfile_and_placeholders_name_the_same_server() {
    let server = simulator(|_| ());
    let port = server.address().port().to_string();
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), format!("127.0.0.1\t{port}\trole=chat\n127.0.0.1:9 role=x\n"))
        .unwrap();
    let hosts = hosts.path().to_str().unwrap();
    for args in [
        &["--base-port", &port][..],
        &["--hostfile", hosts, "--tag", "role=chat"],
        &["--endpoint", &format!("http://localhost:{port}/v1")],
    ] {
        let ended = Job::of("check").args(args.iter().copied()).run().with_code(0);
        assert!(ended.out.contains(&format!("http://127.0.0.1:{port}")), "{}", ended.out);
    }
    let by_env = Job::of("check").env("AURORA_SWARM_HOSTFILE", hosts).args(["--tag", "role=chat"]);
    by_env.run().with_code(0);
}

#[test]
fn log_lines_can_be_json_with_rank_and_host() {
    let server = simulator(|_| ());
    let job = Job::of("check").args(["--endpoint", &server.url(), "--log-format", "json"]);
    let ended = job.env("AURORA_SWARM_LOG", "aurora_swarm=debug").ranks(2).run().with_code(0);
    let lines: Vec<Value> =
        ended.err.lines().filter(|line| line.starts_with('{')).map(json).collect();
    for rank in 0..2 {
        let its = lines.iter().find(|line| line["rank"] == rank);
        let its = its.unwrap_or_else(|| panic!("rank {rank} says nothing\n{}", ended.err));
        assert!(!its["host"].as_str().unwrap().is_empty() && its["level"] == "debug", "{its}");
    }
}
