//! Settings that a database is given: what the real PostgreSQL takes of them, and how far it is.

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_postgres::{
    MemberSetting, ProposalError, SettingState, check_configuration, check_proposal, configure, execute,
    member_settings, reload,
};

use crate::support::{Cell, TEST_TIMEOUT, wait_for};

const TIMEOUT: Duration = Duration::from_secs(10);

fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn shown(cell: &Cell) -> BTreeMap<String, MemberSetting> {
    let (endpoint, data) = (cell.endpoint(), cell.data());
    let shown = member_settings(&endpoint, &data, &cell.config.settings, None, TIMEOUT).await.unwrap();
    assert_eq!(shown.faults, [""; 0]);
    shown.settings.into_iter().map(|setting| (setting.name.clone(), setting)).collect()
}

#[tokio::test]
async fn postgresql_says_what_it_takes_and_how_far_it_is() {
    let mut cell = Cell::running().await;
    let propose = async |pairs: &[(&str, &str)]| {
        check_proposal(&cell.tools, &cell.data(), &cell.endpoint(), &given(pairs), TIMEOUT).await
    };
    let refused = async |pairs: &[(&str, &str)]| match propose(pairs).await.unwrap_err() {
        ProposalError::Problem(problem) => problem,
        ProposalError::Postgres(error) => panic!("{error}"),
    };
    let taken = propose(&[("work_mem", "8MB"), ("shared_buffers", "32MB"), ("app.note", "it's")]).await;
    assert_eq!(taken.unwrap().at_restart, ["shared_buffers"]);
    let bad = refused(&[("jit", "on"), ("work_mem", "abc")]).await;
    assert!(bad.name == "work_mem" && bad.message.contains("invalid value"), "{bad:?}");
    assert!(refused(&[("max_connections", "9999999")]).await.message.contains("outside the valid range"));
    assert!(refused(&[("wal_compression", "what")]).await.hint.contains("vailable values"), "an enumeration");
    assert!(refused(&[("block_size", "4096")]).await.message.contains("cannot be set"));
    assert!(refused(&[("no_such_setting", "1")]).await.message.contains("has no setting"));
    assert!(refused(&[("superuser_reserved_connections", "20")]).await.message.contains("leaves nothing"));

    let settings =
        [("work_mem", "8MB"), ("lock_timeout", "7s"), ("max_connections", "30"), ("app.note", "it's")];
    cell.config.settings.given = given(&settings);
    assert!(shown(&cell).await.values().all(|setting| setting.state != SettingState::InForce), "not written");
    assert!(configure(&cell.data(), &cell.config).unwrap());
    reload(&cell.data()).unwrap();
    wait_for("the settings to be read", async || {
        shown(&cell).await.values().all(|setting| setting.state != SettingState::NotYet).then_some(())
    })
    .await;
    let after = shown(&cell).await;
    let value = |name: &str| after[name].value.clone().unwrap();
    assert_eq!((value("work_mem"), value("app.note")), ("8MB".into(), "it's".into()));
    // Sessions of ours have another value.
    assert_eq!((value("lock_timeout"), &after["lock_timeout"].state), ("7s".into(), &SettingState::InForce));
    assert_eq!(after["max_connections"].state, SettingState::RestartNeeded { lowers: false });
    assert_eq!(value("max_connections"), "20");

    execute(&cell.endpoint(), "ALTER SYSTEM SET work_mem = '1MB'", TEST_TIMEOUT).await.unwrap();
    reload(&cell.data()).unwrap();
    wait_for("the other value to count", async || {
        matches!(&shown(&cell).await["work_mem"].state, SettingState::Overridden(by) if by.contains("1MB"))
            .then_some(())
    })
    .await;
    // Taken away before it was in force, it waits for nothing.
    for (given, is_shown) in [(Some("64kB"), true), (None, false)] {
        let name = "track_activity_query_size".to_owned();
        match given {
            Some(value) => drop(cell.config.settings.given.insert(name, value.to_owned())),
            None => drop(cell.config.settings.given.remove(&name)),
        }
        configure(&cell.data(), &cell.config).unwrap();
        reload(&cell.data()).unwrap();
        wait_for("it to be pending, and no more", async || {
            let shown = shown(&cell).await;
            let pending = shown.get("track_activity_query_size").map(|setting| setting.state.clone());
            let read = shown.values().all(|setting| setting.state != SettingState::NotYet);
            let expected = is_shown.then_some(SettingState::RestartNeeded { lowers: false });
            (read && pending == expected).then_some(())
        })
        .await;
    }
    check_configuration(&cell.tools, &cell.data(), TIMEOUT).await.unwrap();
}
