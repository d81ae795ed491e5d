//! The passphrase of an encrypted repo, and private keys: where they are, and that they are nowhere else.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use cellar_api::v1::InstanceState;
use cellar_tests::{
    Cluster, Finished, as_user, eventually, give_to_postgres, kill_hard, postgres_user, run, wait_for,
};
use tempfile::TempDir;

/// How often every process is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Where a passphrase may lie in a cell; configs of jobs besides.
const HOMES: [&str; 3] = ["secrets/repo-cipher-pass", "pgbackrest.conf", "jobs/bootstrap.conf"];

/// Bytes of a passphrase that are looked for: whole groups of three, which base64 writes in one way.
const NEEDLE: usize = 39;

/// A passphrase that is found nowhere by accident, with every character that a config file might misread.
struct Passphrase {
    text: String,
    /// Outside of every cluster.
    directory: TempDir,
}

impl Passphrase {
    fn new() -> Self {
        let mut random = [0; 16];
        let mut source = std::fs::File::open("/dev/urandom").expect("randomness");
        std::io::Read::read_exact(&mut source, &mut random).expect("randomness");
        let text = format!("needle {} ;#=[x]\"'\\$%", hex(&random));
        let this = Self { text, directory: tempfile::tempdir().expect("a directory") };
        this.write("pass", &this.text);
        this
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&path).expect("a file");
        writeln!(file, "{content}").expect("a file");
        path
    }

    fn file(&self) -> String {
        self.directory.path().join("pass").display().to_string()
    }

    /// The part that is looked for: nothing writes it in another way, as JSON and shells do with the rest.
    fn needle(&self) -> &str {
        &self.text[..NEEDLE]
    }

    /// The needle itself, and what becomes of it when somebody encodes it.
    fn forms(&self) -> [String; 3] {
        let bytes = self.needle().as_bytes();
        [self.needle().to_owned(), hex(bytes), base64(bytes)]
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift & 63) as usize]))
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

fn up(cluster: &Cluster, passphrase: &Passphrase) -> Finished {
    let flags = ["--port-offset", "auto", "--repo-cipher-pass-file", &passphrase.file()];
    cluster.try_cellar(&[&["up", "--cells", "zone1,zone2"], &flags[..]].concat())
}

/// Processes with `needle` in a file of /proc: their names.
fn processes_showing(file: &str, needle: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let shows = |path: &Path| {
        let bytes = std::fs::read(path.join(file)).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    };
    let found = entries.map(|entry| entry.path()).filter(|path| shows(path));
    // The program's file: a name of its own is the thread's. One that has ended meanwhile has none.
    let program = |path: PathBuf| {
        let program = std::fs::read_link(path.join("exe")).ok()?;
        program.file_name().map(|name| name.to_string_lossy().into_owned())
    };
    found.filter_map(program).collect()
}

/// What a watch over all processes has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) rounds: u32,
    pub(crate) in_arguments: BTreeSet<String>,
    pub(crate) in_environment: BTreeSet<String>,
}

/// Looks at every process of the machine until it is told to end.
pub(crate) struct Watch {
    end: Sender<()>,
    thread: JoinHandle<Seen>,
}

impl Watch {
    pub(crate) fn begin(needle: &str) -> Self {
        let (end, ended) = channel();
        let needle = needle.to_owned();
        let thread = std::thread::spawn(move || {
            let mut seen = Seen::default();
            while ended.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                seen.in_arguments.extend(processes_showing("cmdline", &needle));
                seen.in_environment.extend(processes_showing("environ", &needle));
                seen.rounds += 1;
            }
            seen
        });
        Self { end, thread }
    }

    pub(crate) fn end(self) -> Seen {
        self.end.send(()).expect("the watch goes on");
        self.thread.join().expect("the watch goes on")
    }
}

/// The files below `directory` that hold `needle`, which is in no argument here.
pub(crate) fn files_with(directory: &Path, needle: &str) -> BTreeSet<PathBuf> {
    let mut pattern = tempfile::NamedTempFile::new().expect("a file");
    pattern.write_all(needle.as_bytes()).expect("a file");
    let mut grep = Command::new("grep");
    let found = run(grep.args(["-rlaF", "-D", "skip", "-f"]).arg(pattern.path()).arg(directory));
    // 1: nothing found; 2: a file that went away meanwhile, or worse.
    assert!(found.code < 2 || found.stderr.lines().all(|line| line.contains("No such file")), "{found:?}");
    found.stdout.lines().map(PathBuf::from).collect()
}

