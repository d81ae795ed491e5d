//! What a bundle takes from a cluster's directory. Only what is named here is read.

use std::fs;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cellar_system::open_to_read;
use cellar_tls::CertificateInfo;
use jiff::Timestamp;
use serde_json::json;

use super::archive::Parts;
use super::json::{redact_log, redact_state};
use super::listing::list;
use super::pgbackrest_options::redact_options;
use super::secrets::Secrets;
use super::settings::{redact_rules, redact_settings};

/// Bytes at the end of a log that are taken.
const MAX_LOG: u64 = 512 << 10;

/// Bytes at the end of a job's log that are taken, and of a log before it was begun again.
const MAX_JOB_LOG: u64 = 128 << 10;

/// The newest job logs of a cell that are taken.
const MAX_JOB_LOGS: usize = 12;

/// The newest logs of PostgreSQL's own collector that are taken.
const MAX_COLLECTED_LOGS: usize = 3;

/// Bytes of a file of settings that are taken.
const MAX_SETTINGS: u64 = 1 << 20;

/// The deepest directory in which keys and certificates are looked for.
const MAX_KEY_DEPTH: usize = 3;

/// Directories in which no key or certificate of the cluster is, and too much else.
const WITHOUT_KEYS: [&str; 7] = ["pg_data", "repo", "data", "drills", "spool", "log", "tmp"];

/// Changes a text so that nothing secret is in it; secrets in it are remembered.
type Redact = fn(&str, &mut Secrets) -> String;

/// PostgreSQL's files that are taken, with what is done to each.
const OF_DATA_DIRECTORY: [(&str, Redact); 8] = [
    ("postgresql.conf", |text, secrets| redact_settings(text, false, secrets)),
    ("postgresql.auto.conf", |text, secrets| redact_settings(text, false, secrets)),
    ("cellar.conf", |text, secrets| redact_settings(text, true, secrets)),
    ("pg_hba.conf", |text, _| redact_rules(text)),
    ("pg_ident.conf", |text, _| redact_rules(text)),
    ("PG_VERSION", redact_log),
    ("postmaster.pid", redact_log),
    ("cellar.incarnation", redact_log),
];

/// What the directory itself holds, apart from its cells.
pub(crate) fn shared(root: &Path) -> Parts {
    let mut parts = Parts::default();
    let mut add =
        |path: &str, redact: Redact| add_file(&mut parts, root, Path::new(path), MAX_SETTINGS, redact);
    add("state/cluster.json", redact_state);
    add("state/host.json", redact_state);
    add("client/endpoint", redact_log);
    add_logs(&mut parts, root, Path::new("log"));
    parts
}

/// The directories of cells, and of further databases in them: all but those that belong to the cluster as a whole.
pub(crate) fn cells(root: &Path) -> io::Result<Vec<String>> {
    let mut cells: Vec<String> = fs::read_dir(root)?
        .flatten()
        .filter(|entry| ["log", "pg_data", "jobs"].iter().any(|part| is_there(&entry.path().join(part))))
        .filter_map(|entry| entry.file_name().into_string().ok())
        // A name with anything else is no cell's, and would be part of a path in the bundle.
        .filter(|name| {
            let (database, cell) =
                name.split_once('.').map_or((None, name.as_str()), |(db, cell)| (Some(db), cell));
            let is_database = |name: &str| name.parse::<cellar_model::DatabaseName>().is_ok();
            database.is_none_or(is_database) && cell.parse::<cellar_model::CellName>().is_ok()
        })
        .collect();
    cells.sort();
    Ok(cells)
}

