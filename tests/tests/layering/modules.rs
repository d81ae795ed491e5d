//! Inside a crate: imports run one way between the top-level modules, and no module imports itself through others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// The sources of a crate, and its top-level modules in layers. A module may import what is in a later layer,
/// and its own folder; never what is beside it in its layer. All of a layer's names are separated by spaces.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "pooler/src",
        &[
            "start",
            "jobs",
            "instance services",
            "repository",
            "config_files peers",
            "given_settings",
            "agent",
            "availability",
            "arguments data_layout disk instance_lock listening member pooling record_fault report slot_sync wal_files",
        ],
    ),
    (
        "admin/src",
        &[
            "api",
            "leader cluster failover",
            "jobs",
            "tries",
            "admin",
            "audit member_reports open_jobs pooler_clients",
            "caller deadline message page",
            "refusal",
        ],
    ),
    // `output` and `global` fail with a `Failure`, so they are above it; `global` holds the form of answers.
    (
        "crates/cli/src",
        &[
            "arguments",
            "commands",
            "bundle client",
            "local question",
            "global",
            "output",
            "failure",
            "render",
        ],
    ),
    (
        "provisioner/src",
        // `cluster` is the cluster as data, for all that acts on it. `renewal` replaces certificates while everything
        // runs, so it needs `processes` (etcd starts again for a new authority), and `local` needs it to finish what
        // was interrupted. A cluster on hosts is started and watched as a local one is, and `etcd` changes its members.
        // `etcd` puts etcd's data back under a cluster that `local` runs.
        &[
            "hosts",
            "etcd",
            "local spec",
            "renewal",
            "processes",
            "certificates preflight",
            "binaries cluster",
            "file",
            "error",
        ],
    ),
    ("crates/model/src", &["decide store", "records", "types"]),
    ("crates/api/src", &["error job member record", "structure", "wkt"]),
    ("crates/pgbackrest/src", &[]),
    ("crates/postgres/src", &[]),
    ("crates/system/src", &[]),
    (
        "crates/topology/src",
        &["mirror", "view", "store", "unknown_fields", "etcd lease_keeper memory retry", "kv", "error"],
    ),
    ("tests/src", &["cluster hosts load", "machine"]),
    ("tls/src", &[]),
];

/// The modules of a crate by path (`jobs::backup`), each with what it names of its own crate.
type Modules = BTreeMap<String, BTreeSet<String>>;

/// Collects the paths of one file that begin with `crate` or `super`, outside of its tests.
struct Paths<'a> {
    module: &'a [String],
    found: BTreeSet<Vec<String>>,
}

impl Paths<'_> {
    fn add(&mut self, segments: &[String]) {
        let rest = match segments.first().map(String::as_str) {
            Some("crate") => segments[1..].to_vec(),
            Some("super") => {
                let ups = segments.iter().take_while(|segment| *segment == "super").count();
                let parent = &self.module[..self.module.len().saturating_sub(ups)];
                [parent, &segments[ups..]].concat()
            }
            _ => return,
        };
        self.found.insert(rest);
    }

    fn add_tree(&mut self, prefix: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(prefix, tree)),
            syn::UseTree::Name(name) if name.ident == "self" => self.add(prefix),
            syn::UseTree::Name(name) => self.add(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.add(prefix),
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_test(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }
}

/// What each module imports of its own crate; `sources` are texts by path below the crate's `src`.
fn imports(sources: &BTreeMap<String, String>) -> Modules {
    let path_of = |file: &str| -> Vec<String> {
        let path = file.trim_end_matches(".rs").trim_end_matches("/mod");
        path.split('/').map(str::to_owned).collect()
    };
    let names: BTreeSet<Vec<String>> = sources.keys().map(|file| path_of(file)).collect();
    sources
        .iter()
        .filter(|(file, _)| !matches!(file.as_str(), "lib.rs" | "main.rs"))
        .map(|(file, text)| {
            let module = path_of(file);
            let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
            let mut paths = Paths { module: &module, found: BTreeSet::new() };
            paths.visit_file(&parsed);
            // The longest beginning of each path that is a module; the rest names something in it.
            let known = paths.found.iter().filter_map(|path| {
                (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|path| names.contains(path))
            });
            // A folder's own `mod.rs` names its children to declare or re-export them, which imports nothing.
            let imported = known.filter(|path| *path != module && !module.starts_with(path));
            (module.join("::"), imported.map(|path| path.join("::")).collect())
        })
        .collect()
}