fn files_named(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_named(&path, end));
        } else if path.display().to_string().ends_with(end) {
            found.push(path);
        }
    }
    found
}

/// The file's mode, and whose it is.
fn access(path: &Path) -> (u32, u32) {
    let found = std::fs::metadata(path).expect("the file");
    (found.mode() & 0o7777, found.uid())
}

/// Everything that anybody can ask the cluster for, as one text.
pub(crate) fn all_answers(cluster: &Cluster) -> String {
    let mut text = cluster.etcd_dump();
    for question in [&["jobs", "list"][..], &["backups", "list"], &["cells", "list"], &["status"]] {
        text += &cluster.cellar(&[question, &["--output", "json"]].concat());
        text += &cluster.cellar(question);
    }
    let jobs = cluster.json(&["jobs", "list"]);
    let jobs: Vec<&str> =
        jobs["jobs"].as_array().expect("jobs").iter().filter_map(|job| job["id"].as_str()).collect();
    assert!(jobs.len() >= 4, "{jobs:?}");
    for id in jobs {
        text += &cluster.cellar(&["jobs", "show", id, "--output", "json"]);
        // Not every kind of job has a log.
        let log = cluster.try_cellar(&["jobs", "logs", id]);
        text += &(log.stdout + &log.stderr);
    }
    text
}

/// pgBackRest as a person runs it with a cell's generated config.
fn pgbackrest(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = as_user(&postgres_user(), "pgbackrest");
    let config = cluster.directory().join("zone1/pgbackrest.conf").display().to_string();
    command
        .args([&format!("--config={config}"), "--stanza=app", "--log-level-console=off"])
        .args(["--log-level-file=off", "--log-level-stderr=error"])
        .args(arguments);
    command
}

