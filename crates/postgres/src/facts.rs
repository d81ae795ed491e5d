//! What one query tells of an instance.

use std::time::Duration;

use cellar_model::{Archiver, Lsn, Observed, Role, SystemIdentifier, Timeline};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::conninfo::conninfo_address;
use crate::error::PostgresError;
use crate::required_settings::RequiredSettings;

/// Everything in one statement, so that it is one moment and one round trip.
///
/// `pg_is_in_recovery()` is asked once (being volatile it is not pulled up), and the functions that raise an error in
/// the other role stand in branches that are not evaluated there. A promotion in between does no
/// harm: the standby's functions work on a primary.
///
/// On a primary only the name of a WAL file has the timeline from the moment of promotion;
/// `pg_control` has it after the next checkpoint.
pub(crate) const QUERY: &str = "\
SELECT r.standby,
       current_setting('data_directory') AS data_directory,
       (pg_control_system()).system_identifier AS system_identifier,
       current_setting('server_version') AS server_version,
       coalesce(current_setting('in_hot_standby', true), 'off') = 'on' AS in_hot_standby,
       CASE WHEN NOT r.standby THEN pg_walfile_name(pg_current_wal_lsn()) END AS wal_file,
       CASE WHEN NOT r.standby THEN pg_current_wal_lsn()::text END AS write_lsn,
       CASE WHEN r.standby THEN greatest((pg_control_checkpoint()).timeline_id,
                                         (pg_control_recovery()).min_recovery_end_timeline) END AS control_timeline,
       (pg_control_checkpoint()).redo_lsn::text AS redo_lsn,
       (pg_control_checkpoint()).timeline_id AS checkpoint_timeline,
       CASE WHEN r.standby THEN pg_last_wal_receive_lsn()::text END AS receive_lsn,
       CASE WHEN r.standby THEN pg_last_wal_replay_lsn()::text END AS replay_lsn,
       current_setting('primary_conninfo') AS primary_conninfo,
       CASE WHEN r.standby THEN pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END AS replay_paused,
       ARRAY(SELECT current_setting(name)::int8 FROM unnest(ARRAY['max_connections', 'max_worker_processes',
             'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction']) name) AS replays,
       current_setting('wal_level') = 'logical' AS logical,
       w.pid AS receiver_pid, w.status, w.sender_host, w.sender_port, w.received_tli,
       w.latest_end_lsn::text AS latest_end_lsn, w.flushed_lsn::text AS flushed_lsn,
       (extract(epoch FROM clock_timestamp() - w.last_msg_receipt_time) * 1000)::int8 AS last_message_age_ms,
       a.last_archived_wal, (extract(epoch FROM a.last_archived_time) * 1000)::int8 AS last_archived_ms,
       a.last_failed_wal, (extract(epoch FROM a.last_failed_time) * 1000)::int8 AS last_failed_ms,
       ARRAY(SELECT split_part(application_name, ':', 1) FROM pg_stat_replication
              WHERE state = 'streaming' ORDER BY application_name) AS standbys
  FROM (SELECT pg_is_in_recovery() AS standby) r
  CROSS JOIN pg_stat_archiver a
  LEFT JOIN pg_stat_wal_receiver w ON true";

/// A standby's connection to its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalReceiver {
    /// Its process. One that cannot stream ends at once, and the next attempt is another process.
    pub pid: i32,
    /// PostgreSQL's word: `streaming`, `starting`, `waiting`, `restarting` or `stopping`.
    pub status: String,
    /// Host and port as `primary_conninfo` gives them, once connected.
    pub sender: Option<(String, u16)>,
    /// The sender's newest position that it told of.
    pub latest_end_lsn: Option<Lsn>,
    /// What is safely on the standby's disk.
    pub flushed_lsn: Option<Lsn>,
    /// How long ago the sender last said anything. An idle one speaks at least every 10 s
    /// (half of `wal_sender_timeout`), so more than that means that it is frozen or unreachable.
    pub last_message_age: Option<Duration>,
}

