//! Stopping a restore at a certain moment, and killing what runs then.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cellar_tests::{
    Cluster, children_named, command_line, cpu_time, hold, is_alive, kill_hard, main_process, poll, signal,
    state_of, wait_for,
};
use nix::sys::signal::Signal;

use super::scene::{MOMENT_TIMEOUT, Restore, is_empty, number, recorded_step};

/// pgBackRest's restore, stopped in the middle of copying into `data`: its processes.
pub(crate) fn held_copy(data: &Path) -> Vec<i32> {
    let cell = format!("{}/", data.parent().expect("a cell's directory").display());
    let restores = |pid: i32| {
        let words = command_line(pid);
        words.iter().any(|word| word.starts_with("restore")) && words.iter().any(|word| word.contains(&cell))
    };
    let copies = || !is_empty(&data.join("base/1"));
    let held = hold("pgBackRest to copy", MOMENT_TIMEOUT, restores, copies);
    // It writes pg_control last.
    assert!(!data.join("global/pg_control").exists(), "held too late");
    let main = main_process(&held);
    assert!(is_alive(main));
    held
}

pub(super) fn held_recovery(cluster: &Cluster, restore: &Restore) -> Vec<i32> {
    let copy = restore.copy(cluster);
    held_copy(&copy)
}

/// The postmaster of a private instance, as soon as it is there.
pub(super) fn private_postmaster(data: &Path) -> i32 {
    let pid = wait_for("a private PostgreSQL", MOMENT_TIMEOUT, || {
        let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        is_alive(pid).then_some(pid)
    });
    assert!(is_alive(pid));
    pid
}

/// Kills the pooler of a cell beside a private PostgreSQL, which outlives it. That one stands still meanwhile: the recovery
/// of little WAL is over in half a second.
pub(super) fn kill_pooler_beside(cluster: &Cluster, cell: &str, private: i32) {
    signal(private, Signal::SIGSTOP);
    kill_hard(pooler(cluster, cell));
    assert!(is_alive(private), "it was to be there still");
    signal(private, Signal::SIGCONT);
}

