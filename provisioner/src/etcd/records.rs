//! Bringing records that are older than reality up to it, before anything acts on them.
//!
//! A snapshot says what was so when it was taken. Four things in it are dangerous later: a job that was open then would
//! be run again, though it may have ended since; a cell that was added since would be taken for removed, and one that
//! was removed for added, and one that was both has other ports now; data that a restore has made since would be called outdated; and the primary of then may have
//! been replaced since: it would be started beside the present one. What cannot be known is told.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use cellar_model::{
    Cell, CellName, Closure, Code, Database, DatabaseName, Incarnation, JobError, JobId, JobState, Key,
};
use cellar_system::clock;
use cellar_topology::{Mirror, Store, TxnOutcome};
use serde::Deserialize;

use crate::cluster::database::ClusterDatabase;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};

/// How long listing all records may take.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The file in a data directory that says of which incarnation it is.
const MARK: &str = "cellar.incarnation";

/// What was changed in restored records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairedRecords {
    /// Jobs that were open when the snapshot was taken, and are closed now: how they ended is not known.
    pub closed_jobs: Vec<JobId>,
    /// Cells that are there and were not in the snapshot.
    pub added_cells: Vec<CellName>,
    /// Cells that were in the snapshot and have been removed since.
    pub removed_cells: Vec<CellName>,
    /// Cells whose record in the snapshot was another one: they were removed and added again since.
    pub replaced_cells: Vec<CellName>,
    /// The numbers of the incarnations that the data of databases has of which the snapshot had an older one.
    pub incarnations: Vec<(DatabaseName, u32)>,
    /// Keys that could not be read, and stay as they are.
    pub unreadable: Vec<String>,
}

/// The mark of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Mark {
    number: u32,
    job: Option<JobId>,
}

fn read_mark(data: &Path) -> Result<Option<Mark>> {
    let path = data.join(MARK);
    match std::fs::read(&path) {
        Ok(text) => {
            let bad = |error: serde_json::Error| ProvisionError::BadState {
                path: path.clone(),
                reason: error.to_string(),
                copy: None,
            };
            serde_json::from_slice(&text).map(Some).map_err(bad)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ProvisionError::io("read", &path)(error)),
    }
}

/// The record that the newest data belongs to, if the recorded one is older. The fence of a restore that has made that
/// data is lifted with it: it has ended. Its way back is given up, because the job that knows it is not there.
fn newer_incarnation(recorded: &Incarnation, marks: &[Mark]) -> Option<Incarnation> {
    let newest = marks.iter().max_by_key(|mark| mark.number)?;
    (newest.number > recorded.number).then(|| Incarnation {
        number: newest.number,
        job: newest.job,
        ..Incarnation::default()
    })
}