/// What an instance said of itself, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFacts {
    /// Primary or standby, never unknown.
    pub role: Role,
    /// The data directory it runs on, as it was given at its start.
    pub data_directory: String,
    /// The database's identity.
    pub system_identifier: SystemIdentifier,
    /// The timeline it writes, receives or, when it receives nothing, last recovered.
    pub timeline: Timeline,
    /// The timeline of the last checkpoint, or restartpoint of a standby.
    pub checkpoint_timeline: Timeline,
    /// Such as `15.18`.
    pub server_version: String,
    /// Whether it is in recovery and serves queries.
    pub in_hot_standby: bool,
    /// Where a start would begin to replay: the redo position of the last checkpoint or restartpoint.
    pub redo_lsn: Lsn,
    /// A primary's write position.
    pub write_lsn: Option<Lsn>,
    /// What a standby has received, since its start.
    pub receive_lsn: Option<Lsn>,
    /// What a standby has replayed.
    pub replay_lsn: Option<Lsn>,
    /// Whether a standby's replay is paused, or about to be.
    pub replay_paused: bool,
    /// What it can replay.
    pub replays: RequiredSettings,
    /// A standby's connection to its sender.
    pub wal_receiver: Option<WalReceiver>,
    /// Where `primary_conninfo` points, whether or not it is used now.
    pub configured_primary: Option<(String, u16)>,
    /// The archiver.
    pub archiver: Archiver,
    /// `application_name` of everybody that streams from here: standbys' cells, without the number of the copy that is behind
    /// a colon with quorum commit, and `pg_basebackup` and the like.
    pub streaming_to: Vec<String>,
}

fn get<'a, T: FromSql<'a>>(row: &'a Row, name: &str) -> Result<T, PostgresError> {
    row.try_get(name).map_err(|error| PostgresError::UnexpectedAnswer(format!("{name}: {error}")))
}

fn lsn(row: &Row, name: &str) -> Result<Option<Lsn>, PostgresError> {
    let text: Option<&str> = get(row, name)?;
    text.map(str::parse)
        .transpose()
        .map_err(|error| PostgresError::UnexpectedAnswer(format!("{name}: {error}")))
}

fn time(row: &Row, name: &str) -> Result<Option<Timestamp>, PostgresError> {
    let millis: Option<i64> = get(row, name)?;
    Ok(millis.and_then(|millis| Timestamp::from_millisecond(millis).ok()))
}

/// The timeline in the first eight digits of a WAL file's name.
fn timeline_of_file(name: &str) -> Option<u32> {
    u32::from_str_radix(name.get(..8)?, 16).ok()
}

fn wal_receiver(row: &Row) -> Result<Option<WalReceiver>, PostgresError> {
    let Some(status) = get::<Option<String>>(row, "status")? else { return Ok(None) };
    let (host, port): (Option<String>, Option<i32>) = (get(row, "sender_host")?, get(row, "sender_port")?);
    let sender = host.zip(port.and_then(|port| u16::try_from(port).ok()));
    let age: Option<i64> = get(row, "last_message_age_ms")?;
    Ok(Some(WalReceiver {
        pid: get::<Option<i32>>(row, "receiver_pid")?.unwrap_or(0),
        status,
        sender,
        latest_end_lsn: lsn(row, "latest_end_lsn")?,
        flushed_lsn: lsn(row, "flushed_lsn")?,
        // A clock that was set back makes it negative.
        last_message_age: age.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0))),
    }))
}

/// The settings in the order of the query.
fn replays(values: &[i64]) -> RequiredSettings {
    let value = |at: usize| values.get(at).and_then(|value| u32::try_from(*value).ok()).unwrap_or(0);
    RequiredSettings {
        max_connections: value(0),
        max_worker_processes: value(1),
        max_wal_senders: value(2),
        max_prepared_transactions: value(3),
        max_locks_per_transaction: value(4),
        ..RequiredSettings::default()
    }
}

