//! The documentation agrees with the code: the tests, source files and functions that it names exist, its links
//! lead to pages and headings, and the reference pages have every error code and method. The page of the command line
//! is checked by the command line's own tests.

#![expect(clippy::expect_used, reason = "a test ends where it must not go on")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cellar_model::access::{Effect, METHODS, Needs};
use cellar_model::{Code, Refusal};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    let mut left = vec![root().join("docs")];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    pages
}

/// What stands between single backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with("```")).flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn every_test_that_is_named_is_there() {
    let (mut missing, mut named) = (Vec::new(), BTreeSet::new());
    for page in pages() {
        let text = read(&page);
        for quote in quoted(&text) {
            let Some((file, name)) = quote.split_once(".rs::") else { continue };
            named.insert(quote.to_owned());
            let source = std::fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
            let function = source.find(&format!("fn {name}(")).map(|at| &source[..at]);
            // Its attribute is the last thing before it, but for what only qualifies it.
            let is_test = function.is_some_and(|before| {
                let before = before.trim_end().trim_end_matches("async").trim_end();
                before.ends_with("#[test]") || before.ends_with("#[tokio::test]") || before.ends_with(")]")
            });
            if !is_test {
                missing.push(format!("{}: {quote}", page.display()));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    assert!(named.len() > 50, "{named:?}");
}

/// A heading as a link names it.
fn anchor(heading: &str) -> String {
    let plain = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = plain.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The headings of a page, without the comments of its examples.
fn anchors(page: &Path) -> BTreeSet<String> {
    let text = read(page);
    let mut example = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with("```") {
            example = !example;
        } else if line.starts_with('#') && !example {
            found.insert(anchor(line));
        }
    }
    found
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            count += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { page.clone() } else { page.parent().expect("a directory").join(file) };
            let leads = target.exists() && (heading.is_empty() || anchors(&target).contains(heading));
            if !leads {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
    assert!(count > 100, "{count}");
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn alternatives(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (names, after))) => {
            names.split(',').map(|name| format!("{before}{}{after}", name.trim())).collect()
        }
        None => vec![path.to_owned()],
    }
}

fn is_source(quote: &str) -> bool {
    quote.ends_with(".rs") && !quote.contains("::") && !quote.contains(char::is_whitespace)
}

fn is_identifier(quote: &str) -> bool {
    !quote.is_empty() && quote.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'))
}

/// Each name that a line gives for a file: "`name` in `file`" and "`file` (`name`)".
fn names_in_files(line: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = line.split('`').collect();
    let mut found = Vec::new();
    for at in (1..parts.len()).step_by(2).filter(|at| is_source(parts[*at])) {
        if at >= 2 && parts[at - 1] == " in " {
            found.push((parts[at - 2], parts[at]));
        }
        if parts.get(at + 1).is_some_and(|between| *between == " (") {
            found.extend(parts.get(at + 2).map(|name| (*name, parts[at])));
        }
    }
    found.retain(|(name, _)| is_identifier(name));
    found
}

#[test]
fn every_source_file_and_name_in_it_exists() {
    let (mut missing, mut count) = (Vec::new(), 0);
    for page in pages() {
        let text = read(&page);
        let shown = page.strip_prefix(root()).expect("below the root").display();
        for quote in quoted(&text).filter(|quote| is_source(quote)) {
            for path in alternatives(quote) {
                count += 1;
                if !root().join(&path).is_file() {
                    missing.push(format!("{shown}: {path}"));
                }
            }
        }
        for (name, file) in text.lines().flat_map(names_in_files) {
            let last = name.rsplit(':').next().unwrap_or(name);
            let has = |path: String| {
                let source = std::fs::read_to_string(root().join(path)).unwrap_or_default();
                source.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == last)
            };
            if !alternatives(file).into_iter().any(has) {
                missing.push(format!("{shown}: {name} in {file}"));
            }
        }
    }
    assert!(missing.is_empty(), "{} names that do not exist:\n{}", missing.len(), missing.join("\n"));
    assert!(count > 100, "{count}");
}

#[test]
fn names_and_alternatives_are_found() {
    assert_eq!(alternatives("a/{b,c}.rs"), ["a/b.rs", "a/c.rs"]);
    let line = "`plan` in `a/b.rs`, `c/d.rs` (`X::run`), `e.rs` (not `this`)";
    assert_eq!(names_in_files(line), [("plan", "a/b.rs"), ("X::run", "c/d.rs")]);
}

/// The cells of each row of the tables of a page.
fn rows(page: &str) -> Vec<Vec<String>> {
    table_rows(&read(&root().join(page)))
}

