//! From nothing to three cells: `cellar up` against a plain shell script of the same steps.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{Database, Pooler};
use cellar_pgbackrest::render_job;
use cellar_tests::{Cluster, as_user, postgres_user, run};

use crate::figure::{Limit, Report, in_turns, median, note, ratio};

const ROUNDS: usize = 5;
const ROUNDS_OF_BUILDS: usize = 7;
/// Names the directory of another build's programs, which `bootstrap_other_build` compares with this one's.
const OTHER_BUILD: &str = "CELLAR_BENCH_OTHER_BUILD";
const CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];
const SCRIPT: &str = include_str!("bootstrap.sh");

/// The files that the script starts from: what needs no time, taken from a cluster of Cellar's and
/// rewritten for another directory. Ports, settings and options are the same.
struct Kit<'a> {
    from: &'a Cluster,
    to: &'a Path,
}

impl Kit<'_> {
    /// A text of the first cluster as it is in the second.
    fn moved(&self, text: &str) -> String {
        text.replace(&self.from.directory().display().to_string(), &self.to.display().to_string())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.to.join(path);
        if let Err(error) = std::fs::write(&path, self.moved(text)) {
            panic!("{}: {error}", path.display());
        }
    }

    fn text(&self, path: &str) -> String {
        let path = self.from.directory().join(path);
        match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => panic!("{}: {error}", path.display()),
        }
    }

    fn copy(&self, from: &str, to: &str) {
        let (from, to) = (self.from.directory().join(from), self.to.join(to));
        let _ = run(std::process::Command::new("cp").arg("-a").args([from, to])).ok();
    }

    fn record<R: serde::de::DeserializeOwned>(&self, key: &str) -> R {
        match serde_json::from_str(&self.moved(&self.from.etcd_get(&format!("/cellar/demo/{key}")))) {
            Ok(record) => record,
            Err(error) => panic!("{key}: {error}"),
        }
    }

    fn lay_out_cell(&self, cell: &str) {
        for directory in ["pg_sockets", "log", "lock", "spool", "jobs"] {
            make_directory(&self.to.join(cell).join(directory));
        }
        make_directory(&self.to.join("kit").join(cell));
        self.copy(&format!("{cell}/tls"), &format!("{cell}/tls"));
        for file in ["cellar.conf", "pg_hba.conf", "pg_ident.conf"] {
            self.write(&format!("kit/{cell}/{file}"), &self.text(&format!("{cell}/pg_data/{file}")));
        }
        for file in ["pgbackrest.conf", "jobs/bootstrap.conf"] {
            self.write(&format!("{cell}/{file}"), &self.text(&format!("{cell}/{file}")));
        }
        self.write(&format!("kit/{cell}/port"), &self.from.instance(cell).port.to_string());
    }

    fn lay_out(&self) {
        for directory in ["repo", "log", "etcd", "kit"] {
            make_directory(&self.to.join(directory));
        }
        for cell in CELLS {
            self.lay_out_cell(cell);
        }
        self.copy("etcd/tls", "etcd/tls");
        for kind in ["crt", "key"] {
            self.copy(&format!("multiadmin/multiadmin.{kind}"), &format!("etcd/tls/client.{kind}"));
        }
        let words = cellar_tests::command_line(self.from.pid("pid/etcd.pid"));
        self.write("kit/etcd.args", &words[1..].join(" "));
        self.write("kit/etcd.url", &self.from.etcd_url());
        let database: Database = self.record("databases/app");
        let first: Pooler = self.record("poolers/app/zone1");
        match render_job(&database, &first, None, None) {
            Ok(text) => self.write("zone1/jobs/full.conf", &text),
            Err(error) => panic!("{error}"),
        }
        self.write("kit/bootstrap.sh", SCRIPT);
        let user = postgres_user();
        let owner = format!("{}:{}", user.uid, user.gid);
        let _ = run(std::process::Command::new("chown").args(["-R", &owner]).arg(self.to)).ok();
    }
}

fn make_directory(path: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    if let Err(error) = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        panic!("{}: {error}", path.display());
    }
}

