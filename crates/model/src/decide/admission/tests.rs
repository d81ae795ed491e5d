//! The decisions over small worlds.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::decide::admission::backup::{plan_backup, plan_rebuild};
use crate::decide::admission::cell::plan_cell_removal;
use crate::decide::admission::kept_data::{plan_confirm, plan_rollback};
use crate::decide::admission::maintenance::{
    plan_check, plan_drill, plan_expire, plan_restart, plan_unconditional,
};
use crate::decide::admission::restore::{plan_restore, plan_restore_plan};
use crate::decide::outcome::join;
use crate::decide::request::JobRequest;
use crate::decide::snapshot::Snapshot;
use crate::records::backup::{BackupParams, BackupType, DEFAULT_MAX_LAG};
use crate::records::drill::DrillParams;
use crate::records::incarnation::Incarnation;
use crate::records::instance::{InstanceState, LagClass, Role};
use crate::records::job::id::JobId;
use crate::records::job::outcome::JobOutcome;
use crate::records::job::record::{Closure, Job, JobRecord};
use crate::records::job::run::JobState;
use crate::records::job::spec::{JobKind, JobSpec};
use crate::records::leadership::{CopyNumber, Leadership};
use crate::records::maintenance::ExpireParams;
use crate::records::pooler::{Archiver, Leader, Pooler, PoolerStatus, Versions};
use crate::records::recovery::RecoveryResult;
use crate::records::restore::{RestoreParams, RestoreResult};
use crate::records::target::Target;
use crate::records::topology::{Cell, Database, Retention};
use crate::store::layout::CellLayout;
use crate::types::code::{Code, Refusal};
use crate::types::lsn::{Lsn, SystemIdentifier, Timeline};
use crate::types::name::{CellName, DatabaseName};
use crate::types::protocol::Protocol;

mod kept_data;
mod primary_fence;
mod protocol;
mod repository;

#[derive(Default)]
struct World {
    cells: BTreeMap<CellName, Cell>,
    databases: BTreeMap<DatabaseName, Database>,
    poolers: BTreeMap<(DatabaseName, CellName), Pooler>,
    status: BTreeMap<(DatabaseName, CellName), PoolerStatus>,
    leaders: BTreeMap<DatabaseName, Leader>,
    incarnations: BTreeMap<DatabaseName, Incarnation>,
}

fn request(cell: &str) -> JobRequest {
    JobRequest {
        database: None,
        cell: Some(cell.parse().unwrap()),
        timeout: None,
        request_id: None,
        primary_is_dead: false,
        requested_by: "me".into(),
    }
}

impl World {
    /// zone1 is the primary, zone2 and zone3 stream from it.
    fn healthy() -> Self {
        let mut world = Self::default();
        let db = Database {
            name: "app".parse().unwrap(),
            stanza: "app".parse().unwrap(),
            repository: "/repo".parse().unwrap(),
            retention: Retention { full: 2 },
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
        for (index, name) in ["zone1", "zone2", "zone3"].into_iter().enumerate() {
            let cell = Cell {
                name: name.parse().unwrap(),
                index: u32::try_from(index).unwrap(),
                host: "localhost".parse().unwrap(),
                directory: format!("/c/{name}"),
            };
            let pooler = CellLayout::new(&cell.directory).pooler(&db, &cell, "127.0.0.1").unwrap();
            let status = PoolerStatus {
                database: db.name.clone(),
                cell: cell.name.clone(),
                epoch: "e".into(),
                pid: 1,
                state: InstanceState::Running,
                message: String::new(),
                role: if index == 0 { Role::Primary } else { Role::Standby },
                system_identifier: None,
                timeline: Some(Timeline::new(1)),
                streams_from: (index > 0).then(|| "zone1".parse().unwrap()),
                receive_lag: LagClass::Current,
                replay_lag: LagClass::Current,
                held_lsn: None,
                held_timeline: None,
                replays: std::collections::BTreeMap::new(),
                logical_slots: Vec::new(),
                archiver: Archiver::default(),
                versions: Versions::default(),
                certificate_expiry: None,
                tls_server_up: true,
                tls_server_accepts: vec![],
                incarnation: None,
                unreadable_records: vec![],
                update_time: None,
            };
            world.poolers.insert((db.name.clone(), cell.name.clone()), pooler);
            world.status.insert((db.name.clone(), cell.name.clone()), status);
            world.cells.insert(cell.name.clone(), cell);
        }
        let leader = Leader {
            cell: "zone1".parse().unwrap(),
            term: Timeline::new(1),
            system_identifier: None,
            lsn: None,
            leadership: None,
        };
        world.leaders.insert(db.name.clone(), leader);
        world.databases.insert(db.name.clone(), db);
        world
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            cells: &self.cells,
            databases: &self.databases,
            poolers: &self.poolers,
            status: &self.status,
            leaders: &self.leaders,
            incarnations: &self.incarnations,
        }
    }

