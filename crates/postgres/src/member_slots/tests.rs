use super::*;
use proptest::prelude::*;

fn cells(names: &[&str]) -> Vec<CellName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn slot(name: &str, restart: u64) -> MemberSlot {
    MemberSlot {
        name: name.to_owned(),
        is_active: false,
        is_lost: false,
        holds_rows: false,
        restart: Some(Lsn::new(restart)),
    }
}

fn primary(ours: Vec<MemberSlot>, flushed: &[(&str, u64)]) -> SlotLook {
    let flushed = flushed.iter().map(|(cell, at)| ((*cell).to_owned(), Lsn::new(*at))).collect();
    SlotLook { max: 16, ours, flushed, ..SlotLook::default() }
}

fn work(cells: &[CellName], keep: Keep) -> SlotWork {
    SlotWork { cells: cells.to_vec(), keep, let_rows_go: BTreeSet::new(), superseded: BTreeSet::new() }
}

fn actions(look: &SlotLook, cells: &[CellName], keep: Keep) -> Vec<SlotAction> {
    super::actions(look, &work(cells, keep))
}

fn drop(name: &str) -> SlotAction {
    SlotAction::Drop(name.to_owned())
}

fn create(name: &str) -> SlotAction {
    SlotAction::Create(name.to_owned())
}

#[test]
fn each_other_member_has_a_slot_where_it_is() {
    let members = cells(&["zone2", "zone3"]);
    assert_eq!(
        actions(&primary(vec![], &[("zone2", 9)]), &members, Keep::ForAll),
        [create("cellar_zone2"), create("cellar_zone3")]
    );
    let ours = vec![slot("cellar_zone2", 5), slot("cellar_zone3", 5)];
    let look = primary(ours.clone(), &[("zone2", 9), ("pg_basebackup", 3)]);
    let forward = SlotAction::Advance("cellar_zone2".to_owned(), Lsn::new(9));
    assert_eq!(actions(&look, &members, Keep::ForAll), [forward], "zone3 is away: its slot stays");
    for at in [4, 5] {
        assert_eq!(
            actions(&primary(ours.clone(), &[("zone2", at)]), &members, Keep::ForAll),
            [],
            "never back: {at}"
        );
    }
    let mut active = ours;
    active[0].is_active = true;
    assert_eq!(actions(&primary(active, &[("zone2", 9)]), &members, Keep::ForAll), [], "its user moves it");
}

#[test]
fn what_keeps_wal_for_nobody_is_dropped() {
    let ours = vec![slot("cellar_zone2", 5), slot("cellar_zone9", 5)];
    let look = primary(ours, &[("zone9", 9)]);
    assert_eq!(actions(&look, &cells(&["zone2"]), Keep::ForAll), [drop("cellar_zone9")]);
    let standby = SlotLook { is_standby: true, ..look };
    assert_eq!(
        actions(&standby, &cells(&["zone2"]), Keep::ForAll),
        [drop("cellar_zone2"), drop("cellar_zone9")]
    );
}

#[test]
fn what_a_member_left_of_rows_is_let_go_and_what_hinders_synchronisation_is_dropped() {
    let rows = MemberSlot { holds_rows: true, ..slot("cellar_zone2", 5) };
    let wanted = SlotWork {
        let_rows_go: ["cellar_zone2".to_owned()].into(),
        superseded: ["sub".to_owned()].into(),
        ..work(&cells(&["zone2"]), Keep::ForAll)
    };
    let done = |slot: &MemberSlot, work: &SlotWork| super::actions(&primary(vec![slot.clone()], &[]), work);
    assert_eq!(done(&rows, &wanted), [drop("cellar_zone2"), create("cellar_zone2")]);
    assert_eq!(done(&MemberSlot { is_active: true, ..rows.clone() }, &wanted), [], "its member is back");
    assert_eq!(done(&rows, &work(&cells(&["zone2"]), Keep::ForAll)), [], "not yet");

    let logical = |name: &str, failover, synced| LogicalSlot {
        name: name.into(),
        database: "shop".into(),
        failover,
        synced,
        lost: false,
    };
    for (name, failover, synced, is_dropped) in [
        ("sub", true, false, true),
        ("sub", true, true, false),
        ("sub", false, false, false),
        ("other", true, false, false),
    ] {
        let look = SlotLook { logical: vec![logical(name, failover, synced)], ..primary(vec![], &[]) };
        let standby = SlotLook { is_standby: true, ..look.clone() };
        let expected = if is_dropped { vec![drop("sub")] } else { vec![] };
        assert_eq!(super::actions(&standby, &wanted), expected, "{name} {failover} {synced}");
        assert_eq!(super::actions(&look, &wanted), [create("cellar_zone2")], "never on a primary");
    }
}

