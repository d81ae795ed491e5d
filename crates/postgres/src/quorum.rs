//! What quorum commit needs of an instance: how far it has got under which term, and commits that wait for the quorum.
//!
//! The term and the canary are rows of two small tables in the schema `cellar` of the database `postgres`. They travel in
//! the WAL, so a data directory says by itself which term it has reached.

use std::time::Duration;

use cellar_model::{CellName, CopyNumber, Lsn, SystemIdentifier, Term, Timeline};
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Row, SimpleQueryMessage, Statement};

use crate::error::PostgresError;
use crate::roles::SUPERUSER;
use crate::session::{Endpoint, Session, execute, query};

/// The value of `synchronous_standby_names` that no standby fulfills: commits wait, and none is acknowledged.
pub const NOBODY: &str = "ANY 1 (cellar_nobody)";

/// The tables, the term's row, and nothing that exists already is an error.
const TABLES: &str = "\
CREATE SCHEMA IF NOT EXISTS cellar; \
CREATE TABLE IF NOT EXISTS cellar.term (term int8 PRIMARY KEY, cell text NOT NULL, copy int8 NOT NULL, \
    begun timestamptz NOT NULL DEFAULT now()); \
CREATE TABLE IF NOT EXISTS cellar.canary (one boolean PRIMARY KEY DEFAULT true CHECK (one), at timestamptz NOT NULL)";

/// In one statement, so that it is one moment. The startup process waits with one of two events when it has replayed all
/// that is there (PostgreSQL's `wait_event.h`).
const LOOK: &str = "\
SELECT r.standby,
       (pg_control_system()).system_identifier AS system_identifier,
       CASE WHEN r.standby THEN coalesce(w.received_tli, greatest((pg_control_checkpoint()).timeline_id,
                                         (pg_control_recovery()).min_recovery_end_timeline)) END AS control_timeline,
       CASE WHEN r.standby AND w.pid IS NULL THEN (pg_control_checkpoint()).redo_lsn::text END AS redo,
       CASE WHEN NOT r.standby THEN pg_walfile_name(pg_current_wal_lsn()) END AS wal_file,
       CASE WHEN r.standby THEN pg_last_wal_receive_lsn()::text END AS received,
       CASE WHEN r.standby THEN pg_last_wal_replay_lsn()::text END AS replayed,
       CASE WHEN NOT r.standby THEN pg_current_wal_flush_lsn()::text END AS flushed,
       CASE WHEN r.standby THEN pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END AS paused,
       coalesce((SELECT wait_event IN ('RecoveryRetrieveRetryInterval', 'RecoveryWalStream')
                   FROM pg_stat_activity WHERE backend_type = 'startup'), false) AS replay_waits,
       pg_snapshot_xmax(pg_current_snapshot())::text::int8 AS next_xid,
       CASE WHEN r.standby THEN (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000)::int8 END AS last_commit,
       coalesce((SELECT bool_or(wait_event = 'SyncRep') FROM pg_stat_activity
                  WHERE application_name = 'cellar canary'), false) AS canary_waits,
       w.pid AS receiver, w.status, w.sender_host, w.sender_port,
       (extract(epoch FROM clock_timestamp() - w.last_msg_receipt_time) * 1000)::int8 AS message_age,
       ARRAY(SELECT application_name FROM pg_stat_replication
              WHERE state = 'streaming' AND flush_lsn IS NOT NULL ORDER BY pid) AS standbys,
       ARRAY(SELECT flush_lsn::text FROM pg_stat_replication
              WHERE state = 'streaming' AND flush_lsn IS NOT NULL ORDER BY pid) AS standbys_flushed,
       ARRAY(SELECT sync_priority > 0 FROM pg_stat_replication
              WHERE state = 'streaming' AND flush_lsn IS NOT NULL ORDER BY pid) AS standbys_acknowledge,
       current_setting('primary_conninfo') AS primary_conninfo, current_setting('restore_command') AS restore_command,
       current_setting('synchronous_standby_names') AS synchronous_standby_names
  FROM (SELECT pg_is_in_recovery() AS standby) r
  LEFT JOIN pg_stat_wal_receiver w ON true";

const LAST_TERM: &str = "SELECT max(term) FROM cellar.term";

/// A standby's WAL receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Whether it streams.
    pub streams: bool,
    /// Host and port, as `primary_conninfo` gives them.
    pub sender: Option<(String, u16)>,
    /// How long ago the sender said anything.
    pub message_age: Option<Duration>,
}

/// Who streams from a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamingStandby {
    /// Its `application_name`.
    pub name: String,
    /// What it has flushed.
    pub flushed: Lsn,
    /// Whether its acknowledgement counts, by the settings that its own WAL sender has.
    pub acknowledges: bool,
}

/// Settings of replication as a session of the instance shows them. Once it shows new ones, all processes have been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownSettings {
    /// `primary_conninfo`.
    pub primary_conninfo: String,
    /// `restore_command`.
    pub restore_command: String,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
}

