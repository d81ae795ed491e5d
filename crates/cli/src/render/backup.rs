//! The result of a backup in words, above all its proof: from which cell the files came.

use cellar_api::v1::{BackupResult, BackupSource, Job};

use crate::render::facts::{lines, section};
use crate::render::units;
use crate::render::words::type_word;

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}

/// Where the files came from, and whether that is proven.
fn proof(source: &BackupSource, primary: Option<&str>) -> String {
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

/// A backup that has ended. `primary` is the present primary, which only the words of the proof need.
pub(crate) fn summary(job: &Job, result: &BackupResult, primary: Option<&str>) -> String {
    let source = result.source.clone().unwrap_or_default();
    let base = result.prior.as_ref().map_or_else(String::new, |prior| format!(", based on {prior}"));
    let (size, added) = (units::size(result.size_bytes), units::size(result.repo_bytes));
    let facts = vec![
        ("type", format!("{}{base}", type_word(result.r#type()))),
        ("size", format!("{size} of database, {added} added to the repository")),
        ("took", units::took(job.start_time.as_ref(), job.end_time.as_ref())),
        ("proof", proof(&source, primary)),
        ("page errors", if result.page_errors { "FOUND: pages with wrong checksums" } else { "" }.to_owned()),
    ];
    let warnings = section("warnings", &result.warnings);
    format!("backup {} of cell {}\n{}{warnings}", result.label, source.cell, lines(facts))
}
