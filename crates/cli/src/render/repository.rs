//! The results of jobs on the repository in words: what expired, what was verified, and whether WAL arrives.

use cellar_api::v1::{CheckResult, ExpireResult, Job, Verified, VerifyResult};

use crate::render::facts::section;
use crate::render::plan::{more_line, windows_section};
use crate::render::table::Table;
use crate::render::units;

/// What was expired, or would be.
pub(crate) fn expired(job: &Job, result: &ExpireResult) -> String {
    let expired = if result.dry_run { "would be deleted" } else { "deleted" };
    let mut text = format!("expire of database {} by cell {}", job.database, job.cell);
    text.push_str(if result.dry_run { ", a dry run\n" } else { "\n" });
    if result.backups.is_empty() && result.wal.is_empty() {
        text.push_str("nothing expires\n");
    } else {
        let mut table = Table::new(&["BACKUP", "RESULT"]);
        let each = |labels: &[String], what: &str| -> Vec<[String; 2]> {
            labels.iter().map(|label| [label.clone(), what.to_owned()]).collect()
        };
        let mut rows = [each(&result.backups, expired), each(&result.kept, "kept")].concat();
        rows.sort();
        rows.into_iter().for_each(|row| table.row(row));
        text.push_str(&table.render());
        text.push_str(&more_line(job, result.more_backups, &format!("backups, {expired}")));
        text.push_str(&more_line(job, result.more_kept, "backups, kept"));
        for range in &result.wal {
            text.push_str(&format!(
                "WAL {} to {} of {}: {expired}\n",
                range.start, range.stop, range.archive
            ));
        }
        text.push_str(&more_line(job, result.more_wal, &format!("ranges of WAL, {expired}")));
    }
    text.push_str(&section("warnings", &result.warnings));
    text
}

/// What was found in the repository.
pub(crate) fn verified(job: &Job, result: &VerifyResult) -> String {
    let mut text =
        format!("verification of the repository of database {} by cell {}\n", job.database, job.cell);
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
    text.push_str(&more_line(job, result.more_backups, "backups"));
    text.push_str(&more_line(job, result.more_archives, "archives"));
    text.push_str(&section("damaged", &result.damaged));
    text.push_str(&windows_section(job, &result.windows, result.more_windows));
    text.push_str(&section("warnings", &result.warnings));
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