/// The cells of each row of the tables of a text.
fn table_rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |").map(str::to_owned));
    rows.map(|row| row.split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// `FailedPrecondition` as `FAILED_PRECONDITION`.
fn screaming(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_uppercase());
    }
    text
}

#[test]
fn every_error_code_is_explained() {
    let rows = rows("docs/reference/errors.md");
    let rows: BTreeMap<&str, &Vec<String>> =
        rows.iter().filter(|row| row.len() == 5).map(|row| (row[0].trim_matches('`'), row)).collect();
    let mut wrong = Vec::new();
    for code in Code::ALL {
        let grpc = cellar_api::status_of(&Refusal::new(*code, "")).code();
        let expected = (screaming(&format!("{grpc:?}")), cellar_api::exit_code(grpc).to_string());
        match rows.get(code.as_str()) {
            None => wrong.push(format!("{code} is not on the page")),
            Some(row) if (&row[1], &row[2]) != (&expected.0, &expected.1) => {
                wrong.push(format!("{code} has {expected:?}, the page says {:?}", &row[1..3]));
            }
            Some(row) if row[3].is_empty() || row[4].is_empty() => {
                wrong.push(format!("{code} has an empty cell"));
            }
            Some(_) => {}
        }
    }
    assert_eq!(wrong, [""; 0]);
    let known = |code: &str| Code::ALL.iter().any(|known| known.as_str() == code);
    let unknown: Vec<&&str> = rows.keys().filter(|code| screaming(code) == **code && !known(code)).collect();
    assert!(unknown.is_empty(), "codes that do not exist: {unknown:?}");
}

#[test]
fn every_method_of_the_api_is_explained() {
    let rows = rows("docs/reference/api.md");
    let mut missing = Vec::new();
    for (path, needs, effect) in METHODS {
        let Some(method) = path.strip_prefix("/cellar.v1.MultiAdmin/") else { continue };
        let role = match needs {
            Needs::Role(role) => role.to_string(),
            other => other.to_string(),
        };
        let audit = if *effect == Effect::Mutates { "yes" } else { "no" };
        let is_there = rows.iter().any(|row| {
            row.len() == 4 && row[0] == format!("`{method}`") && row[2] == role && row[3] == audit
        });
        if !is_there {
            missing.push(format!("{method}, {role}, {audit}"));
        }
    }
    assert_eq!(missing, [""; 0]);
}

#[test]
fn every_method_is_in_the_table_of_who_may_call_it() {
    let rows = rows("docs/security.md");
    let unnamed = METHODS.iter().filter(|(path, ..)| {
        let (service, method) = path.trim_start_matches("/cellar.v1.").split_once('/').expect("a path");
        let callers = match service {
            "MultiAdmin" => &["viewer", "operator", "admin"][..],
            _ => &["multiadmin", "multiadmin or a pooler"][..],
        };
        !rows.iter().any(|row| callers.contains(&row[0].as_str()) && row[1].contains(&format!("`{method}`")))
    });
    let unnamed: Vec<&str> = unnamed.map(|(path, ..)| *path).collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
}

/// The variants of an enum in a source, as `docs/reference/states.md` writes them: `NoPrimary` as `no-primary`.
fn variants(source: &str, name: &str) -> BTreeSet<String> {
    let file = syn::parse_file(&read(&root().join(source))).expect("it compiles");
    let found = file.items.into_iter().find_map(|item| match item {
        syn::Item::Enum(item) if item.ident == name => Some(item.variants),
        _ => None,
    });
    let found = found.unwrap_or_else(|| panic!("no enum {name} in {source}"));
    let kebab = |name: String| screaming(&name).replace('_', "-").to_lowercase();
    found.iter().map(|variant| kebab(variant.ident.to_string())).collect()
}

