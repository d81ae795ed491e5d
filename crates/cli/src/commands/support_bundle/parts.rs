//! Gathering the parts of a bundle at once, each with a deadline: a disk or a program that does not answer costs its own
//! part and no other.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::DatabaseName;
use cellar_provisioner::Cluster;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::bundle::archive::Parts;
use crate::bundle::{directory, programs};
use crate::global::Global;

/// How long reading one part of the directory may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The commands whose answers are taken.
const ANSWERS: [(&str, &[&str]); 8] = [
    ("status", &["status"]),
    ("doctor", &["doctor"]),
    ("cells", &["cells", "list"]),
    ("databases", &["databases", "list"]),
    ("jobs", &["jobs", "list", "--steps", "--limit", "200"]),
    ("schedules", &["schedules", "list"]),
    ("audit", &["audit", "list", "--limit", "200"]),
    ("certs", &["certs", "list"]),
];

/// Programs and what is asked of each; `DIR` stands for the cluster's directory.
const PROGRAMS: [(&str, &str, &[&str]); 10] = [
    ("version-etcd.txt", "etcd", &["--version"]),
    ("version-pgbackrest.txt", "pgbackrest", &["version"]),
    ("version-kernel.txt", "uname", &["-srvmo"]),
    ("os-release.txt", "cat", &["/etc/os-release", "/etc/debian_version"]),
    ("memory.txt", "cat", &["/proc/meminfo", "/proc/loadavg", "/proc/uptime"]),
    ("processors.txt", "nproc", &[]),
    ("disks.txt", "df", &["-PTk"]),
    ("inodes.txt", "df", &["-PTi"]),
    ("disk-of-directory.txt", "df", &["-PTk", "DIR"]),
    // Names of programs only: arguments may hold anything.
    ("processes.txt", "ps", &["-eo", "pid,ppid,user,stat,etimes,rss,nlwp,comm", "--sort=pid"]),
];

/// The units of systemd whose output is in the journal where a log is missing.
const UNITS: [&str; 3] = ["etcd", "multiadmin", "multipooler"];

/// All parts.
pub(super) async fn gather(root: &Path, global: &Global) -> Parts {
    let mut tasks: JoinSet<Parts> = JoinSet::new();
    let mut read = |what: String, part: Box<dyn FnOnce(&Path) -> Parts + Send>| {
        let root = root.to_owned();
        tasks.spawn(async move {
            let reading = tokio::task::spawn_blocking(move || part(&root));
            let why = match tokio::time::timeout(READ_TIMEOUT, reading).await {
                Ok(Ok(parts)) => return parts,
                Ok(Err(error)) => format!("this is a bug: {error}"),
                Err(_) => format!(
                    "it could not be read within {} s: look whether its disk answers",
                    READ_TIMEOUT.as_secs()
                ),
            };
            let mut parts = Parts::default();
            parts.leave_out(what, why);
            parts
        });
    };
    read("the cluster's own files".to_owned(), Box::new(directory::shared));
    read("files.txt".to_owned(), Box::new(directory::files));
    read("certificates.json".to_owned(), Box::new(directory::keys_and_certificates));
    let listed = tokio::time::timeout(READ_TIMEOUT, {
        let root = root.to_owned();
        tokio::task::spawn_blocking(move || directory::cells(&root))
    });
    let mut all = Parts::default();
    let cells = match listed.await {
        Ok(Ok(Ok(cells))) => cells,
        Ok(Ok(Err(error))) => {
            all.leave_out("the directories of cells", error);
            Vec::new()
        }
        Ok(Err(_)) | Err(_) => {
            all.leave_out("the directories of cells", "the cluster's directory does not answer");
            Vec::new()
        }
    };
    for cell in cells {
        read(format!("cell {cell}"), Box::new(move |root| directory::cell(root, &cell)));
    }
    for (name, mut command) in answers(root, global) {
        tasks.spawn(async move { programs::answer(&format!("commands/{name}"), &mut command).await });
    }
    for (name, mut command) in facts(root) {
        tasks.spawn(async move { programs::text(&format!("system/{name}"), &mut command).await });
    }
    let mut found: Vec<Parts> = Vec::new();
    while let Some(parts) = tasks.join_next().await {
        match parts {
            Ok(parts) => found.push(parts),
            Err(error) => all.leave_out("one part", format!("this is a bug: {error}")),
        }
    }
    found.into_iter().for_each(|parts| all.extend(parts));
    // In the same order each time; what is dropped from a bundle that is too large are the ends of logs.
    all.files.sort_by_key(|(path, _)| (path.contains("/log/") || path.contains("/jobs/"), path.clone()));
    all
}

