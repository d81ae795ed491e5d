//! The settings that Cellar gives an instance: the file `cellar.conf` in its data directory.
//!
//! Every setting is valid in either role, so that nothing has to be rewritten when the role changes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cellar_model::check_socket_path;

use crate::error::PostgresError;
use crate::failover_slots::FailoverSlots;
use crate::owned_settings::TUNABLE;
use crate::setting_value::{path_text, quoted};

/// Senders of WAL, of a database that was not given another number.
pub(crate) const MAX_WAL_SENDERS: u32 = 16;

/// Certificates of the server side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its key; PostgreSQL wants mode 0600 at most.
    pub key: PathBuf,
    /// The authority that clients' certificates must come from.
    pub ca: PathBuf,
    /// The lists of revoked ones, of every authority in `ca`.
    pub revocations: Option<PathBuf>,
}

/// What differs between instances; everything else in `cellar.conf` is fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Port, of the TCP addresses and in the socket's name.
    pub port: u16,
    /// Comma-separated addresses to listen on; empty for the unix socket alone.
    pub listen_addresses: String,
    /// Directory of the unix socket, mode 0700.
    pub socket_directory: PathBuf,
    /// TLS; without it no standby can connect over the network.
    pub tls: Option<TlsFiles>,
    /// Shown in process titles: `<database>/<cell>`.
    pub cluster_name: String,
    /// Copies a WAL segment to the repo. Empty: segments are kept until there is a command.
    pub archive_command: String,
    /// Fetches a WAL segment from the repo.
    pub restore_command: Option<String>,
    /// Where a standby streams from; see [`PrimaryConninfo`](crate::PrimaryConninfo). Ignored by a primary.
    pub primary_conninfo: Option<String>,
    /// Whose acknowledgement a commit needs; none where that is the operator's own setting.
    pub synchronous_standby_names: Option<String>,
    /// What it is told of logical slots that outlive a change of the primary.
    pub failover_slots: FailoverSlots,
    /// A standby replays what it has at once, also where it is told to lag or has readers: an election waits for it.
    pub replays_at_once: bool,
    /// Shared memory for pages, MiB.
    pub shared_buffers_mb: u32,
    /// Client connections. A standby needs at least as many as its primary, so it is the same in every cell.
    pub max_connections: u32,
    /// WAL kept beyond the last checkpoint for standbys that fall behind, MiB. What is gone they
    /// fetch from the repo.
    pub wal_keep_size_mb: u32,
    /// What the database was given: values by names in lower case. They count more than the values above that are not
    /// Cellar's own, and less than those that are.
    pub given: BTreeMap<String, String>,
    /// Numbers that count more than what was given: of a setting that replay compares, until the standbys have more.
    pub held_back: BTreeMap<&'static str, u32>,
}

impl Default for Settings {
    /// A small instance that listens on its unix socket only.
    fn default() -> Self {
        Self {
            port: 5432,
            listen_addresses: String::new(),
            socket_directory: PathBuf::from("/var/run/postgresql"),
            tls: None,
            cluster_name: String::new(),
            archive_command: String::new(),
            restore_command: None,
            primary_conninfo: None,
            synchronous_standby_names: None,
            failover_slots: FailoverSlots::default(),
            replays_at_once: false,
            // Three cells and their services fit on a small machine.
            shared_buffers_mb: 64,
            max_connections: 100,
            wal_keep_size_mb: 128,
            given: BTreeMap::new(),
            held_back: BTreeMap::new(),
        }
    }
}

/// The directory of a unix socket as a setting: a path that a socket's name fits behind.
pub(crate) fn socket_directory(path: &Path, port: u16) -> Result<&str, PostgresError> {
    let invalid =
        |reason| PostgresError::InvalidSetting { name: "unix_socket_directories".to_owned(), reason };
    let sockets = path_text("unix_socket_directories", path)?;
    if sockets.contains([',', '"']) {
        // The setting is a list; quoting inside the quotes is not worth supporting.
        return Err(invalid("must not hold commas or double quotes"));
    }
    if check_socket_path(path, port).is_err() {
        return Err(invalid(
            "is too long for a unix socket (107 bytes with the socket's name): choose a shorter one",
        ));
    }
    Ok(sockets)
}

