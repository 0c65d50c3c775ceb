//! Rules about the shape of the source: unique type names, short functions, and files that do not depend on each other in
//! circles. The order of the top-level modules is in `architecture`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{spanned::Spanned, visit::Visit};

/// Longest function, in lines from its signature to its closing brace.
const MAX_FUNCTION_LINES: usize = 80;
/// One value for each setting: no function, but a table.
const DEFAULT_SETTINGS: (&str, &str) = ("settings/mod.rs", "default");

/// Circles of files that may remain inside one folder.
const MAX_CIRCLES_IN_A_FOLDER: usize = 2;

/// Files that define the same types as others, for builds without a cargo feature.
const FEATURE_TWINS: &[&str] = &["parquet/disabled.rs"];

/// The folders of `job` and `engine`, lower layers first: a file uses files of its own layer or of lower ones.
const LAYERS: &[(&str, &[&[&str]])] = &[
    (
        "job",
        &[
            &["errors", "context"],
            &["setup"],
            &["collect", "resume"],
            &["root"],
            &["dispatch"],
            &["pipeline"],
            &["tree_reduce", "bench"],
            &["commands"],
        ],
    ),
    ("engine", &[&["policy"], &["queue", "endpoint_state"], &["ready_checker", "scheduler"]]),
];

/// A source file: its path below src, its module path, and its code without inline test modules.
struct SourceFile {
    path: String,
    module: Vec<String>,
    syntax: syn::File,
}

fn source_files() -> Vec<SourceFile> {
    fn walk(dir: &Path, root: &Path, files: &mut Vec<SourceFile>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, root, files);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let Some(stem) = name.strip_suffix(".rs") else { continue };
            // (tests of a module in a file of their own)
            if stem.ends_with("tests") || stem == "ledger/simulation" {
                continue;
            }
            let mut module: Vec<String> = stem.split('/').map(str::to_owned).collect();
            match module.last().map(String::as_str) {
                Some("mod") => drop(module.pop()),
                Some("lib") => module.clear(),
                _ => {}
            }
            let mut syntax = syn::parse_file(&fs::read_to_string(&path).unwrap())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            syntax.items.retain(|item| {
                !matches!(item, syn::Item::Mod(it) if it.content.is_some() && it.ident == "tests")
            });
            files.push(SourceFile { path: name, module, syntax });
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &root, &mut files);
    assert!(files.len() > 150, "the sources are not where this test looks for them");
    files
}

#[derive(Default)]
struct TypesAndFunctions {
    types: Vec<String>,
    functions: Vec<(String, usize)>,
}

impl TypesAndFunctions {
    fn add_function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = block.span().end().line + 1 - signature.span().start().line;
        self.functions.push((signature.ident.to_string(), lines));
    }
}

impl<'ast> Visit<'ast> for TypesAndFunctions {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.types.push(item.ident.to_string());
        syn::visit::visit_item_struct(self, item);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.types.push(item.ident.to_string());
        syn::visit::visit_item_enum(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.types.push(item.ident.to_string());
        syn::visit::visit_item_trait(self, item);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.types.push(item.ident.to_string());
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add_function(&item.sig, &item.block);
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add_function(&item.sig, &item.block);
        syn::visit::visit_impl_item_fn(self, item);
    }
}

/// Types that own state which others must not reach into.
const STATE_OWNERS: &[&str] = &[
    "Scheduler",
    "TaskQueue",
    "InFlight",
    "EndpointPool",
    "ConcurrencyController",
    "Coordinator",
    "LeaseClient",
    "Assignments",
    "RootRun",
    "Ledger",
    "Mailbox",
];

#[test]
fn owners_of_state_keep_their_fields_private() {
    let mut found = BTreeSet::new();
    for file in source_files() {
        for item in &file.syntax.items {
            let syn::Item::Struct(owner) = item else { continue };
            let name = owner.ident.to_string();
            if !STATE_OWNERS.contains(&name.as_str()) {
                continue;
            }
            for field in &owner.fields {
                let is_private = matches!(field.vis, syn::Visibility::Inherited);
                let field = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
                assert!(is_private, "{}: {name}.{field} is visible outside its file", file.path);
            }
            found.insert(name);
        }
    }
    assert_eq!(found.len(), STATE_OWNERS.len(), "only these were found: {found:?}");
}

#[test]
fn no_two_types_share_a_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in source_files() {
        let mut found = TypesAndFunctions::default();
        found.visit_file(&file.syntax);
        if !FEATURE_TWINS.contains(&file.path.as_str()) {
            for name in found.types {
                places.entry(name).or_default().push(file.path.clone());
            }
        }
    }
    places.retain(|_, files| files.len() > 1);
    assert!(places.is_empty(), "types that share their name: {places:#?}");
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for file in source_files() {
        let mut found = TypesAndFunctions::default();
        found.visit_file(&file.syntax);
        let functions = found.functions.into_iter().filter(|(name, lines)| {
            *lines > MAX_FUNCTION_LINES && (file.path.as_str(), name.as_str()) != DEFAULT_SETTINGS
        });
        long.extend(
            functions.map(|(name, lines)| format!("{}: {name} has {lines} lines", file.path)),
        );
    }
    assert!(long.is_empty(), "functions over {MAX_FUNCTION_LINES} lines:\n{}", long.join("\n"));
}

/// Paths that a file names, each as written, and what it re-exports.
#[derive(Default)]
struct NamedPaths {
    used: Vec<Vec<String>>,
    reexported: Vec<(Vec<String>, String)>,
}

