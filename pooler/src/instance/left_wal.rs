//! The WAL that only a former primary has, kept before its data is replaced.
//!
//! Another member leads, from a position behind which this one wrote on. None of that was acknowledged, unless a person accepted
//! a loss; somebody may want to look for it all the same. `pg_waldump --path DIRECTORY` reads it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{Segment, Term};
use cellar_postgres::{DataDirectory, inspect, left_wal};
use cellar_system::{AtomicFile, clock, create_directory, sync_directory};

use crate::agent::Agent;
use crate::instance::received_wal::link_or_copy;
use crate::wal_files;

/// How long reading the WAL may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How many segments are kept at most: those that were begun first.
const MAX_SEGMENTS: usize = 64;

/// Of how many terms something is kept.
const MAX_TERMS: usize = 3;

/// The note beside the segments.
const NOTE: &str = "README";

/// Keeps what this cell's data has behind the position from which the present leader went on. That it could not be kept does not
/// hinder what follows: the database needs its members.
pub(super) async fn keep(agent: &Agent, data: &Path) {
    let Some(term) = agent.availability.kept.own_term() else { return };
    match try_keep(agent, data, term).await {
        Ok(None) => {}
        Ok(Some(text)) => tracing::warn!("{text}"),
        Err(error) => {
            tracing::error!(%error, %term, "the WAL that only this former primary has is not kept");
        }
    }
}

async fn try_keep(agent: &Agent, data: &Path, term: Term) -> anyhow::Result<Option<String>> {
    let Some(record) = agent.governing() else { return Ok(None) };
    let leader = &record.cell;
    let DataDirectory::Valid { control, .. } = inspect(&agent.tools, data).await? else { return Ok(None) };
    // Where the leader's line left this timeline; the leader's own beginning is later, if others led in between.
    let left_at =
        agent.availability.leaders_line.borrow().as_ref().and_then(|line| line.end_of(control.timeline));
    let Some(floor) = left_at.or(record.floor.map(|floor| floor.lsn)) else { return Ok(None) };
    let Some(left) = left_wal(&agent.tools, data, control.timeline, floor, TIMEOUT).await? else {
        return Ok(None);
    };
    let size = control.segment_size;
    let is_left = |segment: &Segment| {
        let (first, last) = (size.number_of(floor), size.number_of(left.end));
        segment.timeline == control.timeline && (first..=last).contains(&segment.number)
    };
    let mut segments: Vec<Segment> = wal_files::segments(data, size)?.into_iter().filter(is_left).collect();
    segments.sort_unstable();
    let all = segments.len();
    segments.truncate(MAX_SEGMENTS);
    let directory = agent.layout.left_wal().join(format!("{:08}", term.get()));
    create_directory(&directory, 0o700, None)?;
    for segment in &segments {
        let name = size.file_name(*segment);
        link_or_copy(&data.join("pg_wal").join(&name), &directory.join(&name))?;
    }
    let text = format!(
        "{} led under term {term} and wrote from {floor} to {} what {leader} has not: {} transactions, {} bytes. Kept in {} ({} of {all} segments)",
        agent.cell,
        left.end,
        left.commits,
        left.end.bytes_ahead_of(floor),
        directory.display(),
        segments.len(),
    );
    let read = format!(
        "pg_waldump --path {} --timeline {} --start {floor}",
        directory.display(),
        control.timeline.get()
    );
    AtomicFile::new(&directory.join(NOTE))
        .mode(0o600)
        .replace(format!("{text}, {}.\n\n{read}\n", clock::now()))?;
    sync_directory(&directory)?;
    forget_old(&agent.layout.left_wal())?;
    Ok(Some(text))
}

/// Removes what is kept of all but the last terms.
fn forget_old(directory: &Path) -> std::io::Result<()> {
    let entries = std::fs::read_dir(directory)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut kept: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    kept.sort_unstable();
    let old = kept.len().saturating_sub(MAX_TERMS);
    kept.iter().take(old).try_for_each(std::fs::remove_dir_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_the_last_terms_stays() {
        let directory = tempfile::tempdir().unwrap();
        for term in [2, 3, 10, 11] {
            std::fs::create_dir(directory.path().join(format!("{term:08}"))).unwrap();
        }
        forget_old(directory.path()).unwrap();
        let there = [2, 3, 10, 11].map(|term| directory.path().join(format!("{term:08}")).exists());
        assert_eq!(there, [false, true, true, true]);
    }
}