/// The content of a configuration file with these names and values.
pub(crate) fn render<N: AsRef<str>>(pairs: &[(N, String)]) -> Result<String, PostgresError> {
    let mut file = "# Written by Cellar; changes are overwritten.\n".to_owned();
    for (name, value) in pairs {
        let name = name.as_ref();
        let _ = writeln!(file, "{name} = {}", quoted(name, value)?);
    }
    Ok(file)
}

impl Settings {
    /// Names and values in the order of the file, values not yet quoted: what was given first, so that what is Cellar's own
    /// has the last word whatever was given.
    fn pairs(&self) -> Result<Vec<(Cow<'_, str>, String)>, PostgresError> {
        let held_back = |name: &str| self.held_back.get(name).map(ToString::to_string);
        let given = self.given.iter().filter(|(name, _)| held_back(name).is_none());
        let given = given.map(|(name, value)| (Cow::Borrowed(name.as_str()), value.clone()));
        let held = self.held_back.iter().map(|(name, value)| (Cow::Borrowed(*name), value.to_string()));
        let is_given = |name: &str| {
            TUNABLE.contains(&name) && (self.given.contains_key(name) || held_back(name).is_some())
        };
        let own = self.own_pairs()?.into_iter().filter(|(name, _)| !is_given(name));
        Ok(given.chain(held).chain(own.map(|(name, value)| (Cow::Borrowed(name), value))).collect())
    }

    fn own_pairs(&self) -> Result<Vec<(&'static str, String)>, PostgresError> {
        let sockets = socket_directory(&self.socket_directory, self.port)?;
        let mut pairs = vec![
            ("port", self.port.to_string()),
            ("listen_addresses", self.listen_addresses.clone()),
            ("unix_socket_directories", sockets.to_owned()),
            ("unix_socket_permissions", "0700".to_owned()),
            ("cluster_name", self.cluster_name.clone()),
        ];
        match &self.tls {
            Some(tls) => pairs.extend([
                ("ssl", "on".to_owned()),
                ("ssl_cert_file", path_text("ssl_cert_file", &tls.certificate)?.to_owned()),
                ("ssl_key_file", path_text("ssl_key_file", &tls.key)?.to_owned()),
                ("ssl_ca_file", path_text("ssl_ca_file", &tls.ca)?.to_owned()),
                // Both ends are Cellar's own, so nothing older needs to be understood.
                ("ssl_min_protocol_version", "TLSv1.3".to_owned()),
                // A lower one that is set elsewhere would keep PostgreSQL from starting.
                ("ssl_max_protocol_version", String::new()),
            ]),
            None => pairs.push(("ssl", "off".to_owned())),
        }
        if let Some(file) = self.tls.as_ref().and_then(|tls| tls.revocations.as_ref()) {
            pairs.push(("ssl_crl_file", path_text("ssl_crl_file", file)?.to_owned()));
        }
        let fixed = |name, value: &str| (name, value.to_owned());
        pairs.extend([
            fixed("password_encryption", "scram-sha-256"),
            fixed("wal_level", "replica"),
            // For pg_rewind; data checksums would do, but an instance made elsewhere may have none.
            fixed("wal_log_hints", "on"),
            fixed("hot_standby", "on"),
            ("max_wal_senders", MAX_WAL_SENDERS.to_string()),
            fixed("max_replication_slots", "16"),
            ("wal_keep_size", format!("{}MB", self.wal_keep_size_mb)),
            // A slot that nobody moves on, as when a member is away or the agent is frozen, must not fill the disk.
            fixed("max_slot_wal_keep_size", "8GB"),
            // A vanished peer is noticed in 20 s, not in the default minute.
            fixed("wal_sender_timeout", "20s"),
            fixed("wal_receiver_timeout", "20s"),
            // A primary that starts again (a fence, new settings) is found again in one second, not in the default five;
            // until then its standbys can neither be backed up nor take over without loss.
            fixed("wal_retrieve_retry_interval", "1s"),
            fixed("archive_mode", "on"),
            // Bounds what a restore can miss when the primary's host is lost: a minute of commits,
            // however quiet the database.
            fixed("archive_timeout", "60s"),
            ("archive_command", self.archive_command.clone()),
        ]);
        pairs.extend(self.restore_command.clone().map(|value| ("restore_command", value)));
        if let Some(names) = &self.synchronous_standby_names {
            pairs.push(("synchronous_standby_names", names.clone()));
            // A server that is tuned to less would acknowledge what no other member has.
            pairs.push(fixed("synchronous_commit", "on"));
            // An idle standby asks for a sign of life after half of it, so that silence is seen soon.
            pairs.push(fixed("wal_receiver_timeout", "3s"));
        }
        if self.replays_at_once {
            pairs.extend([
                fixed("recovery_min_apply_delay", "0"),
                fixed("max_standby_streaming_delay", "0"),
                fixed("max_standby_archive_delay", "0"),
            ]);
        }
        pairs.extend(self.primary_conninfo.clone().map(|value| ("primary_conninfo", value)));
        pairs.extend([
            fixed("recovery_target_timeline", "latest"),
            ("shared_buffers", format!("{}MB", self.shared_buffers_mb)),
            ("max_connections", self.max_connections.to_string()),
            // pg_ctl's -l file takes the log, so that startup failures and the rest are in one place.
            fixed("logging_collector", "off"),
            fixed("log_timezone", "UTC"),
            fixed("timezone", "UTC"),
        ]);
        Ok(pairs)
    }

