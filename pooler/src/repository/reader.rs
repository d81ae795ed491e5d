//! What can be restored: the repo's backups, its WAL and its timelines, as this cell reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{
    Archive, BackupLabel, CellName, Code, Database, History, JobError, JobKind, Lineage, ListedBackup, Lsn,
    Pooler, Refusal, Segment, SegmentSize, Survey, SurveyedBackup, SystemIdentifier, Timeline, best_on,
    unreachable_from, worth,
};
use cellar_pgbackrest::{BackupInfo, Error, LOST_INFO_HINT, StanzaInfo, StanzaStatus, lost_info};
use cellar_postgres::{DataDirectory, inspect};
use jiff::Timestamp;

use crate::agent::Agent;
use crate::config_files::write_bootstrap;
use crate::peers::wal_kept_by_primary;
use crate::repository::marks::{mark_of, write_missing_marks};
use crate::repository::tool_failure::repository_error;

/// How long pgBackRest may take to list the archive or read one of its files. Listing a hundred thousand segments on an
/// object store takes half a minute.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// What is being done when the repo is read.
const READING: &str = "reading the repo";

/// For how long what was read of the repo and of the primary's WAL is taken for the present. A restore itself reads it for
/// longer.
const MAX_AGE: Duration = Duration::from_secs(10);

/// What to do when the first file of the primary's timeline is not in the archive.
pub(crate) const FORK_HINT: &str = "it comes within a minute if the primary's archiving works (`cellar status`); `SELECT pg_switch_wal()` on the primary hurries it";

/// What the archive has of a kind, each with when it came there, if the repo says.
type Dated<T> = Vec<(T, Option<Timestamp>)>;

/// A repo as it was read.
pub(crate) struct Repo<'a> {
    agent: &'a Agent,
    database: &'a Database,
    /// The config to read it with.
    pub(crate) config: PathBuf,
    info: StanzaInfo,
    size: SegmentSize,
    /// When it was read.
    read: Instant,
}

/// The backup from which a member is restored.
#[derive(Debug, Clone)]
pub(crate) struct Choice {
    /// The backup.
    pub(crate) backup: SurveyedBackup,
    /// What is wrong with it.
    pub(crate) flaw: Option<String>,
    /// The primary's timeline, to which it leads.
    timeline: Timeline,
    /// When it was chosen.
    at: Instant,
}

impl Choice {
    /// Whether it stands for a primary on this timeline: what was read a moment ago need not be read again.
    pub(crate) fn stands(&self, timeline: Timeline) -> bool {
        self.timeline == timeline && self.at.elapsed() < MAX_AGE
    }
}

/// The size of this database's WAL segments, from the data that is here; none for a cell without data.
pub(crate) async fn segment_size(agent: &Agent, data: &Path) -> Option<SegmentSize> {
    let identity = agent.leader().and_then(|leader| leader.system_identifier);
    if size_for(identity, agent.segment_size.get()).is_none()
        && let Ok(DataDirectory::Valid { control, .. }) = inspect(&agent.tools, data).await
    {
        // initdb decides the size; it never changes. It also decides the identity.
        agent.segment_size.set(Some((control.system_identifier, control.segment_size)));
    }
    size_for(identity, agent.segment_size.get())
}

/// The size that was found, unless it was found in data of another database than the recorded one.
fn size_for(
    recorded: Option<SystemIdentifier>,
    found: Option<(SystemIdentifier, SegmentSize)>,
) -> Option<SegmentSize> {
    let (_, size) = found.filter(|(owner, _)| recorded.is_none_or(|recorded| recorded == *owner))?;
    Some(size)
}

/// The size that makes the names of a backup's WAL files hold its positions.
fn size_of_backup(backup: &BackupInfo) -> Option<SegmentSize> {
    let of = |lsn: Option<Lsn>, name: &Option<String>| SegmentSize::of_position(lsn?, name.as_deref()?);
    of(backup.lsn_start, &backup.archive_start).or_else(|| of(backup.lsn_stop, &backup.archive_stop))
}

