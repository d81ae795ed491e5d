//! The parsers over the fuzzers' corpus, changed at random: no input makes them panic, hang or forget a rule.

#![allow(
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "shared with the fuzz targets"
)]

#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/src/pgbackrest.rs"]
mod targets;

#[test]
fn info() {
    corpus::run("info", targets::info);
}

#[test]
fn detail_log() {
    corpus::run("detail_log", targets::detail_log);
}

#[test]
fn copied_file() {
    corpus::run("copied_file", targets::copied_file);
}

#[test]
fn tool_errors() {
    corpus::run("tool_errors", targets::tool_errors);
}

#[test]
fn repo_list() {
    corpus::run("repo_list", targets::repo_list);
}

#[test]
fn expiry() {
    corpus::run("expiry", targets::expiry);
}

#[test]
fn verification() {
    corpus::run("verification", targets::verification);
}

#[test]
fn repo_file() {
    corpus::run("repo_file", targets::repo_file);
}
