//! Invariant 4: one writer per stanza.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use cellar_api::v1;
use cellar_tests::{Cluster, eventually, is_alive, kill_hard, run, wait_for};

use crate::ledger::{self, label};
use crate::worth::pgbackrest;

#[test]
fn of_two_simultaneous_requests_exactly_one_runs() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let request = |cell: &str| v1::BackupRequest {
        cell: cell.to_owned(),
        r#type: v1::BackupType::Incr.into(),
        ..Default::default()
    };
    // Two commands might come one after the other.
    let (one, other) = cluster.ask(async |client| {
        let (mut first, mut second) = (client.clone(), client.clone());
        tokio::join!(first.backup(request("zone2")), second.backup(request("zone3")))
    });
    let (running, refused) = match (one, other) {
        (Ok(job), Err(refused)) | (Err(refused), Ok(job)) => (job.into_inner().id, refused),
        both => panic!("exactly one is to run: {both:?}"),
    };
    // The refusal names the job that holds the lock, and that job is the one that ran.
    assert_eq!(cellar_api::exit_code(refused.code()), 3, "{refused:?}");
    assert!(refused.message().contains(&running), "{refused:?}");
    let job = cluster.ended(&running);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
}

#[test]
fn a_queued_backup_follows_and_a_repeated_request_is_the_same_job() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let first = cluster.begin_backup("zone2", "full");
    let ask =
        ["backup", "--from", "zone3", "--type", "incr", "--queue", "--no-wait", "--request-id", "nightly-1"];
    let second = cluster.json(&ask)["id"].as_str().expect("an id").to_owned();
    let again = cluster.json(&ask)["id"].as_str().expect("an id").to_owned();
    assert_eq!(second, again);
    let (first, second) = (cluster.ended(&first), cluster.ended(&second));
    assert_eq!(first["state"], "JOB_STATE_SUCCEEDED", "{first:#}");
    assert_eq!(second["state"], "JOB_STATE_SUCCEEDED", "{second:#}");
    let (ended, begun) = (first["endTime"].as_str(), second["startTime"].as_str());
    assert!(ended <= begun, "{ended:?} {begun:?}");
    // The same name for another request is a mistake of the caller's.
    let other = ["backup", "--from", "zone2", "--type", "full", "--request-id", "nightly-1", "--no-wait"];
    let _ = cluster.try_cellar(&other).refused(2);
}

#[test]
fn a_canceled_backup_ends_cleanly_and_frees_the_way() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(5);
    let (id, held) = ledger::hold_backup(&cluster, "zone2", "full");
    cluster.cellar(&["jobs", "cancel", &id]);
    ledger::release(&held);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");
    let _ = cluster.backup("zone2", "full");
}

/// A pgBackRest in front of the real one that, as long as there is a file `hold`, says in `held` that it is to annotate a
/// backup, and goes no further.
fn pgbackrest_that_can_be_held(directory: &Path) {
    let (script, place) = (directory.join("pgbackrest"), directory.display());
    let text = format!(
        "#!/bin/sh\ncase \" $* \" in *' annotate '*)\nif [ -e {place}/hold ]; then echo $$ >{place}/new && mv {place}/new {place}/held; fi\n\
         while [ -e {place}/hold ]; do sleep 0.1; done ;;\nesac\nPATH=${{PATH#*:}} exec pgbackrest \"$@\"\n"
    );
    std::fs::write(&script, text).expect("a script");
    for (path, mode) in [(&*script, 0o755), (directory, 0o777)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
    }
}

/// A job that was told to end must not write to the repo beside the next one.
#[test]
fn job_that_writes_missing_marks_ends_when_it_is_told() {
    let programs = tempfile::tempdir().expect("a directory");
    pgbackrest_that_can_be_held(programs.path());
    let cluster = Cluster::up("zone1,zone2");
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    let path = format!("{}:{}", programs.path().display(), std::env::var("PATH").expect("a PATH"));
    let _ = run(cluster.command(&["up"]).env("PATH", path)).ok();
    let made = label(&cluster.backup("zone2", "full"));
    let _ =
        pgbackrest(&cluster, "zone2", &["--annotation=cellar-proof=", &format!("--set={made}"), "annotate"])
            .ok();
    std::fs::write(programs.path().join("hold"), "").expect("a file");
    let expire = || {
        let job = cluster.json(&["expire", "--on", "zone2", "--yes", "--no-wait"]);
        job["id"].as_str().expect("a job").to_owned()
    };
    for begin in [&(|| cluster.begin_backup("zone2", "incr")) as &dyn Fn() -> String, &expire] {
        let id = begin();
        let mut held = 0;
        eventually("the mark to be written", || {
            let text = std::fs::read_to_string(programs.path().join("held")).unwrap_or_default();
            held = text.trim().parse().unwrap_or_default();
            held != 0 && is_alive(held)
        });
        cluster.cellar(&["jobs", "cancel", &id]);
        // Much sooner than a mark may take.
        let job = wait_for("the job to end", Duration::from_secs(25), || {
            let job = cluster.job(&id);
            (job["state"] != "JOB_STATE_RUNNING").then_some(job)
        });
        assert_eq!(job["state"], "JOB_STATE_CANCELED", "{job:#}");
        eventually("nobody to write to the repo", || !is_alive(held));
    }
}
