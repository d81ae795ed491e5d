//! The whole configuration of a private instance: a copy that is recovered or checked, which nobody else may reach and
//! which must reach nobody.
//!
//! It is an allow list. Nothing of the data directory's own configuration has an effect: neither its files, which may
//! name programs, libraries, directories and servers, nor what `ALTER SYSTEM` has set. What is not written here has
//! PostgreSQL's default.

use std::path::PathBuf;

use crate::error::PostgresError;
use crate::hba::{REPLICATION_ALONE, render_hba, render_ident};
use crate::required_settings::RequiredSettings;
use crate::roles::REPLICATION_ROLE;
use crate::setting_value::path_text;
use crate::settings::{render, socket_directory};

/// Replication slots and origins that may be in the data directory. A server with more of them than this setting does
/// not start; each takes some 300 bytes.
const MAX_REPLICATION_SLOTS: u32 = 1024;

/// How much WAL a copy keeps that is thrown away, MiB.
const MAX_WAL_OF_THROWAWAY_MB: u32 = 128;

/// The least values of the settings that replay compares: PostgreSQL's defaults.
const LEAST: RequiredSettings = RequiredSettings {
    max_connections: 100,
    max_worker_processes: 8,
    max_wal_senders: 10,
    max_prepared_transactions: 0,
    max_locks_per_transaction: 64,
    logical: false,
    track_commit_timestamp: false,
};

/// Where a recovery stops; see PostgreSQL's `recovery_target` settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// Nowhere: it goes on for as long as there is WAL.
    None,
    /// Where the backup has become consistent.
    Immediate,
    /// Before the first commit that is later than this time, in PostgreSQL's own text with a zone.
    Time(String),
    /// Behind the record at this position.
    Lsn(cellar_model::Lsn),
}

/// A recovery that is watched and ended by its caller: at the target it pauses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoverySettings {
    /// Where it stops.
    pub target: RecoveryTarget,
    /// The timeline that it follows, and no newer one.
    pub timeline: cellar_model::Timeline,
    /// Fetches a file of WAL.
    pub restore_command: String,
}

/// What differs between private instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrivateSettings {
    /// Where the configuration, the socket and its lock file are: not in the data directory. Mode 0700.
    pub directory: PathBuf,
    /// The port in the socket's name.
    pub port: u16,
    /// The OS user that runs PostgreSQL, and the only one that may connect.
    pub os_user: String,
    /// Shown in process titles.
    pub cluster_name: String,
    /// PostgreSQL's major version.
    pub version: u32,
    /// A recovery to a target; none to start where the data is.
    pub recovery: Option<RecoverySettings>,
    /// Whether WAL is kept for an archive.
    pub archive_mode: bool,
    /// Copies a WAL segment to the repo. Empty: what is to be archived is kept.
    pub archive_command: String,
    /// Whether writes are made to last. Off only for a copy that is thrown away afterwards.
    pub fsync: bool,
    /// Shared memory for pages, MiB.
    pub shared_buffers_mb: u32,
    /// The size of a segment of its WAL, MiB. PostgreSQL keeps two at least.
    pub segment_mb: u32,
    /// Where it may write besides its data directory, its own directory and its log: enforced by the kernel where it can.
    /// None: anywhere, for data whose tablespaces and archive are its own.
    pub may_write: Option<Vec<PathBuf>>,
    /// What the WAL demands.
    pub required: RequiredSettings,
}

impl PrivateSettings {
    /// The values with which the instance runs, of the settings that replay compares.
    #[must_use]
    pub fn replays(&self) -> RequiredSettings {
        LEAST.greatest(self.required)
    }

    /// How much WAL it keeps, MiB. WAL that was fetched stays until a restartpoint, which comes once there is this much.
    /// A copy that is thrown away is beside a live instance, which needs the room, and its restartpoints cost no sync.
    fn max_wal_size_mb(&self) -> u32 {
        let wanted = if self.fsync { 1024 } else { MAX_WAL_OF_THROWAWAY_MB };
        wanted.max(4 * self.segment_mb)
    }

