//! Which builds take part.

use super::*;

#[test]
fn minimum_follows_the_poolers_and_is_kept_to() {
    let mut world = World::healthy();
    let app: DatabaseName = "app".parse().unwrap();
    let raised = |world: &World| world.snapshot().raised_minimum(&world.databases[&app]);
    for cell in ["zone1", "zone2"] {
        world.status(cell).versions.protocol = Protocol::OURS;
    }
    assert_eq!(raised(&world), None, "zone3 is old");
    world.status("zone3").versions.protocol = Protocol::new(1000);
    assert_eq!(raised(&world), Some(Protocol::OURS), "no more than this build knows");
    let silent = world.status.remove(&(app.clone(), "zone3".parse().unwrap())).unwrap();
    assert_eq!(raised(&world), None, "nobody knows what zone3 runs");
    world.status.insert((app.clone(), silent.cell.clone()), silent);
    world.databases.get_mut(&app).unwrap().minimum_protocol = Protocol::OURS;
    assert_eq!(raised(&world), None);

    let check = |world: &World, cell: &str| world.snapshot().new_enough(&app, &cell.parse().unwrap());
    assert!(check(&world, "zone2").is_ok() && check(&world, "zone9").is_ok());
    world.status("zone2").versions.protocol = Protocol::UNNUMBERED;
    let refusal = check(&world, "zone2").unwrap_err();
    assert_eq!(refusal.code, Code::Unsupported);
    assert!(refusal.message.contains("multipooler of cell zone2") && refusal.hint.contains("update"));
    world.databases.get_mut(&app).unwrap().minimum_protocol = Protocol::new(1000);
    assert!(check(&world, "zone1").unwrap_err().message.starts_with("this multiadmin is too old"));
}

#[test]
fn restart_needs_poolers_that_know_of_it() {
    let mut world = World::healthy();
    let app: DatabaseName = "app".parse().unwrap();
    let plan =
        |world: &World| plan_restart(&world.snapshot(), &request("zone1"), job_id(1), Timestamp::UNIX_EPOCH);
    world.leaders.get_mut(&app).unwrap().system_identifier = Some(SystemIdentifier::new(7));
    world.databases.get_mut(&app).unwrap().minimum_protocol = Protocol::QUORUM_COMMIT;
    assert_eq!(plan(&world).unwrap_err().code, Code::Unsupported);
    world.databases.get_mut(&app).unwrap().minimum_protocol = Protocol::SETTINGS;
    assert_eq!(plan(&world).unwrap().cell.as_str(), "zone1", "the primary, too");
}
