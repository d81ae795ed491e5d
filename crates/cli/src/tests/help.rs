//! The `--help` of every command.

use clap::CommandFactory;
use insta::assert_snapshot;

use crate::arguments::Arguments;

/// The help of a command and of everything below it.
fn helps(mut command: clap::Command, path: &str, all: &mut String) {
    let path = format!("{path}{}", command.get_name());
    all.push_str(&format!("$ {path} --help\n{}\n", command.render_long_help()));
    for sub in command.get_subcommands() {
        helps(sub.clone(), &format!("{path} "), all);
    }
}

#[test]
fn an_example_is_in_every_help() {
    let mut command = Arguments::command();
    command.build();
    command.clone().debug_assert();
    let mut all = String::new();
    helps(command.clone(), "", &mut all);
    assert_snapshot!(all);
    let leaves = |command: &clap::Command| {
        let mut open = vec![command.clone()];
        let mut found = Vec::new();
        while let Some(next) = open.pop() {
            let below: Vec<_> = next.get_subcommands().cloned().collect();
            if below.is_empty() {
                found.push(next);
            }
            open.extend(below);
        }
        found
    };
    for leaf in leaves(&command) {
        let help = leaf.clone().render_long_help().to_string();
        assert!(help.contains("Example"), "{} has no example", leaf.get_name());
    }
}