/// Imports between top-level modules that do not go down, each as `from -> to`.
fn against_the_layers(modules: &Modules, layers: &[&str]) -> Vec<String> {
    let top = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let layer = |name: &str| layers.iter().position(|names| names.split(' ').any(|other| other == name));
    let mut wrong = Vec::new();
    for (module, imported) in modules {
        let from = top(module);
        if layer(&from).is_none() {
            wrong.push(format!("{from} is in no layer"));
        }
        let others = imported.iter().filter(|to| top(to) != from);
        wrong.extend(
            others.filter(|to| layer(&from) >= layer(&top(to))).map(|to| format!("{module} -> {to}")),
        );
    }
    wrong.sort();
    wrong.dedup();
    wrong
}

/// Modules that import each other, directly or through others; one list a circle.
fn circles(modules: &Modules) -> Vec<Vec<String>> {
    let reached = |from: &str| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<&String> = modules.get(from).into_iter().flatten().collect();
        while let Some(module) = open.pop() {
            if seen.insert(module.clone()) {
                open.extend(modules.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<String>> =
        modules.keys().map(|module| (module, reached(module))).collect();
    let mut found: BTreeSet<Vec<String>> = BTreeSet::new();
    for (module, others) in &reached {
        let with =
            others.iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(*module)));
        let circle: Vec<String> = with.cloned().collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "tests.rs" || part == "bin")
}

fn read_sources(root: &Path) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            if path.is_dir() {
                open.push(path);
            } else if name.ends_with(".rs") && !is_test_file(&name) {
                sources.insert(name, std::fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    sources
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

#[test]
fn imports_inside_each_crate_run_one_way() {
    let mut wrong = Vec::new();
    for (root, layers) in LAYERS {
        let modules = imports(&read_sources(&repository().join(root)));
        assert!(!modules.is_empty(), "{root} has no modules");
        if !layers.is_empty() {
            wrong.extend(
                against_the_layers(&modules, layers).into_iter().map(|arrow| format!("{root}: {arrow}")),
            );
        }
        wrong.extend(
            circles(&modules).into_iter().map(|circle| format!("{root}: circle: {}", circle.join(" "))),
        );
    }
    assert!(wrong.is_empty(), "imports that go the wrong way:\n{}", wrong.join("\n"));
}

/// The folders that may look at the kinds of store of a repository, and the record itself.
const KNOWS_STORES: &[&str] =
    &["crates/pgbackrest/", "pooler/src/repository/", "crates/model/src/records/repository/"];

/// Files outside of [`KNOWS_STORES`] that name a variant of `Repository`.
fn knows_stores(sources: &BTreeMap<String, String>) -> Vec<&String> {
    let kinds = ["Repository::Directory", "Repository::InCell", "Repository::Store"];
    let named = sources.iter().filter(|(_, text)| kinds.iter().any(|kind| text.contains(kind)));
    named
        .map(|(file, _)| file)
        .filter(|file| !KNOWS_STORES.iter().any(|root| file.starts_with(root)))
        .collect()
}

#[test]
fn only_the_repository_code_knows_the_kinds_of_store() {
    let sources = LAYERS.iter().flat_map(|(root, _)| {
        let sources = read_sources(&repository().join(root));
        sources.into_iter().map(move |(file, text)| (format!("{root}/{file}"), text))
    });
    let mut sources: BTreeMap<String, String> = sources.collect();
    assert_eq!(knows_stores(&sources), Vec::<&String>::new());
    let elsewhere = "pooler/src/jobs/backup.rs".to_owned();
    sources.insert(elsewhere.clone(), "if let Repository::Directory(path) = repository {}".to_owned());
    assert_eq!(knows_stores(&sources), [&elsewhere]);
    sources.insert(elsewhere.clone(), "let Repository::InCell { cell, .. } = repository;".to_owned());
    assert_eq!(knows_stores(&sources), [&elsewhere]);
}

#[test]
fn an_import_against_the_layers_is_found() {
    let source = |file: &str, text: &str| (file.to_owned(), text.to_owned());
    let good = [
        source("jobs/backup.rs", "use crate::agent::Agent; use super::claim::Claim;"),
        source("jobs/claim.rs", ""),
        source("agent.rs", "#[cfg(test)] mod tests { use crate::jobs::backup; }"),
    ];
    let layers = ["jobs", "agent"];
    let check = |sources: &[(String, String)]| {
        let modules = imports(&sources.iter().cloned().collect());
        (against_the_layers(&modules, &layers), circles(&modules))
    };
    assert_eq!(check(&good), (vec![], vec![]));

    let mut upwards = good.clone();
    upwards[2].1 = "fn f() { crate::jobs::claim::take(); }".to_owned();
    assert_eq!(check(&upwards).0, ["agent -> jobs::claim"]);

    let mut circle = good.clone();
    circle[1].1 = "use crate::{agent, jobs::{backup::run}};".to_owned();
    assert_eq!(check(&circle).1, [["jobs::backup", "jobs::claim"]]);

    let mut nowhere = good.to_vec();
    nowhere.push(source("misc.rs", ""));
    assert_eq!(check(&nowhere).0, ["misc is in no layer"]);
}
