//! What is kept of a cluster in which something went wrong.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use cellar_tests::{Cluster, Finished, Instance, as_user, postgres_user, run};

/// How long one question may take, as `timeout` wants it.
const LIMIT: &str = "10";

const QUESTIONS: [&str; 5] = [
    "SELECT pg_is_in_recovery(), pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(), \
     current_setting('synchronous_standby_names'), current_setting('primary_conninfo')",
    "SELECT * FROM cellar.term ORDER BY term DESC LIMIT 5",
    "SELECT * FROM pg_stat_replication",
    "SELECT * FROM pg_stat_wal_receiver",
    "SELECT pid, state, wait_event, application_name, left(query, 60) FROM pg_stat_activity",
];

/// Writes down how the cluster is, ends it, and copies all of it into this directory.
pub(crate) fn keep(cluster: &Cluster, instances: &[(&str, Instance)], what: &str, into: &Path) {
    let mut text = format!("{what}\n");
    let mut note = |title: &str, finished: Finished| {
        let Finished { code, stdout, stderr } = finished;
        let _ = write!(text, "\n=== {title}: {code}\n{stdout}{stderr}");
    };
    for arguments in
        [["durability", "--output=json"], ["status", "--output=json"], ["explain", "--output=human"]]
    {
        let command = cluster.command(&arguments);
        let mut limited = Command::new("timeout");
        limited.arg(LIMIT).arg(command.get_program()).args(command.get_args());
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        note(&arguments.join(" "), run(&mut limited));
    }
    note("ps", run(Command::new("ps").args(["-eo", "pid,ppid,stat,lstart,args"])));
    for (cell, instance) in instances {
        for question in QUESTIONS {
            let mut limited = as_user(&postgres_user(), "timeout");
            limited.args([LIMIT, "psql", "-h", &instance.sockets, "-p", &instance.port.to_string()]);
            limited.args(["-d", "postgres", "-Xxc", question]);
            note(&format!("{cell}: {question}"), run(&mut limited));
        }
    }
    cluster.kill_everything();
    let _ = std::fs::create_dir_all(into);
    let _ = std::fs::write(into.join("what.txt"), text);
    let _ = run(Command::new("cp").args(["--archive", "--reflink=auto"]).arg(cluster.directory()).arg(into));
}