/// Whether something is there, as far as this user may see: also what it may not look at.
fn is_there(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

/// What a cell's directory holds.
pub(crate) fn cell(root: &Path, cell: &str) -> Parts {
    let mut parts = Parts::default();
    let at = |path: &str| Path::new(cell).join(path);
    add_file(&mut parts, root, &at("pgbackrest.conf"), MAX_SETTINGS, redact_options);
    for (name, redact) in OF_DATA_DIRECTORY {
        add_file(&mut parts, root, &at("pg_data").join(name), MAX_SETTINGS, redact);
    }
    add_logs(&mut parts, root, &at("log"));
    // What PostgreSQL writes itself, when somebody asked it to. In its other formats statements are not told apart.
    let collected = with_end(&names_in(&mut parts, root, &at("pg_data/log")).unwrap_or_default(), "log");
    for path in newest(root, collected).into_iter().take(MAX_COLLECTED_LOGS) {
        add_file(&mut parts, root, &path, MAX_LOG, redact_log);
    }
    let Some(jobs) = names_in(&mut parts, root, &at("jobs")) else { return parts };
    for path in with_end(&jobs, "conf") {
        add_file(&mut parts, root, &path, MAX_SETTINGS, redact_options);
    }
    let logs = newest(root, with_end(&jobs, "log"));
    for path in logs.iter().take(MAX_JOB_LOGS) {
        add_file(&mut parts, root, path, MAX_JOB_LOG, redact_log);
    }
    if logs.len() > MAX_JOB_LOGS {
        let more = logs.len() - MAX_JOB_LOGS;
        parts.leave_out(
            format!("{cell}/jobs"),
            format!("{more} logs of older jobs: only the newest are taken"),
        );
    }
    parts
}

/// The files whose names have this end.
fn with_end(paths: &[PathBuf], end: &str) -> Vec<PathBuf> {
    paths.iter().filter(|path| path.extension().is_some_and(|found| found == end)).cloned().collect()
}

/// These files, the one first that was written last.
fn newest(root: &Path, mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let modified = |path: &Path| fs::symlink_metadata(root.join(path)).and_then(|found| found.modified());
    paths.sort_by_key(|path| std::cmp::Reverse(modified(path).unwrap_or(SystemTime::UNIX_EPOCH)));
    paths
}

/// Every file's name, mode, owner, size and time.
pub(crate) fn files(root: &Path) -> Parts {
    let mut parts = Parts::default();
    let listing = list(root);
    if !listing.is_complete {
        parts.leave_out(
            "part of files.txt",
            "it has too many entries, or some may not be listed by this user",
        );
    }
    parts.add("files.txt", listing.text);
    parts
}

/// The certificates, and all secrets that are to be removed from the other parts.
pub(crate) fn keys_and_certificates(root: &Path) -> Parts {
    let mut parts = Parts::default();
    let mut certificates = Vec::new();
    visit_keys(&mut parts, &mut certificates, root, Path::new(""), 0);
    certificates.sort();
    let text = |time: SystemTime| Timestamp::try_from(time).map(|time| time.to_string()).unwrap_or_default();
    let documents: Vec<_> = certificates
        .iter()
        .map(|path| {
            let shown = path.display().to_string();
            // Of a link somebody else could have made, the content may be any file's; its dates are not.
            match CertificateInfo::from_file(&root.join(path)) {
                Ok(info) => json!({
                    "path": shown, "commonName": info.common_name, "uri": info.uri, "serial": info.serial,
                    "notBefore": text(info.not_before), "notAfter": text(info.not_after),
                }),
                Err(error) => json!({ "path": shown, "error": error.to_string() }),
            }
        })
        .collect();
    parts.add("certificates.json", format!("{:#}\n", json!(documents)));
    parts
}

fn visit_keys(parts: &mut Parts, certificates: &mut Vec<PathBuf>, root: &Path, below: &Path, depth: usize) {
    for entry in fs::read_dir(root.join(below)).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), below.join(entry.file_name()));
        let Ok(kind) = entry.file_type() else { continue };
        let name = name.to_string_lossy();
        if kind.is_dir() {
            let has_none = WITHOUT_KEYS.contains(&name.as_ref()) || name.starts_with("pg_data.");
            if depth < MAX_KEY_DEPTH && !has_none {
                visit_keys(parts, certificates, root, &path, depth + 1);
            }
        } else if name.ends_with(".crt") {
            certificates.push(path);
        } else if name.ends_with(".key") || below.ends_with("secrets") {
            parts.secrets.add_file(&root.join(path));
        }
    }
}

/// The files in a directory below the root, sorted; none, and a remark, when it cannot be read.
fn names_in(parts: &mut Parts, root: &Path, directory: &Path) -> Option<Vec<PathBuf>> {
    match fs::read_dir(root.join(directory)) {
        Ok(entries) => {
            let mut names: Vec<PathBuf> =
                entries.flatten().map(|entry| directory.join(entry.file_name())).collect();
            names.sort();
            Some(names)
        }
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                parts.leave_out(directory.display().to_string(), reason(&error));
            }
            None
        }
    }
}

/// The ends of all logs of a directory, those from before they were begun again among them.
fn add_logs(parts: &mut Parts, root: &Path, directory: &Path) {
    for path in names_in(parts, root, directory).unwrap_or_default() {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.ends_with(".log") {
            add_file(parts, root, &path, MAX_LOG, redact_log);
        } else if name.ends_with(".log.old") {
            add_file(parts, root, &path, MAX_JOB_LOG, redact_log);
        }
    }
}

