//! What of a request the audit trail writes down.
//!
//! Only the fields named here are recorded, those inside of other fields too, so that a field that is added is withheld
//! until it is known to hold no secret.
//! All of them are cut to a size: a caller must not be able to fill disks.

use serde_json::{Map, Value};

/// Fields of requests that are written down, by their names in JSON.
pub const RECORDED: &[&str] = &[
    "acceptLoss",
    "allowPrimary",
    // What a user writes on a backup, for others to read.
    "annotations",
    "backup",
    "cell",
    // Whether a role proves itself with one.
    "certificate",
    "checkDatabase",
    "cron",
    "database",
    "directory",
    "durability",
    "dryRun",
    // Of a role whose password is replaced.
    "endSessions",
    // The cell that led when this was asked for.
    "from",
    "host",
    "id",
    "inPlace",
    "kind",
    "listen",
    "maxBytesPerSecond",
    "maxLagBytes",
    // The cells whose loss a person accepts.
    "missing",
    "name",
    "nice",
    "onto",
    // The database of PostgreSQL that a role is to own.
    "owns",
    "paused",
    "primaryIsDead",
    "queue",
    // Why a database is paused, for others to read.
    "reason",
    "requestId",
    // The schedule that asked.
    "schedule",
    // Settings of PostgreSQL with their values, for others to read.
    "set",
    "skipAmcheck",
    "target",
    "timeZone",
    "timeline",
    "timeout",
    // The cell that is to lead.
    "to",
    "type",
    // Names of settings.
    "unset",
    "work",
];

/// Fields of messages inside of requests that are written down too, besides those of [`RECORDED`].
pub const RECORDED_INSIDE: &[&str] = &[
    // Kinds of a schedule's work, and what a scheduled job is given.
    "cells", "check", "drill", "expire", "verify", // Kinds of targets of a restore.
    "latest", "lsn", "time", "xid",
];

/// Fields whose own fields are named by the caller, for others to read.
const NAMED_BY_THE_CALLER: &[&str] = &["annotations", "set"];

/// Fields of requests of which only the fact is written down that they were given.
pub const WITHHELD: &[&str] = &[
    // SQL may hold anything, a password for another server for instance. The job has it.
    "checks",
    // A weak password can be guessed from it.
    "scramVerifier",
];

/// What stands for a value that is not written down.
const WITHHELD_VALUE: &str = "(withheld)";

/// Characters kept of one text.
const MAX_TEXT_LENGTH: usize = 200;

/// Parts kept of one list or one map.
const MAX_PARTS: usize = 32;

/// Characters kept of all arguments together.
pub(crate) const MAX_ARGUMENTS_LENGTH: usize = 4000;

/// The beginning of a text, and how long it was when that is not all of it.
pub(crate) fn cut(text: &str, length: usize) -> String {
    match text.char_indices().nth(length) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
    }
}

/// The texts in `value` cut so that all together stay within `left`.
fn fit(value: Value, left: &mut usize) -> Value {
    match value {
        Value::String(text) => Value::String(take(&text, left)),
        Value::Array(items) => {
            let surplus = items.len().saturating_sub(MAX_PARTS);
            let mut kept: Vec<Value> =
                items.into_iter().take(MAX_PARTS).map(|item| fit(item, left)).collect();
            if surplus > 0 {
                kept.push(Value::String(format!("... ({surplus} more)")));
            }
            Value::Array(kept)
        }
        Value::Object(fields) => Value::Object(fit_fields(fields, left)),
        other => other,
    }
}

fn fit_fields(fields: Map<String, Value>, left: &mut usize) -> Map<String, Value> {
    let surplus = fields.len().saturating_sub(MAX_PARTS);
    let mut kept: Map<String, Value> = fields
        .into_iter()
        .take(MAX_PARTS)
        .map(|(name, value)| (take(&name, left), fit(value, left)))
        .collect();
    if surplus > 0 {
        kept.insert("...".to_owned(), Value::String(format!("({surplus} more)")));
    }
    kept
}

fn take(text: &str, left: &mut usize) -> String {
    let kept = cut(text, MAX_TEXT_LENGTH.min(*left));
    *left = left.saturating_sub(text.chars().count());
    kept
}

/// The value with the fields that are known to hold no secret, at any depth.
fn withhold(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(withhold).collect()),
        Value::Object(fields) => {
            let is_shown = |name: &str| RECORDED.contains(&name) || RECORDED_INSIDE.contains(&name);
            Value::Object(withhold_fields(fields, is_shown))
        }
        other => other,
    }
}

fn withhold_fields(fields: Map<String, Value>, is_shown: impl Fn(&str) -> bool) -> Map<String, Value> {
    let shown = fields.into_iter().map(|(name, value)| {
        let value = match name.as_str() {
            name if !is_shown(name) => Value::String(WITHHELD_VALUE.to_owned()),
            name if NAMED_BY_THE_CALLER.contains(&name) => value,
            _ => withhold(value),
        };
        (name, value)
    });
    shown.collect()
}

/// What of a request's fields may be written down: those that are known to hold no secret, cut to a size.
#[must_use]
pub fn recordable(fields: Map<String, Value>) -> Map<String, Value> {
    fit_fields(withhold_fields(fields, |name| RECORDED.contains(&name)), &mut { MAX_ARGUMENTS_LENGTH })
}