    /// The names that are set.
    pub(crate) fn names(&self) -> Result<Vec<String>, PostgresError> {
        Ok(self.pairs()?.into_iter().map(|(name, _)| name.into_owned()).collect())
    }

    /// The content of `cellar.conf`.
    ///
    /// # Errors
    /// [`PostgresError::InvalidSetting`] for a value that the file cannot hold.
    pub fn render(&self) -> Result<String, PostgresError> {
        render(&self.pairs()?)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn sample() -> Settings {
        Settings {
            port: 25434,
            listen_addresses: "127.0.0.1".into(),
            socket_directory: "/c/zone3/pg_sockets".into(),
            tls: Some(TlsFiles {
                certificate: "/c/zone3/tls/server.crt".into(),
                key: "/c/zone3/tls/server.key".into(),
                ca: "/c/zone3/tls/ca.crt".into(),
                revocations: None,
            }),
            cluster_name: "multigres/zone3".into(),
            archive_command:
                "pgbackrest --config=/c/zone3/pgbackrest.conf --stanza=multigres archive-push %p".into(),
            restore_command: Some("pgbackrest archive-get %f \"%p\"".into()),
            primary_conninfo: Some("host='localhost' port='25432'".into()),
            ..Settings::default()
        }
    }

    /// Settings of which everything is written.
    pub(crate) fn everything() -> Settings {
        let mut settings = Settings {
            synchronous_standby_names: Some("ANY 1 (\"zone2:7\")".into()),
            replays_at_once: true,
            ..sample()
        };
        settings.tls.as_mut().unwrap().revocations = Some("/c/zone3/tls/ca.crl".into());
        settings
    }

    #[test]
    fn what_was_given_counts_more_than_a_default_and_less_than_what_is_cellars() {
        let given = [("work_mem", "16MB"), ("max_connections", "300"), ("port", "1"), ("app.note", "it's")];
        let settings = Settings {
            given: given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..sample()
        };
        let text = settings.render().unwrap();
        let at = |line: &str| text.find(line).unwrap_or_else(|| panic!("{line}: {text}"));
        assert!(at("work_mem = '16MB'") < at("port = '25434'"));
        assert!(at("port = '1'") < at("port = '25434'"), "the last one counts");
        assert!(text.contains("app.note = 'it''s'") && text.contains("max_connections = '300'"), "{text}");
        assert_eq!(text.matches("max_connections").count(), 1);
        let held = Settings {
            held_back: [("max_connections", 100), ("max_worker_processes", 8)].into(),
            ..settings
        };
        let text = held.render().unwrap();
        assert_eq!(text.matches("max_connections").count(), 1);
        assert!(
            text.contains("max_connections = '100'") && text.contains("max_worker_processes = '8'"),
            "{text}"
        );
    }

    #[test]
    fn golden() {
        insta::assert_snapshot!(sample().render().unwrap(), @r#"
        # Written by Cellar; changes are overwritten.
        port = '25434'
        listen_addresses = '127.0.0.1'
        unix_socket_directories = '/c/zone3/pg_sockets'
        unix_socket_permissions = '0700'
        cluster_name = 'multigres/zone3'
        ssl = 'on'
        ssl_cert_file = '/c/zone3/tls/server.crt'
        ssl_key_file = '/c/zone3/tls/server.key'
        ssl_ca_file = '/c/zone3/tls/ca.crt'
        ssl_min_protocol_version = 'TLSv1.3'
        ssl_max_protocol_version = ''
        password_encryption = 'scram-sha-256'
        wal_level = 'replica'
        wal_log_hints = 'on'
        hot_standby = 'on'
        max_wal_senders = '16'
        max_replication_slots = '16'
        wal_keep_size = '128MB'
        max_slot_wal_keep_size = '8GB'
        wal_sender_timeout = '20s'
        wal_receiver_timeout = '20s'
        wal_retrieve_retry_interval = '1s'
        archive_mode = 'on'
        archive_timeout = '60s'
        archive_command = 'pgbackrest --config=/c/zone3/pgbackrest.conf --stanza=multigres archive-push %p'
        restore_command = 'pgbackrest archive-get %f "%p"'
        primary_conninfo = 'host=''localhost'' port=''25432'''
        recovery_target_timeline = 'latest'
        shared_buffers = '64MB'
        max_connections = '100'
        logging_collector = 'off'
        log_timezone = 'UTC'
        timezone = 'UTC'
        "#);
    }

    #[test]
    fn golden_without_network() {
        insta::assert_snapshot!(Settings::default().render().unwrap(), @r#"
        # Written by Cellar; changes are overwritten.
        port = '5432'
        listen_addresses = ''
        unix_socket_directories = '/var/run/postgresql'
        unix_socket_permissions = '0700'
        cluster_name = ''
        ssl = 'off'
        password_encryption = 'scram-sha-256'
        wal_level = 'replica'
        wal_log_hints = 'on'
        hot_standby = 'on'
        max_wal_senders = '16'
        max_replication_slots = '16'
        wal_keep_size = '128MB'
        max_slot_wal_keep_size = '8GB'
        wal_sender_timeout = '20s'
        wal_receiver_timeout = '20s'
        wal_retrieve_retry_interval = '1s'
        archive_mode = 'on'
        archive_timeout = '60s'
        archive_command = ''
        recovery_target_timeline = 'latest'
        shared_buffers = '64MB'
        max_connections = '100'
        logging_collector = 'off'
        log_timezone = 'UTC'
        timezone = 'UTC'
        "#);
    }

    #[test]
    fn quotes_and_backslashes_are_escaped() {
        let line = Settings { archive_command: r"it's \n".into(), ..sample() }.render().unwrap();
        assert!(line.contains(r"archive_command = 'it''s \\n'"), "{line}");
    }

    #[test]
    fn what_the_file_cannot_hold_is_refused() {
        let refused = |settings: Settings| settings.render().unwrap_err().to_string();
        let line = "true\nssl = off".to_owned();
        assert!(refused(Settings { archive_command: line, ..sample() }).contains("archive_command"));
        assert!(refused(Settings { socket_directory: "relative".into(), ..sample() }).contains("absolute"));
        assert!(refused(Settings { socket_directory: "/a,b".into(), ..sample() }).contains("commas"));
        let long = format!("/{}", "a".repeat(100));
        assert!(refused(Settings { socket_directory: long.into(), ..sample() }).contains("too long"));
    }
}