/// Calls of this program itself, each a process of its own: it may fail or hang and nothing else does.
fn answers(root: &Path, global: &Global) -> Vec<(String, Command)> {
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("cellar"));
    let command = |arguments: &[&str], database: Option<&DatabaseName>| {
        let mut command = Command::new(&own);
        command.args(arguments).arg("--dir").arg(root).args(["--output", "json"]);
        if let Some(database) = database {
            command.args(["--database", database.as_str()]);
        }
        command
    };
    let named = global.database.as_ref();
    let all = ANSWERS.iter().map(|(name, arguments)| ((*name).to_owned(), command(arguments, named)));
    // A database's own: of all where none is named.
    let backups = |database: Option<&DatabaseName>| command(&["backups", "list"], database);
    let of_each: Vec<(String, Command)> = match databases(root).as_slice() {
        [] | [_] => vec![("backups".to_owned(), backups(named))],
        _ if named.is_some() => vec![("backups".to_owned(), backups(named))],
        several => several.iter().map(|one| (format!("backups-{one}"), backups(Some(one)))).collect(),
    };
    all.chain(of_each).collect()
}

/// The databases of the cluster, the first one first; none when that cannot be read.
fn databases(root: &Path) -> Vec<DatabaseName> {
    let cluster = Cluster::open(root).or_else(|_| Cluster::open_on_host(root));
    cluster.map(|cluster| cluster.state.databases().map(|one| one.name.clone()).collect()).unwrap_or_default()
}

/// Programs that tell about the machine.
fn facts(root: &Path) -> Vec<(String, Command)> {
    let mut all = Vec::new();
    let mut add = |name: &str, program: OsString, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").env("TZ", "UTC");
        for argument in arguments {
            match *argument {
                "DIR" => command.arg(root),
                other => command.arg(other),
            };
        }
        all.push((name.to_owned(), command));
    };
    for (name, program, arguments) in PROGRAMS {
        add(name, program.into(), arguments);
    }
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("cellar"));
    add("version-cellar.txt", own.clone().into(), &["--version"]);
    for daemon in ["multiadmin", "multipooler"] {
        let beside = own.with_file_name(daemon);
        let program = if beside.exists() { beside } else { PathBuf::from(daemon) };
        add(&format!("version-{daemon}.txt"), program.into(), &["--version"]);
    }
    for (version, program) in postgres_programs() {
        add(&format!("version-postgres-{version}.txt"), program.into(), &["--version"]);
    }
    if Path::new("/run/systemd/system").is_dir() {
        add("units.txt", "systemctl".into(), &["list-units", "--all", "--no-pager", "--plain", "cellar*"]);
        let instance = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let units = UNITS.iter().map(|unit| ((*unit).to_owned(), format!("cellar-{unit}@{instance}")));
        let further = databases(root).into_iter().skip(1).map(|database| {
            (format!("multipooler-{database}"), format!("cellar-multipooler@{instance}:{database}"))
        });
        for (unit, name) in units.chain(further) {
            let arguments =
                ["--quiet", "--no-pager", "--output", "short-iso", "--lines", "3000", "--unit", &name];
            add(&format!("journal-{unit}.txt"), "journalctl".into(), &arguments);
        }
    }
    all
}

/// Every PostgreSQL of Debian's packages, and one that was named.
fn postgres_programs() -> Vec<(String, PathBuf)> {
    let packages = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(String, PathBuf)> = packages
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().join("bin/postgres")))
        .collect();
    found.extend(
        std::env::var_os("CELLAR_PG_BINDIR")
            .map(|dir| ("named".to_owned(), Path::new(&dir).join("postgres"))),
    );
    found.retain(|(_, program)| program.exists());
    found
}