/// What a member of a database with quorum commit is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberLook {
    /// Whether it is out of recovery.
    pub is_primary: bool,
    /// The database's identity.
    pub system_identifier: SystemIdentifier,
    /// The timeline of its data.
    pub timeline: Timeline,
    /// The term of the last term row that it has; 0 without any.
    pub term: Term,
    /// How far its WAL is flushed: of a standby the greater of received and replayed.
    pub lsn: Lsn,
    /// Where its next recovery would begin, of a standby that receives nothing.
    pub redo: Option<Lsn>,
    /// A standby has replayed everything that it has.
    pub replay_waits: bool,
    /// A standby's replay is paused.
    pub replay_paused: bool,
    /// The WAL receiver, if there is one.
    pub receiver: Option<Receiver>,
    /// Who streams from here.
    pub standbys: Vec<StreamingStandby>,
    /// What it was told of replication.
    pub settings: ShownSettings,
    /// The canary's commit is flushed here and waits for the quorum.
    pub canary_waits: bool,
    /// The transaction id that is given next, as far as the data knows.
    pub next_xid: Option<u64>,
    /// When the last transaction that a standby has replayed was committed, by the clock of its primary.
    pub last_commit: Option<Timestamp>,
}

fn unexpected(what: &str) -> PostgresError {
    PostgresError::UnexpectedAnswer(what.to_owned())
}

fn get<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, PostgresError> {
    row.try_get(name).map_err(|error| PostgresError::UnexpectedAnswer(format!("{name}: {error}")))
}

fn lsn(row: &Row, name: &str) -> Result<Option<Lsn>, PostgresError> {
    get::<Option<&str>>(row, name)?.map(|text| text.parse().map_err(|_| unexpected(name))).transpose()
}

fn look(row: &Row, term: Term) -> Result<MemberLook, PostgresError> {
    let standby: bool = get(row, "standby")?;
    let control: Option<i32> = get(row, "control_timeline")?;
    let file: Option<&str> = get(row, "wal_file")?;
    let written = file.and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok());
    let timeline = control.and_then(|tli| u32::try_from(tli).ok()).or(written);
    let names: Vec<String> = get(row, "standbys")?;
    let positions: Vec<&str> = get(row, "standbys_flushed")?;
    let positions: Result<Vec<Lsn>, _> = positions.iter().map(|text| text.parse()).collect();
    let receiver = match get::<Option<i32>>(row, "receiver")? {
        None => None,
        Some(_) => {
            let port = get::<Option<i32>>(row, "sender_port")?.and_then(|port| u16::try_from(port).ok());
            let age: Option<i64> = get(row, "message_age")?;
            Some(Receiver {
                streams: get::<Option<&str>>(row, "status")? == Some("streaming"),
                sender: get::<Option<String>>(row, "sender_host")?.zip(port),
                // A clock that was set back makes it negative.
                message_age: age.map(|age| Duration::from_millis(u64::try_from(age).unwrap_or(0))),
            })
        }
    };
    let position =
        if standby { lsn(row, "received")?.max(lsn(row, "replayed")?) } else { lsn(row, "flushed")? };
    Ok(MemberLook {
        is_primary: !standby,
        // PostgreSQL shows an unsigned number in a signed type.
        system_identifier: SystemIdentifier::new(get::<i64>(row, "system_identifier")?.cast_unsigned()),
        timeline: Timeline::new(timeline.ok_or_else(|| unexpected("timeline"))?),
        term,
        lsn: position.ok_or_else(|| unexpected("position"))?,
        redo: lsn(row, "redo")?,
        replay_waits: get(row, "replay_waits")?,
        replay_paused: get(row, "paused")?,
        receiver,
        standbys: names
            .into_iter()
            .zip(positions.map_err(|_| unexpected("standbys"))?)
            .zip(get::<Vec<bool>>(row, "standbys_acknowledge")?)
            .map(|((name, flushed), acknowledges)| StreamingStandby { name, flushed, acknowledges })
            .collect(),
        settings: ShownSettings {
            primary_conninfo: get(row, "primary_conninfo")?,
            restore_command: get(row, "restore_command")?,
            synchronous_standby_names: get(row, "synchronous_standby_names")?,
        },
        canary_waits: get(row, "canary_waits")?,
        next_xid: u64::try_from(get::<i64>(row, "next_xid")?).ok(),
        last_commit: get::<Option<i64>>(row, "last_commit")?
            .and_then(|milliseconds| Timestamp::from_millisecond(milliseconds).ok()),
    })
}

/// A session that looks again and again. Its statements are prepared: to plan them takes the server several times as long as to
/// run them.
struct Looking {
    session: Session,
    look: Statement,
    /// None while there is no table.
    last_term: Option<Statement>,
}

/// Looks at a member again and again over one connection, which it makes anew when it broke.
pub struct MemberProbe {
    endpoint: Endpoint,
    timeout: Duration,
    session: Option<Looking>,
}

impl MemberProbe {
    /// A probe that has not connected yet. `timeout` is how long one look may take, connecting included.
    #[must_use]
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Self {
        Self { endpoint, timeout, session: None }
    }

