//! Whether a cell is well, by what its multipooler reports.

use cellar_model::{CellName, InstanceState, PoolerStatus, Role};

/// What a multipooler reports, as far as it says whether its cell is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellFacts<'a> {
    /// Whether PostgreSQL runs.
    pub is_running: bool,
    /// What the multipooler says of that.
    pub message: &'a str,
    /// What PostgreSQL is.
    pub role: Role,
    /// The cell from which it streams.
    pub streams_from: Option<&'a str>,
    /// Whether its pgBackRest server answers.
    pub tls_server_up: bool,
}

impl<'a> CellFacts<'a> {
    pub(crate) fn of(status: &'a PoolerStatus) -> Self {
        Self {
            is_running: status.state == InstanceState::Running,
            message: &status.message,
            role: status.role,
            streams_from: status.streams_from.as_ref().map(CellName::as_str),
            tls_server_up: status.tls_server_up,
        }
    }
}

/// The primary that is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordedPrimary<'a> {
    /// It was not asked for.
    NotAsked,
    /// There is none.
    None,
    /// That of this cell.
    Cell(&'a str),
}

/// What is wrong with a cell; `facts` are none when its multipooler does not report. `shown` is the cell's name with that of
/// the database, where there are several.
#[must_use]
pub fn cell_problems(
    shown: &str,
    cell: &str,
    facts: Option<CellFacts<'_>>,
    primary: RecordedPrimary<'_>,
) -> Vec<String> {
    let Some(facts) = facts else { return vec![format!("cell {shown}: its multipooler does not report")] };
    let mut problems: Vec<String> = instance_problem(cell, facts, primary).into_iter().collect();
    if !facts.tls_server_up {
        problems.push("its pgBackRest TLS server does not answer".to_owned());
    }
    problems.into_iter().map(|problem| format!("cell {shown}: {problem}")).collect()
}

fn instance_problem(cell: &str, facts: CellFacts<'_>, primary: RecordedPrimary<'_>) -> Option<String> {
    if !facts.is_running {
        return Some(match facts.message {
            "" => "PostgreSQL is not running".to_owned(),
            message => format!("PostgreSQL is not running: {message}"),
        });
    }
    match (facts.role, primary) {
        (_, RecordedPrimary::None) => Some("no primary is recorded".to_owned()),
        (Role::Primary, RecordedPrimary::Cell(recorded)) if recorded != cell => {
            Some(format!("a primary, while {recorded} is the recorded one"))
        }
        (Role::Primary, _) => None,
        (_, RecordedPrimary::Cell(recorded)) => (facts.role != Role::Standby
            || facts.streams_from != Some(recorded))
        .then(|| format!("it does not stream from {recorded}")),
        (Role::Standby, RecordedPrimary::NotAsked) => {
            facts.streams_from.is_none().then(|| "the standby does not stream".to_owned())
        }
        (_, RecordedPrimary::NotAsked) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STANDBY: CellFacts<'static> = CellFacts {
        is_running: true,
        message: "",
        role: Role::Standby,
        streams_from: Some("zone1"),
        tls_server_up: true,
    };

    #[test]
    fn cell_is_judged_with_and_without_the_recorded_primary() {
        let of = |facts, primary| cell_problems("zone2", "zone2", facts, primary);
        let recorded = RecordedPrimary::Cell("zone1");
        for primary in [recorded, RecordedPrimary::NotAsked] {
            assert_eq!(of(Some(STANDBY), primary), [""; 0]);
            assert_eq!(of(None, primary), ["cell zone2: its multipooler does not report"]);
            let down = CellFacts { is_running: false, message: "no disk", tls_server_up: false, ..STANDBY };
            assert_eq!(
                of(Some(down), primary),
                [
                    "cell zone2: PostgreSQL is not running: no disk",
                    "cell zone2: its pgBackRest TLS server does not answer"
                ]
            );
            let alone = CellFacts { streams_from: None, ..STANDBY };
            assert!(of(Some(alone), primary)[0].contains("does not stream"));
        }
        let primary = CellFacts { role: Role::Primary, streams_from: None, ..STANDBY };
        assert!(of(Some(primary), recorded)[0].contains("while zone1 is the recorded one"));
        assert_eq!(of(Some(primary), RecordedPrimary::Cell("zone2")), [""; 0]);
        assert_eq!(of(Some(primary), RecordedPrimary::NotAsked), [""; 0]);
        assert!(of(Some(primary), RecordedPrimary::None)[0].contains("no primary is recorded"));
    }
}
