//! The part of a plan that says what a restore does to each cell, and whether the cells have room for it.

use std::path::Path;

use cellar_model::{CellName, CellPlan, Code, DatabaseName, Pooler, Refusal, RestoreParams, Target};

use crate::agent::Agent;
use crate::data_layout::{Obstacle, obstacles};
use crate::disk::free_bytes;
use crate::peers;

/// What a restore does to the cells.
pub(crate) struct CellPlans {
    /// What happens to each.
    pub(crate) plans: Vec<CellPlan>,
    /// What the operator should know before.
    pub(crate) warnings: Vec<String>,
    /// The cell of the recorded primary, if that does not report.
    pub(crate) silent_primary: Option<CellName>,
}

/// What happens to each cell, and warnings. `needed` are the bytes of the restored data.
///
/// # Errors
/// When a cell has no room for the old and the restored data side by side, or its files lie so that it cannot be
/// restored.
pub(crate) async fn plan_cells(
    agent: &Agent,
    params: &RestoreParams,
    primary_answers: bool,
    needed: u64,
) -> Result<CellPlans, Refusal> {
    let leader = agent.leader().map(|leader| leader.cell);
    let (members, alive): (Vec<Pooler>, Vec<CellName>) = {
        let view = agent.mirror.view();
        let ours = |database: &DatabaseName| *database == agent.database;
        (
            view.poolers.values().filter(|card| ours(&card.database)).cloned().collect(),
            view.status
                .values()
                .filter(|status| ours(&status.database))
                .map(|status| status.cell.clone())
                .collect(),
        )
    };
    let mut plans = Vec::new();
    let mut warnings = Vec::new();
    let mut short = Vec::new();
    let mut silent_primary = None;
    for card in members {
        let chosen = params.onto.as_ref() == Some(&card.cell);
        let primary = leader.as_ref() == Some(&card.cell);
        if !alive.contains(&card.cell) {
            if primary {
                warnings.push(format!(
                    "the primary in {} does not report, so it is not fenced: rows that it had neither archived nor sent to the restored cell are lost, and if it runs, what it goes on acknowledging too. The restore is refused without --primary-is-dead, with which you vouch that its PostgreSQL does not run",
                    card.cell
                ));
                silent_primary = Some(card.cell.clone());
            }
            plans.push(CellPlan {
                cell: card.cell,
                action: "is down: left out, and rebuilt when it returns".to_owned(),
                needed_bytes: 0,
                free_bytes: 0,
            });
            continue;
        }
        let (free, obstacles) = if card.cell == agent.cell {
            let data = Path::new(&card.data_directory);
            (Some(free_bytes(data)), obstacles(data))
        } else {
            match peers::live_status(agent, &card).await {
                Ok(live) => {
                    (Some(live.free_bytes), live.restore_obstacles.into_iter().map(Obstacle::from).collect())
                }
                Err(_) => (None, Vec::new()),
            }
        };
        if let Some(obstacle) = obstacles.iter().find(|one| one.in_place_too || !params.in_place) {
            let refusal = obstacle.refusal().about("cell", &card.cell);
            return Err(Refusal { message: format!("in {}: {}", card.cell, refusal.message), ..refusal });
        }
        let needs = if params.in_place { 0 } else { needed };
        if free.is_none() {
            warnings.push(format!(
                "the instance of {} does not answer, so its room and how its files lie are not known",
                card.cell
            ));
        }
        if let Some(free) = free.filter(|free| *free < needs) {
            short.push(format!("{} has {free} of {needs} bytes", card.cell));
        }
        let stops = if primary { "is stopped, " } else { "" };
        let action = match (chosen, params.in_place) {
            (true, false) => {
                format!("{stops}restored beside the old data, which is kept, and becomes the primary")
            }
            (true, true) => {
                format!("{stops}restored over the old data, which is lost, and becomes the primary")
            }
            (false, false) => format!("{stops}read-only until it is rebuilt; the old data is kept"),
            (false, true) => format!("{stops}read-only until it is rebuilt over the old data, which is lost"),
        };
        plans.push(CellPlan { cell: card.cell, action, needed_bytes: needs, free_bytes: free.unwrap_or(0) });
    }
    if !short.is_empty() {
        return Err(Refusal::new(
            Code::DiskFull,
            format!("there is no room for the old and the restored data side by side: {}", short.join("; ")),
        )
        .hint("make room, or restore with --in-place: then the old data is lost and there is no rollback")
        .about("database", &agent.database));
    }
    if params.in_place {
        warnings.push("in place: the old data is lost, and there is no rollback".to_owned());
    }
    if let Target::Latest {} = params.target
        && !primary_answers
    {
        warnings.push("the primary does not answer: where its WAL ended is not known".to_owned());
    }
    Ok(CellPlans { plans, warnings, silent_primary })
}