/// `cellar up`, which ends when all is well again; the test goes on meanwhile.
pub(super) fn raise(cluster: &Cluster) -> Child {
    let mut command = cluster.command(&["up"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar runs")
}

/// Ends an `up` whose cluster was taken from under it, however it fares.
pub(super) fn give_up(mut raised: Child) {
    let _ = raised.kill();
    raised.wait().expect("cellar is ours");
}

pub(super) fn pooler(cluster: &Cluster, cell: &str) -> i32 {
    cluster.pid(&format!("{cell}/pid/multipooler.pid"))
}

/// Kills the pooler of the restored cell right after the next incarnation was recorded, before it has acted on it.
/// multiadmin, which records it, is stopped meanwhile, or dies.
pub(super) fn kill_before_swap(cluster: &Cluster, restore: &Restore, data: &Path, dies: bool) {
    let admin = cluster.pid("pid/multiadmin.pid");
    // That of a rollback lives for less than a second.
    let private = private_postmaster(data);
    signal(private, Signal::SIGSTOP);
    if dies {
        kill_hard(admin);
    } else {
        signal(admin, Signal::SIGSTOP);
    }
    signal(private, Signal::SIGCONT);
    let recover = recorded_step(cluster, &restore.id, "RECOVER", &restore.cell);
    let run = format!("/cellar/demo/runs/app/{}/{recover}", restore.cell);
    wait_for("the recovery to end", MOMENT_TIMEOUT, || {
        cluster.etcd_get(&run).contains(r#""state":"JOB_STATE_SUCCEEDED""#).then_some(())
    });
    let pid = pooler(cluster, &restore.cell);
    signal(pid, Signal::SIGSTOP);
    assert_eq!(number(cluster), restore.number, "not decided yet");
    let raised = dies.then(|| raise(cluster));
    if !dies {
        signal(admin, Signal::SIGCONT);
    }
    wait_for("the next incarnation", MOMENT_TIMEOUT, || {
        (number(cluster) == restore.number + 1).then_some(())
    });
    kill_hard(pid);
    if let Some(raised) = raised {
        give_up(raised);
    }
}

/// `DB_SHUTDOWNED` of PostgreSQL's `src/include/catalog/pg_control.h`.
pub(super) const SHUT_DOWN: u32 = 1;

/// The state in `pg_control`: the fourth field of `ControlFileData`, after 16 bytes.
pub(super) fn control_state(data: &Path) -> u32 {
    let bytes = std::fs::read(data.join("global/pg_control")).expect("pg_control");
    u32::from_ne_bytes(bytes[16..20].try_into().expect("four bytes"))
}

/// How long a recovering process must have waited, without a moment on a processor, until it is taken to wait for the
/// checkpoint.
const WAITS_FOR: Duration = Duration::from_millis(300);

/// Whether a process waits: the kernel shows it asleep at each of many looks, and it has used no processor time meanwhile.
/// One that only has to wait for a busy processor is shown as running. What is seen if not.
fn waits(pid: i32) -> Result<(), String> {
    let (begun, used) = (Instant::now(), cpu_time(pid));
    while begun.elapsed() < WAITS_FOR {
        match state_of(pid) {
            Some('S') => std::thread::sleep(Duration::from_millis(10)),
            other => return Err(format!("the recovering process {pid} is in state {other:?}")),
        }
    }
    if cpu_time(pid) == used { Ok(()) } else { Err(format!("the recovering process {pid} is at work")) }
}

/// Kills the primary of a cell, and stops the one that is started in its place right after the checkpoint with which its
/// crash recovery ends: all of its processes. Whoever waits for a checkpoint asks for it first, so the recovering process
/// is stopped while the checkpointer, which was stopped before, is at it.
///
/// # Errors
/// When the moment was missed: what was seen. The primary runs again then.
pub(super) fn hold_end_of_crash_recovery(cluster: &Cluster, cell: &str) -> Result<Vec<i32>, String> {
    let directory = cluster.directory().join(cell);
    let (data, log) = (directory.join("pg_data"), directory.join("log/postgres.log"));
    let ends = || std::fs::read_to_string(&log).unwrap_or_default().matches("redo done at").count();
    let (before, killed) = (ends(), cluster.postmaster(cell));
    kill_hard(killed);
    let postmaster = wait_for("another postmaster", MOMENT_TIMEOUT, || {
        let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        (pid != killed && is_alive(pid)).then_some(pid)
    });
    let child = |title: &str| {
        let children = children_named(postmaster, "postgres");
        children.into_iter().find(|pid| command_line(*pid).iter().any(|word| word.contains(title)))
    };
    let checkpointer = wait_for("its checkpointer", MOMENT_TIMEOUT, || child("checkpointer"));
    signal(checkpointer, Signal::SIGSTOP);
    let startup = child("startup");
    let caught = match startup {
        None => Err("it had recovered before".to_owned()),
        Some(startup) => {
            // From the end of the WAL it is not far to the request, which leaves no trace.
            let mut seen = String::new();
            let waiting = poll(MOMENT_TIMEOUT, || {
                let looked = if ends() > before { waits(startup) } else { Err("WAL is replayed".to_owned()) };
                looked.map_err(|now| seen = now).ok()
            });
            waiting.ok_or(seen).and_then(|()| {
                signal(startup, Signal::SIGSTOP);
                signal(checkpointer, Signal::SIGCONT);
                let done = || (control_state(&data) == SHUT_DOWN).then_some(());
                poll(MOMENT_TIMEOUT, done)
                    .ok_or_else(|| format!("no checkpoint: pg_control says {}", control_state(&data)))
            })
        }
    };
    if let Err(seen) = caught {
        for pid in [Some(checkpointer), startup].into_iter().flatten() {
            signal(pid, Signal::SIGCONT);
        }
        wait_for("the primary to run again", MOMENT_TIMEOUT, || {
            (cluster.try_sql(cell, "SELECT 1").code == 0).then_some(())
        });
        return Err(seen);
    }
    let mut all = children_named(postmaster, "postgres");
    all.push(postmaster);
    Ok(all)
}