#[test]
fn a_disk_that_is_nearly_full_keeps_nothing_for_a_member_that_is_away() {
    let ours = vec![slot("cellar_zone2", 5), slot("cellar_zone3", 5)];
    let told = actions(&primary(ours, &[("zone2", 5)]), &cells(&["zone2", "zone3"]), Keep::ForStreaming);
    assert_eq!(told, [drop("cellar_zone3")]);
    let none = actions(&primary(vec![], &[]), &cells(&["zone3"]), Keep::ForStreaming);
    assert_eq!(none, []);
}

#[test]
fn a_slot_says_what_its_member_has_and_no_subscriber_goes_by_a_new_one() {
    let of = |slot: MemberSlot, used: &str, flushed: u64| {
        let streams = vec![("zone2:7".to_owned(), used.to_owned(), Lsn::new(flushed))];
        let look = SlotLook { streams, ..primary(vec![slot], &[]) };
        !with_slots(&look).is_empty()
    };
    let idle = || slot("cellar_zone2", 5);
    let held = || MemberSlot { is_active: true, ..idle() };
    assert!(of(held(), "cellar_zone2", 4), "its user moves it, back too");
    assert!(of(idle(), "", 5) && of(idle(), "", 9), "it follows");
    assert!(!of(idle(), "", 4), "a new one is ahead");
    assert!(!of(held(), "", 9), "an old connection holds it");
    assert!(!of(MemberSlot { is_lost: true, restart: None, ..idle() }, "", 9));
    assert!(!of(slot("cellar_zone3", 5), "backup", 9), "another one's");

    let awaited = SlotLook {
        awaited: Some(["cellar_zone2".to_owned()].into()),
        nobodys: Some(Nobodys::Empty),
        ..primary(vec![], &[])
    };
    let members = cells(&["zone2", "zone3"]);
    assert_eq!(actions(&awaited, &members, Keep::ForAll), [create("cellar_zone3")]);
}

#[test]
fn a_lost_one_is_made_anew() {
    let lost = MemberSlot { is_lost: true, restart: None, ..slot("cellar_zone2", 0) };
    let look = primary(vec![lost], &[("zone2", 9)]);
    assert_eq!(
        actions(&look, &cells(&["zone2"]), Keep::ForAll),
        [drop("cellar_zone2"), create("cellar_zone2")]
    );
}

