//! Whether a cell may leave.

use crate::decide::snapshot::{Snapshot, known};
use crate::records::instance::{InstanceState, Role};
use crate::records::leadership::Rule;
use crate::types::code::{Code, Refusal};
use crate::types::name::{CellName, DatabaseName};

/// Decides whether a cell may leave every database.
///
/// # Errors
/// Refused when it is unknown, the last one, some database's primary, one without which no commit would have its quorum, or when
/// it alone has a database's data, the data that a
/// rollback returns to, or the repository.
pub fn plan_cell_removal(snapshot: &Snapshot<'_>, cell: &CellName) -> Result<(), Refusal> {
    if !snapshot.cells.contains_key(cell) {
        let all = known(snapshot.cells.keys().map(CellName::as_str));
        return Err(
            Refusal::new(Code::UnknownCell, format!("there is no cell {cell} ({all})")).about("cell", cell)
        );
    }
    if snapshot.cells.len() == 1 {
        return Err(Refusal::new(Code::LastCell, format!("{cell} is the last cell"))
            .hint("`cellar down --destroy` removes the whole cluster")
            .about("cell", cell));
    }
    for (database, record) in snapshot.databases {
        if record.repository.home() == Some(cell) {
            let message = format!(
                "the repository of {database} is on the host of cell {cell}, and its backups and WAL with it"
            );
            return Err(Refusal::new(Code::Unsupported, message)
                .hint(
                    "keep the cell for as long as the repository is there: this release moves no repository",
                )
                .about("cell", cell)
                .about("database", database));
        }
        // One that was appointed is not recorded yet, and everybody looks to it.
        let recorded = snapshot.leaders.get(database).is_some_and(|leader| {
            let leads = leader.leadership.as_ref().filter(|leads| !leads.ended);
            leader.cell == *cell || leads.is_some_and(|leads| leads.cell == *cell)
        });
        let observed = snapshot
            .status
            .get(&(database.clone(), cell.clone()))
            .is_some_and(|status| status.role == Role::Primary);
        if recorded || observed {
            return Err(Refusal::new(Code::IsPrimary, format!("cell {cell} is the primary of {database}"))
                .hint("promote another cell first")
                .about("cell", cell)
                .about("database", database));
        }
        keeps_a_quorum(snapshot, database, cell)?;
        let open = snapshot.incarnations.get(database).filter(|open| open.kept_in.as_ref() == Some(cell));
        if let Some(restore) = open.and_then(|open| open.job) {
            let message = format!(
                "cell {cell} keeps the data of {database} from before restore {restore}, the only way back from it"
            );
            return Err(Refusal::new(Code::RestoreOpen, message)
                .hint(format!(
                    "`cellar restore confirm {restore}` gives that data up, `cellar restore rollback {restore}` returns to it"
                ))
                .about("cell", cell)
                .about("database", database)
                .about("job", restore));
        }
        // Only the cell of a restore that has taken effect has the true data, until a primary runs on it.
        let only = snapshot.incarnations.get(database).filter(|made| {
            made.cell.as_ref() == Some(cell) && !made.is_in_use(snapshot.leaders.get(database))
        });
        if let Some(made) = only {
            let job = made.job.map(|job| job.to_string()).unwrap_or_default();
            let way_back = match made.kept_in {
                Some(_) => format!(", or `cellar restore rollback {job}` returns to the data from before"),
                None => String::new(),
            };
            let message = format!(
                "cell {cell} alone has the data of {database} since restore {job}, and no primary runs on it yet"
            );
            return Err(Refusal::new(Code::RestoreOpen, message)
                .hint(format!(
                    "`cellar up`, or `cellar host start` there, takes it into use; if the cell is lost, `cellar restore --onto` another cell makes the database anew{way_back}"
                ))
                .about("cell", cell)
                .about("database", database)
                .about("job", job));
        }
    }
    Ok(())
}

/// Whether commits can be acknowledged without that cell.
fn keeps_a_quorum(snapshot: &Snapshot<'_>, database: &DatabaseName, cell: &CellName) -> Result<(), Refusal> {
    let leader = snapshot.leaders.get(database);
    let leads = leader.and_then(|leader| leader.leadership.as_ref()).filter(|leads| !leads.ended);
    let Some((primary, rule)) = leads.and_then(|leads| Some((&leads.cell, leads.rule()?))) else {
        return Ok(());
    };
    // From whom they stream is not known for a moment after the primary was moved.
    let is_up = |cell: &CellName| {
        let status = snapshot.status.get(&(database.clone(), cell.clone()));
        status.is_some_and(|status| status.state == InstanceState::Running && status.role == Role::Standby)
    };
    if !rule.cohort.contains_key(cell) {
        return Ok(());
    }
    let mut cohort = rule.cohort.clone();
    cohort.remove(cell);
    let left = Rule::of(rule.number, cohort);
    let standbys: Vec<&CellName> = left.cohort.keys().filter(|it| *it != primary).collect();
    // One that is down acknowledges nothing now: without it no commit waits for longer.
    let takes_the_last = is_up(cell) && standbys.iter().filter(|it| is_up(it)).count() < left.k as usize;
    if left.cohort.len() >= 2 && !takes_the_last {
        return Ok(());
    }
    let message = format!(
        "without cell {cell} no commit of {database} would be acknowledged: quorum commit needs {} of its other standbys to be up",
        left.k.max(1)
    );
    Err(Refusal::new(Code::CellDown, message)
        .hint("bring another standby up, or add one with `cellar cells add`; `cellar durability async` lets commits go through without any")
        .about("cell", cell)
        .about("database", database))
}
