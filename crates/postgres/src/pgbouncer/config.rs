//! `pgbouncer.ini` and the file of those whom PgBouncer lets in.

use std::fmt::Write as _;
use std::path::Path;

use cellar_model::ScramVerifier;

use crate::error::PostgresError;

/// Most clients at a time. Each needs a file descriptor, of which a process has 1024 unless its service manager says otherwise.
const MAX_CLIENTS: u32 = 900;

/// What a PgBouncer is configured with.
#[derive(Debug, Clone, Copy)]
pub struct PoolConfig<'a> {
    /// Host and port of the primary.
    pub primary: (&'a str, u16),
    /// The addresses that it listens on: `*`, or some with commas between them.
    pub listen: &'a str,
    /// Its port, also in the name of its unix socket.
    pub port: u16,
    /// The directory of that socket.
    pub socket_directory: &'a Path,
    /// The directory of `ca.crt`, `server.crt` and `server.key`.
    pub tls_directory: &'a Path,
    /// The file of [`render_pool_users`].
    pub users: &'a Path,
    /// Its log.
    pub log: &'a Path,
    /// The file that it writes its process id into.
    pub pid_file: &'a Path,
}

/// A path as PgBouncer reads it: to the end of the line, without spaces around it.
fn path(path: &Path) -> Result<&str, PostgresError> {
    let refused = || PostgresError::InvalidSetting {
        name: "a path of pgbouncer.ini".to_owned(),
        reason: "must be text without control characters, and no space at its end",
    };
    let text = path.to_str().ok_or_else(refused)?;
    if text.contains(char::is_control) || text.trim() != text {
        return Err(refused());
    }
    Ok(text)
}

impl PoolConfig<'_> {
    /// The settings for which PgBouncer (1.18) has to be started again; it reads all others when it is told to.
    #[must_use]
    pub fn fixed(&self) -> String {
        let Self { listen, port, .. } = self;
        format!("listen_addr = {listen}\nlisten_port = {port}\n")
    }

    /// `pgbouncer.ini`.
    ///
    /// A server connection belongs to a client for one transaction only. Otherwise nothing could be held: a pause waits until every
    /// connection is given back.
    ///
    /// # Errors
    /// When a path could be read as something else.
    pub fn render(&self) -> Result<String, PostgresError> {
        let (host, primary_port) = self.primary;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b".-:_".contains(&b);
        if host.is_empty() || !host.bytes().all(fits) {
            let name = "the primary's host in pgbouncer.ini".to_owned();
            return Err(PostgresError::InvalidSetting { name, reason: "is no host name" });
        }
        let (sockets, users) = (path(self.socket_directory)?, path(self.users)?);
        let (tls, log, pid_file) = (path(self.tls_directory)?, path(self.log)?, path(self.pid_file)?);
        let fixed = self.fixed();
        Ok(format!(
            "; Written by Cellar; changes are overwritten.\n\
             [databases]\n\
             * = host={host} port={primary_port}\n\
             \n\
             [pgbouncer]\n\
             {fixed}\
             unix_socket_dir = {sockets}\n\
             unix_socket_mode = 0700\n\
             pidfile = {pid_file}\n\
             logfile = {log}\n\
             log_connections = 0\n\
             log_disconnections = 0\n\
             log_stats = 0\n\
             \n\
             ; Whoever PostgreSQL lets in with a password, and nobody else. The console is for the OS user, over the unix socket.\n\
             auth_type = scram-sha-256\n\
             auth_file = {users}\n\
             admin_users =\n\
             stats_users =\n\
             client_tls_sslmode = require\n\
             client_tls_ca_file = {tls}/ca.crt\n\
             client_tls_cert_file = {tls}/server.crt\n\
             client_tls_key_file = {tls}/server.key\n\
             server_tls_sslmode = verify-full\n\
             server_tls_ca_file = {tls}/ca.crt\n\
             \n\
             pool_mode = transaction\n\
             ; What a client sets for its session, such as `synchronous_commit`, is not the next one's.\n\
             server_reset_query = DISCARD ALL\n\
             server_reset_query_always = 1\n\
             max_client_conn = {MAX_CLIENTS}\n\
             default_pool_size = 20\n\
             ignore_startup_parameters = extra_float_digits\n\
             \n\
             ; A primary that was lost is noticed, and its successor found, within seconds.\n\
             server_connect_timeout = 5\n\
             server_login_retry = 0.2\n\
             ; A role that may not log in any more, or has another password, is out after this, however far this cell's copy of the\n\
             ; roles lags.\n\
             server_lifetime = 300\n\
             query_wait_timeout = 120\n\
             tcp_keepalive = 1\n\
             tcp_keepidle = 5\n\
             tcp_keepintvl = 2\n\
             tcp_keepcnt = 3\n\
             tcp_user_timeout = 10000\n"
        ))
    }
}

/// The file of those whom PgBouncer lets in. It takes what PostgreSQL keeps of a password, and with that logs in to PostgreSQL on
/// behalf of a client that has proved itself. A name that the file cannot hold is left out.
#[must_use]
pub fn render_pool_users(users: &[(String, ScramVerifier)]) -> String {
    users.iter().filter(|(name, _)| !name.contains(char::is_control)).fold(
        String::new(),
        |mut text, (name, verifier)| {
            let _ = writeln!(text, "\"{}\" \"{}\"", name.replace('"', "\"\""), verifier.expose());
            text
        },
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::pgbouncer) const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    /// A config with everything in one directory.
    pub(in crate::pgbouncer) fn config<'a>(
        directory: &'a Path,
        files: &'a [std::path::PathBuf; 3],
    ) -> PoolConfig<'a> {
        let [users, log, pid_file] = files;
        PoolConfig {
            primary: ("db1.example.org", 25432),
            listen: "127.0.0.1",
            port: 6432,
            socket_directory: directory,
            tls_directory: directory,
            users,
            log,
            pid_file,
        }
    }

    #[test]
    fn golden_config() {
        let files =
            ["/c/zone1/pgbouncer-users.txt", "/c/zone1/log/pgbouncer.log", "/c/zone1/pid/pgbouncer.pid"];
        let files = files.map(std::path::PathBuf::from);
        insta::assert_snapshot!(config(Path::new("/c/zone1/x"), &files).render().unwrap());
    }

    #[test]
    fn a_value_cannot_add_another_setting() {
        let files = ["/u", "/l", "/p"].map(std::path::PathBuf::from);
        let fine = config(Path::new("/c"), &files);
        for directory in ["/c\nauth_type = any", "/c "] {
            assert!(PoolConfig { socket_directory: Path::new(directory), ..fine }.render().is_err());
        }
        for host in ["", "a b", "a\nb", "a'b"] {
            assert!(PoolConfig { primary: (host, 1), ..fine }.render().is_err(), "{host:?}");
        }
    }

    #[test]
    fn users_are_quoted() {
        let verifier: ScramVerifier = VERIFIER.parse().unwrap();
        let users = ["app", "a\"b", "a\nb"].map(|name| (name.to_owned(), verifier.clone()));
        let text = render_pool_users(&users);
        assert_eq!(text, format!("\"app\" \"{VERIFIER}\"\n\"a\"\"b\" \"{VERIFIER}\"\n"));
    }
}
