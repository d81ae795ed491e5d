//! Upkeep of the repo in words: what expired, what was verified, and whether WAL arrives.

use cellar_api::v1::{CheckResult, ExpireResult, Job, Verified, VerifyResult};

use crate::render::restore::windows;
use crate::render::table::Table;
use crate::render::units;

fn warnings(warnings: &[String]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let lines: String = warnings.iter().map(|warning| format!("  {warning}\n")).collect();
    format!("\nwarnings:\n{lines}")
}

/// What an expiry took away, or would.
pub(crate) fn expired(job: &Job, result: &ExpireResult) -> String {
    let goes = if result.dry_run { "would go" } else { "gone" };
    let mut text = format!("expiry of database {} by cell {}", job.database, job.cell);
    text.push_str(if result.dry_run { ", a dry run\n" } else { "\n" });
    if result.backups.is_empty() && result.wal.is_empty() {
        text.push_str("nothing expires\n");
    } else {
        let mut table = Table::new(&["BACKUP", "WHAT"]);
        let each = |labels: &[String], what: &str| -> Vec<[String; 2]> {
            labels.iter().map(|label| [label.clone(), what.to_owned()]).collect()
        };
        let mut rows = [each(&result.backups, goes), each(&result.kept, "stays")].concat();
        rows.sort();
        rows.into_iter().for_each(|row| table.row(row));
        text.push_str(&table.render());
        for range in &result.wal {
            text.push_str(&format!("WAL {} to {} of {}: {goes}\n", range.start, range.stop, range.archive));
        }
    }
    text.push_str(&warnings(&result.warnings));
    text
}

/// How a repo was found.
pub(crate) fn verified(job: &Job, result: &VerifyResult) -> String {
    let mut text = format!("verification of database {}'s repo by cell {}\n", job.database, job.cell);
    let mut table = Table::new(&["WHAT", "STATE", "FILES", "MISSING", "CHECKSUM", "SIZE", "OTHER"]);
    let number = |number: u64| if number == 0 { String::new() } else { number.to_string() };
    let mut row = |what: String, found: &Verified| {
        table.row([
            what,
            if found.valid { "valid" } else { "DAMAGED" }.to_owned(),
            found.files.to_string(),
            number(found.missing),
            number(found.checksum_invalid),
            number(found.size_invalid),
            number(found.other),
        ]);
    };
    result.backups.iter().for_each(|backup| row(backup.name.clone(), backup));
    result.archives.iter().for_each(|archive| row(format!("WAL of {}", archive.name), archive));
    text.push_str(&table.render());
    if !result.damaged.is_empty() {
        text.push_str("\ndamaged:\n");
        result.damaged.iter().for_each(|file| text.push_str(&format!("  {file}\n")));
    }
    if !result.windows.is_empty() {
        text.push_str(&format!("\nrecovery windows:\n{}", windows(&result.windows)));
    }
    text.push_str(&warnings(&result.warnings));
    text
}

/// What a check of archiving saw.
pub(crate) fn checked(job: &Job, result: &CheckResult) -> String {
    format!(
        "the primary of database {} in cell {} archives: WAL segment {} arrived after {}\n",
        job.database,
        job.cell,
        result.segment,
        units::millis(result.millis)
    )
}
