//! What can be restored: the repo's backups, its WAL and its timelines, as this cell reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{
    Archive, BackupLabel, Code, Database, History, JobError, Lineage, Lsn, PROOF_ANNOTATION, Pooler, Refusal,
    Segment, SegmentSize, Survey, SurveyedBackup, SystemIdentifier, Timeline, newest_on,
};
use cellar_pgbackrest::{BackupInfo, Error, StanzaInfo, StanzaStatus};
use cellar_postgres::{DataDirectory, inspect};
use jiff::Timestamp;

use crate::agent::Agent;
use crate::config_files::write_bootstrap;
use crate::repository::tool_failure::tool_error;

/// How long pgBackRest may take to list the archive or read one of its files. Listing a hundred thousand segments on an
/// object store takes half a minute.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// A repo as it was read.
pub(crate) struct Repo<'a> {
    agent: &'a Agent,
    database: &'a Database,
    /// The config to read it with.
    pub(crate) config: PathBuf,
    info: StanzaInfo,
    size: SegmentSize,
}

fn reading(error: &Error) -> JobError {
    tool_error("reading the repo", error)
}

/// The size of this database's WAL segments, from whatever data is here.
async fn segment_size(agent: &Agent, data: &Path) -> SegmentSize {
    if let Some(known) = agent.segment_size.get() {
        return known;
    }
    match inspect(&agent.tools, data).await {
        Ok(DataDirectory::Valid { control, .. }) => {
            // initdb decides the size; it never changes.
            agent.segment_size.set(Some(control.segment_size));
            control.segment_size
        }
        _ => SegmentSize::default(),
    }
}

impl<'a> Repo<'a> {
    /// Reads what the repo has of the database.
    pub(crate) async fn open(
        agent: &'a Agent,
        database: &'a Database,
        card: &Pooler,
    ) -> Result<Self, JobError> {
        let config = write_bootstrap(agent, database, card).map_err(|error| {
            Refusal::new(Code::Internal, format!("no config to read the repo with: {error}"))
        })?;
        let info = agent
            .pgbackrest
            .info(&config, &database.stanza, READ_TIMEOUT)
            .await
            .map_err(|error| reading(&error))?;
        if !matches!(info.status, StanzaStatus::Ok | StanzaStatus::NoBackup) && info.backups.is_empty() {
            let message = format!(
                "the repo {} has nothing of stanza {}: {}",
                database.repository, database.stanza, info.message
            );
            return Err(Refusal::new(Code::PgbackrestFailed, message)
                .hint("see that the repo is where it was (mounted, not renamed), then ask again")
                .into());
        }
        let size = segment_size(agent, Path::new(&card.data_directory)).await;
        Ok(Self { agent, database, config, info, size })
    }

    /// The size of WAL segments.
    pub(crate) fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// pgBackRest's name of the archive that is written now, such as `15-1`.
    fn archive_id(&self) -> Option<&str> {
        // The newest database of the stanza comes last.
        self.info.archives.last().map(|archive| archive.id.as_str())
    }

    fn archive_path(&self, id: &str) -> String {
        format!("archive/{}/{id}", self.database.stanza)
    }

    /// The labels of all backups, oldest first, also of those whose record cannot be interpreted.
    pub(crate) fn labels(&self) -> Vec<BackupLabel> {
        let mut labels: Vec<BackupLabel> =
            self.info.backups.iter().map(|backup| backup.label.clone()).collect();
        labels.sort();
        labels
    }

    /// All backups whose record can be interpreted.
    pub(crate) fn backups(&self) -> Vec<SurveyedBackup> {
        self.info.backups.iter().filter_map(|backup| self.backup(backup)).collect()
    }

    fn backup(&self, backup: &BackupInfo) -> Option<SurveyedBackup> {
        let first = self.size.parse_file_name(backup.archive_start.as_deref()?)?;
        let last = self.size.parse_file_name(backup.archive_stop.as_deref()?)?;
        let identity =
            |id: u64| self.info.databases.iter().find(|database| database.id == id)?.system_identifier;
        let blemish = if backup.error == Some(true) {
            Some("pages with wrong checksums were found while it was taken".to_owned())
        } else {
            let unproven = backup.annotations.contains_key(PROOF_ANNOTATION);
            unproven.then(|| "it is not proven that it came from the cell that was named".to_owned())
        };
        Some(SurveyedBackup {
            label: backup.label.clone(),
            backup_type: backup.backup_type,
            timeline: first.timeline,
            start_lsn: backup.lsn_start?,
            stop_lsn: backup.lsn_stop?,
            stop_time: Timestamp::from_second(backup.stopped?).ok()?,
            first_segment: first.number,
            last_segment: last.number,
            size_bytes: backup.size.unwrap_or(0),
            system_identifier: backup.database_id.and_then(identity).map(SystemIdentifier::new),
            blemish,
        })
    }