/// Where PostgreSQL's programs are.
fn programs(cluster: &Cluster) -> PathBuf {
    let exe = std::fs::read_link(format!("/proc/{}/exe", cluster.postmaster("zone1")));
    match exe.ok().and_then(|exe| Some(exe.parent()?.to_path_buf())) {
        Some(directory) => directory,
        None => panic!("PostgreSQL's program is not known"),
    }
}

/// What the one before left to be written is not the next one's to wait for.
fn settle() {
    let _ = run(&mut std::process::Command::new("sync")).ok();
}

fn up(cluster: Cluster) -> (Cluster, Duration) {
    settle();
    let begun = Instant::now();
    let finished = cluster.try_up(&CELLS.join(","));
    let took = begun.elapsed();
    let _ = finished.ok();
    (cluster, took)
}

fn script(directory: &Path, programs: &Path) -> (Duration, Duration) {
    settle();
    let mut command = as_user(&postgres_user(), "sh");
    command.arg(directory.join("kit/bootstrap.sh")).arg(directory).arg(programs).arg("app").args(CELLS);
    let begun = Instant::now();
    let finished = run(command.current_dir(directory));
    let took = begun.elapsed();
    (took, took.saturating_sub(etcd_share(&finished.ok())))
}

/// How long the script waited for etcd; the steps beside it on standard error.
fn etcd_share(log: &str) -> Duration {
    let steps: Vec<(f64, &str)> = log
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(t, s)| Some((t.parse().ok()?, s)))
        .collect();
    let spans: Vec<String> =
        steps.windows(2).map(|pair| format!("{} {:.2}", pair[1].1, pair[1].0 - pair[0].0)).collect();
    note(&format!("  by hand, s: {}", spans.join(", ")));
    match steps.as_slice() {
        [(begun, _), (answers, _), ..] => Duration::from_secs_f64((answers - begun).max(0.0)),
        _ => Duration::ZERO,
    }
}

/// The whole of it, until the exit of either.
pub(crate) fn bootstrap(report: &mut Report) {
    let (mut ours, mut theirs, mut without_etcd) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let by_hand = Cluster::new();
        let (cluster, took) = up(Cluster::new());
        ours.push(took);
        Kit { from: &cluster, to: by_hand.directory() }.lay_out();
        let programs = programs(&cluster);
        // Its ports are the script's now.
        drop(cluster);
        let (took, rest) = script(by_hand.directory(), &programs);
        theirs.push(took);
        without_etcd.push(rest);
    }
    let ratio = ratio(("cellar up", &ours), ("by hand", &theirs));
    note(&format!(
        "  by hand without the start of etcd: median {:.3} s",
        median(&without_etcd).as_secs_f64()
    ));
    report.figure("bootstrap", ratio, "ratio", Limit::AtMost(0.90));
}

/// `cellar up` of this build against that of another build, in turns. The clusters of both are looked at: every cell
/// streams, and the repository has a full backup.
pub(crate) fn other_build(report: &mut Report) {
    let Some(other) = std::env::var_os(OTHER_BUILD).map(PathBuf::from) else {
        note(&format!("  not measured: {OTHER_BUILD} names no directory of another build's programs"));
        return;
    };
    let whole = |(cluster, took): (Cluster, Duration)| {
        for standby in &CELLS[1..] {
            let streams = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
            assert_eq!(cluster.sql(standby, streams), "1", "{standby} does not stream");
        }
        let backups = cluster.json(&["backups", "list"]);
        assert!(backups.to_string().contains("BACKUP_TYPE_FULL"), "no full backup: {backups}");
        took
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    in_turns(
        ROUNDS_OF_BUILDS,
        || ours.push(whole(up(Cluster::new()))),
        || theirs.push(whole(up(Cluster::new().with_cellar(other.join("cellar"))))),
    );
    let ratio = ratio(("this build", &ours), ("the other build", &theirs));
    report.figure("bootstrap_other_build", ratio, "ratio", Limit::AtMost(0.75));
}