impl InstanceFacts {
    pub(crate) fn from_row(row: &Row) -> Result<Self, PostgresError> {
        let standby: bool = get(row, "standby")?;
        let wal_file: Option<&str> = get(row, "wal_file")?;
        let received: Option<i32> = get(row, "received_tli")?;
        let control: Option<i32> = get(row, "control_timeline")?;
        let known = |tli: i32| u32::try_from(tli).ok().filter(|tli| *tli > 0);
        let timeline = match standby {
            true => received.and_then(known).or(control.and_then(known)),
            false => wal_file.and_then(timeline_of_file),
        };
        let identifier: i64 = get(row, "system_identifier")?;
        let version: &str = get(row, "server_version")?;
        Ok(Self {
            role: if standby { Role::Standby } else { Role::Primary },
            data_directory: get(row, "data_directory")?,
            // PostgreSQL shows an unsigned number in a signed type.
            system_identifier: SystemIdentifier::new(identifier.cast_unsigned()),
            timeline: Timeline::new(
                timeline.ok_or_else(|| PostgresError::UnexpectedAnswer("timeline".to_owned()))?,
            ),
            checkpoint_timeline: known(get(row, "checkpoint_timeline")?)
                .map(Timeline::new)
                .ok_or_else(|| PostgresError::UnexpectedAnswer("checkpoint_timeline".to_owned()))?,
            server_version: version.split_whitespace().next().unwrap_or_default().to_owned(),
            in_hot_standby: get(row, "in_hot_standby")?,
            redo_lsn: lsn(row, "redo_lsn")?
                .ok_or_else(|| PostgresError::UnexpectedAnswer("redo_lsn".to_owned()))?,
            write_lsn: lsn(row, "write_lsn")?,
            receive_lsn: lsn(row, "receive_lsn")?,
            replay_lsn: lsn(row, "replay_lsn")?,
            replay_paused: get(row, "replay_paused")?,
            replays: RequiredSettings {
                logical: get(row, "logical")?,
                ..replays(&get::<Vec<i64>>(row, "replays")?)
            },
            wal_receiver: wal_receiver(row)?,
            configured_primary: conninfo_address(get(row, "primary_conninfo")?),
            archiver: Archiver {
                last_archived_wal: get(row, "last_archived_wal")?,
                last_archived_time: time(row, "last_archived_ms")?,
                last_failed_wal: get(row, "last_failed_wal")?,
                last_failed_time: time(row, "last_failed_ms")?,
            },
            streaming_to: get(row, "standbys")?,
        })
    }

    /// Whether this primary was promoted and has not ended a checkpoint since. Until then `pg_control` has the timeline of
    /// before, and pgBackRest (2.45: error 58) takes no backup of any member. PostgreSQL spreads that checkpoint
    /// over minutes (`checkpoint_completion_target`).
    #[must_use]
    pub fn awaits_first_checkpoint(&self) -> bool {
        self.role == Role::Primary && self.checkpoint_timeline < self.timeline
    }

    /// The sender of a standby that streams at this moment.
    #[must_use]
    pub fn streaming_from(&self) -> Option<&(String, u16)> {
        self.wal_receiver.as_ref().filter(|receiver| receiver.status == "streaming")?.sender.as_ref()
    }

    /// How far a standby has the WAL. What it received counts from its start, and begins with the start of a segment, which
    /// may be lower than what it has replayed.
    #[must_use]
    pub fn held_lsn(&self) -> Option<Lsn> {
        self.receive_lsn.max(self.replay_lsn)
    }

    /// What the rules for a backup's source want to know.
    #[must_use]
    pub fn to_observed(&self) -> Observed {
        // Without a WAL receiver a standby is told nothing, and what it has says nothing of the primary. With one, what is
        // here the primary has, even when it has said nothing newer.
        let told = self.wal_receiver.as_ref().and_then(|it| it.latest_end_lsn.max(self.held_lsn()));
        Observed {
            role: self.role,
            data_directory: self.data_directory.clone(),
            system_identifier: self.system_identifier,
            timeline: self.timeline,
            streaming_from: self.streaming_from().cloned(),
            primary_lsn: told.or(self.write_lsn),
            replay_lsn: self.replay_lsn.or(self.write_lsn).unwrap_or(Lsn::new(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_file_names_its_timeline_in_hex() {
        assert_eq!(timeline_of_file("0000000A0000000100000003"), Some(10));
        for bad in ["", "0000000", "zzzzzzzz0000", "ééééé"] {
            assert_eq!(timeline_of_file(bad), None, "{bad}");
        }
    }
}