    /// The history of a timeline; none for the first.
    ///
    /// # Errors
    /// When it is not in the archive, or not readable.
    pub(crate) async fn history(&self, timeline: Timeline) -> Result<History, JobError> {
        if timeline == Timeline::new(1) {
            return Ok(History::default());
        }
        let missing = || {
            Refusal::new(
                Code::WalMissing,
                format!("the history of timeline {timeline} is not in the archive yet"),
            )
            .hint("see that the primary's archiving works (`cellar status`), then ask again")
        };
        let id = self.archive_id().ok_or_else(missing)?;
        let path = format!("{}/{:08X}.history", self.archive_path(id), timeline.get());
        match self.agent.pgbackrest.repo_get(&self.config, &self.database.stanza, &path, READ_TIMEOUT).await {
            Ok(text) => text.parse().map_err(|error| {
                Refusal::new(Code::RepoDamaged, format!("{path} in the repo: {error}")).into()
            }),
            Err(Error::NotInRepository(_)) => Err(missing().into()),
            Err(error) => Err(reading(&error)),
        }
    }

    /// The backup from which a new member of the database is restored: the newest one from which the WAL leads to the
    /// primary's timeline. A newer backup may be on a timeline that was left behind.
    pub(crate) async fn newest_for(&self, timeline: Timeline) -> Result<SurveyedBackup, JobError> {
        let lineage = Lineage::new(timeline, &self.history(timeline).await?);
        self.check_no_conflicting_timeline(&lineage).await?;
        let backups = self.backups();
        newest_on(&backups, &lineage).cloned().ok_or_else(|| {
            Refusal::new(
                Code::UnknownBackup,
                format!("no backup leads to timeline {timeline}, which the primary is on"),
            )
            .hint("take one of the primary: `cellar backup --allow-primary --from` its cell")
            .into()
        })
    }

    /// Refuses while the archive has the parent timeline's segment in which `lineage` begins, and not yet its own.
    ///
    /// A timeline may begin in the middle of a segment, and its parent may have gone on in that segment and archived
    /// it. PostgreSQL takes the parent's file while the timeline's own is not in the archive, and replays past the
    /// point where the timelines part.
    async fn check_no_conflicting_timeline(&self, lineage: &Lineage) -> Result<(), JobError> {
        let Some(id) = self.archive_id().filter(|_| lineage.begins_at() > Lsn::new(0)) else { return Ok(()) };
        let mut own: Option<String> = None;
        for segment in lineage.files(self.size.number_of(lineage.begins_at()), self.size) {
            let name = self.size.file_name(segment);
            let directory = format!("{}/{}", self.archive_path(id), &name[..16]);
            let (tool, stanza) = (&self.agent.pgbackrest, &self.database.stanza);
            let listed = tool.repo_list(&self.config, stanza, &directory, READ_TIMEOUT).await;
            let listed = listed.map_err(|error| reading(&error))?;
            let is_there = listed.iter().any(|entry| self.archived(&entry.path) == Some(segment));
            match own {
                None if is_there => return Ok(()),
                None => own = Some(name),
                Some(own) if is_there => {
                    let message = format!(
                        "{own}, with which timeline {} begins, is not in the archive yet, but {name} is, which goes on past that",
                        lineage.timeline()
                    );
                    return Err(Refusal::new(Code::WalMissing, message)
                        .hint("it comes within a minute if the primary's archiving works (`cellar status`); `SELECT pg_switch_wal()` on the primary hurries it")
                        .into());
                }
                Some(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Everything that planning a restore looks at.
    pub(crate) async fn survey(&self, current: Timeline, write_lsn: Option<Lsn>) -> Result<Survey, JobError> {
        let mut archive = Archive { size: self.size, segments: BTreeMap::new() };
        let (mut archived_at, mut begun_at) = (BTreeMap::new(), BTreeMap::new());
        let mut histories = BTreeMap::new();
        if let Some(id) = self.archive_id() {
            let (tool, stanza) = (&self.agent.pgbackrest, &self.database.stanza);
            let listed = tool.repo_list(&self.config, stanza, &self.archive_path(id), READ_TIMEOUT).await;
            for entry in listed.map_err(|error| reading(&error))?.iter().filter(|entry| entry.is_file) {
                let name = entry.path.rsplit('/').next().unwrap_or_default();
                if let Some(segment) = self.archived(name) {
                    archive.add(segment);
                    if let Some(time) = entry.time {
                        archived_at.insert(segment, time);
                    }
                } else if let Some(timeline) = history_of(name) {
                    histories.insert(timeline, self.history(timeline).await?);
                    if let Some(time) = entry.time {
                        begun_at.insert(timeline, time);
                    }
                }
            }
        }
        Ok(Survey {
            system_identifier: self.agent.leader().and_then(|leader| leader.system_identifier),
            backups: self.backups(),
            histories,
            archive,
            archived_at,
            begun_at,
            current,
            write_lsn,
            now: Timestamp::now(),
        })
    }

    /// The segment that a file of the archive holds. Its name is the segment's, a checksum, and perhaps the suffix of
    /// a compression. A segment's name followed by a dot is no whole segment (`.partial`, `.backup`).
    fn archived(&self, name: &str) -> Option<Segment> {
        let (segment, rest) = name.split_at_checked(24)?;
        (rest.is_empty() || rest.starts_with('-')).then(|| self.size.parse_file_name(segment)).flatten()
    }
}

fn history_of(name: &str) -> Option<Timeline> {
    let digits = name.strip_suffix(".history").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().map(Timeline::new)
}
