//! A repository that only the host of one cell has.

use super::*;
use crate::records::repository::location::Repository;

/// The database has been made.
fn made() -> World {
    let mut world = World::healthy();
    let identity = Some(SystemIdentifier::new(7));
    world.leaders.values_mut().for_each(|leader| leader.system_identifier = identity);
    world
}

/// The repository is on the host of zone2, a standby.
fn world() -> World {
    let mut world = made();
    let repository = Repository::in_cell("zone2".parse().unwrap(), "/repo".parse().unwrap());
    world.databases.values_mut().for_each(|database| database.repository = repository.clone());
    world
}

fn without(mut world: World, cell: &str) -> World {
    world.status.retain(|(_, name), _| name.as_str() != cell);
    world
}

fn anywhere() -> JobRequest {
    JobRequest { cell: None, ..request("zone1") }
}

fn code<T: std::fmt::Debug>(planned: Result<T, Refusal>) -> Code {
    planned.unwrap_err().code
}

#[test]
fn what_pgbackrest_does_only_there_runs_there() {
    let (id, now) = (job_id(1), Timestamp::UNIX_EPOCH);
    let expire = |world: &World, request: &JobRequest| {
        plan_expire(&world.snapshot(), request, &ExpireParams::default(), id, now).map(|job| job.cell)
    };
    let verify = |world: &World, request: &JobRequest| {
        plan_unconditional(&world.snapshot(), request, JobSpec::Verify, id, now).map(|job| job.cell)
    };
    let (here, home) = (world(), "zone2".parse::<CellName>().unwrap());
    for plan in [&expire as &dyn Fn(&World, &JobRequest) -> Result<CellName, Refusal>, &verify] {
        assert_eq!(plan(&here, &anywhere()), Ok(home.clone()));
        assert_eq!(plan(&here, &request("zone2")), Ok(home.clone()));
        assert_eq!(code(plan(&here, &request("zone3"))), Code::InvalidArgument);
        assert_eq!(code(plan(&here, &request("zone9"))), Code::UnknownCell);
        let down = plan(&without(world(), "zone2"), &anywhere()).unwrap_err();
        assert_eq!(down.code, Code::CellDown);
        assert!(!down.hint.contains("another cell"), "{}", down.hint);
        // Where all hosts have it, any cell does it.
        assert_eq!(plan(&made(), &request("zone3")).unwrap().as_str(), "zone3");
    }
}

#[test]
fn backup_needs_the_cell_that_has_the_repository() {
    let plan = |world: &World, cell: &str| world.backup(cell, true).map(|job| job.cell);
    for cell in ["zone1", "zone2", "zone3"] {
        assert_eq!(plan(&world(), cell).unwrap().as_str(), cell);
        let refusal = plan(&without(world(), "zone2"), cell).unwrap_err();
        assert_eq!(refusal.code, Code::CellDown);
        assert!(refusal.message.contains("zone2"), "{refusal}");
    }
}

#[test]
fn cell_that_has_the_repository_is_not_removed() {
    let removal = |world: &World, cell: &str| plan_cell_removal(&world.snapshot(), &cell.parse().unwrap());
    assert_eq!(code(removal(&world(), "zone2")), Code::Unsupported);
    assert_eq!(removal(&world(), "zone3"), Ok(()));
    assert_eq!(removal(&World::healthy(), "zone2"), Ok(()));
}