fn reason(error: &io::Error) -> String {
    if error.kind() == ErrorKind::PermissionDenied {
        return format!("{error}: run this as root, or as the owner of the file");
    }
    error.to_string()
}

/// Adds the end of a file; a remark when it is there and cannot be read.
fn add_file(parts: &mut Parts, root: &Path, path: &Path, max_bytes: u64, redact: Redact) {
    let shown = path.display().to_string();
    match read_end(&root.join(path), max_bytes) {
        Ok((text, from)) => {
            let mut text = redact(&text, &mut parts.secrets);
            if from > 0 {
                text.insert_str(0, &format!("[the first {from} bytes of this file are left out]\n"));
            }
            parts.add(shown, text);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => parts.leave_out(shown, reason(&error)),
    }
}

/// The end of a file from the beginning of a record on, and how many bytes are before it.
fn read_end(path: &Path, max_bytes: u64) -> io::Result<(String, u64)> {
    let (mut file, found) = open_to_read(path)?;
    let mut from = found.len().saturating_sub(max_bytes);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(max_bytes).read_to_end(&mut bytes)?;
    if from > 0 {
        // The rest of a line, and lines that continue a record whose beginning is not here: it may be a statement.
        let skipped = begin_of_record(&bytes);
        bytes.drain(..skipped);
        from += skipped as u64;
    }
    Ok((String::from_utf8_lossy(&bytes).into_owned(), from))
}

fn begin_of_record(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(end) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        at += end + 1;
        if !matches!(bytes.get(at), Some(b' ' | b'\t')) {
            return at;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn only_what_is_named_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for secret in [
            "state/secrets/repo-cipher-pass",
            "zone1/secrets/repo-cipher-pass",
            "zone1/tls/server.key",
            "ca/ca.key",
            "client/client.key",
            "zone1/pg_data/base/1",
            "zone1/pg_data/global/pg_auth",
            "etcd/data/x",
            "repo/x",
            "zone1/log/core",
            "zone1/jobs/x.source.json",
        ] {
            write(root, secret, "hunter2hunter2");
        }
        write(root, "state/cluster.json", "{\"cluster\": \"demo\"}");
        write(root, "log/etcd.log", "started\n");
        write(root, "zone1/log/postgres.log", "x LOG:  statement: alter role b password 'hunter3hunter3'\n");
        write(root, "zone1/pg_data/log/a.log", "x STATEMENT:  alter role b password 'hunter3hunter3'\n");
        write(root, "zone1/pg_data/log/a.csv", "hunter2hunter2");
        write(root, "zone1/pgbackrest.conf", "repo1-cipher-pass=hunter4hunter4\n");
        write(root, "zone1/pg_data/postgresql.auto.conf", "primary_conninfo = 'password=hunter5hunter5'\n");
        std::os::unix::fs::symlink(root.join("ca/ca.key"), root.join("zone1/log/x.log")).unwrap();
        assert_eq!(cells(root).unwrap(), ["zone1"]);
        let mut all = shared(root);
        for parts in [cell(root, "zone1"), files(root), keys_and_certificates(root)] {
            all.extend(parts);
        }
        let mut names: Vec<&str> = all.files.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "certificates.json",
                "files.txt",
                "log/etcd.log",
                "state/cluster.json",
                "zone1/log/postgres.log",
                "zone1/pg_data/log/a.log",
                "zone1/pg_data/postgresql.auto.conf",
                "zone1/pgbackrest.conf",
            ]
        );
        // Each kind of text has its rules, and no secret was needed for them.
        for (name, text) in &all.files {
            assert!(!String::from_utf8_lossy(text).contains("hunter"), "{name}");
        }
        // And all of them would be removed from a text without rules.
        let text = (2..=5).map(|n| format!("hunter{n}hunter{n} ")).collect::<String>();
        assert_eq!(all.secrets.scrubber().scrub(text.as_bytes()), "[removed] ".repeat(4).as_bytes());
        assert!(all.left_out.iter().any(|left| left.what == "zone1/log/x.log"), "{:?}", all.left_out);
    }

    #[test]
    fn the_end_of_a_log_begins_with_a_whole_record() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "x.log", "x LOG:  statement: select\n\t'hunter2',\n\t'hunter3'\nnext\nlast\n");
        // The last 25 bytes begin in the middle of the statement.
        let (text, from) = read_end(&dir.path().join("x.log"), 25).unwrap();
        assert_eq!(text, "next\nlast\n");
        assert!(from > 30, "{from}");
        assert_eq!(begin_of_record(b"no end"), 6);
    }
}
