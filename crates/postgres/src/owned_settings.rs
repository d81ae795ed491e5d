//! Which of PostgreSQL's settings are Cellar's own, and which ones a database may be given.
//!
//! What [`Settings`](crate::Settings) writes is Cellar's unless it stands in [`TUNABLE`]; a test compares the two.

/// Settings that Cellar has a value for, and that a database may be given another value of.
pub(crate) const TUNABLE: [&str; 10] = [
    "wal_level",
    "max_wal_senders",
    "max_replication_slots",
    "wal_keep_size",
    "max_slot_wal_keep_size",
    "wal_log_hints",
    "shared_buffers",
    "max_connections",
    "log_timezone",
    "timezone",
];

/// Why a setting is not to be set for a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owned {
    /// What it is needed for.
    pub why: &'static str,
    /// What to do in its place; empty when there is nothing.
    pub instead: &'static str,
}

const fn owned(why: &'static str, instead: &'static str) -> Owned {
    Owned { why, instead }
}

const PLACE: Owned =
    owned("it is one member's own", "`cellar config` and `cellar cluster apply` decide where a member is");
const ARCHIVE: Owned = owned(
    "backups and restores rely on it",
    "`cellar check` shows that archiving works, `cellar doctor` what hinders it",
);
const REPLICATION: Owned = owned(
    "Cellar decides by it who follows whom, and who may lead",
    "`cellar switchover` and `cellar rebuild` change that",
);
const COMMIT: Owned = owned(
    "it decides what an acknowledged commit survives",
    "`cellar durability` changes that; a session, a role or a database may have its own (ALTER ROLE ... SET synchronous_commit)",
);
const RECOVERY: Owned =
    owned("it is of a recovery, which Cellar makes itself", "`cellar restore` has targets");
const ONE_MEMBER: Owned =
    owned("it concerns one member alone", "set it there with ALTER SYSTEM, which Cellar leaves as it is");
const ENCRYPTION: Owned =
    owned("members and clients find each other by it", "`cellar certs` manages certificates");
const LOG: Owned =
    owned("Cellar reads what a server says that does not start, in the cell's log/postgres.log", "");

/// Why a setting is Cellar's own; none for one that a database may be given. `name` is in lower case.
#[must_use]
pub fn owned_by_cellar(name: &str) -> Option<Owned> {
    Some(match name {
        "port"
        | "listen_addresses"
        | "unix_socket_directories"
        | "unix_socket_permissions"
        | "unix_socket_group"
        | "cluster_name"
        | "data_directory"
        | "config_file"
        | "hba_file"
        | "ident_file"
        | "external_pid_file"
        | "update_process_title" => PLACE,
        "archive_mode" | "archive_command" | "archive_library" | "archive_timeout" | "restore_command" => {
            ARCHIVE
        }
        "archive_cleanup_command" | "recovery_end_command" => RECOVERY,
        name if name.starts_with("recovery_target") => RECOVERY,
        "primary_conninfo"
        | "hot_standby"
        | "promote_trigger_file"
        | "wal_sender_timeout"
        | "wal_receiver_timeout"
        | "wal_retrieve_retry_interval"
        | "wal_receiver_status_interval"
        | "sync_replication_slots"
        | "synchronized_standby_slots" => REPLICATION,
        "primary_slot_name" | "recovery_min_apply_delay" => ONE_MEMBER,
        "synchronous_standby_names" | "synchronous_commit" | "fsync" | "full_page_writes" => COMMIT,
        "max_standby_streaming_delay" | "max_standby_archive_delay" => owned(
            "a standby that is to be promoted replays at once, whatever it is told",
            "set it in a member with ALTER SYSTEM, while the database has no quorum commit",
        ),
        "password_encryption" => ENCRYPTION,
        name if name == "ssl" || name.starts_with("ssl_") => ENCRYPTION,
        "logging_collector" => LOG,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configure::{OURS_ALONE, OURS_ALWAYS, OURS_WITH_QUORUM};
    use crate::settings::tests::everything;

    #[test]
    fn what_cellar_writes_is_its_own_or_tunable() {
        for name in everything().names().unwrap() {
            assert_ne!(owned_by_cellar(&name).is_some(), TUNABLE.contains(&name.as_str()), "{name}");
        }
        for name in TUNABLE {
            assert!(everything().names().unwrap().iter().any(|written| written == name), "{name}");
        }
    }

    #[test]
    fn what_is_removed_from_auto_conf_is_its_own() {
        let own = crate::auto_conf::MEMBERS_OWN.map(|(name, _)| name);
        for name in OURS_ALONE.into_iter().chain(OURS_ALWAYS).chain(OURS_WITH_QUORUM).chain(own) {
            assert!(owned_by_cellar(name).is_some(), "{name}");
        }
        for name in
            ["work_mem", "max_locks_per_transaction", "shared_preload_libraries", "pg_stat_statements.max"]
        {
            assert_eq!(owned_by_cellar(name), None, "{name}");
        }
    }
}