/// The passphrases that pgBackRest made itself and keeps in the repo, encrypted with ours.
fn inner_passphrases(cluster: &Cluster) -> Vec<String> {
    let read = |file: &str| run(&mut pgbackrest(cluster, &["repo-get", file])).ok();
    let inner = |text: String| {
        let lines = text.lines().filter_map(|line| line.strip_prefix("cipher-pass=\"")?.strip_suffix('"'));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    [inner(read("backup/app/backup.info")), inner(read("archive/app/archive.info"))].concat()
}

#[test]
fn a_passphrase_is_in_its_own_files_and_nowhere_else() {
    let passphrase = Passphrase::new();
    let needle = passphrase.needle();
    let watch = Watch::begin(needle);
    let cluster = Cluster::new();
    let begun = up(&cluster, &passphrase);
    let said = format!("{}{}", begun.stdout, begun.stderr);
    let _ = begun.ok();

    // Everything that reads or writes the repo.
    cluster.load(1);
    let _ = cluster.backup("zone2", "incr");
    let time = cluster.sql("zone1", "SELECT now()");
    cluster.sql("zone1", "CREATE TABLE late AS SELECT 1 AS i");
    cluster.sql("zone1", "SELECT pg_switch_wal()");
    cluster.cellar(&["drill", "--skip-amcheck", "--max-rate", "0"]);
    cluster.cellar(&["rebuild", "zone2"]);
    let restored = cluster.json(&["restore", "--to-time", &time.replacen(' ', "T", 1), "--yes"]);
    assert_eq!(restored["state"], "JOB_STATE_SUCCEEDED", "{restored:#}");
    assert_eq!(cluster.sql(&cluster.primary(), "SELECT to_regclass('late') IS NULL"), "t");
    cluster.cellar(&["restore", "confirm", restored["id"].as_str().expect("an id"), "--yes"]);
    cluster.wait_streaming("zone2");
    cluster.cellar(&["cells", "add", "zone3"]);

    // Those who would come with another, or with one for a repo that has one.
    let other = passphrase.write("other", "another passphrase altogether").display().to_string();
    let refused = cluster.try_cellar(&["up", "--repo-cipher-pass-file", &other]).refused(3);
    assert!(refused.contains("encrypted with another passphrase"), "{refused}");
    // In the environment of one command it stays there.
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    let in_environment = run(cluster.command(&["up"]).env("CELLAR_REPO_CIPHER_PASS", &passphrase.text)).ok();
    let pooler = cluster.pid("zone2/pid/multipooler.pid");
    let environment = std::fs::read(format!("/proc/{pooler}/environ")).expect("the pooler runs");
    assert!(!String::from_utf8_lossy(&environment).contains(needle));
    let both = run(cluster
        .command(&["up", "--repo-cipher-pass-file", &passphrase.file()])
        .env("CELLAR_REPO_CIPHER_PASS", &passphrase.text))
    .refused(2);

    let seen = watch.end();
    assert!(seen.rounds > 100, "{} rounds", seen.rounds);
    assert_eq!(seen.in_arguments, BTreeSet::new());
    assert_eq!(seen.in_environment, BTreeSet::from(["cellar".to_owned()]), "who it was given to");

    let answers = all_answers(&cluster) + &said + &refused + &in_environment + &both;
    assert!(answers.contains("REPO_CIPHER_AES_256_CBC"), "that it is encrypted is no secret");
    let directory = cluster.directory();
    let (service, operator) = (postgres_user().uid, nix::unistd::Uid::effective().as_raw());
    let inner = inner_passphrases(&cluster);
    assert_eq!(inner.len(), 2, "the repo has its own");
    for form in passphrase.forms().iter().chain(&inner) {
        assert!(!answers.contains(form.as_str()), "in an answer or in etcd");
    }
    for form in passphrase.forms()[1..].iter().chain(&inner) {
        assert_eq!(files_with(directory, form), BTreeSet::new());
    }
    let mut homes: BTreeSet<PathBuf> = BTreeSet::from([directory.join("state/secrets/repo-cipher-pass")]);
    homes.extend(
        ["zone1", "zone2", "zone3"].iter().flat_map(|cell| HOMES.map(|home| directory.join(cell).join(home))),
    );
    let found = files_with(directory, needle);
    for path in &found {
        let of_a_job = path.extension().is_some_and(|end| end == "conf")
            && path.parent().is_some_and(|at| at.ends_with("jobs"));
        assert!(homes.contains(path) || of_a_job, "{}", path.display());
        let owner = if path.starts_with(directory.join("state")) { operator } else { service };
        assert_eq!(access(path), (0o600, owner), "{}", path.display());
    }
    for home in homes.iter().filter(|home| !home.ends_with("bootstrap.conf")) {
        assert!(found.contains(home), "{}", home.display());
    }

    // The repo is what it says, for the plain command and with exactly that passphrase.
    let info = std::fs::read(directory.join("repo/backup/app/backup.info")).expect("backup.info");
    assert!(info.starts_with(b"Salted__"));
    let told = run(&mut pgbackrest(&cluster, &["info", "--output=json"])).ok();
    assert!(told.contains("\"cipher\":\"aes-256-cbc\"") && told.contains("\"code\":0"), "{told}");
    let config = std::fs::read_to_string(directory.join("zone1/pgbackrest.conf")).expect("the config");
    let rest: Vec<&str> = config.lines().filter(|line| !line.contains("cipher-pass")).collect();
    let bare = passphrase.write("bare.conf", &rest.join("\n"));
    give_to_postgres(&bare);
    let mut command = as_user(&postgres_user(), "pgbackrest");
    command
        .arg(format!("--config={}", bare.display()))
        .args(["--stanza=app", "--output=json", "--log-level-file=off", "info"])
        .env("PGBACKREST_REPO1_CIPHER_PASS", &passphrase.text);
    assert!(run(&mut command).ok().contains("\"code\":0"), "the config holds another passphrase");
}

#[test]
fn the_greps_find_what_is_there() {
    let passphrase = Passphrase::new();
    let watch = Watch::begin(passphrase.needle());
    let mut careless = Command::new("sh")
        .args(["-c", "read line", passphrase.needle()])
        .env("CARELESS", passphrase.needle())
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    eventually("it to be seen", || !processes_showing("cmdline", passphrase.needle()).is_empty());
    eventually("it to be seen", || !processes_showing("environ", passphrase.needle()).is_empty());
    // Ends what it waits for.
    drop(careless.stdin.take());
    careless.wait().expect("the shell ends");
    drop(watch.end());
    let directory = passphrase.directory.path();
    assert_eq!(files_with(directory, passphrase.needle()), BTreeSet::from([directory.join("pass")]));
    let encoded = passphrase.forms()[2].clone();
    let log = passphrase.write("log", &format!("authorization: {encoded}="));
    assert_eq!(files_with(directory, &encoded), BTreeSet::from([log]));
    assert_eq!(base64(b"any carnal pleas"), "YW55IGNhcm5hbCBwbGVh");
}

#[test]
fn each_private_key_is_in_one_file_of_its_owner() {
    let cluster = Cluster::bootstrapped("zone1,zone2");
    let directory = cluster.directory();
    let (service, operator) = (postgres_user().uid, nix::unistd::Uid::effective().as_raw());
    let out = directory.join("client/given").display().to_string();
    cluster.cellar(&["certs", "issue", "--role", "viewer", "--name", "ann", "--out", &out]);
    let keys = files_named(directory, ".key");
    let of_operators = ["ca", "client", "state"].map(|name| directory.join(name));
    for key in &keys {
        let owner = if of_operators.iter().any(|place| key.starts_with(place)) { operator } else { service };
        assert_eq!(access(key), (0o600, owner), "{}", key.display());
        let text = std::fs::read_to_string(key).expect("a key");
        assert!(text.starts_with("-----BEGIN PRIVATE KEY-----"), "{}", key.display());
        for line in text.lines().filter(|line| !line.starts_with("-----")) {
            assert_eq!(
                files_with(directory, line),
                BTreeSet::from([key.clone()]),
                "a line of {}",
                key.display()
            );
        }
    }
    // The authority's, etcd's, multiadmin's, two cells', the operator's, the provisioner's, and the one just given out.
    assert_eq!(keys.len(), 8, "{keys:?}");
    // And no key hides behind another name.
    assert_eq!(files_with(directory, "PRIVATE KEY"), keys.into_iter().collect());
    let dump = cluster.etcd_dump();
    assert!(dump.contains("/cellar/demo/cells/zone1") && !dump.contains("PRIVATE KEY"));
}

#[test]
fn a_passphrase_that_is_missing_or_wrong_is_named_and_nothing_starts_without_it() {
    let passphrase = Passphrase::new();
    let cluster = Cluster::new();
    let _ = up(&cluster, &passphrase).ok();
    let file = cluster.directory().join("zone2/secrets/repo-cipher-pass");
    let aside = file.with_extension("aside");
    let message = || cluster.status("zone2").map(|status| status.message).unwrap_or_default();
    let fails = |expected: &str| {
        let job = cluster.ended(&cluster.begin_backup("zone2", "incr"));
        assert_eq!(job["state"], "JOB_STATE_FAILED", "{job:#}");
        let text = job.to_string();
        assert!(text.contains(expected) && !text.contains(passphrase.needle()), "{job:#}");
    };

    // Missing: the instance that runs goes on, says so, and one that died is not started.
    std::fs::rename(&file, &aside).expect("the file");
    eventually("the status to name the file", || message().contains("zone2/secrets/repo-cipher-pass"));
    fails("zone2/secrets/repo-cipher-pass");
    assert_eq!(cluster.sql("zone2", "SELECT pg_is_in_recovery()"), "t");
    kill_hard(cluster.postmaster("zone2"));
    eventually("the status to say that it is down", || {
        let down = |status: cellar_api::v1::PoolerStatus| {
            status.state() == InstanceState::Down && status.message.contains("repo-cipher-pass")
        };
        cluster.status("zone2").is_some_and(down)
    });
    std::fs::rename(&aside, &file).expect("the file");
    cluster.wait_streaming("zone2");

    // Readable by others: not used either.
    let open = |mode| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("the file");
    };
    open(0o644);
    eventually("the status to name the mode", || message().contains("has mode 0644"));
    open(0o600);
    eventually("the status to forget it", || message().is_empty());

    // Another one than the repo's: what pgBackRest makes of it is rubbish, and what it says about that no help.
    let wrong = "yet another passphrase";
    std::fs::write(&file, wrong).expect("the file");
    let config = cluster.directory().join("zone2/pgbackrest.conf");
    eventually("the config to have it", || {
        std::fs::read_to_string(&config).is_ok_and(|text| text.contains(wrong))
    });
    fails("encrypted with another passphrase");
    std::fs::write(&file, &passphrase.text).expect("the file");
    let patience = Duration::from_secs(60);
    wait_for("the config to have the right one", patience, || {
        std::fs::read_to_string(&config).ok()?.contains(&passphrase.text).then_some(())
    });
    let _ = cluster.backup("zone2", "incr");
}