    fn status(&mut self, cell: &str) -> &mut PoolerStatus {
        self.status.get_mut(&("app".parse().unwrap(), cell.parse().unwrap())).unwrap()
    }

    fn backup(&self, cell: &str, allow_primary: bool) -> Result<JobRecord, Refusal> {
        let params = BackupParams { backup_type: BackupType::Incr, allow_primary, max_lag_bytes: 0 };
        let request = request(cell);
        plan_backup(
            &self.snapshot(),
            &request,
            &params,
            JobId::new(uuid::Uuid::from_u128(1)),
            Timestamp::UNIX_EPOCH,
        )
    }

    fn refused(&self, cell: &str) -> Code {
        self.backup(cell, false).unwrap_err().code
    }
}

#[test]
fn backup_of_a_healthy_standby_is_accepted() {
    let record = World::healthy().backup("zone3", false).unwrap();
    assert_eq!(record.cell.as_str(), "zone3");
    assert!(matches!(record.spec, JobSpec::Backup(params) if params.max_lag_bytes == DEFAULT_MAX_LAG));
    assert!(record.deadline > record.create_time);
}

#[test]
fn unknown_cell_is_refused_with_the_known_ones() {
    let refusal = World::healthy().backup("zone9", false).unwrap_err();
    assert_eq!(refusal.code, Code::UnknownCell);
    assert!(refusal.message.contains("zone1, zone2, zone3"), "{refusal}");
}

#[test]
fn backup_of_the_primary_needs_permission() {
    assert_eq!(World::healthy().refused("zone1"), Code::IsPrimary);
    assert!(World::healthy().backup("zone1", true).is_ok());
}

#[test]
fn backup_is_refused_when_the_cell_is_down() {
    let mut world = World::healthy();
    world.status("zone3").state = InstanceState::Down;
    assert_eq!(world.refused("zone3"), Code::CellDown);
    world.status.remove(&("app".parse().unwrap(), "zone3".parse().unwrap()));
    assert_eq!(world.refused("zone3"), Code::CellDown);
}

#[test]
fn backup_is_refused_when_the_instance_does_not_answer() {
    let mut world = World::healthy();
    world.status("zone3").role = Role::Unknown;
    assert_eq!(world.refused("zone3"), Code::CellDown);
}

#[test]
fn backup_is_refused_when_the_standby_streams_from_another_primary() {
    let mut world = World::healthy();
    world.status("zone3").streams_from = Some("zone2".parse().unwrap());
    assert_eq!(world.refused("zone3"), Code::WrongPrimary);
    world.status("zone3").streams_from = None;
    assert_eq!(world.refused("zone3"), Code::WrongPrimary);
}

#[test]
fn backup_is_refused_when_there_are_two_primaries() {
    let mut world = World::healthy();
    world.status("zone2").role = Role::Primary;
    assert_eq!(world.refused("zone3"), Code::TwoPrimaries);
}

#[test]
fn backup_is_refused_when_the_primary_is_down() {
    let mut world = World::healthy();
    world.status("zone1").state = InstanceState::Down;
    assert_eq!(world.refused("zone3"), Code::NoPrimary);
}

