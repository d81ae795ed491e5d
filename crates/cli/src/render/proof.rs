//! What a backup's result says, in words; the proof above all.

use cellar_api::v1::{BackupResult, BackupSource, BackupType, Job};

use crate::render::units;

/// The word for a type of backup.
pub(crate) fn type_word(of: BackupType) -> &'static str {
    match of {
        BackupType::Full => "full",
        BackupType::Diff => "diff",
        BackupType::Incr => "incr",
        BackupType::Unspecified => "unknown",
    }
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// Where the files came from, and whether that is proven.
pub(crate) fn proof(source: &BackupSource, primary: Option<&str>) -> String {
    let verdict = if source.verified { "verified" } else { "NOT VERIFIED" };
    let own = format!("copied {} from {}'s data directory", files(source.files_from_source), source.cell);
    if source.files_from_primary == 0 {
        return format!("{own}, and nothing from elsewhere; {verdict}");
    }
    let primary = match primary {
        Some(primary) if primary != source.cell => format!("the primary {primary}"),
        _ => "the primary".to_owned(),
    };
    format!("{own}, {} from {primary}; {verdict}", source.files_from_primary)
}

/// A finished backup for a person.
pub(crate) fn summary(job: &Job, result: &BackupResult, primary: Option<&str>) -> String {
    let source = result.source.clone().unwrap_or_default();
    let based = result.prior.as_ref().map_or_else(String::new, |prior| format!(", based on {prior}"));
    let mut text = format!(
        "backup {} of cell {}\n  type   {}{based}\n  size   {} of database, {} added to the repository\n",
        result.label,
        source.cell,
        type_word(result.r#type()),
        units::size(result.size_bytes),
        units::size(result.repo_bytes),
    );
    if let Some(took) = units::between(job.start_time.as_ref(), job.end_time.as_ref()) {
        text.push_str(&format!("  took   {}\n", units::duration(took)));
    }
    text.push_str(&format!("  proof  {}\n", proof(&source, primary)));
    text
}
