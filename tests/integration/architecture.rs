//! The house's rules that no linter knows: which module may use which, and who owns what.

use std::{collections::BTreeSet, fs, path::Path};

use syn::visit::Visit;

/// What each module may use of the others. The living copy of the design's one-way order.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("settings", &["domain"]),
    ("bench", &["metrics", "settings", "domain"]),
    ("report", &["metrics", "output", "settings", "domain"]),
    ("console", &["report", "bench", "metrics", "output", "settings", "domain"]),
    ("site", &["settings", "domain"]),
    ("comm", &["domain"]),
    ("endpoint", &["settings", "domain"]),
    ("parquet", &["domain"]),
    ("compression", &[]),
    ("new_file", &[]),
    ("input", &["compression", "new_file", "parquet", "settings", "domain"]),
    ("chat_template", &["domain"]),
    ("reduce", &["input"]),
    ("shards", &["new_file", "domain"]),
    ("aggregate", &["settings", "domain"]),
    ("metrics", &["domain"]),
    ("ledger", &["domain"]),
    ("serve", &["new_file", "settings"]),
    ("output", &["compression", "new_file", "parquet", "metrics", "settings", "domain"]),
    ("validation", &[]),
    ("engine", &["validation", "endpoint", "metrics", "settings", "domain"]),
    (
        "job",
        &[
            "aggregate",
            "bench",
            "metrics",
            "engine",
            "validation",
            "comm",
            "ledger",
            "input",
            "chat_template",
            "reduce",
            "shards",
            "output",
            "new_file",
            "serve",
            "site",
            "report",
            "console",
            "settings",
            "domain",
        ],
    ),
    ("swarm", &["job", "comm", "aggregate", "output", "new_file", "settings", "domain"]),
    ("docs", &[]),
    ("cli", &["docs", "job", "comm", "output", "serve", "site", "console", "settings"]),
    // The binary uses the library's doc(hidden) `internals`, which the crate root collects from all layers.
    ("main", &[]),
    ("lib", &["cli", "swarm", "comm", "ledger", "parquet", "shards"]),
];

/// Dependencies that one file (or folder) knows and no other.
const OWNERS: &[(&str, &str)] = &[
    ("mpi", "comm/mpi.rs"),
    ("bincode", "comm/codec.rs"),
    ("reqwest", "endpoint/http.rs"),
    ("clap", "cli/"),
    ("clap_complete", "cli/completions.rs"),
    ("clap_mangen", "cli/man.rs"),
    ("toml", "settings/layers.rs"),
    ("nix", "serve/spawn.rs"),
    ("comfy_table", "console/"),
    ("tracing_subscriber", "console/log.rs"),
    ("if_addrs", "site/node.rs"),
    ("signal_hook", "site/signals.rs"),
    ("strsim", "settings/layers.rs"),
    ("base64", "domain/image.rs"),
    ("backon", "engine/scheduler/retry_policy.rs"),
    ("slotmap", "engine/queue/slots.rs"),
    ("futures_util", "engine/"),
    ("indicatif", "console/"),
    ("flate2", "compression.rs"),
    ("zstd", "compression.rs"),
    ("parquet", "parquet/"),
    ("arrow_array", "parquet/"),
    ("arrow_cast", "parquet/"),
    ("arrow_json", "parquet/"),
    ("arrow_schema", "parquet/"),
    ("glob", "input/discover.rs"),
    ("encoding_rs", "input/encoding.rs"),
    ("memchr", "input/records.rs"),
    ("xxhash_rust", "input/"),
    ("minijinja", "chat_template/"),
    ("minijinja_contrib", "chat_template/"),
    ("jiff", "chat_template/"),
    ("jsonschema", "validation/"),
    ("regex", "validation/"),
];

/// Every path that a file names, by its first two segments.
#[derive(Default)]
struct Paths(BTreeSet<(String, String)>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let mut segments = path.segments.iter().map(|segment| segment.ident.to_string());
        let first = segments.next().unwrap_or_default();
        self.0.insert((first, segments.next().unwrap_or_default()));
        syn::visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let mut heads = Vec::new();
        flatten(&item.tree, &mut Vec::new(), &mut heads);
        self.0.extend(heads);
    }
}

fn flatten(tree: &syn::UseTree, above: &mut Vec<String>, heads: &mut Vec<(String, String)>) {
    match tree {
        syn::UseTree::Path(path) => {
            above.push(path.ident.to_string());
            flatten(&path.tree, above, heads);
            above.pop();
        }
        syn::UseTree::Group(group) => {
            group.items.iter().for_each(|tree| flatten(tree, above, heads));
        }
        syn::UseTree::Name(name) => push(above, &name.ident.to_string(), heads),
        syn::UseTree::Rename(rename) => push(above, &rename.ident.to_string(), heads),
        syn::UseTree::Glob(_) => push(above, "*", heads),
    }
}

fn push(above: &[String], last: &str, heads: &mut Vec<(String, String)>) {
    let mut whole = above.iter().map(String::as_str).chain([last]);
    let first = whole.next().unwrap_or_default().to_owned();
    heads.push((first, whole.next().unwrap_or_default().to_owned()));
}

/// Every source file, by its path below src.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, files: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                files.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut files = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    // A module's tests in a file of their own are tests.
    files.retain(|(name, _)| !name.ends_with("tests.rs"));
    assert!(files.len() > 20, "the sources are where they are looked for");
    files
}

fn module_of(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

/// What a text breaks, as sentences.
fn breaches(file: &str, text: &str) -> Vec<String> {
    let mut paths = Paths::default();
    paths.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}")));
    let module = module_of(file);
    let (_, may) = MAY_USE
        .iter()
        .find(|(its, _)| *its == module)
        .unwrap_or_else(|| panic!("{file}: a new module needs its line in this test's table"));
    let mut breaches = Vec::new();
    for (first, second) in &paths.0 {
        let ours = matches!(first.as_str(), "crate" | "aurora_swarm");
        let known = MAY_USE.iter().any(|(its, _)| its == second);
        if ours && known && second != module && !may.contains(&second.as_str()) {
            breaches.push(format!("{file}: {module} must not use {second}"));
        }
        for (dependency, owner) in OWNERS {
            // A lone word is a variable.
            if first == dependency && !second.is_empty() && !file.starts_with(owner) {
                breaches.push(format!("{file}: {dependency} belongs to {owner}"));
            }
        }
    }
    breaches
}

#[test]
fn modules_use_each_other_one_way_and_dependencies_have_one_owner() {
    let all: Vec<String> = sources().iter().flat_map(|(file, text)| breaches(file, text)).collect();
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

#[test]
fn the_test_sees_what_it_forbids() {
    for (file, text) in [
        ("engine/policy.rs", "use crate::{domain::Url, comm::Comm};"),
        ("comm/typed.rs", "fn f(x: crate::endpoint::Client) {}"),
        ("domain/url.rs", "use crate::settings::*;"),
        ("job/run.rs", "use reqwest::Client as C;"),
        ("report/table.rs", "fn f() { mpi::time(); }"),
    ] {
        assert_eq!(breaches(file, text).len(), 1, "{file}: {text}");
    }
    assert!(breaches("comm/mpi.rs", "use mpi::traits::*; use crate::domain::Merge;").is_empty());
}

#[test]
fn every_file_begins_by_saying_what_it_owns() {
    for (file, text) in sources() {
        assert!(text.starts_with("//! "), "{file} has no opening paragraph");
    }
}