#[test]
fn backup_is_accepted_when_a_third_cell_is_down() {
    let mut world = World::healthy();
    world.status.remove(&("app".parse().unwrap(), "zone2".parse().unwrap()));
    assert!(world.backup("zone3", false).is_ok());
}

#[test]
fn database_must_be_named_when_there_are_two() {
    let mut world = World::healthy();
    let mut second = world.databases.values().next().unwrap().clone();
    second.name = "web".parse().unwrap();
    world.databases.insert(second.name.clone(), second);
    assert_eq!(world.refused("zone3"), Code::InvalidArgument);
}

#[test]
fn primary_cannot_be_removed_or_rebuilt() {
    let mut world = World::healthy();
    let remove = |world: &World, cell: &str| {
        plan_cell_removal(&world.snapshot(), &cell.parse().unwrap()).map_err(|r| r.code)
    };
    assert_eq!(remove(&world, "zone1"), Err(Code::IsPrimary));
    assert_eq!(remove(&world, "zone9"), Err(Code::UnknownCell));
    assert_eq!(remove(&world, "zone2"), Ok(()));
    let rebuild = |world: &World, cell: &str| {
        let request = request(cell);
        plan_rebuild(&world.snapshot(), &request, JobId::new(uuid::Uuid::from_u128(1)), Timestamp::UNIX_EPOCH)
            .map(|_| ())
            .map_err(|r| r.code)
    };
    assert_eq!(rebuild(&world, "zone1"), Err(Code::IsPrimary));
    assert_eq!(rebuild(&world, "zone2"), Ok(()));
    world.status("zone2").state = InstanceState::Broken;
    assert_eq!(rebuild(&world, "zone2"), Ok(()));
    world.cells.retain(|name, _| name.as_str() == "zone2");
    assert_eq!(remove(&world, "zone2"), Err(Code::LastCell));
}

#[test]
fn a_standby_that_commits_need_cannot_be_removed() {
    let mut world = World::healthy();
    let app: DatabaseName = "app".parse().unwrap();
    let remove = |world: &World, cell: &str| {
        plan_cell_removal(&world.snapshot(), &cell.parse().unwrap()).map_err(|r| r.code)
    };
    let cohort =
        |cells: &[&str]| cells.iter().map(|cell| (cell.parse().unwrap(), CopyNumber::new(1))).collect();
    let mut lead = |cells: &[&str]| {
        let leads = Leadership::begin("zone1".parse().unwrap(), cohort(cells));
        world.leaders.get_mut(&app).unwrap().leadership = Some(leads);
        world.status("zone3").state = InstanceState::Running;
        let both = [remove(&world, "zone2"), remove(&world, "zone3")];
        world.status.remove(&(app.clone(), "zone3".parse().unwrap()));
        let down = [remove(&world, "zone2"), remove(&world, "zone3")];
        world = World::healthy();
        (both, down)
    };
    // The one that is down takes nothing along.
    let needed = Err(Code::CellDown);
    assert_eq!(lead(&["zone1", "zone2", "zone3"]), ([Ok(()), Ok(())], [needed, Ok(())]));
    assert_eq!(lead(&["zone1", "zone2"]), ([needed, Ok(())], [needed, Ok(())]));
}