#[test]
fn every_state_is_explained_with_what_leaves_it() {
    let page = "docs/reference/states.md";
    let text = read(&root().join(page));
    let mut wrong = Vec::new();
    for (heading, source, name) in [
        ("Jobs and steps", "crates/model/src/records/job/run.rs", "JobState"),
        ("Cells", "crates/model/src/records/instance.rs", "InstanceState"),
        ("Databases", "crates/model/src/decide/condition.rs", "ConditionKind"),
        ("Schedules", "crates/model/src/records/schedule.rs", "ScheduleAction"),
    ] {
        let section = text.split("\n## ").find(|section| section.starts_with(&format!("{heading}\n")));
        let section = section.unwrap_or_else(|| panic!("no section {heading}"));
        let rows: Vec<Vec<String>> = table_rows(section).into_iter().skip(1).collect();
        let states: BTreeSet<String> = rows.iter().map(|row| row[0].clone()).collect();
        if states != variants(source, name) || states.len() != rows.len() {
            wrong.push(format!("{heading}: {states:?} on the page, {:?} in {name}", variants(source, name)));
        }
        for row in &rows {
            let is_final = ["succeeded", "failed", "canceled"].contains(&row[0].as_str());
            let way_out =
                ["`cellar ", "`etcdctl ", "by itself", "](#"].iter().any(|way| row[2].contains(way));
            if row.len() != 3 || row[1].is_empty() || (row[2] == "final") != is_final || !is_final && !way_out
            {
                wrong.push(format!("{heading}: {} has no way out", row[0]));
            }
        }
    }
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn every_decision_has_a_status_and_is_listed() {
    let directory = root().join("docs/decisions");
    let list = read(&directory.join("README.md"));
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&directory).expect("the decisions").flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        if file == "README.md" {
            continue;
        }
        let text = read(&entry.path());
        let title = text.lines().next().and_then(|line| line.split_once(". ")).map_or("", |(_, title)| title);
        let status = text.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or_default();
        let number = &file[..4];
        let is_status = status.starts_with("accepted") || status.starts_with("superseded by [");
        let short = if status.starts_with("accepted") { "accepted" } else { "superseded by" };
        let listed = list.lines().any(|line| {
            line.starts_with(&format!("| {number} | [{title}]({file}) | ")) && line.contains(short)
        });
        if !is_status || !listed {
            wrong.push(file);
        }
    }
    wrong.sort();
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn the_readme_is_short_and_has_the_test_command() {
    let text = read(&root().join("README.md"));
    assert!(text.lines().count() <= 150, "{} lines", text.lines().count());
    assert!(text.contains("```\nmake test\n```"));
    assert!(read(&root().join("docs/contributing.md")).lines().count() <= 120);
}

/// Messages on the pages that other programs print, and words that only look like messages.
const FOREIGN: &[&str] = &[
    "contrecord is requested by …",
    "waiting for WAL to become available",
    "requested start point … is ahead of the upstream server's flush position",
    "Peer authentication failed",
    "raised from remote-0 tls protocol on …: access denied",
    "rejected connection",
    "dropped stats",
    "access denied",
    "permission denied",
    "certificate revoked",
];

/// Programs and variables with which a quoted command begins.
const COMMANDS: &[&str] = &[
    "cellar",
    "certs",
    "expire",
    "jobs",
    "backups",
    "kill",
    "systemctl",
    "pg_ctl",
    "pg_waldump",
    "pgbackrest",
    "pgrep",
    "select",
    "setpriv",
    "sh",
    "show",
];

/// The parts of a quoted message that a source must contain: what is between names, numbers and ids.
fn fixed_parts(quote: &str) -> Vec<String> {
    let word = |word: &str| {
        let is_placeholder = word.chars().all(|c| c.is_ascii_uppercase()) || word.starts_with('…');
        is_placeholder || word.chars().any(|c| c.is_ascii_digit())
    };
    let mut parts = vec![String::new()];
    for piece in quote.split_inclusive(' ') {
        if word(piece.trim_end().trim_end_matches([',', ':', '.'])) {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(piece);
        }
    }
    parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| part.len() >= 8).collect()
}

/// All sources of the programs, with the lines of each text joined.
fn sources() -> String {
    let mut open: Vec<PathBuf> =
        ["admin", "crates", "pooler", "provisioner", "tls"].iter().map(|name| root().join(name)).collect();
    let mut all = String::new();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = read(&path);
                let mut joins = false;
                for line in text.lines() {
                    let line = if joins { line.trim_start() } else { line };
                    joins = line.ends_with('\\');
                    all.push_str(line.strip_suffix('\\').unwrap_or(line));
                    if !joins {
                        all.push('\n');
                    }
                }
            }
        }
    }
    all
}

#[test]
fn every_message_that_troubleshooting_quotes_is_in_the_code() {
    let sources = sources();
    let mut missing = Vec::new();
    let is_instruction = |page: &Path| {
        let shown = page.strip_prefix(root()).expect("below the root");
        shown.starts_with("docs/runbooks") || shown == Path::new("docs/troubleshooting.md")
    };
    for page in pages().into_iter().filter(|page| is_instruction(page)) {
        for quote in quoted(&read(&page)).filter(|quote| quote.contains(' ') && !FOREIGN.contains(quote)) {
            let first = quote.split(' ').next().unwrap_or_default();
            if first.starts_with("--") || COMMANDS.contains(&first) {
                continue;
            }
            if fixed_parts(quote).iter().any(|part| !sources.contains(part.as_str())) {
                missing.push(format!("{}: {quote}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{} messages that nothing prints:\n{}", missing.len(), missing.join("\n"));
}
