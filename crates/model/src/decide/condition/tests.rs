use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::decide::outcome::join;
use crate::records::job::record::JobRecord;
use crate::records::job::run::{Progress, Run};
use crate::records::job::spec::JobSpec;
use crate::records::pooler::{Leader, PoolerStatus};
use crate::records::rebuild::RebuildParams;
use crate::records::topology::{Database, Pause, Retention};
use crate::types::lsn::{SystemIdentifier, Timeline};
use crate::types::name::CellName;
use crate::types::protocol::Protocol;

struct World {
    database: DatabaseName,
    databases: BTreeMap<DatabaseName, Database>,
    status: BTreeMap<(DatabaseName, CellName), PoolerStatus>,
    leaders: BTreeMap<DatabaseName, Leader>,
    incarnations: BTreeMap<DatabaseName, Incarnation>,
    lock: Lock,
    jobs: Vec<Job>,
    unreadable: Vec<String>,
}

impl World {
    /// A database whose recorded primary is in zone1, and all is well.
    fn healthy() -> Self {
        let database: DatabaseName = "app".parse().unwrap();
        let record = Database {
            name: database.clone(),
            stanza: "app".parse().unwrap(),
            repository: "/r".parse().unwrap(),
            retention: Retention::default(),
            bootstrap_cell: "zone1".parse().unwrap(),
            port_offset: 0,
            repo_cipher: None,
            pgbackrest_names: Vec::new(),
            minimum_protocol: Protocol::default(),
            cluster_id: None,
            cells: Vec::new(),
            is_qualified: false,
            durability: crate::records::topology::Durability::default(),
            settings: std::collections::BTreeMap::new(),
            pause: None,
        };
        let leader = Leader {
            cell: "zone1".parse().unwrap(),
            term: Timeline::new(1),
            system_identifier: Some(SystemIdentifier::new(7)),
            lsn: None,
            leadership: None,
        };
        Self {
            databases: BTreeMap::from([(database.clone(), record)]),
            status: BTreeMap::new(),
            leaders: BTreeMap::from([(database.clone(), leader)]),
            incarnations: BTreeMap::new(),
            lock: Lock::default(),
            jobs: Vec::new(),
            unreadable: Vec::new(),
            database,
        }
    }

    fn conditions(&self) -> Vec<Condition> {
        let snapshot = Snapshot {
            cells: &BTreeMap::new(),
            databases: &self.databases,
            poolers: &BTreeMap::new(),
            status: &self.status,
            leaders: &self.leaders,
            incarnations: &self.incarnations,
        };
        conditions(&ConditionScene {
            database: &self.database,
            snapshot: &snapshot,
            lock: &self.lock,
            open_jobs: &self.jobs,
            unreadable: &self.unreadable,
        })
    }

    fn kinds(&self) -> Vec<ConditionKind> {
        self.conditions().into_iter().map(|condition| condition.kind).collect()
    }
}

fn id(n: u128) -> JobId {
    JobId::new(Uuid::from_u128(n))
}

/// A rebuild of zone2 whose multipooler is gone.
fn lost_rebuild(n: u128) -> Job {
    let record = JobRecord::new(
        id(n),
        JobSpec::Rebuild(RebuildParams::default()),
        "app".parse().unwrap(),
        "zone2".parse().unwrap(),
        "me",
        Timestamp::UNIX_EPOCH,
        Timestamp::UNIX_EPOCH,
    );
    let run = Run {
        id: record.id,
        database: record.database.clone(),
        cell: record.cell.clone(),
        state: JobState::Running,
        protocol: Protocol::OURS,
        epoch: String::new(),
        start_time: Timestamp::UNIX_EPOCH,
        end_time: None,
        progress: Progress::default(),
        result: None,
        error: None,
        history: vec![],
    };
    join(&record, Some(&run), false, None)
}

#[test]
fn healthy_database_has_no_condition() {
    assert_eq!(World::healthy().conditions(), []);
}

#[test]
fn every_kind_is_found_and_names_a_command() {
    let mut world = World::healthy();
    let second: PoolerStatus = serde_json::from_value(serde_json::json!({
        "database": "app", "cell": "zone2", "epoch": "e", "state": "INSTANCE_STATE_RUNNING", "role": "ROLE_PRIMARY",
    }))
    .unwrap();
    world.status.insert((second.database.clone(), second.cell.clone()), second);
    world.incarnations.insert(
        world.database.clone(),
        Incarnation {
            number: 2,
            cell: Some("zone1".parse().unwrap()),
            job: Some(id(1)),
            fence: Some(id(2)),
            kept_in: Some("zone1".parse().unwrap()),
            timeline: Some(Timeline::new(2)),
        },
    );
    world.lock = Lock { holder: Some(id(3)), queue: vec![id(4)] };
    world.jobs = vec![lost_rebuild(3)];
    world.unreadable = vec!["/cellar/demo/jobs/app/x".to_owned()];
    // The second primary says no protocol.
    let pause = Pause { since: Timestamp::UNIX_EPOCH, by: "me".to_owned(), reason: "new disks".to_owned() };
    for database in world.databases.values_mut() {
        (database.minimum_protocol, database.pause) = (Protocol::OURS, Some(pause.clone()));
    }
    let mut found = world.conditions();
    world.leaders.clear();
    found.extend(world.conditions());
    for kind in ConditionKind::ALL {
        let of_kind: Vec<&Condition> = found.iter().filter(|condition| condition.kind == kind).collect();
        assert!(!of_kind.is_empty(), "{}", kind.as_str());
        for condition in of_kind {
            let names_command =
                ["`cellar ", "`etcdctl "].iter().any(|command| condition.way_out.contains(command));
            assert!(names_command, "{condition:?}");
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}

#[test]
fn fence_says_whose_it_is_and_that_one_without_a_job_goes_by_itself() {
    let mut world = World::healthy();
    let fenced = Incarnation { fence: Some(id(3)), ..Incarnation::default() };
    world.incarnations.insert(world.database.clone(), fenced);
    world.jobs = vec![lost_rebuild(3)];
    assert!(world.conditions()[0].way_out.contains(&format!("`cellar jobs cancel {}`", id(3))));
    world.jobs.clear();
    assert_eq!(world.kinds(), [ConditionKind::Fenced]);
    assert!(world.conditions()[0].way_out.contains("by itself"));
}

#[test]
fn restored_data_that_no_primary_runs_on_is_left_by_a_restore_or_a_rollback() {
    let mut world = World::healthy();
    let restored = |kept_in: Option<&str>| Incarnation {
        number: 2,
        cell: Some("zone2".parse().unwrap()),
        job: Some(id(1)),
        fence: None,
        kept_in: kept_in.map(|cell| cell.parse().unwrap()),
        timeline: Some(Timeline::new(2)),
    };
    world.incarnations.insert(world.database.clone(), restored(None));
    assert_eq!(world.kinds(), [ConditionKind::RestoreUnused]);
    let way_out = world.conditions()[0].way_out.clone();
    for part in ["`cellar status`", "--timeline 1", "`cellar up`", "postgresql.conf"] {
        assert!(way_out.contains(part), "{way_out}");
    }
    assert!(!way_out.contains("rollback"), "{way_out}");
    world.incarnations.insert(world.database.clone(), restored(Some("zone1")));
    assert!(world.conditions()[0].way_out.contains(&format!("`cellar restore rollback {}`", id(1))));
    // It is the recorded primary.
    world.leaders.values_mut().for_each(|leader| leader.term = Timeline::new(2));
    assert_eq!(world.kinds(), [ConditionKind::RestoreOpen]);
}