#[test]
fn cell_that_keeps_the_only_way_back_cannot_be_removed() {
    let mut world = World::healthy();
    let incarnation = Incarnation {
        number: 2,
        cell: Some("zone1".parse().unwrap()),
        job: Some(job_id(7)),
        fence: None,
        kept_in: Some("zone2".parse().unwrap()),
        timeline: None,
    };
    world.incarnations.insert("app".parse().unwrap(), incarnation.clone());
    let remove = |world: &World, cell: &str| plan_cell_removal(&world.snapshot(), &cell.parse().unwrap());
    let refused = remove(&world, "zone2").unwrap_err();
    assert_eq!(refused.code, Code::RestoreOpen);
    assert!(refused.hint.contains(&format!("restore confirm {}", job_id(7))), "{}", refused.hint);
    world.incarnations.insert("app".parse().unwrap(), Incarnation { kept_in: None, ..incarnation.clone() });
    assert_eq!(remove(&world, "zone2"), Ok(()));

    // The restore into zone2 has taken effect, and no primary was recorded on its timeline yet.
    let restored = Incarnation {
        kept_in: None,
        cell: Some("zone2".parse().unwrap()),
        timeline: Some(Timeline::new(9)),
        ..incarnation
    };
    world.incarnations.insert("app".parse().unwrap(), restored.clone());
    let refused = remove(&world, "zone2").unwrap_err();
    assert_eq!(refused.code, Code::RestoreOpen);
    assert!(refused.hint.contains("--onto") && !refused.hint.contains("rollback"), "{}", refused.hint);
    world.leaders.get_mut(&"app".parse().unwrap()).unwrap().term = Timeline::new(9);
    assert_eq!(remove(&world, "zone2"), Ok(()));
}

fn job_id(n: u128) -> JobId {
    JobId::new(uuid::Uuid::from_u128(n))
}

fn whole(timeout: Option<Duration>) -> JobRequest {
    JobRequest {
        database: None,
        cell: None,
        timeout,
        request_id: None,
        primary_is_dead: false,
        requested_by: "me".into(),
    }
}

fn to(target: Target, in_place: bool) -> RestoreParams {
    RestoreParams { target, timeline: None, in_place, onto: None, backup: None }
}

fn made(mut world: World) -> World {
    for leader in world.leaders.values_mut() {
        leader.system_identifier = Some(SystemIdentifier::new(7));
    }
    world
}

fn restore(world: &World, params: &RestoreParams) -> Result<JobRecord, Refusal> {
    plan_restore(&world.snapshot(), &whole(None), params, job_id(1), Timestamp::UNIX_EPOCH)
}

#[test]
fn restore_is_done_in_the_primarys_cell_unless_it_is_down_or_restored_in_place() {
    let mut world = made(World::healthy());
    let latest = to(Target::Latest {}, false);
    assert_eq!(restore(&world, &latest).unwrap().cell.as_str(), "zone1");
    assert_eq!(restore(&world, &to(Target::Latest {}, true)).unwrap().cell.as_str(), "zone2");
    world.status("zone1").state = InstanceState::Broken;
    assert_eq!(restore(&world, &latest).unwrap().cell.as_str(), "zone2", "its disk is empty");
    world.status.remove(&("app".parse().unwrap(), "zone1".parse().unwrap()));
    for cell in ["zone2", "zone3"] {
        world.status(cell).streams_from = None;
    }
    world.status("zone2").receive_lag = LagClass::Far;
    world.status("zone3").replay_lag = LagClass::Far;
    let record = restore_beside_a_dead_primary(&world, &latest).unwrap();
    assert_eq!(record.cell.as_str(), "zone3", "the one that has received most, when it replays late too");
    let JobSpec::Restore(params) = record.spec else { panic!("{record:?}") };
    assert_eq!(params.onto, Some("zone3".parse().unwrap()));
}

#[test]
fn restore_without_a_primary_goes_to_the_standby_that_has_most_of_its_wal() {
    let mut world = made(World::healthy());
    world.status.remove(&("app".parse().unwrap(), "zone1".parse().unwrap()));
    for cell in ["zone2", "zone3"] {
        world.status(cell).streams_from = None;
        world.status(cell).receive_lag = LagClass::Unknown;
    }
    let mut chosen = |held: [(u32, u64); 2]| {
        for (cell, (timeline, lsn)) in ["zone2", "zone3"].into_iter().zip(held) {
            world.status(cell).held_timeline = Some(Timeline::new(timeline));
            world.status(cell).held_lsn = Some(Lsn::new(lsn));
        }
        restore_beside_a_dead_primary(&world, &to(Target::Latest {}, false)).unwrap().cell.to_string()
    };
    assert_eq!(chosen([(1, 100), (1, 200)]), "zone3");
    assert_eq!(chosen([(1, 200), (1, 100)]), "zone2");
    assert_eq!(chosen([(1, 200), (2, 100)]), "zone3", "the other followed a primary that was deposed");
    world.status("zone2").held_lsn = None;
    let latest = to(Target::Latest {}, false);
    assert_eq!(restore_beside_a_dead_primary(&world, &latest).unwrap().cell.as_str(), "zone3", "it says so");
}