    /// Where it looks.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn connect(&self) -> Result<Looking, PostgresError> {
        let session = self.endpoint.connect(SUPERUSER, self.timeout).await?;
        let look = session.client.prepare(LOOK).await;
        let look = look.map_err(|error| self.endpoint.error(error, self.timeout))?;
        Ok(Looking { session, look, last_term: None })
    }

    async fn last_term(&self, looking: &mut Looking) -> Result<Option<i64>, tokio_postgres::Error> {
        let client = &looking.session.client;
        let statement = match &mut looking.last_term {
            Some(statement) => statement,
            none => none.insert(client.prepare(LAST_TERM).await?),
        };
        client.query_one(statement, &[]).await?.try_get(0)
    }

    async fn ask(&self, looking: &mut Looking) -> Result<MemberLook, PostgresError> {
        let sorted = |error| self.endpoint.error(error, self.timeout);
        // First: a row that comes in between belongs to a position that is not reported yet.
        let term = match self.last_term(looking).await {
            Ok(term) => Term::new(u32::try_from(term.unwrap_or(0)).map_err(|_| unexpected("term"))?),
            Err(error) if error.code().is_some_and(is_missing) => Term::default(),
            Err(error) => return Err(sorted(error)),
        };
        let row = looking.session.client.query_one(&looking.look, &[]).await.map_err(sorted)?;
        look(&row, term)
    }

    /// How the member is now.
    ///
    /// # Errors
    /// As those of [`crate::Probe::facts`].
    pub async fn look(&mut self) -> Result<MemberLook, PostgresError> {
        // Put back after an answer only.
        let kept = self.session.take();
        let work = async {
            let mut looking = match kept {
                Some(looking) => looking,
                None => self.connect().await?,
            };
            let look = self.ask(&mut looking).await?;
            Ok((looking, look))
        };
        let answer = timeout(self.timeout, work).await;
        let (looking, look) = answer.unwrap_or_else(|_| Err(self.endpoint.no_answer(self.timeout)))?;
        self.session = Some(looking);
        Ok(look)
    }
}

fn is_missing(code: &SqlState) -> bool {
    [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME].contains(code)
}

/// Writes the row of a term on a primary and flushes it there, waiting for no standby. Returns a position behind it.
///
/// # Errors
/// As those of [`execute`].
pub async fn write_term_row(
    endpoint: &Endpoint,
    term: Term,
    cell: &CellName,
    copy: CopyNumber,
    timeout: Duration,
) -> Result<Lsn, PostgresError> {
    // A cell's name has no quotes.
    let row = format!(
        "{TABLES}; INSERT INTO cellar.term (term, cell, copy) VALUES ({term}, '{cell}', {copy}) ON CONFLICT (term) DO NOTHING"
    );
    // Sessions of ours commit with `synchronous_commit = local`: flushed here.
    execute(endpoint, &row, timeout).await?;
    let answer = query(endpoint, "SELECT pg_current_wal_flush_lsn()", timeout).await?;
    let text = answer.first().and_then(|row| row.first()).and_then(Clone::clone);
    text.and_then(|text| text.parse().ok()).ok_or_else(|| unexpected("position"))
}

/// Ends a pause of a standby's replay.
///
/// # Errors
/// As those of [`execute`].
pub async fn resume_replay(endpoint: &Endpoint, timeout: Duration) -> Result<(), PostgresError> {
    execute(endpoint, "SELECT pg_wal_replay_resume()", timeout).await
}

/// Commits that wait for the quorum, one at a time, over one connection.
pub struct CanarySession {
    session: Session,
    endpoint: Endpoint,
}

/// How long its connection may take.
const CANARY_CONNECT: Duration = Duration::from_secs(3);

impl CanarySession {
    /// Connects.
    ///
    /// # Errors
    /// As those of [`execute`].
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, PostgresError> {
        let work = async {
            let session = endpoint.connect(SUPERUSER, CANARY_CONNECT).await?;
            // What ends a commit that waits reports success, so nothing of ours ends it.
            let settings = "SET application_name = 'cellar canary'; SET synchronous_commit = on; SET statement_timeout = 0";
            let set = session.client.simple_query(settings).await;
            set.map_err(|error| endpoint.error(error, CANARY_CONNECT))?;
            Ok(Self { session, endpoint: endpoint.clone() })
        };
        timeout(CANARY_CONNECT, work).await.unwrap_or_else(|_| Err(endpoint.no_answer(CANARY_CONNECT)))
    }

    /// Commits once. Ends when the quorum has it, however long that takes; dropped, it closes the connection.
    ///
    /// # Errors
    /// When the connection broke or PostgreSQL refused.
    pub async fn commit(&self) -> Result<(), PostgresError> {
        let row =
            "INSERT INTO cellar.canary (at) VALUES (now()) ON CONFLICT (one) DO UPDATE SET at = excluded.at";
        let answer = self.session.client.simple_query(row).await;
        let answer: Vec<SimpleQueryMessage> =
            answer.map_err(|error| self.endpoint.error(error, CANARY_CONNECT))?;
        drop(answer);
        Ok(())
    }
}