    /// The files of [`PrivateSettings::directory`], by name and content. The first is the one to start with.
    pub(crate) fn files(&self) -> Result<[(&'static str, String); 3], PostgresError> {
        Ok([
            ("postgresql.conf", render(&self.pairs()?)?),
            ("pg_hba.conf", render_hba(&[], REPLICATION_ALONE, REPLICATION_ROLE, None)?),
            ("pg_ident.conf", render_ident(&self.os_user, REPLICATION_ROLE)?),
        ])
    }

    fn pairs(&self) -> Result<Vec<(&'static str, String)>, PostgresError> {
        let fixed = |name, value: &str| (name, value.to_owned());
        let on = |is_on| if is_on { "on" } else { "off" }.to_owned();
        let file = |name, file: &str| {
            let path = self.directory.join(file);
            Ok::<_, PostgresError>((name, path_text(name, &path)?.to_owned()))
        };
        let replays = self.replays();
        let mut pairs = vec![
            // Nobody but its caller reaches it.
            ("port", self.port.to_string()),
            fixed("listen_addresses", ""),
            ("unix_socket_directories", socket_directory(&self.directory, self.port)?.to_owned()),
            fixed("unix_socket_permissions", "0700"),
            file("hba_file", "pg_hba.conf")?,
            file("ident_file", "pg_ident.conf")?,
            ("cluster_name", self.cluster_name.clone()),
            // It reaches nobody: no publisher, no standby, no archive unless it is told how.
            fixed("max_logical_replication_workers", "0"),
            fixed("synchronous_standby_names", ""),
            ("archive_mode", on(self.archive_mode)),
            ("archive_command", self.archive_command.clone()),
            // What replay demands.
            ("wal_level", if replays.logical { "logical" } else { "replica" }.to_owned()),
            ("track_commit_timestamp", on(replays.track_commit_timestamp)),
            ("max_replication_slots", MAX_REPLICATION_SLOTS.to_string()),
            fixed("wal_log_hints", "on"),
            fixed("hot_standby", "on"),
            fixed("wal_retrieve_retry_interval", "1s"),
            // Little memory, and none outside the data directory that would stay behind when it is killed.
            ("shared_buffers", format!("{}MB", self.shared_buffers_mb)),
            fixed("huge_pages", "off"),
            fixed("dynamic_shared_memory_type", "mmap"),
            fixed("jit", "off"),
            ("min_wal_size", format!("{}MB", 2 * self.segment_mb.max(1))),
            ("max_wal_size", format!("{}MB", self.max_wal_size_mb())),
            fixed("autovacuum", "off"),
            ("fsync", on(self.fsync)),
            // It ends with the first of its processes that is killed, and its caller sees it.
            fixed("restart_after_crash", "off"),
            // Its log is read by machines, and goes where pg_ctl's -l says.
            fixed("logging_collector", "off"),
            fixed("log_destination", "stderr"),
            fixed("lc_messages", "C"),
            fixed("log_timezone", "UTC"),
            fixed("timezone", "UTC"),
        ];
        pairs.extend(replays.numbers().map(|(name, value)| (name, value.to_string())));
        // PostgreSQL 17 knows triggers on login, which run before anything can disable them.
        if self.version >= 17 {
            pairs.push(fixed("event_triggers", "off"));
        }
        // Before it, the number of slots also bounds the origins.
        if self.version >= 18 {
            pairs.push(("max_active_replication_origins", MAX_REPLICATION_SLOTS.to_string()));
        }
        if let Some(recovery) = &self.recovery {
            pairs.extend([
                ("restore_command", recovery.restore_command.clone()),
                ("recovery_target_timeline", recovery.timeline.to_string()),
                fixed("recovery_target_action", "pause"),
                fixed("recovery_target_inclusive", "on"),
            ]);
            match &recovery.target {
                RecoveryTarget::None => {}
                RecoveryTarget::Immediate => pairs.push(fixed("recovery_target", "immediate")),
                RecoveryTarget::Time(time) => pairs.push(("recovery_target_time", time.clone())),
                RecoveryTarget::Lsn(lsn) => pairs.push(("recovery_target_lsn", lsn.to_string())),
            }
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> PrivateSettings {
        PrivateSettings {
            directory: "/c/zone1/tmp/abc".into(),
            port: 25432,
            os_user: "postgres".into(),
            cluster_name: "app/zone1 copy".into(),
            version: 15,
            recovery: Some(RecoverySettings {
                target: RecoveryTarget::Lsn(cellar_model::Lsn::new(0x300_0000)),
                timeline: cellar_model::Timeline::new(2),
                restore_command: "sh '/c/zone1/tmp/abc/fetch-wal' %f \"%p\"".into(),
            }),
            archive_mode: false,
            archive_command: String::new(),
            fsync: false,
            shared_buffers_mb: 64,
            segment_mb: 16,
            may_write: None,
            required: RequiredSettings { max_connections: 200, ..RequiredSettings::default() },
        }
    }

    #[test]
    fn golden() {
        let [(_, main), (_, hba), _] = sample().files().unwrap();
        insta::assert_snapshot!(main, @r#"
        # Written by Cellar; changes are overwritten.
        port = '25432'
        listen_addresses = ''
        unix_socket_directories = '/c/zone1/tmp/abc'
        unix_socket_permissions = '0700'
        hba_file = '/c/zone1/tmp/abc/pg_hba.conf'
        ident_file = '/c/zone1/tmp/abc/pg_ident.conf'
        cluster_name = 'app/zone1 copy'
        max_logical_replication_workers = '0'
        synchronous_standby_names = ''
        archive_mode = 'off'
        archive_command = ''
        wal_level = 'replica'
        track_commit_timestamp = 'off'
        max_replication_slots = '1024'
        wal_log_hints = 'on'
        hot_standby = 'on'
        wal_retrieve_retry_interval = '1s'
        shared_buffers = '64MB'
        huge_pages = 'off'
        dynamic_shared_memory_type = 'mmap'
        jit = 'off'
        min_wal_size = '32MB'
        max_wal_size = '128MB'
        autovacuum = 'off'
        fsync = 'off'
        restart_after_crash = 'off'
        logging_collector = 'off'
        log_destination = 'stderr'
        lc_messages = 'C'
        log_timezone = 'UTC'
        timezone = 'UTC'
        max_connections = '200'
        max_worker_processes = '8'
        max_wal_senders = '10'
        max_prepared_transactions = '0'
        max_locks_per_transaction = '64'
        restore_command = 'sh ''/c/zone1/tmp/abc/fetch-wal'' %f "%p"'
        recovery_target_timeline = '2'
        recovery_target_action = 'pause'
        recovery_target_inclusive = 'on'
        recovery_target_lsn = '0/3000000'
        "#);
        assert!(!hba.contains("hostssl"), "{hba}");
    }

    #[test]
    fn what_replay_demands_is_never_below_the_defaults() {
        let replays = sample().replays();
        assert_eq!((replays.max_connections, replays.max_worker_processes), (200, 8));
        let logical = RequiredSettings { logical: true, ..RequiredSettings::default() };
        let [(_, main), ..] = PrivateSettings { required: logical, ..sample() }.files().unwrap();
        assert!(main.contains("wal_level = 'logical'") && main.contains("max_connections = '100'"), "{main}");
    }

    #[test]
    fn a_value_cannot_add_a_setting() {
        for text in ["true\nssl = on", "a\rb"] {
            let private = PrivateSettings { archive_command: text.into(), ..sample() };
            assert!(private.files().unwrap_err().to_string().contains("archive_command"), "{text:?}");
            let private = PrivateSettings { directory: format!("/{text}").into(), ..sample() };
            assert!(private.files().is_err(), "{text:?}");
        }
    }

    /// PostgreSQL does not start with less than two segments.
    #[test]
    fn wal_that_is_kept_is_little_and_holds_some_segments() {
        let of = |segment_mb, fsync| {
            PrivateSettings { segment_mb, fsync, ..sample() }.files().unwrap()[0].1.clone()
        };
        for (segment, fsync, least, most) in
            [(1, false, 2, 128), (64, false, 128, 256), (1024, false, 2048, 4096), (16, true, 32, 1024)]
        {
            let text = of(segment, fsync);
            let expected = format!("min_wal_size = '{least}MB'\nmax_wal_size = '{most}MB'\n");
            assert!(text.contains(&expected), "{text}");
        }
    }

    #[test]
    fn triggers_on_login_are_off_where_there_are_any() {
        let of = |version| PrivateSettings { version, ..sample() }.files().unwrap()[0].1.clone();
        assert!(!of(16).contains("event_triggers") && of(17).contains("event_triggers = 'off'"));
    }
}
