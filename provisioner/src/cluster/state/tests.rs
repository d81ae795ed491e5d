use super::*;
use crate::file::make_directory;

fn state() -> ClusterState {
    let cells = ["zone2", "zone1"].map(|name| name.parse().unwrap()).to_vec();
    ClusterState::new(
        "demo".parse().unwrap(),
        700,
        "app".parse().unwrap(),
        "app".parse().unwrap(),
        "/c/repo".parse().unwrap(),
        "postgres".into(),
        cells,
    )
    .unwrap()
}

#[test]
fn state_reads_back_and_indexes_are_alphabetical() {
    let dir = tempfile::tempdir().unwrap();
    let layout = ClusterLayout::new(dir.path());
    assert_eq!(ClusterState::load(&layout).unwrap(), None);
    make_directory(&layout.state(), 0o755, None).unwrap();
    state().save(&layout).unwrap();
    let read = ClusterState::load(&layout).unwrap().unwrap();
    assert_eq!(read, state());
    assert_eq!(read.cell(&"zone1".parse().unwrap()).unwrap().index, 0);
    assert_eq!(read.first_database.bootstrap_cell.as_str(), "zone1");
}

#[test]
fn cell_that_comes_back_remembers_its_revocations() {
    let (mut state, zone2) = (state(), "zone2".parse().unwrap());
    let plain = serde_json::to_string(&state).unwrap();
    state.count_revocation(&zone2);
    state.add_cell(zone2.clone(), 1);
    assert_eq!(state.revocations_of(&zone2), 1, "finishing one that was interrupted");
    state.remove_cell(&zone2);
    assert_eq!((state.cell(&zone2), state.revocations_of(&zone2)), (None, 1));
    state.count_revocation(&zone2);
    state.add_cell(zone2.clone(), 4);
    let expected = LocalCell { revocations: 2, ..LocalCell::new(zone2.clone(), 4) };
    assert_eq!(state.cell(&zone2), Some(&expected));
    assert!(!plain.contains("revocationsOfRemoved"), "an older build reads it: {plain}");
}

/// The repository as builds had it that knew one kind only.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "it is only read")]
struct Before {
    version: u32,
    cluster: String,
    port_offset: u16,
    database: String,
    stanza: String,
    repo: cellar_model::RepoPath,
    os_user: String,
    bootstrap_cell: String,
    cells: Vec<LocalCell>,
}

#[test]
fn a_repository_on_one_host_is_a_word_that_an_older_build_does_not_know() {
    let plain = serde_json::to_string(&state()).unwrap();
    assert!(plain.contains(r#""repo":"/c/repo""#), "{plain}");
    let _: Before = serde_json::from_str(&plain).unwrap();
    let there = ClusterState { repo: Repository::parse_shown("zone1:/c/repo").unwrap(), ..state() };
    let text = serde_json::to_string_pretty(&there).unwrap();
    let unknown = unknown_word(&serde_json::from_str::<Before>(&text).unwrap_err());
    assert_eq!(unknown.as_deref(), Some("`repoInCell`"), "{text}");
    assert_eq!(serde_json::from_str::<ClusterState>(&text).unwrap(), there);
    let store = ClusterState { repo: "s3://backups/p?region=r".parse().unwrap(), ..state() };
    let in_store = serde_json::to_string_pretty(&store).unwrap();
    let unknown = unknown_word(&serde_json::from_str::<Before>(&in_store).unwrap_err());
    assert_eq!(unknown.as_deref(), Some("`repoUrl`"), "{in_store}");
    assert_eq!(serde_json::from_str::<ClusterState>(&in_store).unwrap(), store);
    let once = text.replace("repoInCell", "repo");
    assert_eq!(serde_json::from_str::<ClusterState>(&once).unwrap(), there);
    let both = text.replacen('{', r#"{ "repo": "/c/repo","#, 1);
    assert!(serde_json::from_str::<ClusterState>(&both).is_err(), "a cluster has one");
}

#[test]
fn half_a_file_is_damaged_and_what_a_newer_release_wrote_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let layout = ClusterLayout::new(dir.path());
    make_directory(&layout.state(), 0o755, None).unwrap();
    state().save(&layout).unwrap();
    let path = ClusterState::path(&layout);
    let text = fs::read_to_string(&path).unwrap();
    for bad in [text[..40].to_owned(), String::new(), text.replace("\"database\"", "\"database\": 7, \"x\"")]
    {
        fs::write(&path, bad).unwrap();
        assert!(matches!(ClusterState::load(&layout), Err(ProvisionError::BadState { .. })));
    }
    for newer in [
        text.replace("\"version\": 1", "\"version\": 2"),
        text.replacen('{', "{ \"rack\": { \"of\": 7 },", 1),
        text.replacen('{', "{ \"etcdOrigins\": { \"zone1\": { \"from\": \"cloud\", \"id\": \"7\" } },", 1),
    ] {
        fs::write(&path, &newer).unwrap();
        let error = ClusterState::load(&layout).unwrap_err();
        assert!(error.to_string().contains("written by a newer release of cellar"), "{error}: {newer}");
        let hint = error.hint().unwrap();
        assert!(hint.contains("newer release") && !hint.contains("copy"), "{hint}");
    }
}

#[test]
fn lost_state_of_a_cluster_is_no_empty_directory() {
    let dir = tempfile::tempdir().unwrap();
    let layout = ClusterLayout::new(dir.path());
    make_directory(&layout.state(), 0o755, None).unwrap();
    state().save(&layout).unwrap();
    make_directory(&layout.etcd(), 0o700, None).unwrap();
    fs::remove_file(ClusterState::path(&layout)).unwrap();
    let error = ClusterState::load(&layout).unwrap_err();
    let hint = error.hint().unwrap();
    let (program, arguments) = hint.strip_prefix("put its copy there: ").unwrap().split_once(' ').unwrap();
    let done = std::process::Command::new(program).args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "{hint}");
    assert_eq!(ClusterState::load(&layout).unwrap(), Some(state()));
}
