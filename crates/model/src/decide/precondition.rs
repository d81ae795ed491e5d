//! What must be true of the live instance before pgBackRest may run.
//!
//! pgBackRest checks `pg-path` against `data_directory` only for the primary:
//! a wrong pg1-path with the right port gives exit 0 and a backup without the
//! tables. So the pooler asks the instance itself, and these rules decide.

use std::time::Duration;

use crate::records::instance::Role;
use crate::types::code::{Code, Refusal};
use crate::types::lsn::{Lsn, SystemIdentifier, Timeline};
use crate::types::name::CellName;

/// How long a standby may be without its primary while nothing is wrong. A primary that starts again is back in a second
/// or two, and its standbys try once a second (`wal_retrieve_retry_interval`), between two looks into the archive.
pub const RECONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// What the topology says of the instance.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// The cell that was named.
    pub cell: &'a CellName,
    /// pg1-path of the job config.
    pub data_directory: &'a str,
    /// The database's identity.
    pub system_identifier: SystemIdentifier,
    /// The recorded primary's timeline.
    pub timeline: Timeline,
    /// The recorded primary.
    pub primary: &'a CellName,
    /// Host and port at which the recorded primary's PostgreSQL is.
    pub primary_address: (&'a str, u16),
    /// Largest replay lag in bytes.
    pub max_lag_bytes: u64,
    /// Other cells that say they are the primary.
    pub other_primaries: &'a [CellName],
}

/// What the instance itself said, just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// From `pg_is_in_recovery()`.
    pub role: Role,
    /// From `data_directory`.
    pub data_directory: String,
    /// From `pg_control_system()`.
    pub system_identifier: SystemIdentifier,
    /// From `pg_stat_wal_receiver.received_tli`, `pg_control_checkpoint()`, or the current WAL file name on a primary.
    pub timeline: Timeline,
    /// Host and port of the walreceiver's sender, while it streams.
    pub streaming_from: Option<(String, u16)>,
    /// The primary's position, learned after the standby's own: as the primary itself says, or else
    /// the newest that the standby was told of.
    pub primary_lsn: Option<Lsn>,
    /// A standby's replay position, a primary's write position.
    pub replay_lsn: Lsn,
}

fn refuse(expected: &Expected<'_>, code: Code, message: String, hint: &str) -> Refusal {
    Refusal::new(code, message).hint(hint).about("cell", expected.cell)
}

fn check_identity(expected: &Expected<'_>, observed: &Observed) -> Result<(), Refusal> {
    let cell = expected.cell;
    if observed.data_directory != expected.data_directory {
        return Err(refuse(
            expected,
            Code::WrongInstance,
            format!(
                "the instance of cell {cell} has its data in {}, but the config says pg1-path={}: a backup would copy the wrong files",
                observed.data_directory, expected.data_directory
            ),
            "correct the pooler's data directory or the instance's",
        ));
    }
    if observed.system_identifier != expected.system_identifier {
        return Err(refuse(
            expected,
            Code::WrongInstance,
            format!(
                "the instance of cell {cell} has system identifier {}, the database has {}",
                observed.system_identifier, expected.system_identifier
            ),
            "it belongs to another database: rebuild the cell (`cellar rebuild`)",
        ));
    }
    if !expected.other_primaries.is_empty() {
        let names: Vec<&str> = expected.other_primaries.iter().map(CellName::as_str).collect();
        return Err(refuse(
            expected,
            Code::TwoPrimaries,
            format!("{} is recorded as primary, but {} is a primary too", expected.primary, names.join(", ")),
            "stop or rebuild the one that should not be, then ask again",
        ));
    }
    Ok(())
}

fn check_standby_without_lag(expected: &Expected<'_>, observed: &Observed) -> Result<(), Refusal> {
    let cell = expected.cell;
    match observed.role {
        Role::Standby => {}
        Role::Primary => {
            return Err(refuse(
                expected,
                Code::IsPrimary,
                format!("the instance of cell {cell} is a primary now"),
                "name a standby, or allow it with --allow-primary",
            ));
        }
        Role::Unknown => {
            return Err(refuse(
                expected,
                Code::CellDown,
                format!("the instance of cell {cell} does not answer"),
                "look at `cellar status`",
            ));
        }
    }
    check_identity(expected, observed)?;
    let Some((host, port)) = &observed.streaming_from else {
        return Err(refuse(
            expected,
            Code::WrongPrimary,
            format!("the standby in cell {cell} does not stream from any primary"),
            "look at its log; if replication cannot go on, rebuild it (`cellar rebuild`)",
        ));
    };
    if (host.as_str(), *port) != expected.primary_address {
        return Err(refuse(
            expected,
            Code::WrongPrimary,
            format!(
                "the standby in cell {cell} streams from {host}:{port}, and the recorded primary {} is at {}:{}",
                expected.primary, expected.primary_address.0, expected.primary_address.1
            ),
            "point it at the primary, or rebuild it (`cellar rebuild`)",
        ));
    }
    if observed.timeline != expected.timeline {
        return Err(refuse(
            expected,
            Code::WrongPrimary,
            format!(
                "the standby in cell {cell} is on timeline {}, the primary {} on {}",
                observed.timeline, expected.primary, expected.timeline
            ),
            "wait until it has followed the promotion, or rebuild it (`cellar rebuild`)",
        ));
    }
    Ok(())
}

