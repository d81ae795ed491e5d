//! WAL that lies in a data directory and that the archive lacks, and bringing it there.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{
    Archive, Code, Database, History, JobError, Lineage, Pooler, Segment, Timeline, unarchived,
};

use crate::agent::Agent;
use crate::config_files::write_bootstrap;
use crate::repository::reader::Repo;
use crate::repository::tool_failure::repository_error;
use crate::wal_files::{history_name, note_archived, own_lineage, segments, waiting};

/// How long one segment may take to be archived.
const PUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// The data directory's files of WAL cannot be looked at, or their notes not be written.
pub(crate) fn wal_error(error: &dyn std::fmt::Display) -> JobError {
    JobError {
        code: Code::PostgresFailed,
        message: format!("looking for WAL to archive: {error}"),
        hint: "look at the disk of the cell, and at its log/postgres.log".to_owned(),
        tool_output: String::new(),
    }
}

impl Repo<'_> {
    /// Of the segments that are `there`, those on a lineage with these numbers that the archive lacks. What no backup needs
    /// is left out: the archive may have had it.
    pub(crate) async fn lacks(
        &self,
        there: &[Segment],
        lineage: &Lineage,
        numbers: &RangeInclusive<u64>,
    ) -> Result<Vec<Segment>, JobError> {
        let numbers = (*numbers.start()).max(self.first_needed())..=*numbers.end();
        let nothing = Archive { size: self.segment_size(), ..Archive::default() };
        let archive = self.archived(&unarchived(there, lineage, &numbers, &nothing)).await?;
        Ok(unarchived(there, lineage, &numbers, &archive))
    }

    /// Whether the archive has the history of a timeline.
    pub(crate) async fn has_history(&self, timeline: Timeline) -> Result<bool, JobError> {
        match self.history(timeline).await {
            Ok(_) => Ok(true),
            Err(error) if error.code == Code::WalMissing => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Archives files of a data directory's WAL.
pub(crate) struct Pusher<'a> {
    agent: &'a Agent,
    database: &'a Database,
    config: PathBuf,
    data: &'a Path,
}

impl<'a> Pusher<'a> {
    /// For a data directory.
    pub(crate) fn new(
        agent: &'a Agent,
        database: &'a Database,
        card: &Pooler,
        data: &'a Path,
    ) -> Result<Self, JobError> {
        let config = write_bootstrap(agent, database, card).map_err(|error| wal_error(&error))?;
        Ok(Self { agent, database, config, data })
    }

    /// Archives one file.
    pub(crate) async fn push(&self, name: &str) -> Result<(), JobError> {
        let file = self.data.join("pg_wal").join(name);
        let (tool, stanza) = (&self.agent.pgbackrest, &self.database.stanza);
        let pushed = tool.archive_push(&self.config, stanza, &file, PUSH_TIMEOUT).await;
        let repository = &self.database.repository;
        pushed.map_err(|error| {
            repository_error(&format!("archiving {name}"), &error, repository, &self.agent.cell)
        })?;
        note_archived(self.data, name);
        Ok(())
    }
}

/// Archives all that a stopped primary had written on the timeline of segment `last`, up to that one: the files that PostgreSQL has noted,
/// and whatever else the archive lacks, because the notes say less than is there. The repo may have been read before.
pub(crate) async fn archive_rest(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    data: &Path,
    repo: &mut Repo<'_>,
    last: Segment,
) -> Result<(), JobError> {
    let (timeline, last) = (last.timeline, last.number);
    let pusher = Pusher::new(agent, database, card, data)?;
    for name in waiting(data).map_err(|error| wal_error(&error))? {
        pusher.push(&name).await?;
    }
    repo.refresh(card).await?;
    let own = own_lineage(data, timeline);
    if timeline > Timeline::new(1) && own.is_some() && !repo.has_history(timeline).await? {
        pusher.push(&history_name(timeline)).await?;
    }
    // Without a history only what has the timeline's own name is known to be its.
    let lineage = own.unwrap_or_else(|| Lineage::new(timeline, &History::default()));
    let there = segments(data, repo.segment_size()).map_err(|error| wal_error(&error))?;
    for segment in repo.lacks(&there, &lineage, &(0..=last)).await? {
        let name = repo.segment_size().file_name(segment);
        tracing::warn!(name, "a whole segment was neither archived nor noted to be archived");
        pusher.push(&name).await?;
    }
    Ok(())
}
