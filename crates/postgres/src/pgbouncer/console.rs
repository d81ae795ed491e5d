//! PgBouncer's console: a database of its own that takes commands, over the unix socket from the OS user that PgBouncer runs as.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;

use crate::error::PostgresError;
use crate::session::{Endpoint, Session};

/// Both the user and the database of the console.
const CONSOLE: &str = "pgbouncer";

/// How PgBouncer (1.18 and 1.24) says that it holds clients already, and that it does not.
const ALREADY_PAUSED: &str = "already suspended/paused";
const NOT_PAUSED: &str = "not paused";

/// How often to look whether the last transaction has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The console of one PgBouncer. Each command has a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConsole {
    /// PgBouncer's unix socket.
    pub endpoint: Endpoint,
}

impl PoolConsole {
    async fn command(
        &self,
        command: &str,
        timeout: Duration,
    ) -> Result<Vec<SimpleQueryMessage>, PostgresError> {
        let failed = |error| self.endpoint.error(error, timeout);
        let work = async {
            let session = Session::open(&self.endpoint.config(CONSOLE, CONSOLE)).await.map_err(failed)?;
            session.client.simple_query(command).await.map_err(failed)
        };
        self.endpoint.within(timeout, work).await
    }

    /// PgBouncer's version, such as `PgBouncer 1.18.0`: that it answers shows that it is well.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn version(&self, timeout: Duration) -> Result<String, PostgresError> {
        let answer = self.command("SHOW VERSION", timeout).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.try_get(0).ok().flatten(),
            _ => None,
        });
        row.map(str::to_owned).ok_or_else(|| PostgresError::UnexpectedAnswer("SHOW VERSION".to_owned()))
    }

    /// Has it read its files again. Where databases lead elsewhere, their connections end with their transactions.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn reload(&self, timeout: Duration) -> Result<(), PostgresError> {
        self.command("RELOAD", timeout).await.map(drop)
    }

    /// Ends connections to PostgreSQL as soon as nobody uses them.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn reconnect(&self, timeout: Duration) -> Result<(), PostgresError> {
        self.command("RECONNECT", timeout).await.map(drop)
    }

    /// Holds clients: no transaction begins from now on. Returns when the last one has ended, and with it every connection to
    /// PostgreSQL.
    ///
    /// # Errors
    /// When transactions go on after `timeout`: clients are held all the same.
    pub async fn pause(&self, timeout: Duration) -> Result<(), PostgresError> {
        match self.command("PAUSE", timeout).await {
            Err(PostgresError::Sql { message, .. }) if message.contains(ALREADY_PAUSED) => {
                let ended = async {
                    while self.active(timeout).await? > 0 {
                        tokio::time::sleep(POLL_INTERVAL).await;
                    }
                    Ok(())
                };
                self.endpoint.within(timeout, ended).await
            }
            done => done.map(drop),
        }
    }

    /// Lets clients go on, whether they are held or not.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub async fn resume(&self, timeout: Duration) -> Result<(), PostgresError> {
        match self.command("RESUME", timeout).await {
            Err(PostgresError::Sql { message, .. }) if message.contains(NOT_PAUSED) => Ok(()),
            done => done.map(drop),
        }
    }

    /// How many connections to PostgreSQL are in a transaction.
    async fn active(&self, timeout: Duration) -> Result<u64, PostgresError> {
        let answer = self.command("SHOW POOLS", timeout).await?;
        let unexpected = || PostgresError::UnexpectedAnswer("SHOW POOLS".to_owned());
        answer.iter().try_fold(0, |sum, message| {
            let SimpleQueryMessage::Row(row) = message else { return Ok(sum) };
            let count = row.try_get("sv_active").ok().flatten().ok_or_else(unexpected)?;
            Ok(sum + count.parse::<u64>().map_err(|_| unexpected())?)
        })
    }
}
