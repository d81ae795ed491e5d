//! The backups in the repo, read by a pooler and joined with the results of our own jobs.

use std::time::Duration;

use cellar_api::v1;
use cellar_model::{
    BackupLabel, CELL_ANNOTATION, CellName, Code, DatabaseName, InstanceState, JOB_ANNOTATION, JobId,
    JobKind, Mark, PROOF_ANNOTATION, Pooler, Refusal,
};
use cellar_topology::View;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::refusal;

/// How long one pooler may take. pgBackRest normally reads `backup.info` from the repo within a second.
const POOLER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a listing may take: enough to ask three poolers.
pub(crate) const LISTING_TIMEOUT: Duration = Duration::from_secs(30);

/// Known labels that a refusal names when there is no such backup.
const MAX_LABELS_NAMED: usize = 5;

/// Backups of a database and who read them.
struct Reading {
    backups: Vec<v1::Backup>,
    read_by: CellName,
}

impl Admin {
    pub(crate) async fn list_backups(
        &self,
        database: Option<&DatabaseName>,
        deadline: Deadline,
    ) -> Result<v1::ListBackupsResponse, Refusal> {
        let database = self.named_database(database, deadline).await?;
        let reading = self.read_backups(&database, "", deadline).await?;
        Ok(v1::ListBackupsResponse { backups: reading.backups, read_by: reading.read_by.to_string() })
    }

    pub(crate) async fn backup(
        &self,
        database: Option<&DatabaseName>,
        label: &BackupLabel,
        deadline: Deadline,
    ) -> Result<v1::Backup, Refusal> {
        let database = self.named_database(database, deadline).await?;
        let found = match self.read_backups(&database, label.as_str(), deadline).await {
            Ok(reading) => reading.backups.into_iter().find(|backup| backup.label == label.as_str()),
            Err(refusal) if refusal.code == Code::UnknownBackup => None,
            Err(refusal) => return Err(refusal),
        };
        if let Some(backup) = found {
            return Ok(backup);
        }
        let all = self.read_backups(&database, "", deadline).await?;
        // Labels begin with their time, so their order is that of the backups.
        let mut labels: Vec<&str> = all.backups.iter().map(|backup| backup.label.as_str()).collect();
        labels.sort_unstable_by(|a, b| b.cmp(a));
        let known = match labels.len() {
            0 => "the repo has none yet".to_owned(),
            n if n > MAX_LABELS_NAMED => format!("the newest are {}", labels[..MAX_LABELS_NAMED].join(", ")),
            _ => format!("known: {}", labels.join(", ")),
        };
        Err(Refusal::new(Code::UnknownBackup, format!("database {database} has no backup {label} ({known})"))
            .hint("`cellar backups list` shows them all")
            .about("database", &database)
            .about("backup", label))
    }

    /// The named database, or the only one, once the view is current.
    async fn named_database(
        &self,
        name: Option<&DatabaseName>,
        deadline: Deadline,
    ) -> Result<DatabaseName, Refusal> {
        self.fresh(deadline).await?;
        Ok(self.view().snapshot().database(name)?.name.clone())
    }

    /// Asks one pooler after the other until one has read the repo.
    async fn read_backups(
        &self,
        database: &DatabaseName,
        label: &str,
        deadline: Deadline,
    ) -> Result<Reading, Refusal> {
        let readers = readers(&self.view(), database);
        let mut last =
            Refusal::new(Code::CellDown, format!("no pooler of database {database} is up to read its repo"))
                .hint("start one (`cellar up` on a local cluster, else `cellar host start` on its host)")
                .about("database", database);
        for pooler in readers {
            match self.read_backups_from(&pooler, label, deadline).await {
                Ok(answer) => {
                    let view = self.view();
                    let join = |backup| joined(&view, database, backup);
                    return Ok(Reading {
                        backups: answer.into_iter().map(join).collect(),
                        read_by: pooler.cell,
                    });
                }
                // Every pooler reads the same repo: another would give the same answer.
                Err(refusal) if refusal.code == Code::UnknownBackup => return Err(refusal),
                Err(refusal) => {
                    tracing::info!(cell = %pooler.cell, %refusal, "asking the next pooler for the backups");
                    // What one found wrong with the repo says more than that another is away.
                    if last.code != Code::PgbackrestFailed {
                        last = refusal.about("database", database);
                    }
                }
            }
            if deadline.has_passed() {
                break;
            }
        }
        if let Some(home) = silent_home(&self.view(), database) {
            let message = format!(
                "the repository of {database} is on the host of cell {home}, whose multipooler does not report ({last})"
            );
            return Err(Refusal::new(Code::CellDown, message)
                .hint(format!("`cellar host start` on the host of cell {home}; if it runs there, see that it reaches etcd"))
                .about("cell", home)
                .about("database", database));
        }
        Err(last)
    }

