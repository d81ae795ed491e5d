//! Every state has a command that leaves it, and `cellar status` names it.

use cellar_api::v1;
use cellar_tests::{Cluster, eventually, signal};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::ledger::{self, beside, check, id, restore};

/// The conditions of the database, as programs read them.
fn conditions(cluster: &Cluster) -> Vec<String> {
    let answer = cluster.json(&["databases", "list"]);
    let conditions = answer["databases"][0]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().filter_map(|condition| condition["kind"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_rollback_that_was_canceled_after_it_took_effect_leaves_nothing_that_no_command_deletes() {
    let cells = ["zone1", "zone2"];
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "before the restore")];
    assert_eq!(conditions(&cluster), [""; 0]);
    let restored = restore(&cluster, &["--latest"]);
    let restored = id(&restored);
    assert_eq!(conditions(&cluster), ["restore-open"]);
    let status = cluster.cellar(&["status"]);
    for command in ["confirm", "rollback"] {
        assert!(status.contains(&format!("`cellar restore {command} {restored}`")), "{status}");
    }

    let rollback = cluster.json(&["restore", "rollback", restored, "--yes", "--no-wait"]);
    let rollback = id(&rollback);
    let incarnation = || {
        let text = cluster.etcd_get("/cellar/demo/incarnations/app");
        serde_json::from_str::<Value>(&text).unwrap_or_default()
    };
    // Of the other cell it wants nothing more until it takes effect; its end waits for a rebuild there.
    let request = v1::GetJobRequest { id: rollback.to_owned() };
    eventually("the rollback to recover the old data", || {
        let answer = cluster.ask(async |client| client.get_job(request.clone()).await);
        let steps = answer.map(|job| job.into_inner().steps).unwrap_or_default();
        steps.iter().any(|step| step.kind() == v1::JobKind::Recover)
    });
    let pooler = cluster.pid("zone2/pid/multipooler.pid");
    signal(pooler, Signal::SIGSTOP);
    eventually("the rollback to take effect", || incarnation()["number"] == 3);
    cluster.cellar(&["jobs", "cancel", rollback]);
    signal(pooler, Signal::SIGCONT);
    let job = cluster.ended(rollback);
    assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");
    let command = format!("`cellar restore confirm {rollback}`");
    assert!(job["error"]["hint"].as_str().is_some_and(|hint| hint.contains(&command)), "{job:#}");
    ledger::wait_for_primary(&cluster);
    rows.push(ledger::insert(&cluster, "after the rollback"));
    check(&cluster, &cells, &rows);
    let of_rollback = format!("pg_data.before-{rollback}");
    assert!(
        cells.iter().any(|cell| beside(&cluster, cell).contains(&of_rollback)),
        "it kept data of its own"
    );

    for kept in [rollback, restored] {
        let confirmed = cluster.json(&["restore", "confirm", kept, "--yes"]);
        assert_eq!(confirmed["state"], "JOB_STATE_SUCCEEDED", "{confirmed:#}");
        let _ = cluster.try_cellar(&["restore", "confirm", kept, "--yes"]).refused(3);
    }
    for cell in cells {
        assert_eq!(beside(&cluster, cell), [""; 0], "in {cell}");
    }
    assert_eq!(conditions(&cluster), [""; 0]);
    check(&cluster, &cells, &rows);
}

#[test]
fn old_data_of_a_cell_that_was_down_at_the_rollback_is_deleted_by_a_confirmation() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let rows = vec![ledger::insert(&cluster, "before the restore")];
    let restored = restore(&cluster, &["--latest"]);
    cluster.kill_cell("zone2");
    eventually("zone2 to be missed", || cluster.status("zone2").is_none());
    let rollback = ledger::rollback(&cluster, &restored);
    let result = ledger::result(&rollback);
    assert_eq!(
        (&result["leftOut"], &result["kept"]),
        (&serde_json::json!(["zone2"]), &true.into()),
        "{rollback:#}"
    );
    cluster.cellar(&["up"]);
    check(&cluster, &["zone1", "zone2"], &rows);
    assert_eq!(beside(&cluster, "zone2"), [format!("pg_data.before-{}", id(&restored))]);
    let confirmed = cluster.json(&["restore", "confirm", id(&restored), "--yes"]);
    assert_eq!(confirmed["state"], "JOB_STATE_SUCCEEDED", "{confirmed:#}");
    assert_eq!(beside(&cluster, "zone2"), [""; 0]);
}