fn shown(id: Option<uuid::Uuid>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

/// What became of a job is not known: it may have ended in any way since the snapshot.
fn unknown_outcome() -> Closure {
    let error = JobError {
        code: Code::Unavailable,
        message: "etcd was restored from a snapshot that was taken while this job was open; how it ended is not known"
            .to_owned(),
        hint: "look at what it was to do, and request it again if it is still wanted".to_owned(),
        tool_output: String::new(),
    };
    Closure { state: JobState::Failed, time: clock::now(), error: Some(error), result: None }
}

async fn commit(transaction: cellar_topology::Transaction<'_>) -> Result<()> {
    match transaction.commit().await? {
        TxnOutcome::Committed(_) => Ok(()),
        // Nobody else has this etcd.
        TxnOutcome::Conflict => Err(cellar_topology::StoreError::Retryable(
            "somebody else writes into the etcd that is being restored".to_owned(),
        )
        .into()),
    }
}

impl Cluster {
    /// Changes the records in a restored etcd that nobody else uses yet.
    pub(crate) async fn repair_records(&self, store: &Store) -> Result<RepairedRecords> {
        let mirror = Mirror::start(store, vec![store.keys().all()]);
        mirror.ready(LIST_TIMEOUT).await?;
        let mut repaired = RepairedRecords::default();
        let (mut closures, given_up, recorded, incarnations);
        {
            let view = mirror.view();
            // Before anything is changed: the snapshot may be another cluster's, of the same name.
            let is_other = |found: &&Database| found.check_cluster(self.state.id).is_err();
            if let Some(found) = view.databases.values().find(is_other) {
                return Err(ProvisionError::RecordDiffers {
                    key: store.keys().path(&Key::Database(found.name.clone())),
                    found: format!("of the cluster with the id {}", shown(found.cluster_id)),
                    wanted: format!("that of the cluster with the id {}", shown(self.state.id)),
                });
            }
            repaired.unreadable = view.unreadable.keys().cloned().collect();
            closures = Vec::new();
            for (id, job) in view.jobs.iter().filter(|(id, _)| !view.has_ended(id)) {
                let key = Key::Job(job.database.clone(), *id);
                closures.push((*id, view.revision(&key), key, job.clone()));
            }
            // The end of a restore is recorded after its incarnation. One that has failed and whose incarnation is not
            // recorded was given up, and data that it made in place of a cell's is not the database's.
            given_up = view
                .jobs
                .keys()
                .copied()
                .filter(|id| view.is_known_to_have_failed(id))
                .collect::<BTreeSet<_>>();
            recorded = view.cells.clone();
            let of_database = |database: &ClusterDatabase| {
                let key = Key::Incarnation(database.name.clone());
                (database.name.clone(), view.incarnation(&database.name), view.revision(&key))
            };
            incarnations = self.state.databases().map(of_database).collect::<Vec<_>>();
        }
        for (id, revision, key, mut job) in closures {
            job.closure = Some(unknown_outcome());
            commit(store.transaction().expect(&key, revision).put(&key, &job)).await?;
            repaired.closed_jobs.push(id);
        }
        self.repair_cells(store, &recorded, &mut repaired).await?;
        // Whoever is the primary now records itself, and whoever was it then looks whether another cell was promoted since.
        for database in self.state.databases() {
            commit(store.transaction().delete(&Key::Leader(database.name.clone()))).await?;
        }
        // What a cell reported then stays until its lease ends, which begins anew. Until then it would be taken for the
        // present, and a machine that is in a lost one's place would wait for it.
        for (database, incarnation, revision) in incarnations {
            for cell in recorded.keys() {
                let key = Key::Status(database.clone(), cell.clone());
                commit(store.transaction().delete(&key)).await?;
            }
            let members = self.state.members_of(&database);
            let data = members.iter().map(|member| self.layout_of(member).data());
            let marks = data.filter_map(|data| read_mark(&data).transpose()).collect::<Result<Vec<_>>>()?;
            let took_effect = |mark: &Mark| mark.job.is_none_or(|job| !given_up.contains(&job));
            let marks: Vec<Mark> = marks.into_iter().filter(took_effect).collect();
            if let Some(newer) = newer_incarnation(&incarnation, &marks) {
                let key = Key::Incarnation(database.clone());
                commit(store.transaction().expect(&key, revision).put(&key, &newer)).await?;
                repaired.incarnations.push((database, newer.number));
            }
        }
        Ok(repaired)
    }

    /// Makes the recorded cells those of the state file, which is changed with every cell that comes or goes.
    async fn repair_cells(
        &self,
        store: &Store,
        recorded: &std::collections::BTreeMap<CellName, Cell>,
        repaired: &mut RepairedRecords,
    ) -> Result<()> {
        let compared = self.compare(recorded);
        for cell in &self.state.cells {
            let found = recorded.get(&cell.name);
            let is_missing = compared.removed.contains(&cell.name);
            // A cell that was removed and added again since has another index, and may be on another host.
            let is_other = found.is_some_and(|found| *found != self.cell_as_recorded(cell, found));
            if !is_missing && !is_other {
                continue;
            }
            let key = Key::Cell(cell.name.clone());
            let mut all = store.transaction().put(&key, &self.cell(cell));
            for pooler in self.poolers(std::slice::from_ref(cell))? {
                all = all.put(&Key::Pooler(pooler.database.clone(), pooler.cell.clone()), &pooler);
            }
            commit(all).await?;
            let cells = if is_missing { &mut repaired.added_cells } else { &mut repaired.replaced_cells };
            cells.push(cell.name.clone());
        }
        let unknown = |name: &&CellName| self.state.cell(name).is_none();
        let removed: Vec<CellName> = match self.is_local() {
            true => compared.added.into_iter().map(|cell| cell.name).collect(),
            // On hosts all cells are known here.
            false => recorded.keys().filter(unknown).cloned().collect(),
        };
        for name in removed {
            let mut all = store.transaction().delete(&Key::Cell(name.clone()));
            for database in self.state.databases() {
                all = all.delete(&Key::Pooler(database.name.clone(), name.clone()));
            }
            commit(all).await?;
            repaired.removed_cells.push(name);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cellar_model::{JobRecord, JobSpec, Leader, Pooler, PoolerStatus, RebuildParams, Run, Timeline};
    use cellar_topology::MemoryKv;

    use super::*;
    use crate::cluster::members::tests::further;

    const RESTORE: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    fn mark(number: u32) -> Mark {
        Mark { number, job: Some(RESTORE.parse().unwrap()) }
    }

    #[test]
    fn newest_data_decides_which_incarnation_is_the_present_one() {
        let job = Some(RESTORE.parse().unwrap());
        let fenced = Incarnation { fence: job, ..Incarnation::default() };
        for recorded in [Incarnation::default(), fenced] {
            let newer = newer_incarnation(&recorded, &[mark(1), mark(2), mark(1)]).unwrap();
            assert_eq!(newer, Incarnation { number: 2, job, ..Incarnation::default() });
        }
        let second =
            Incarnation { number: 2, job, kept_in: Some("zone1".parse().unwrap()), ..Incarnation::default() };
        assert_eq!(newer_incarnation(&second, &[mark(1), mark(2)]), None, "the way back stays");
        assert_eq!(newer_incarnation(&second, &[]), None);
    }

    #[test]
    fn mark_that_cannot_be_read_ends_the_restore() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_mark(dir.path()).unwrap(), None);
        std::fs::write(dir.path().join(MARK), format!(r#"{{"number":3,"job":"{RESTORE}"}}"#)).unwrap();
        assert_eq!(read_mark(dir.path()).unwrap(), Some(mark(3)));
        std::fs::write(dir.path().join(MARK), "{").unwrap();
        assert!(read_mark(dir.path()).is_err());
    }

    /// Whether a restore whose data a cell has was given up is known by the snapshot, if it is from after its end.
    #[tokio::test]
    async fn data_of_a_restore_that_was_given_up_is_not_the_present_one() {
        let canceled = Closure { state: JobState::Canceled, error: None, ..unknown_outcome() };
        // Of the last it was not known how it ended when etcd was put back once before.
        for (end, given_up) in [(Some(canceled), true), (None, false), (Some(unknown_outcome()), false)] {
            let dir = tempfile::tempdir().unwrap();
            let now = Cluster::sample(dir.path(), &["zone1"]);
            let store = Store::new(Arc::new(MemoryKv::default()), now.keys());
            let params = cellar_model::RestoreParams {
                target: cellar_model::Target::Latest {},
                timeline: None,
                in_place: true,
                onto: None,
                backup: None,
            };
            let (id, zone1) = (RESTORE.parse().unwrap(), "zone1".parse().unwrap());
            let database = now.state.first_database.name.clone();
            let (spec, at) = (JobSpec::Restore(params), clock::now());
            let mut job = JobRecord::new(id, spec, database.clone(), zone1, "test", at, at);
            job.closure = end;
            let key = Key::Job(database.clone(), id);
            commit(store.transaction().put(&key, &job)).await.unwrap();
            let data = now.layout.cell(&"zone1".parse().unwrap()).data();
            std::fs::create_dir_all(&data).unwrap();
            std::fs::write(data.join(MARK), format!(r#"{{"number":2,"job":"{RESTORE}"}}"#)).unwrap();
            let repaired = now.repair_records(&store).await.unwrap();
            let newer = (database, 2);
            assert_eq!(repaired.incarnations, (!given_up).then_some(newer).as_slice());
        }
    }

    #[tokio::test]
    async fn snapshot_of_another_cluster_of_the_same_name_is_refused_before_anything_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut here = Cluster::sample(dir.path(), &["zone1"]);
        here.state.id = Some(uuid::Uuid::from_u128(1));
        let mut other = here.clone();
        other.state.id = Some(uuid::Uuid::from_u128(2));
        for (snapshot, is_ours) in [(&other, false), (&here, true)] {
            let store = Store::new(Arc::new(MemoryKv::default()), here.keys());
            let key = Key::Database(snapshot.state.first_database.name.clone());
            commit(store.transaction().put(&key, &snapshot.record_of(&snapshot.state.first_database)))
                .await
                .unwrap();
            let repaired = here.repair_records(&store).await;
            assert_eq!(repaired.is_ok(), is_ours, "{repaired:?}");
            let cells = store.list(&store.keys().kind("cells")).await.unwrap();
            assert_eq!(cells.entries.is_empty(), !is_ours, "nothing was written");
        }
    }

    #[tokio::test]
    async fn primary_of_then_is_forgotten_of_every_database_and_data_of_each_decides() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1", "zone2"]);
        cluster.state.further_databases.push(further("sales", &["zone2"]));
        let store = Store::new(Arc::new(MemoryKv::default()), cluster.keys());
        let [app, sales] = ["app", "sales"].map(|name| name.parse::<DatabaseName>().unwrap());
        for (database, cell) in [(&app, "zone1"), (&sales, "zone2")] {
            let leader = Leader {
                cell: cell.parse().unwrap(),
                term: Timeline::new(1),
                system_identifier: None,
                lsn: None,
                leadership: None,
            };
            commit(store.transaction().put(&Key::Leader(database.clone()), &leader)).await.unwrap();
        }
        // A restore of sales since: app's data in the same cell has nothing to do with it.
        let member = cluster.state.members_of(&sales).remove(0);
        let data = cluster.layout_of(&member).data();
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join(MARK), format!(r#"{{"number":2,"job":"{RESTORE}"}}"#)).unwrap();
        let repaired = cluster.repair_records(&store).await.unwrap();
        assert_eq!(repaired.incarnations, [(sales.clone(), 2)]);
        for database in [app, sales] {
            let left = store.get::<Leader>(&Key::Leader(database.clone())).await.unwrap();
            assert!(left.is_none(), "{database}: {left:?}");
        }
    }

    #[tokio::test]
    async fn open_jobs_are_closed_and_cells_are_those_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        // zone3 was added after the snapshot, zone9 removed, and zone5 removed and added again: it has another index.
        let now = Cluster::sample(dir.path(), &["zone1", "zone3", "zone5"]);
        let then = Cluster::sample(dir.path(), &["zone1", "zone5", "zone9"]);
        let store = Store::new(Arc::new(MemoryKv::default()), now.keys());
        let database = now.state.first_database.name.clone();
        let status = |name: &CellName| Key::Status(database.clone(), name.clone());
        for cell in &then.state.cells {
            let (key, pooler) =
                (Key::Cell(cell.name.clone()), Key::Pooler(database.clone(), cell.name.clone()));
            let all = store
                .transaction()
                .put(&key, &then.cell(cell))
                .put(&pooler, &then.pooler(&then.state.first_database, cell).unwrap());
            let reported = PoolerStatus {
                database: database.clone(),
                cell: cell.name.clone(),
                epoch: "one".to_owned(),
                pid: 1,
                held_lsn: None,
                held_timeline: None,
                replays: std::collections::BTreeMap::new(),
                logical_slots: Vec::new(),
                incarnation: None,
                state: cellar_model::InstanceState::Running,
                message: String::new(),
                role: cellar_model::Role::Standby,
                system_identifier: None,
                timeline: None,
                streams_from: None,
                receive_lag: cellar_model::LagClass::Unknown,
                replay_lag: cellar_model::LagClass::Unknown,
                archiver: cellar_model::Archiver::default(),
                versions: cellar_model::Versions::default(),
                certificate_expiry: None,
                tls_server_up: true,
                tls_server_accepts: Vec::new(),
                unreadable_records: Vec::new(),
                update_time: None,
            };
            all.put(&status(&cell.name), &reported).commit().await.unwrap();
        }
        let job = |n: u128| {
            JobRecord::new(
                JobId::new(uuid::Uuid::from_u128(n)),
                JobSpec::Rebuild(RebuildParams::default()),
                database.clone(),
                "zone1".parse().unwrap(),
                "test",
                clock::now(),
                clock::now(),
            )
        };
        let (open, ended) = (job(1), job(2));
        let run = Run {
            id: ended.id,
            database: database.clone(),
            cell: ended.cell.clone(),
            state: JobState::Succeeded,
            epoch: "1".into(),
            start_time: clock::now(),
            end_time: Some(clock::now()),
            progress: cellar_model::Progress::default(),
            result: None,
            error: None,
            history: vec![],
            protocol: cellar_model::Protocol::OURS,
        };
        let key = |job: &JobRecord| Key::Job(database.clone(), job.id);
        let runs = Key::Run(database.clone(), ended.cell.clone(), ended.id);
        let jobs = store.transaction().put(&key(&open), &open).put(&key(&ended), &ended).put(&runs, &run);
        jobs.commit().await.unwrap();
        let data = now.layout.cell(&"zone3".parse().unwrap()).data();
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join(MARK), format!(r#"{{"number":2,"job":"{RESTORE}"}}"#)).unwrap();

        let repaired = now.repair_records(&store).await.unwrap();
        assert_eq!(
            repaired,
            RepairedRecords {
                closed_jobs: vec![open.id],
                added_cells: vec!["zone3".parse().unwrap()],
                removed_cells: vec!["zone9".parse().unwrap()],
                replaced_cells: vec!["zone5".parse().unwrap()],
                incarnations: vec![("app".parse().unwrap(), 2)],
                unreadable: vec![],
            }
        );
        let closed = store.get::<JobRecord>(&key(&open)).await.unwrap().unwrap().record;
        assert_eq!(closed.closure.unwrap().state, JobState::Failed);
        assert_eq!(store.get::<JobRecord>(&key(&ended)).await.unwrap().unwrap().record.closure, None);
        for (cell, there) in [("zone1", true), ("zone3", true), ("zone5", true), ("zone9", false)] {
            let name: CellName = cell.parse().unwrap();
            let reported = store.get::<serde_json::Value>(&status(&name)).await.unwrap();
            assert!(reported.is_none(), "what it reported then is not so now");
            let found = store.get::<Cell>(&Key::Cell(name.clone())).await.unwrap();
            let pooler = store.get::<Pooler>(&Key::Pooler(database.clone(), name)).await.unwrap();
            assert_eq!((found.is_some(), pooler.is_some()), (there, there), "{cell}");
        }
        // What `up` compares with.
        for cell in &now.state.cells {
            let found = store.get::<Cell>(&Key::Cell(cell.name.clone())).await.unwrap().unwrap().record;
            assert_eq!(found, now.cell(cell));
            let key = Key::Pooler(database.clone(), cell.name.clone());
            let pooler = store.get::<Pooler>(&key).await.unwrap().unwrap().record;
            assert_eq!(pooler, now.pooler(&now.state.first_database, cell).unwrap());
        }
        // Nothing is left to do.
        assert_eq!(now.repair_records(&store).await.unwrap(), RepairedRecords::default());
    }
}