#[test]
fn some_slots_are_left_to_others() {
    let many: Vec<String> = (0..30).map(|number| format!("cell{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(actions(&primary(vec![], &[]), &cells(&many), Keep::ForAll).len(), 16 - SPARE);
    let crowded = SlotLook { others: 13, ..primary(vec![], &[]) };
    assert_eq!(actions(&crowded, &cells(&many), Keep::ForAll), []);
    let left = |look: &SlotLook| {
        let work = work(&cells(&["zone2"]), Keep::ForAll);
        without_room(look, &work, &super::actions(look, &work))
    };
    assert_eq!(left(&crowded), ["cellar_zone2".to_owned()].into());
    assert_eq!(left(&SlotLook { ours: vec![slot("cellar_zone2", 5)], ..crowded }), BTreeSet::new());
    assert_eq!(left(&primary(vec![], &[])), BTreeSet::new(), "it is made");
}

#[test]
fn the_slot_that_nobody_has_is_there_where_it_can_be_named() {
    let nobodys = NOBODYS_SLOT.to_owned();
    let empty = || SlotAction::CreateEmpty(nobodys.clone());
    for is_standby in [false, true] {
        let without = SlotLook { is_standby, ..primary(vec![], &[]) };
        let told = |awaited: Option<BTreeSet<String>>, found| {
            let look = SlotLook { awaited, nobodys: found, ..without.clone() };
            actions(&look, &[], Keep::ForAll)
        };
        let can = || Some(BTreeSet::new());
        assert_eq!(told(None, None), []);
        assert_eq!(told(None, Some(Nobodys::Empty)), [drop(&nobodys)], "an older version does without");
        assert_eq!(told(can(), None), [empty()]);
        assert_eq!(told(can(), Some(Nobodys::Empty)), []);
        assert_eq!(told(can(), Some(Nobodys::Used)), [drop(&nobodys)], "it is made again at the next look");
    }
    assert!(empty().sql().contains("false"), "it keeps no WAL");
}

#[test]
fn rows_are_read() {
    let row = |values: [&str; 5]| values.map(|value| Some(value.to_owned()).filter(|it| !it.is_empty()));
    let rows = [
        row(["server", "", "16", "", "cellar_zone2, cellar_zone3"]),
        row(["slot", "cellar_zone2", "physical lost", "", ""]),
        row(["slot", "cellar_zone3", "physical reserved active rows", "0/9", ""]),
        row(["slot", "cellar_of_a_user", "logical reserved failover synced", "0/7", "shop"]),
        row(["slot", "passing", "logical reserved active temporary", "0/7", "shop"]),
        row(["slot", "backup", "physical", "0/5", ""]),
        row(["slot", "cellar__nobody", "physical", "", ""]),
        row(["slot", "a_plain_one", "logical reserved", "0/7", "shop"]),
        row(["flushed", "zone3", "", "0/A", ""]),
        row(["streams", "zone3:7", "cellar_zone3", "0/A", ""]),
    ];
    let look = read(rows).unwrap();
    assert_eq!((look.is_standby, look.max, look.others), (false, 16, 4));
    assert_eq!(look.nobodys, Some(Nobodys::Empty));
    assert!(look.ours[0].is_lost && !look.ours[0].is_active && look.ours[0].restart.is_none());
    assert!(look.ours[1].is_active && !look.ours[1].is_lost && look.ours[1].restart == Some(Lsn::new(9)));
    assert_eq!(look.flushed, [("zone3".to_owned(), Lsn::new(10))].into());
    assert!(look.ours[1].holds_rows && !look.ours[0].holds_rows);
    assert_eq!(look.streams, [("zone3:7".to_owned(), "cellar_zone3".to_owned(), Lsn::new(10))]);
    assert_eq!(look.awaited, Some(["cellar_zone2".to_owned(), "cellar_zone3".to_owned()].into()));
    let [slot, _] = look.logical.as_slice() else { panic!("{look:?}") };
    assert_eq!((slot.name.as_str(), slot.database.as_str()), ("cellar_of_a_user", "shop"));
    assert!(slot.failover && slot.synced && !slot.lost, "those that can be kept are first");
    let used = row(["slot", "cellar__nobody", "physical reserved", "0/5", ""]);
    assert_eq!(read([used]).unwrap().nobodys, Some(Nobodys::Used));
    assert_eq!(read([row(["server", "", "16", "", ""])]).unwrap().awaited, None, "before 17");
    assert!(read([row(["server", "standby", "16", "", ""])]).unwrap().is_standby);
    for bad in [
        row(["server", "", "many", "", ""]),
        row(["slot", "a", "physical", "x", ""]),
        row(["", "", "", "", ""]),
    ] {
        assert!(read([bad]).is_err());
    }
}

#[test]
fn slots_are_found_in_a_data_directory() {
    let data = tempfile::tempdir().unwrap();
    let looked_at = || [15, 17].map(|major| has_slots_to_see_to(data.path(), major));
    let with = |name: &str| std::fs::create_dir_all(data.path().join("pg_replslot").join(name)).unwrap();
    assert_eq!(looked_at(), [false, true]);
    with("");
    assert_eq!(looked_at(), [false, true]);
    with(NOBODYS_SLOT);
    assert_eq!(looked_at(), [true, false]);
    with("cellar_zone2");
    assert_eq!(looked_at(), [true, true]);
}

proptest! {
    #[test]
    fn two_cells_never_share_a_slot(one in "[a-c0-1][ab01_-]{0,62}", other in "[a-c0-1][ab01_-]{0,62}") {
        // Some texts of this form are not names of cells: `ca` is a directory's.
        let cells = [&one, &other].map(|text| text.parse::<CellName>());
        prop_assume!(cells.iter().all(Result::is_ok));
        let names = cells.map(|cell| member_slot(&cell.unwrap()));
        for name in &names {
            prop_assert!(name.len() <= MAX_NAME && name.starts_with(PREFIX));
            prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        }
        prop_assert_eq!(one == other, names[0] == names[1]);
    }
}

#[test]
fn similar_cells_have_slots_of_their_own() {
    let name = |cell: &str| member_slot(&cell.parse().unwrap());
    assert_eq!(name("eu-west-1a"), "cellar_eu_west_1a");
    assert_ne!(name("a-b"), name("a_b"));
    let long = "a".repeat(62);
    assert_ne!(name(&format!("{long}a")), name(&format!("{long}b")));
    assert_ne!(name(&format!("a-{long}")[..63]), name(&format!("a_{long}")[..63]));
}
