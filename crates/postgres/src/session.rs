//! Connections over the unix socket, where the OS user is the credential.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use cellar_model::{SESSION_RULES, superuser_session_rules};
use tokio::task::JoinHandle;
use tokio_postgres::error::{Error, SqlState};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::error::PostgresError;
use crate::postmaster::lock_file;
use crate::roles::SUPERUSER;

/// A server's unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The directory of the socket.
    pub socket_directory: PathBuf,
    /// The port in its name.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.socket_directory.display(), self.port)
    }
}

/// One connection. Dropping it closes the socket at once, also when the server answers nothing.
pub(crate) struct Session {
    pub(crate) client: Client,
    driver: JoinHandle<()>,
}

impl Session {
    /// Connects over a unix socket. Has no deadline of its own.
    pub(crate) async fn open(config: &Config) -> Result<Self, Error> {
        let (client, connection) = config.connect(NoTls).await?;
        let driver = tokio::spawn(async move {
            // Its end shows at the next use of the client.
            let _ = connection.await;
        });
        Ok(Self { client, driver })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn io_kind(error: &Error) -> Option<ErrorKind> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
}

impl Endpoint {
    /// Sorts an error of the driver.
    pub(crate) fn error(&self, error: Error, waited: Duration) -> PostgresError {
        if let Some(db) = error.as_db_error() {
            return match *db.code() {
                SqlState::CANNOT_CONNECT_NOW => PostgresError::NotReady(db.message().to_owned()),
                // Our own statement_timeout, and it is as long as we would have waited.
                SqlState::QUERY_CANCELED => self.no_answer(waited),
                _ => {
                    let more = [db.detail(), db.hint()].into_iter().flatten();
                    let message = more.fold(db.message().to_owned(), |text, part| format!("{text}; {part}"));
                    PostgresError::Sql { code: db.code().code().to_owned(), message }
                }
            };
        }
        match io_kind(&error) {
            Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                PostgresError::NotRunning(self.to_string())
            }
            // A frozen server's backlog is full; on a unix socket that is said at once instead of waiting.
            Some(ErrorKind::WouldBlock) => self.no_answer(waited),
            _ => PostgresError::Connection { endpoint: self.to_string(), source: error },
        }
    }

    /// The major version of the server, as its data directory says, which the lock file of the socket names.
    fn version(&self) -> Option<u32> {
        let lock = self.socket_directory.join(format!(".s.PGSQL.{}.lock", self.port));
        let data = lock_file(&lock).ok()??.data_directory?;
        std::fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    pub(crate) fn no_answer(&self, after: Duration) -> PostgresError {
        PostgresError::NoAnswer { endpoint: self.to_string(), after }
    }

    /// How to connect to a database as a role.
    pub(crate) fn config(&self, role: &str, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.socket_directory).port(self.port).user(role).dbname(database);
        config
    }

    /// Connects as a role. Has no deadline of its own; `statement_timeout` is the longest
    /// time that the server may spend on a statement.
    pub(crate) async fn connect(
        &self,
        role: &str,
        statement_timeout: Duration,
    ) -> Result<Session, PostgresError> {
        self.connect_to("postgres", role, statement_timeout).await
    }

    /// Connects to a database as [`Endpoint::connect`] does.
    async fn connect_to(
        &self,
        database: &str,
        role: &str,
        statement_timeout: Duration,
    ) -> Result<Session, PostgresError> {
        // With this search path a superuser calls no table or function from `public`. A statement of ours must not wait for
        // a synchronous standby, because that standby may need it to connect at all.
        // What the catalogs set for the role or the database counts less than these options, and must not keep us from
        // working. Only a superuser may say which libraries are loaded, and that no trigger runs.
        let rules = if role == SUPERUSER {
            format!("-c session_preload_libraries= {}", superuser_session_rules(self.version()))
        } else {
            SESSION_RULES.to_owned()
        };
        let options = format!(
            "{rules} -c local_preload_libraries= -c default_transaction_read_only=off -c lock_timeout=0 \
             -c search_path=pg_catalog -c synchronous_commit=local -c statement_timeout={} -c DateStyle=ISO -c TimeZone=UTC",
            statement_timeout.as_millis().max(1)
        );
        let mut config = self.config(role, database);
        config.application_name("cellar").options(options);
        Session::open(&config).await.map_err(|error| self.error(error, statement_timeout))
    }