fn restore_beside_a_dead_primary(world: &World, params: &RestoreParams) -> Result<JobRecord, Refusal> {
    let request = JobRequest { primary_is_dead: true, ..whole(None) };
    plan_restore(&world.snapshot(), &request, params, job_id(1), Timestamp::UNIX_EPOCH)
}

#[test]
fn restore_is_refused_into_the_future_or_with_two_primaries() {
    let mut world = made(World::healthy());
    let after = |seconds| to(Target::Time(Timestamp::from_second(seconds).unwrap()), false);
    assert_eq!(restore(&world, &after(3601)).unwrap_err().code, Code::TargetUnreachable);
    // By the clock of the primary it may be past.
    assert!(restore(&world, &after(600)).is_ok());
    world.status("zone2").role = Role::Primary;
    assert_eq!(restore(&world, &to(Target::Latest {}, false)).unwrap_err().code, Code::TwoPrimaries);
}

#[test]
fn plan_is_made_by_the_primary_and_drill_by_a_standby() {
    let world = made(World::healthy());
    let params = RestoreParams { onto: Some("zone3".parse().unwrap()), ..to(Target::Latest {}, false) };
    let plan = plan_restore_plan(&world.snapshot(), &whole(None), &params, job_id(1), Timestamp::UNIX_EPOCH)
        .unwrap();
    assert_eq!((plan.kind(), plan.cell.as_str()), (JobKind::Plan, "zone1"));
    let JobSpec::Plan(params) = plan.spec else { panic!("{plan:?}") };
    assert_eq!(params.onto, Some("zone3".parse().unwrap()));
    let drill = DrillParams {
        backup: None,
        checks: vec![],
        check_database: String::new(),
        skip_amcheck: false,
        nice: 19,
        max_bytes_per_second: 0,
    };
    let record =
        plan_drill(&world.snapshot(), &whole(None), &drill, job_id(1), Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(record.cell.as_str(), "zone2");
    assert!(!record.kind().takes_lock());
}

#[test]
fn expiry_is_refused_while_a_restore_is_open_and_done_by_a_standby() {
    let (id, now) = (job_id(1), Timestamp::UNIX_EPOCH);
    let mut world = made(World::healthy());
    let expire = |world: &World, dry_run: bool| {
        plan_expire(
            &world.snapshot(),
            &whole(None),
            &ExpireParams { dry_run, ..ExpireParams::default() },
            id,
            now,
        )
    };
    let record = expire(&world, false).unwrap();
    assert_eq!(record.cell.as_str(), "zone2");
    assert!(record.kind().takes_lock());
    assert_eq!(
        plan_unconditional(&world.snapshot(), &whole(None), JobSpec::Verify, id, now).unwrap().cell.as_str(),
        "zone2"
    );
    assert_eq!(plan_check(&world.snapshot(), &whole(None), id, now).unwrap().cell.as_str(), "zone1");
    world.incarnations.insert(
        "app".parse().unwrap(),
        Incarnation {
            job: Some(job_id(7)),
            kept_in: Some("zone1".parse().unwrap()),
            ..Incarnation::default()
        },
    );
    let refused = expire(&world, false).unwrap_err();
    assert_eq!(refused.code, Code::RestoreOpen);
    assert!(refused.hint.contains(&job_id(7).to_string()), "{}", refused.hint);
    assert!(expire(&world, true).is_ok());
    world.status("zone1").role = Role::Unknown;
    let check = plan_check(&world.snapshot(), &whole(None), id, now);
    assert_eq!(check.unwrap_err().code, Code::NoPrimary);
}
