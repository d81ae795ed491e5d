//! The `--help` of every command, which is the reference page of the command line.

use std::fmt::Write as _;
use std::path::Path;

use clap::CommandFactory;

use crate::arguments::Arguments;

/// The heading of the options that every command has; the page shows them once.
const GLOBAL: &str = "Cluster and output:";

/// Each command with its help, and all below it.
fn helps(mut command: clap::Command, path: &str, all: &mut Vec<(String, String)>) {
    let path = format!("{path}{}", command.get_name());
    all.push((path.clone(), command.render_long_help().to_string()));
    // Those that nobody types are not on the page.
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        helps(sub.clone(), &format!("{path} "), all);
    }
}

/// A help without `--help` and `--version`, and without the options that every command has.
fn without_common_options(help: &str, is_root: bool) -> String {
    let (mut kept, mut in_global, mut in_common) = (Vec::new(), false, false);
    for line in help.lines().map(str::trim_end) {
        let is_heading = line.ends_with(':') && !line.starts_with(' ');
        if is_heading {
            in_global = line == GLOBAL && !is_root;
            // The heading of options that are all left out.
            if kept.last() == Some(&"Options:") {
                kept.pop();
            }
        }
        let flag = line.trim_start();
        if is_heading || (flag.starts_with('-') && line.starts_with("  ")) {
            in_common = flag.starts_with("-h, --help") || flag.starts_with("-V, --version");
        }
        if !in_global && !in_common {
            kept.push(line);
        }
    }
    let mut text = format!("{}\n", kept.join("\n")).replace("\nOptions:\n\n", "\n");
    while text.contains("\n\n\n") {
        text = text.replace("\n\n\n", "\n\n");
    }
    text.trim().trim_end_matches("Options:").trim_end().to_owned()
}

fn page(helps: &[(String, String)]) -> String {
    let mut page = String::from(
        "# Command line reference\n\n\
         Every command of `cellar` with its options: the text of `--help`. This page is generated: \
         `CELLAR_UPDATE_DOCS=1 cargo test -p cellar-cli help` writes it. \
         `--output json` prints the API's own JSON. \
         Exit codes are in the [configuration reference](configuration.md#exit-codes).\n\n",
    );
    for (command, help) in &helps[1..] {
        let summary = help.lines().next().unwrap_or_default();
        let indent = "  ".repeat(command.split(' ').count().saturating_sub(2));
        writeln!(page, "{indent}- [`{command}`](#{}): {summary}", command.replace(' ', "-")).unwrap();
    }
    for (at, (command, help)) in helps.iter().enumerate() {
        let text = without_common_options(help, at == 0);
        writeln!(page, "\n## {command}\n\n```\n{text}\n```").unwrap();
    }
    page
}

#[test]
fn the_reference_page_is_the_help_of_every_command() {
    let mut command = Arguments::command();
    command.build();
    command.clone().debug_assert();
    let mut all = Vec::new();
    helps(command, "", &mut all);
    let page = page(&all);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    if std::env::var_os("CELLAR_UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == page,
        "{} is out of date: run this test with CELLAR_UPDATE_DOCS=1 and look at the difference",
        path.display()
    );
    // What is left out of a command is on the page once.
    for (command, help) in &all {
        let words = help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let flags = words.filter(|word| word.len() > 2 && word.starts_with("--"));
        for flag in flags.filter(|flag| !matches!(*flag, "--help" | "--version")) {
            assert!(page.contains(flag), "{flag} of {command} is not on the page");
        }
    }
}

#[test]
fn an_example_is_in_every_help() {
    let mut command = Arguments::command();
    command.build();
    let mut open = vec![command];
    while let Some(next) = open.pop() {
        let below: Vec<_> = next.get_subcommands().cloned().collect();
        if below.is_empty() {
            let help = next.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{} has no example", next.get_name());
        }
        open.extend(below);
    }
}