impl NamedPaths {
    fn add_tree(&mut self, tree: &syn::UseTree, prefix: &mut Vec<String>, is_public: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.add_tree(&path.tree, prefix, is_public);
                prefix.pop();
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_tree(tree, prefix, is_public));
            }
            syn::UseTree::Name(name) => {
                self.add_leaf(prefix, &name.ident.to_string(), None, is_public)
            }
            syn::UseTree::Rename(name) => {
                let alias = Some(name.rename.to_string());
                self.add_leaf(prefix, &name.ident.to_string(), alias, is_public);
            }
            syn::UseTree::Glob(_) => self.used.push(prefix.clone()),
        }
    }

    fn add_leaf(&mut self, prefix: &[String], name: &str, alias: Option<String>, is_public: bool) {
        let mut path = prefix.to_vec();
        if name != "self" {
            path.push(name.to_owned());
        }
        if is_public {
            self.reexported.push((path, alias.unwrap_or_else(|| name.to_owned())));
        } else {
            self.used.push(path);
        }
    }
}

impl<'ast> Visit<'ast> for NamedPaths {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        self.add_tree(&item.tree, &mut Vec::new(), is_public);
    }

    // The path in `pub(super)` names no item.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.used.push(path.segments.iter().map(|it| it.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }
}

/// Which files depend on which, by the file's index. A re-export stands for the file that defines the item.
fn dependencies(files: &[SourceFile]) -> Vec<BTreeSet<usize>> {
    let index: BTreeMap<&[String], usize> =
        files.iter().enumerate().map(|(at, file)| (file.module.as_slice(), at)).collect();
    let absolute = |module: &[String], path: &[String]| -> Option<Vec<String>> {
        let supers = path.iter().take_while(|it| *it == "super").count();
        match path.first()?.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" => {
                let kept = module.len().checked_sub(supers)?;
                Some([&module[..kept], &path[supers..]].concat())
            }
            child => {
                let whole = [module, path].concat();
                let is_child =
                    index.contains_key([module, &[child.to_owned()]].concat().as_slice());
                is_child.then_some(whole)
            }
        }
    };
    let named: Vec<NamedPaths> = files
        .iter()
        .map(|file| {
            let mut named = NamedPaths::default();
            named.visit_file(&file.syntax);
            named
        })
        .collect();
    let mut reexports: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (file, named) in files.iter().zip(&named) {
        for (path, name) in &named.reexported {
            if let Some(target) = absolute(&file.module, path) {
                reexports
                    .insert([file.module.as_slice(), std::slice::from_ref(name)].concat(), target);
            }
        }
    }
    let resolve = |mut path: Vec<String>| -> Option<usize> {
        // Re-exports of re-exports end somewhere: the bound is against a circle of them.
        for _ in 0..8 {
            let known = (1..=path.len()).rev().find(|&end| {
                reexports.contains_key(&path[..end]) && !index.contains_key(&path[..end])
            });
            let Some(end) = known else { break };
            path = [reexports[&path[..end]].as_slice(), &path[end..]].concat();
        }
        (1..=path.len()).rev().find_map(|end| index.get(&path[..end]).copied())
    };
    let of_file = |(at, file): (usize, &SourceFile)| {
        let paths = named[at].used.iter().filter_map(|path| absolute(&file.module, path));
        paths.filter_map(resolve).filter(|&to| to != at).collect()
    };
    files.iter().enumerate().map(of_file).collect()
}

/// Groups of files that reach each other.
fn circles(edges: &[BTreeSet<usize>]) -> Vec<Vec<usize>> {
    let reachable = |from: usize| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            next.extend(edges[at].iter().copied().filter(|&to| seen.insert(to)));
        }
        seen
    };
    let reach: Vec<BTreeSet<usize>> = (0..edges.len()).map(reachable).collect();
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in 0..edges.len() {
        if !reach[at].contains(&at) || groups.iter().any(|group| group.contains(&at)) {
            continue;
        }
        groups.push(
            (0..edges.len())
                .filter(|&it| reach[at].contains(&it) && reach[it].contains(&at))
                .collect(),
        );
    }
    groups
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[test]
fn files_form_no_circles_across_folders_and_few_inside_one() {
    let files = source_files();
    let mut per_folder: BTreeMap<&str, usize> = BTreeMap::new();
    let mut complaints = Vec::new();
    for circle in circles(&dependencies(&files)) {
        let names: Vec<&str> = circle.iter().map(|&at| files[at].path.as_str()).collect();
        let folders: BTreeSet<&str> = names.iter().map(|it| folder_of(it)).collect();
        if folders.len() > 1 {
            complaints.push(format!("a circle across folders: {}", names.join(", ")));
            continue;
        }
        let count = per_folder.entry(folder_of(&files[circle[0]].path)).or_default();
        *count += 1;
        if *count > MAX_CIRCLES_IN_A_FOLDER {
            complaints.push(format!("one circle too many inside a folder: {}", names.join(", ")));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let edges =
        [BTreeSet::from([1]), BTreeSet::from([2]), BTreeSet::from([0]), BTreeSet::from([0])];
    assert_eq!(circles(&edges), [vec![0, 1, 2]]);
}

#[test]
fn folders_of_job_and_engine_keep_their_order() {
    let files = source_files();
    let edges = dependencies(&files);
    let mut complaints = Vec::new();
    for (module, layers) in LAYERS {
        let layer_of = |file: &SourceFile| {
            let room = file.module.get(1)?;
            (file.module[0] == *module)
                .then(|| layers.iter().position(|layer| layer.contains(&room.as_str())))?
        };
        for (from, targets) in edges.iter().enumerate() {
            for &to in targets {
                let (Some(above), Some(below)) = (layer_of(&files[from]), layer_of(&files[to]))
                else {
                    continue;
                };
                if above < below {
                    complaints
                        .push(format!("{} must not use {}", files[from].path, files[to].path));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