/// Whether the instance is a healthy standby of the recorded primary, close enough behind it.
///
/// # Errors
/// The first rule that does not hold.
pub fn check_standby_source(expected: &Expected<'_>, observed: &Observed) -> Result<(), Refusal> {
    check_standby_without_lag(expected, observed)?;
    if let Some(primary) = observed.primary_lsn.filter(|primary| *primary < observed.replay_lsn) {
        return Err(refuse(
            expected,
            Code::WrongPrimary,
            format!(
                "the standby in cell {} has replayed up to {}, and the primary {} has only come to {primary}: the standby has WAL that the primary never had",
                expected.cell, observed.replay_lsn, expected.primary
            ),
            "it followed another primary past the point where this one was promoted: rebuild it (`cellar rebuild`)",
        ));
    }
    let lag = observed.primary_lsn.map_or(0, |primary| primary.bytes_ahead_of(observed.replay_lsn));
    if lag > expected.max_lag_bytes {
        return Err(refuse(
            expected,
            Code::Lagging,
            format!(
                "the standby in cell {} is {lag} bytes behind the primary, and at most {} are allowed",
                expected.cell, expected.max_lag_bytes
            ),
            "wait until it has caught up, name another standby, or raise --max-lag",
        ));
    }
    Ok(())
}

/// Whether the instance is the recorded primary, for a backup that was allowed to take it.
///
/// # Errors
/// The first rule that does not hold.
pub fn check_primary_source(expected: &Expected<'_>, observed: &Observed) -> Result<(), Refusal> {
    if observed.role != Role::Primary || expected.primary != expected.cell {
        return Err(refuse(
            expected,
            Code::NotPrimary,
            format!("the instance of cell {} is not the recorded primary", expected.cell),
            "ask again: the roles have changed",
        ));
    }
    check_identity(expected, observed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Observed)) -> Result<(), Code> {
        check_beside(&[], change)
    }

    fn check_beside(others: &[CellName], change: impl FnOnce(&mut Observed)) -> Result<(), Code> {
        let (cell, primary) = ("zone3".parse().unwrap(), "zone1".parse().unwrap());
        let expected = Expected {
            cell: &cell,
            data_directory: "/c/zone3/pg_data",
            system_identifier: SystemIdentifier::new(7),
            timeline: Timeline::new(2),
            primary: &primary,
            primary_address: ("localhost", 25432),
            max_lag_bytes: 1000,
            other_primaries: others,
        };
        let mut observed = Observed {
            role: Role::Standby,
            data_directory: "/c/zone3/pg_data".into(),
            system_identifier: SystemIdentifier::new(7),
            timeline: Timeline::new(2),
            streaming_from: Some(("localhost".into(), 25432)),
            primary_lsn: Some(Lsn::new(5000)),
            replay_lsn: Lsn::new(4000),
        };
        change(&mut observed);
        check_standby_source(&expected, &observed).map_err(|refusal| refusal.code)
    }

    #[test]
    fn each_rule_refuses() {
        assert_eq!(check(|_| {}), Ok(()));
        assert_eq!(check(|o| o.role = Role::Primary), Err(Code::IsPrimary));
        assert_eq!(check(|o| o.role = Role::Unknown), Err(Code::CellDown));
        assert_eq!(check(|o| o.data_directory = "/elsewhere".into()), Err(Code::WrongInstance));
        assert_eq!(check(|o| o.system_identifier = SystemIdentifier::new(8)), Err(Code::WrongInstance));
        assert_eq!(check(|o| o.timeline = Timeline::new(1)), Err(Code::WrongPrimary));
        assert_eq!(check(|o| o.streaming_from = None), Err(Code::WrongPrimary));
        assert_eq!(check(|o| o.streaming_from = Some(("localhost".into(), 25433))), Err(Code::WrongPrimary));
        assert_eq!(check(|o| o.replay_lsn = Lsn::new(3999)), Err(Code::Lagging));
        assert_eq!(check(|o| o.replay_lsn = Lsn::new(5001)), Err(Code::WrongPrimary), "diverged");
        assert_eq!(check_beside(&["zone2".parse().unwrap()], |_| {}), Err(Code::TwoPrimaries));
    }

    #[test]
    fn backup_of_the_primary_needs_the_recorded_primary() {
        let (cell, other): (CellName, CellName) = ("zone1".parse().unwrap(), "zone2".parse().unwrap());
        let expected = |primary| Expected {
            cell: &cell,
            data_directory: "/d",
            system_identifier: SystemIdentifier::new(7),
            timeline: Timeline::new(1),
            primary,
            primary_address: ("localhost", 25432),
            max_lag_bytes: 0,
            other_primaries: &[],
        };
        let observed = Observed {
            role: Role::Primary,
            data_directory: "/d".into(),
            system_identifier: SystemIdentifier::new(7),
            timeline: Timeline::new(1),
            streaming_from: None,
            primary_lsn: None,
            replay_lsn: Lsn::new(1),
        };
        assert!(check_primary_source(&expected(&cell), &observed).is_ok());
        assert_eq!(check_primary_source(&expected(&other), &observed).unwrap_err().code, Code::NotPrimary);
        let standby = Observed { role: Role::Standby, ..observed };
        assert_eq!(check_primary_source(&expected(&cell), &standby).unwrap_err().code, Code::NotPrimary);
    }
}