    async fn read_backups_from(
        &self,
        pooler: &Pooler,
        label: &str,
        deadline: Deadline,
    ) -> Result<Vec<v1::Backup>, Refusal> {
        let mut client = self.pooler_client(pooler)?;
        let request = v1::ReadBackupsRequest { label: label.to_owned() };
        let timeout = POOLER_TIMEOUT.min(deadline.remaining());
        let answer = tokio::time::timeout(timeout, client.read_backups(request)).await;
        match answer.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer in time"))) {
            Ok(answer) => Ok(answer.into_inner().backups),
            Err(status) => {
                self.poolers.forget(pooler);
                Err(refusal::of_pooler(&pooler.cell, &status))
            }
        }
    }
}

/// The cell on whose host alone the repo is, if its pooler does not report: then nobody reads the repo.
fn silent_home<'a>(view: &'a View, database: &DatabaseName) -> Option<&'a CellName> {
    let home = view.databases.get(database)?.repository.home()?;
    let reports = view.status.contains_key(&(database.clone(), home.clone()));
    (!reports).then_some(home)
}

/// Poolers that report, in the order in which they are asked: that on whose host alone the repo is, the primary's, those
/// whose instance runs, the others (a pooler can read the repo while its PostgreSQL is down).
fn readers(view: &View, database: &DatabaseName) -> Vec<Pooler> {
    let leader = view.leaders.get(database).map(|leader| &leader.cell);
    let home = view.databases.get(database).and_then(|database| database.repository.home());
    let mut readers: Vec<(bool, bool, bool, &Pooler)> = view
        .status
        .values()
        .filter(|status| status.database == *database)
        .filter_map(|status| {
            let pooler = view.poolers.get(&(database.clone(), status.cell.clone()))?;
            let runs = status.state == InstanceState::Running;
            Some((home != Some(&status.cell), !(runs && leader == Some(&status.cell)), !runs, pooler))
        })
        .collect();
    readers.sort_by_key(|(not_home, not_primary, not_running, _)| (*not_home, *not_primary, *not_running));
    readers.into_iter().map(|(.., pooler)| pooler.clone()).collect()
}

/// A backup with its proof.
///
/// The mark that the proof wrote stands with the backup, and so outlives its job's record. A backup that is older than
/// the mark is proven by the result of the job that it names, and only if that result names this backup too.
fn joined(view: &View, database: &DatabaseName, mut backup: v1::Backup) -> v1::Backup {
    let annotation = |key: &str| backup.annotations.get(key).map(String::as_str).unwrap_or_default();
    let job: Option<JobId> = annotation(JOB_ANNOTATION).parse().ok();
    let cell: Option<CellName> = annotation(CELL_ANNOTATION).parse().ok();
    let made = job.and_then(|id| view.ended.get(&id)).filter(|made| {
        made.database == *database
            && made.kind == JobKind::Backup
            && made.backup.as_ref().is_some_and(|label| label.as_str() == backup.label)
    });
    backup.last_drill = last_drill(view, database, &backup.label);
    backup.job = job.map(|id| id.to_string()).unwrap_or_default();
    let mark = Mark::read(
        backup.annotations.get(PROOF_ANNOTATION).map(String::as_str),
        backup.annotations.get(JOB_ANNOTATION).map(String::as_str),
    );
    backup.verified = match mark {
        Mark::Proven => true,
        Mark::Unproven => false,
        Mark::None => made.is_some_and(|made| made.verified),
    };
    backup.cell = made.map(|made| made.cell.clone()).or(cell).map(String::from).unwrap_or_default();
    backup
}

/// The last drill that says something about a backup. One that was canceled, or for which there was no room, does not.
fn last_drill(view: &View, database: &DatabaseName, label: &str) -> Option<v1::LastDrill> {
    let of_backup = view.ended_jobs().filter(|(_, job)| {
        job.kind == JobKind::Drill
            && job.database == *database
            && job.backup.as_ref().is_some_and(|backup| backup.as_str() == label)
            && job.drill_passed.is_some()
    });
    let (id, last) = of_backup.max_by_key(|(_, job)| job.end_time)?;
    Some(v1::LastDrill {
        job: id.to_string(),
        cell: last.cell.to_string(),
        time: last.end_time.map(Into::into),
        passed: last.drill_passed == Some(true),
        readable_millis: last.readable_millis.unwrap_or_default(),
    })
}
