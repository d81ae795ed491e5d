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
#[path = "../../../fuzz/src/model.rs"]
mod targets;

#[test]
fn history() {
    corpus::run("history", targets::history);
}

#[test]
fn texts() {
    corpus::run("texts", targets::texts);
}

#[test]
fn records() {
    corpus::run("records", targets::records);
}