/// Refuses a repo that has nothing of the stanza. It is no empty one: it may not be mounted, be another one, or have lost a
/// file. `cell` is this one.
pub(crate) fn check_has_stanza(
    info: &StanzaInfo,
    database: &Database,
    cell: &CellName,
) -> Result<(), Refusal> {
    if matches!(info.status, StanzaStatus::Ok | StanzaStatus::NoBackup) || !info.backups.is_empty() {
        return Ok(());
    }
    let (repo, stanza) = (&database.repository, &database.stanza);
    let (message, hint) = match lost_info(repo, cell, stanza.as_str()) {
        Some(file) => (
            format!("{} is lost, and its copy: the repo {repo} cannot be read", file.display()),
            LOST_INFO_HINT.to_owned(),
        ),
        None => (
            format!("the repo {repo} has nothing of stanza {stanza}: {}", info.message),
            // Where the directory of the stanza is there, and a file of it is not.
            match info.status {
                StanzaStatus::MissingStanzaData => LOST_INFO_HINT.to_owned(),
                _ => "see that the repo is where it was (mounted, not renamed), then ask again".to_owned(),
            },
        ),
    };
    Err(Refusal::new(Code::PgbackrestFailed, message).hint(hint).about(cellar_api::MISSING_STANZA, stanza))
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
        let read = Instant::now();
        let info = agent
            .pgbackrest
            .info(&config, &database.stanza, READ_TIMEOUT)
            .await
            .map_err(|error| repository_error(READING, &error, &database.repository, &agent.cell))?;
        check_has_stanza(&info, database, &agent.cell)?;
        let size = match segment_size(agent, Path::new(&card.data_directory)).await {
            Some(size) => size,
            // As after the loss of the cell's disk. Without any backup the size decides nothing.
            None => info.backups.iter().find_map(size_of_backup).unwrap_or_default(),
        };
        Ok(Self { agent, database, config, info, size, read })
    }

    /// For a caller that waits for a file of the archive, which is looked for each time: reads again which backups and
    /// archives there are, if no archive was there yet, or that was read too long ago.
    pub(crate) async fn refresh(&mut self, card: &Pooler) -> Result<(), JobError> {
        if self.archive_id().is_none() || self.read.elapsed() >= MAX_AGE {
            *self = Self::open(self.agent, self.database, card).await?;
        }
        Ok(())
    }

    fn reading(&self, error: &Error) -> JobError {
        self.error(READING, error)
    }

    /// The error of a command that used the repo.
    pub(crate) fn error(&self, doing: &str, error: &Error) -> JobError {
        repository_error(doing, error, &self.database.repository, &self.agent.cell)
    }

    /// Writes the marks that backups should have and do not have. The caller has the database's lock.
    pub(crate) async fn write_missing_marks(&self) {
        write_missing_marks(self.agent, self.database, &self.config, &self.info).await;
    }

    /// The size of WAL segments.
    pub(crate) fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// pgBackRest's name of the archive that is written now, such as `15-1`.
    pub(crate) fn archive_id(&self) -> Option<&str> {
        // The newest database of the stanza comes last.
        self.info.archives.last().map(|archive| archive.id.as_str())
    }

    /// The major version of PostgreSQL that wrote that archive.
    pub(crate) fn postgres_version(&self) -> Option<u32> {
        self.archive_id()?.split_once('-')?.0.parse().ok()
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

    /// Every backup that the repo lists, and whether pgBackRest can load its manifest.
    pub(crate) async fn listed_backups(&self) -> Result<Vec<ListedBackup>, JobError> {
        let mut listed = Vec::new();
        for label in self.labels() {
            let (tool, stanza) = (&self.agent.pgbackrest, &self.database.stanza);
            let unloadable = tool.unloadable(&self.config, stanza, &label, READ_TIMEOUT).await;
            listed
                .push(ListedBackup { label, unloadable: unloadable.map_err(|error| self.reading(&error))? });
        }
        Ok(listed)
    }

    /// All backups whose record can be interpreted.
    pub(crate) fn backups(&self) -> Vec<SurveyedBackup> {
        let drills = drills(self.agent);
        let all = self.info.backups.iter();
        all.filter_map(|backup| {
            Some(SurveyedBackup { drill_passed: drills.get(&backup.label).copied(), ..self.backup(backup)? })
        })
        .collect()
    }

    fn backup(&self, backup: &BackupInfo) -> Option<SurveyedBackup> {
        let first = self.size.parse_file_name(backup.archive_start.as_deref()?)?;
        let last = self.size.parse_file_name(backup.archive_stop.as_deref()?)?;
        let identity =
            |id: u64| self.info.databases.iter().find(|database| database.id == id)?.system_identifier;
        let mut bases = backup.references.clone();
        bases.extend(backup.prior.clone());
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
            mark: mark_of(self.agent, backup),
            page_errors: backup.error == Some(true),
            bases,
            drill_passed: None,
            held: None,
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
            Err(error) => Err(self.reading(&error)),
        }
    }

    /// The backup from which a new member of the database is restored, and what is wrong with it: the newest sound one
    /// from which the WAL leads to the primary's timeline. A newer backup may be on a timeline that was left behind.
    ///
    /// One that is not sound is taken only if `any` says so, for members of a database that was itself restored from it.
    /// Otherwise a new member could silently take over damaged pages, or another instance's files.
    pub(crate) async fn seed_for(&self, timeline: Timeline, any: bool) -> Result<Choice, JobError> {
        let at = Instant::now();
        let lineage = async {
            let lineage = Lineage::new(timeline, &self.history(timeline).await?);
            self.check_fork(&lineage).await.map(|()| lineage)
        };
        // The primary is asked while the repo is read.
        let (lineage, kept) =
            tokio::try_join!(lineage, async { Ok::<_, JobError>(self.kept_by_primary().await) })?;
        let backups = self.backups();
        let leader = self.agent.leader();
        let primary = leader.as_ref().map_or("CELL", |leader| leader.cell.as_str());
        let refused = |why: String| {
            Refusal::new(Code::UnknownBackup, why).hint(format!(
                "take one of the primary: `cellar backup --type full --allow-primary --from {primary}`"
            ))
        };
        let (reaching, gap) = self.reaching(&lineage, &backups, kept).await?;
        let Some(best) = best_on(&reaching, &lineage) else {
            let why = match gap {
                Some(gap) => format!(
                    "no backup leads to the present: WAL segment {} is not in the archive, and the primary does not keep it any more, so a standby made from a backup before it would wait for it without end",
                    self.size.file_name(gap)
                ),
                None => format!("no backup leads to timeline {timeline}, which the primary is on"),
            };
            return Err(refused(why).into());
        };
        let worth = worth(best, &backups);
        let flaw = worth.flaw().map(|flaw| format!("backup {}: {flaw}", best.label));
        match flaw {
            Some(flaw) if !worth.is_sound() && !any => Err(refused(format!(
                "no sound backup leads to timeline {timeline}, which the primary is on; the best is {flaw}"
            ))
            .into()),
            flaw => Ok(Choice { backup: best.clone(), flaw, timeline, at }),
        }
    }

    /// Of these backups, those on a lineage from which all WAL up to the present is in the archive or with the primary,
    /// where a standby can stream it; and what is missing behind the best of the others. `kept` is what the primary keeps.
    async fn reaching(
        &self,
        lineage: &Lineage,
        backups: &[SurveyedBackup],
        kept: Result<Option<u64>, Refusal>,
    ) -> Result<(Vec<SurveyedBackup>, Option<Segment>), JobError> {
        let Some(best) = best_on(backups, lineage) else { return Ok((Vec::new(), None)) };
        let kept = match kept {
            Ok(Some(kept)) if kept > best.first_segment => Some(kept),
            // It keeps all that is needed; or its pooler is of a release that does not tell, and nothing is known.
            Ok(_) => return Ok((backups.to_vec(), None)),
            Err(refusal) => {
                tracing::info!(%refusal.message, "what the primary keeps is not known");
                None
            }
        };
        let mut archive = Archive { size: self.size, ..Archive::default() };
        for (segment, _) in self.list_archive().await?.0 {
            archive.add(segment);
        }
        let gap = |backup: &SurveyedBackup| unreachable_from(backup.first_segment, kept, lineage, &archive);
        let reaching = backups.iter().filter(|backup| gap(backup).is_none()).cloned().collect();
        Ok((reaching, gap(best)))
    }

    /// What the recorded primary keeps of its WAL: see [`wal_kept_by_primary`].
    async fn kept_by_primary(&self) -> Result<Option<u64>, Refusal> {
        let silent = || Refusal::new(Code::NoPrimary, "no primary of another cell is recorded");
        let leader =
            self.agent.leader().filter(|leader| leader.cell != self.agent.cell).ok_or_else(silent)?;
        let card = self.agent.card_of(&leader.cell).ok_or_else(silent)?;
        wal_kept_by_primary(self.agent, &card, &leader).await
    }

    /// The first segment that any restore needs; what was before it may have expired.
    pub(crate) fn first_needed(&self) -> u64 {
        self.backups().iter().map(|backup| backup.first_segment).min().unwrap_or(0)
    }

    /// Which of these segments the archive has. Only the directories are listed in which they would be.
    pub(crate) async fn archived(&self, segments: &[Segment]) -> Result<Archive, JobError> {
        let mut archive = Archive { size: self.size, ..Archive::default() };
        let Some(id) = self.archive_id() else { return Ok(archive) };
        let folders = segments.iter().map(|segment| self.size.file_name(*segment)[..16].to_owned());
        for folder in folders.collect::<BTreeSet<String>>() {
            let directory = format!("{}/{folder}", self.archive_path(id));
            let (tool, stanza) = (&self.agent.pgbackrest, &self.database.stanza);
            let listed = tool.repo_list(&self.config, stanza, &directory, READ_TIMEOUT).await;
            for entry in listed.map_err(|error| self.reading(&error))? {
                if let Some(segment) = self.size.parse_archived_name(&entry.path) {
                    archive.add(segment);
                }
            }
        }
        Ok(archive)
    }

    /// Refuses while the archive would lead a new member past the position at which `lineage` begins.
    pub(crate) async fn check_fork(&self, lineage: &Lineage) -> Result<(), JobError> {
        if lineage.begins_at() == Lsn::new(0) {
            return Ok(());
        }
        let first = self.size.number_of(lineage.begins_at());
        let files: Vec<Segment> = lineage.files(first, self.size).collect();
        let archive = self.archived(&files).await?;
        match lineage.fork_without_file(first, &archive) {
            Some(fork) => Err(fork.refusal(self.size).hint(FORK_HINT).into()),
            None => Ok(()),
        }
    }

    /// All segments and histories of the archive, with when each came there.
    async fn list_archive(&self) -> Result<(Dated<Segment>, Dated<Timeline>), JobError> {
        let (mut segments, mut histories) = (Vec::new(), Vec::new());
        let Some(id) = self.archive_id() else { return Ok((segments, histories)) };
        let (tool, stanza) = (&self.agent.pgbackrest, &self.database.stanza);
        let listed = tool.repo_list(&self.config, stanza, &self.archive_path(id), READ_TIMEOUT).await;
        for entry in listed.map_err(|error| self.reading(&error))?.iter().filter(|entry| entry.is_file) {
            let name = entry.path.rsplit('/').next().unwrap_or_default();
            if let Some(segment) = self.size.parse_archived_name(name) {
                segments.push((segment, entry.time));
            } else if let Some(timeline) = history_of(name) {
                histories.push((timeline, entry.time));
            }
        }
        Ok((segments, histories))
    }

    /// The newest timeline whose history the archive has.
    pub(crate) async fn newest_history(&self) -> Result<Option<Timeline>, JobError> {
        let (_, histories) = self.list_archive().await?;
        Ok(histories.into_iter().map(|(timeline, _)| timeline).max())
    }

    /// Everything that planning a restore looks at.
    pub(crate) async fn survey(&self, current: Timeline, write_lsn: Option<Lsn>) -> Result<Survey, JobError> {
        let mut archive = Archive { size: self.size, ..Archive::default() };
        let (segments, timelines) = self.list_archive().await?;
        segments.iter().for_each(|(segment, _)| archive.add(*segment));
        let archived_at = segments.iter().filter_map(|(segment, at)| Some((*segment, (*at)?))).collect();
        let begun_at = timelines.iter().filter_map(|(timeline, at)| Some((*timeline, (*at)?))).collect();
        let mut histories = BTreeMap::new();
        for (timeline, _) in timelines {
            histories.insert(timeline, self.history(timeline).await?);
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
}

/// Whether the last drill of each backup passed. A pooler sees the runs of its own cell only. Those of other cells that
/// had failed stand in the records of its jobs.
fn drills(agent: &Agent) -> BTreeMap<BackupLabel, bool> {
    let view = agent.mirror.view();
    let jobs = view.jobs.values().filter(|record| record.database == agent.database);
    let mut all: Vec<(Timestamp, BackupLabel, bool)> = jobs
        .max_by_key(|record| (record.create_time, record.id))
        .into_iter()
        .flat_map(|newest| {
            newest.failed_drills.iter().map(|label| (newest.create_time, label.clone(), false))
        })
        .collect();
    let ended = view.ended.values();
    all.extend(
        ended
            .filter(|job| job.kind == JobKind::Drill && job.database == agent.database)
            .filter_map(|job| Some((job.end_time?, job.backup.clone()?, job.drill_passed?))),
    );
    all.sort_by_key(|(time, ..)| *time);
    all.into_iter().map(|(_, backup, passed)| (backup, passed)).collect()
}

fn history_of(name: &str) -> Option<Timeline> {
    let digits = name.strip_suffix(".history").filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().map(Timeline::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_of_foreign_data_is_not_that_of_the_database() {
        let (ours, theirs) = (SystemIdentifier::new(1), SystemIdentifier::new(2));
        let size = SegmentSize::new(64 << 20).unwrap();
        assert_eq!(size_for(Some(ours), Some((theirs, size))), None);
        assert_eq!(size_for(Some(ours), Some((ours, size))), Some(size));
        // Before anything is recorded there is nothing to compare with.
        assert_eq!(size_for(None, Some((theirs, size))), Some(size));
        assert_eq!(size_for(Some(ours), None), None);
    }
}
