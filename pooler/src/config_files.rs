//! The files derived from the topology: `pgbackrest.conf` and what PostgreSQL reads.
//!
//! A file that was deleted is written again with the same bytes. The configs of pgBackRest hold the passphrase of an
//! encrypted repo and the credentials of a store, so only the pooler's user may read them.

use std::path::{Path, PathBuf};

use cellar_model::{Database, Durability, Leader, Pooler, Secret, qualified_name};
use cellar_pgbackrest::{
    ConfigInput, Credentials, read_passphrase, render_bootstrap, render_full, render_job, render_job_for,
};
use cellar_postgres::{
    ANY_ADDRESS, FailoverSlots, InstanceConfig, NOBODY, PrimaryConninfo, REPLICATION_ROLE, Settings,
    TlsFiles, member_slot,
};
use cellar_system::AtomicFile;
use cellar_tls::REVOCATIONS;

use crate::agent::Agent;
use crate::availability::settings::{
    Archives, Awaits, FromArchive, Replication, awaited_slots, under_quorum, with_quorum, without_quorum,
};
use crate::given_settings::give;

/// A file could not be derived or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The topology has a value that pgBackRest would read differently.
    #[error(transparent)]
    Pgbackrest(#[from] cellar_pgbackrest::ConfigError),
    /// The repo is encrypted and this cell has no usable passphrase.
    #[error(
        "{0}; without it nothing of the repo can be read or written: put it back with `cellar up`, or on a host of its own by installing its bundle again"
    )]
    Passphrase(#[from] cellar_pgbackrest::PassphraseError),
    /// The repo is in a store, and this cell has no usable credentials for it.
    #[error(
        "{0}; without it nothing of the repo can be read or written: put it back with `cellar up`, or on a host of its own by installing its bundle again"
    )]
    Credentials(#[from] cellar_pgbackrest::CredentialsError),
    /// The topology has a value that PostgreSQL would read differently.
    #[error(transparent)]
    Postgres(#[from] cellar_postgres::PostgresError),
    /// The file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Replaces a file that only this user may read; false when it has that content and mode already.
pub(crate) fn write_if_changed(path: &Path, content: &str) -> Result<bool, ConfigFileError> {
    let written = AtomicFile::new(path).replace_if_changed(content);
    written.map_err(|source| ConfigFileError::Write { path: path.to_owned(), source })
}

fn other_poolers(agent: &Agent) -> Vec<Pooler> {
    let view = agent.mirror.view();
    let of_database = |card: &&Pooler| card.database == agent.database && card.cell != agent.cell;
    view.poolers.values().filter(of_database).cloned().collect()
}

/// The passphrase of the database's repo, when it is encrypted.
fn passphrase(agent: &Agent, database: &Database) -> Result<Option<Secret>, ConfigFileError> {
    let read = |_| read_passphrase(&agent.layout.repo_cipher_pass());
    Ok(database.repo_cipher.map(read).transpose()?)
}

/// A config with the credentials of the database's store, if it is in one.
///
/// They are read each time, so what replaces the file is in the configs of what begins from then on.
fn with_credentials(agent: &Agent, database: &Database, config: &str) -> Result<String, ConfigFileError> {
    let Some(store) = database.repository.store() else { return Ok(config.to_owned()) };
    let kept = Credentials::read_kept(store, &agent.layout.repo_credentials())?;
    let key_file = agent.layout.repo_gcs_key();
    let Some((key, others)) = kept.split_key_file(&key_file) else { return Ok(kept.added_to(config)) };
    write_if_changed(&key_file, key.expose())?;
    Ok(others.added_to(config))
}

/// The card with the address that pgBackRest's server is to listen on.
fn with_server_address(agent: &Agent, card: &Pooler) -> Pooler {
    Pooler { listen: agent.listening.borrow().pgbackrest(), ..card.clone() }
}

/// Brings `pgbackrest.conf` up to date with the topology; true when it changed.
pub(crate) fn sync_pgbackrest(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
) -> Result<bool, ConfigFileError> {
    let others = other_poolers(agent);
    let others: Vec<&Pooler> = others.iter().collect();
    // The clients of other databases have other names; the stanza limits what those of this one may read.
    let auth = database.stanza.as_str();
    let secret = passphrase(agent, database)?;
    let passphrase = secret.as_ref();
    let local = &with_server_address(agent, card);
    let input = ConfigInput { database, local, others: &others, tls_server_auth: auth, passphrase };
    let text = with_credentials(agent, database, &render_full(&input)?)?;
    write_if_changed(Path::new(&card.config_path), &text)
}

/// Writes the config that names pg1 only, for commands that must not wait for other hosts, but for the repository's.
pub(crate) fn write_bootstrap(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
) -> Result<PathBuf, ConfigFileError> {
    let path = agent.layout.jobs().join("bootstrap.conf");
    let secret = passphrase(agent, database)?;
    let passphrase = secret.as_ref();
    let auth = database.stanza.as_str();
    let local = &with_server_address(agent, card);
    let others = other_poolers(agent);
    let others: Vec<&Pooler> = others.iter().collect();
    let input = ConfigInput { database, local, others: &others, tls_server_auth: auth, passphrase };
    write_if_changed(&path, &with_credentials(agent, database, &render_bootstrap(&input)?)?)?;
    Ok(path)
}

/// Writes the config with which a job reads its backup: the job's own, or where the repository is on another cell's host,
/// the one that names pg1 only, because pgBackRest runs there with another config.
pub(crate) fn write_job_or_reading(
    agent: &Agent,
    name: &str,
    database: &Database,
    card: &Pooler,
    primary: Option<&Pooler>,
) -> Result<PathBuf, ConfigFileError> {
    match database.repository.reached_through(&agent.cell) {
        None => write_job(agent, name, database, card, primary),
        Some(_) => write_bootstrap(agent, database, card),
    }
}

/// Writes the config of a job for another cell, of a backup into the repository on this host.
pub(crate) fn write_job_for(
    agent: &Agent,
    name: &str,
    database: &Database,
    card: &Pooler,
    source: &Pooler,
    primary: Option<&Pooler>,
) -> Result<PathBuf, ConfigFileError> {
    write_of_job(agent, name, database, |secret| {
        Ok(render_job_for(database, card, source, primary, secret.as_ref())?)
    })
}

/// Writes the config of one job: it names this cell and, unless this is the primary, the primary.
fn write_job(
    agent: &Agent,
    name: &str,
    database: &Database,
    card: &Pooler,
    primary: Option<&Pooler>,
) -> Result<PathBuf, ConfigFileError> {
    write_of_job(agent, name, database, |secret| Ok(render_job(database, card, primary, secret.as_ref())?))
}

fn write_of_job(
    agent: &Agent,
    name: &str,
    database: &Database,
    render: impl FnOnce(Option<Secret>) -> Result<String, ConfigFileError>,
) -> Result<PathBuf, ConfigFileError> {
    let path = agent.layout.jobs().join(format!("{name}.conf"));
    let text = render(passphrase(agent, database)?)?;
    write_if_changed(&path, &with_credentials(agent, database, &text)?)?;
    Ok(path)
}

/// The archive command of an instance that is not the recorded primary: it archives nothing.
///
/// A standby does not archive anyway. A former primary must not: the segment that it was writing goes on past the point
/// where its successor's timeline begins, and a standby that is restored from the archive would follow it there. Its
/// WAL stays in its data directory.
const NO_ARCHIVING: &str =
    "echo 'cellar: this instance is not the recorded primary, so it archives nothing' >&2; false";

/// A word of a shell command.
pub(crate) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// A word of a shell command that PostgreSQL runs. `%` is its own escape in archive and restore commands.
pub(crate) fn shell_word(text: &str) -> String {
    shell_quoted(text).replace('%', "%%")
}

fn pgbackrest_command(agent: &Agent, database: &Database, card: &Pooler) -> String {
    format!(
        "{} --config={} --stanza={}",
        shell_word(&agent.pgbackrest.binary.to_string_lossy()),
        shell_word(&card.config_path),
        database.stanza
    )
}

/// The archive command of a primary.
pub(crate) fn archive_command(agent: &Agent, database: &Database, card: &Pooler) -> String {
    format!("{} archive-push %p", pgbackrest_command(agent, database, card))
}

/// How long a standby may take to reach the server of a repository on another host, in seconds.
const REACH_SECONDS: u32 = 3;

/// The host and port that a repository is reached at, if that is no directory of this host: of pgBackRest's server on the host
/// of another cell, or of a store.
pub(crate) fn server_of(agent: &Agent, database: &Database) -> Option<(String, u16)> {
    if let Some(store) = database.repository.store() {
        return Some(store.address());
    }
    let home = database.repository.reached_through(&agent.cell).and_then(|home| agent.card_of(home))?;
    Some((home.host.to_string(), home.pgbackrest_port))
}

/// The restore command of a standby; `server` is where a repository is reached that is no directory of this host.
///
/// PostgreSQL asks the archive three or four times before it streams, and as often when it is promoted. While the
/// repository's host is down pgBackRest takes 20 s (2.45) or 30 s (2.55.1) for each answer, and a promotion took 100 s
/// (measured with 2.45); a store that refuses connections costs 80 s. So it is only asked when its server accepts a
/// connection; else the file is not there for now.
fn restore_command(pgbackrest: &str, server: Option<(&str, u16)>) -> String {
    let get = format!("{pgbackrest} archive-get %f \"%p\"");
    match server {
        None => get,
        Some((host, port)) => format!(
            // Whatever this ends with: more than 125 would end PostgreSQL.
            "timeout {REACH_SECONDS} bash -pc {} 2>/dev/null || exit 1; {get}",
            shell_word(&format!("exec 3<>/dev/tcp/{host}/{port}"))
        ),
    }
}

/// An archive or restore command for histories of timelines only.
fn histories_command(command: &str) -> String {
    // More than 125 would end PostgreSQL.
    format!("case %f in *.history) {command};; *) exit 1;; esac")
}

/// A restore command that finds everything but these segments.
fn command_without(segments: &[String], command: &str) -> String {
    match segments {
        [] => command.to_owned(),
        // More than 125 would end PostgreSQL.
        segments => format!("case %f in {}) exit 1;; *) {command};; esac", segments.join("|")),
    }
}

/// A restore command for a standby that streams steadily, and is told of its slot or of none. PostgreSQL then asks the archive for the
/// next timeline before it streams on, and commits may wait for that: as long as a repository takes that is out of reach. Histories
/// come over the stream, too.
fn while_it_streams(steadily: bool, command: String) -> String {
    if steadily { format!("case %f in *.history) exit 1;; *) {command};; esac") } else { command }
}

/// Whether a database without quorum commit never had it, or has given it up.
fn is_given_up(agent: &Agent, leader: Option<&Leader>) -> bool {
    let leadership = leader.and_then(|leader| leader.leadership.as_ref());
    leadership.map_or(!agent.availability.kept.has_taken_part(), |leadership| leadership.ended)
}

/// What the instance is told of replication.
fn replication(agent: &Agent, database: &Database, leader: Option<&Leader>) -> Replication {
    match database.durability {
        Durability::Async if agent.deposed_by().is_some() => Replication {
            acknowledge: Some(NOBODY.to_owned()),
            awaits: Awaits::Nobody,
            archives: Archives::Nothing,
            ..without_quorum(&agent.cell, leader)
        },
        Durability::Async if is_given_up(agent, leader) => without_quorum(&agent.cell, leader),
        // etcd has lost the records. What clients were promised holds on until a person decides.
        Durability::Async => with_quorum(&agent.cell, &agent.availability.kept.get(), leader, None),
        Durability::Quorum => under_quorum(&agent.member, &agent.availability, leader),
    }
}

/// The config of the instance, given the recorded primary.
pub(crate) fn instance_config(
    agent: &Agent,
    database: &Database,
    card: &Pooler,
    leader: Option<&Leader>,
) -> Result<InstanceConfig, ConfigFileError> {
    let tls = PathBuf::from(&card.tls_directory);
    let told = replication(agent, database, leader);
    let has_quorum = told.acknowledge.is_some();
    let syncs_from = agent.slot_sync.from.borrow().clone();
    let syncs_slots = syncs_from.is_some() && syncs_from == told.upstream;
    let primary = told.upstream.as_ref().and_then(|upstream| agent.card_of(upstream));
    let primary_conninfo = match &primary {
        Some(primary) => Some(
            PrimaryConninfo {
                host: &primary.host,
                port: primary.postgres_port,
                tls_directory: &tls,
                application_name: &told.standby_name,
                syncs_slots,
            }
            .render()?,
        ),
        // Said, so that nothing else that is set is used.
        None => has_quorum.then(String::new),
    };
    let pgbackrest = pgbackrest_command(agent, database, card);
    let server = server_of(agent, database);
    let server = server.as_ref().map(|(host, port)| (host.as_str(), *port));
    Ok(InstanceConfig {
        settings: give(
            agent,
            database,
            leader,
            Settings {
                port: card.postgres_port,
                listen_addresses: agent.listening.borrow().postgres(),
                socket_directory: PathBuf::from(&card.socket_directory),
                tls: Some(TlsFiles {
                    certificate: tls.join("server.crt"),
                    key: tls.join("server.key"),
                    ca: tls.join("ca.crt"),
                    // A server with this setting refuses every client of a CA without a list, so it is set only once there
                    // is a list.
                    revocations: Some(tls.join(REVOCATIONS)).filter(|file| file.exists()),
                }),
                cluster_name: format!("{}/{}", agent.database, agent.cell),
                archive_command: match told.archives {
                    Archives::All => archive_command(agent, database, card),
                    Archives::Histories => histories_command(&archive_command(agent, database, card)),
                    Archives::Nothing => NO_ARCHIVING.to_owned(),
                },
                restore_command: Some(match &told.from_archive {
                    FromArchive::All => while_it_streams(syncs_slots, restore_command(&pgbackrest, server)),
                    FromArchive::But(segments) => while_it_streams(
                        syncs_slots,
                        command_without(segments, &restore_command(&pgbackrest, server)),
                    ),
                    FromArchive::Histories => histories_command(&restore_command(&pgbackrest, server)),
                    FromArchive::Nothing => String::new(),
                }),
                primary_conninfo,
                synchronous_standby_names: told.acknowledge,
                failover_slots: FailoverSlots {
                    own: syncs_slots.then(|| member_slot(&agent.cell)),
                    awaited: awaited_slots(
                        &told.awaits,
                        &agent.cell,
                        agent.slot_sync.with_slots.borrow().as_ref(),
                    ),
                },
                replays_at_once: has_quorum
                    && !matches!(told.from_archive, FromArchive::All | FromArchive::But(_)),
                ..Settings::default()
            },
        ),
        os_user: agent.user.name.clone(),
        replication_from: ANY_ADDRESS.iter().map(|address| (*address).to_owned()).collect(),
        replication_name: qualified_name(REPLICATION_ROLE, database.qualifier()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn shell_words_are_one_word_to_the_shell_and_to_postgres() {
        assert_eq!(shell_word("/a b/c"), "'/a b/c'");
        assert_eq!(shell_word("/it's"), r"'/it'\''s'");
        assert_eq!(shell_word("/100%"), "'/100%%'");
    }

    #[test]
    fn hostile_words_reach_a_program_unchanged() {
        let hostile: &[&str] = include!("../../fuzz/hostile.rs");
        // What PostgreSQL makes of `%` before a shell sees the command.
        let expanded = |command: String| command.replace("%%", "%");
        let texts: Vec<&str> = hostile.iter().copied().filter(|text| !text.contains('\0')).collect();
        for text in &texts {
            assert!(!shell_word(text).replace("%%", "").contains('%'), "{text:?}");
        }
        let words: Vec<String> = texts.iter().map(|text| expanded(shell_word(text))).collect();
        let dir = tempfile::tempdir().unwrap();
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("printf '%s\\0' {}", words.join(" ")))
            .current_dir(dir.path())
            .output()
            .unwrap();
        let exact: Vec<u8> = texts.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
        assert_eq!(String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&exact));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a word ran a program");
    }

    #[test]
    fn an_archive_whose_host_is_down_is_not_asked() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let server = Some(("127.0.0.1", listener.local_addr().unwrap().port()));
        let command = restore_command("echo", server).replace("%f", "f").replace("%p", "p");
        let run = || std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
        let up = run();
        assert!(up.status.success(), "{up:?}");
        assert_eq!(String::from_utf8_lossy(&up.stdout), "archive-get f p\n");
        drop(listener);
        let begun = std::time::Instant::now();
        let down = run();
        assert!(down.status.code() == Some(1) && down.stdout.is_empty(), "{down:?}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(15));
        assert_eq!(restore_command("echo", None), "echo archive-get %f \"%p\"");
    }

    #[test]
    fn a_planted_draft_is_not_written_through() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("x.conf"), dir.path().join("other"));
        std::fs::write(&other, "precious").unwrap();
        symlink(&other, dir.path().join("x.draft")).unwrap();
        assert!(write_if_changed(&path, "a").unwrap());
        // Nor is the file itself, when it is a link.
        std::fs::remove_file(&path).unwrap();
        symlink(&other, &path).unwrap();
        assert!(write_if_changed(&path, "a").unwrap());
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "precious");
        let found = std::fs::symlink_metadata(&path).unwrap();
        assert!(found.is_file() && found.mode() & 0o777 == 0o600);
    }

    #[test]
    fn an_unchanged_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.conf");
        assert!(write_if_changed(&path, "a").unwrap());
        assert!(!write_if_changed(&path, "a").unwrap());
        assert!(write_if_changed(&path, "b").unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(write_if_changed(&path, "b").unwrap(), "it may hold a passphrase");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b");
    }
}
