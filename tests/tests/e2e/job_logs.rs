//! What the tools said while a restore ran, live and afterwards.

use std::collections::BTreeSet;

use cellar_tests::Cluster;

#[test]
fn the_log_of_a_restore_is_that_of_all_its_steps() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone1", "CREATE TABLE t AS SELECT 1 AS i");
    let job = cluster.json(&["restore", "--latest", "--yes", "--no-wait"]);
    let id = job["id"].as_str().expect("an id").to_owned();
    // Follows until the job has ended, across its steps and cells.
    let live = cluster.cellar(&["jobs", "logs", "--follow", &id]);
    assert_eq!(cluster.ended(&id)["state"], "JOB_STATE_SUCCEEDED");
    let mut from = 0;
    for heading in
        ["plan zone1", "fence zone", "recover zone1", "swap zone1", "rebuild zone2", "backup zone2"]
    {
        let at = live[from..].find(&format!("==> {heading}"));
        from += at.unwrap_or_else(|| panic!("no {heading} after byte {from}:\n{live}"));
    }
    for said in [
        "P00   INFO: restore command end: completed successfully",
        "database system is ready to accept read-only connections",
        "selected new timeline ID: 2",
        "P00   INFO: backup command end: completed successfully",
    ] {
        assert!(live.contains(said), "{said:?} is not in\n{live}");
    }
    let afterwards = cluster.cellar(&["jobs", "logs", &id]);
    for line in live.lines().filter(|line| line.starts_with("==> ")) {
        assert!(afterwards.contains(line), "{line}");
    }
    assert!(afterwards.contains("selected new timeline ID: 2"));
    // Each step shows its times in the job, and what it did.
    let shown = cluster.job(&id);
    let steps = shown["steps"].as_array().expect("steps");
    // Each at least once: on a busy machine one may have to be repeated.
    let kinds: BTreeSet<(&str, &str)> =
        steps.iter().filter_map(|step| Some((step["kind"].as_str()?, step["cell"].as_str()?))).collect();
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    assert!(
        steps.iter().all(|step| step["startTime"].is_string() && step["endTime"].is_string()),
        "{steps:#?}"
    );
    let watched = cluster.cellar(&["jobs", "show", &id]);
    assert!(watched.contains("recover") && watched.contains("zone1"), "{watched}");
}
