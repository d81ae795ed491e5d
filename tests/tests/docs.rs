//! What the documentation points at is there: the tests that it names, and the pages and headings that it links.

#![expect(clippy::expect_used, reason = "a test ends where it must not go on")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
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