    pub(crate) async fn within<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, PostgresError>>,
    ) -> Result<T, PostgresError> {
        tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(self.no_answer(timeout)))
    }
}

/// Runs SQL as the superuser in a connection of its own; several statements are one transaction.
///
/// # Errors
/// [`PostgresError::NoAnswer`] after `timeout`, connecting included; then the statement may or may not
/// have taken effect. Else why PostgreSQL could not or would not do it.
pub async fn execute(endpoint: &Endpoint, sql: &str, timeout: Duration) -> Result<(), PostgresError> {
    query(endpoint, sql, timeout).await.map(|_| ())
}

/// Runs SQL like [`execute`], in a database of that name.
///
/// # Errors
/// As [`execute`].
pub async fn execute_in(
    endpoint: &Endpoint,
    database: &str,
    sql: &str,
    timeout: Duration,
) -> Result<(), PostgresError> {
    query_in(endpoint, database, sql, timeout).await.map(|_| ())
}

/// Settings of a session whose statements appear neither in PostgreSQL's log nor in its statistics, whatever the database
/// is configured to write down. The last two are of extensions, and mean nothing where these are not loaded.
const UNRECORDED: &str = "SET log_statement = 'none'; SET log_min_duration_statement = -1; \
    SET log_min_duration_sample = -1; SET log_transaction_sample_rate = 0; SET log_min_error_statement = 'panic'; \
    SET track_activities = off; SET pg_stat_statements.track = 'none'; SET pgaudit.log = 'none'";

/// Runs SQL like [`execute`], without a trace of its text in PostgreSQL's log and statistics.
///
/// # Errors
/// As [`execute`].
pub(crate) async fn execute_unrecorded(
    endpoint: &Endpoint,
    sql: &str,
    timeout: Duration,
) -> Result<(), PostgresError> {
    let work = async {
        let session = endpoint.connect(SUPERUSER, timeout).await?;
        for text in [UNRECORDED, sql] {
            session.client.simple_query(text).await.map_err(|error| endpoint.error(error, timeout))?;
        }
        Ok(())
    };
    endpoint.within(timeout, work).await
}

/// Runs SQL like [`execute`] and returns the rows as PostgreSQL's text.
///
/// # Errors
/// As [`execute`].
pub async fn query(
    endpoint: &Endpoint,
    sql: &str,
    timeout: Duration,
) -> Result<Vec<Vec<Option<String>>>, PostgresError> {
    query_in(endpoint, "postgres", sql, timeout).await
}

/// The values of a row. PostgreSQL does not check that what it sends is UTF-8: a catalog shared by databases of several
/// encodings holds names as each of them wrote them.
fn texts(row: &SimpleQueryRow) -> Result<Vec<Option<String>>, PostgresError> {
    let text = |at| match row.try_get(at) {
        Ok(value) => Ok(value.map(str::to_owned)),
        Err(error) => Err(PostgresError::UnexpectedAnswer(format!("a value that is not UTF-8: {error}"))),
    };
    (0..row.len()).map(text).collect()
}

async fn query_in(
    endpoint: &Endpoint,
    database: &str,
    sql: &str,
    timeout: Duration,
) -> Result<Vec<Vec<Option<String>>>, PostgresError> {
    let work = async {
        let session = endpoint.connect_to(database, SUPERUSER, timeout).await?;
        let answer =
            session.client.simple_query(sql).await.map_err(|error| endpoint.error(error, timeout))?;
        let rows = answer.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(texts(row)),
            _ => None,
        });
        rows.collect()
    };
    endpoint.within(timeout, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_that_of_the_data_directory_that_the_socket_belongs_to() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint { socket_directory: directory.path().to_owned(), port: 5432 };
        assert_eq!(endpoint.version(), None);
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let lock = format!("1\n{}\n1767225600\n5432\n{}\n", data.display(), directory.path().display());
        std::fs::write(directory.path().join(".s.PGSQL.5432.lock"), lock).unwrap();
        assert_eq!(endpoint.version(), None);
        std::fs::write(data.join("PG_VERSION"), "17\n").unwrap();
        assert_eq!(endpoint.version(), Some(17));
    }
}