/// A restore of data whose configuration, of the backup's time, includes a file that is gone. The file comes back with the
/// value.
struct GoneInclude<'a> {
    cluster: &'a Cluster,
    file: std::path::PathBuf,
    backup: String,
}

impl GoneInclude<'_> {
    /// Takes a backup with it.
    fn in_a_backup(cluster: &Cluster) -> GoneInclude<'_> {
        let main = cluster.directory().join("zone1/pg_data/postgresql.conf");
        let before = std::fs::read_to_string(&main).expect("a configuration");
        let file = cluster.directory().join("extra.conf");
        std::fs::write(&file, "").expect("written");
        std::fs::write(&main, format!("include = '{}'\n{before}", file.display())).expect("written");
        let backup = ledger::label(&cluster.backup("zone2", "full"));
        std::fs::write(&main, before).expect("written");
        std::fs::remove_file(&file).expect("removed");
        GoneInclude { cluster, file, backup }
    }

    fn put_back(&self) {
        std::fs::write(&self.file, "").expect("written");
    }

    /// Restores to zone2, where PostgreSQL does not start then; the job, which is ended.
    fn restore(&self, options: &[&str]) -> String {
        let words =
            ["restore", "--latest", "--backup", &self.backup, "--onto", "zone2", "--yes", "--no-wait"];
        let job = self.cluster.json(&[&words[..], options].concat());
        eventually("the note to say why PostgreSQL does not start", || {
            self.cluster.status("zone2").is_some_and(|status| status.message.contains("extra.conf"))
        });
        self.cluster.cellar(&["jobs", "cancel", id(&job)]);
        let ended = self.cluster.ended(id(&job));
        assert_eq!(ended["state"], "JOB_STATE_CANCELED", "{ended:#}");
        assert!(conditions(self.cluster).contains(&"restore-unused".to_owned()));
        let shown = self.cluster.cellar(&["jobs", "show", id(&job)]);
        assert!(!shown.contains("is restored") && shown.contains("was canceled before"), "{shown}");
        id(&job).to_owned()
    }
}

#[test]
fn restored_data_on_which_postgresql_does_not_start_is_left_by_a_command() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "before the backup")];
    let gone = GoneInclude::in_a_backup(&cluster);
    rows.push(ledger::insert(&cluster, "after the backup"));

    // The old data is in its place in zone1 still, because nothing was rebuilt.
    let restored = gone.restore(&[]);
    let status = cluster.cellar(&["status"]);
    assert!(status.contains(&format!("`cellar restore rollback {restored}`")), "{status}");
    let back = cluster.json(&["restore", "rollback", &restored, "--yes"]);
    assert_eq!(back["state"], "JOB_STATE_SUCCEEDED", "{back:#}");
    check(&cluster, &["zone1", "zone2"], &rows);
    assert_eq!(conditions(&cluster), [""; 0]);

    // In place nothing is kept. What the note names is corrected, and PostgreSQL starts by itself.
    let restored = gone.restore(&["--in-place"]);
    let _ = cluster.try_cellar(&["restore", "rollback", &restored, "--yes"]).refused(3);
    let refused = cluster.try_cellar(&["restore", "--latest", "--plan"]).refused(3);
    assert!(refused.contains("--timeline") && refused.contains("`cellar status`"), "{refused}");
    gone.put_back();
    ledger::wait_for_primary(&cluster);
    check(&cluster, &["zone1", "zone2"], &rows);
    assert_eq!(conditions(&cluster), [""; 0]);
}
