//! The part of a plan that says what a restore does to each cell, and whether the cells have room for it.

use std::path::Path;

use cellar_model::{
    CellName, CellPlan, Code, DatabaseName, Pooler, PoolerStatus, Refusal, RestoreParams, Target,
};

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
    let (members, statuses): (Vec<Pooler>, Vec<PoolerStatus>) = {
        let view = agent.mirror.view();
        let ours = |database: &DatabaseName| *database == agent.database;
        (
            view.poolers.values().filter(|card| ours(&card.database)).cloned().collect(),
            view.status.values().filter(|status| ours(&status.database)).cloned().collect(),
        )
    };
    let alive: Vec<CellName> = statuses.iter().map(|status| status.cell.clone()).collect();
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
    if !primary_answers && let Some(onto) = &params.onto {
        warnings.extend(more_elsewhere(onto, &statuses));
    }
    Ok(CellPlans { plans, warnings, silent_primary })
}

/// What to say when another cell has more of the lost primary's WAL than the chosen one.
fn more_elsewhere(onto: &CellName, statuses: &[PoolerStatus]) -> Option<String> {
    let held = |status: &PoolerStatus| status.held_timeline.zip(status.held_lsn);
    let here = statuses.iter().find(|status| status.cell == *onto);
    // One that streams has all that its primary sends.
    if here.is_some_and(|status| status.streams_from.is_some()) {
        return None;
    }
    let here = here.and_then(held);
    let most = statuses.iter().filter(|status| status.cell != *onto).max_by_key(|status| held(status))?;
    let (timeline, lsn) = held(most).filter(|most| Some(*most) > here)?;
    let has = here.map_or_else(
        || "does not say how far it has it".to_owned(),
        |(timeline, lsn)| format!("has it up to {lsn} of timeline {timeline}"),
    );
    let cell = &most.cell;
    Some(format!(
        "{cell} has the WAL up to {lsn} of timeline {timeline}, and {onto} {has}: what was committed in between and is not archived is lost. `--onto {cell}` brings it back"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(cell: &str, held: Option<(u32, &str)>) -> PoolerStatus {
        let mut text = serde_json::json!({ "database": "app", "cell": cell, "epoch": "e" });
        if let Some((timeline, lsn)) = held {
            text["heldTimeline"] = timeline.into();
            text["heldLsn"] = lsn.into();
        }
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_cell_that_has_more_than_the_chosen_one_is_named() {
        let of = |second, third| {
            more_elsewhere(&"zone2".parse().unwrap(), &[status("zone2", second), status("zone3", third)])
        };
        let told = of(Some((1, "0/5000000")), Some((1, "0/6000000"))).unwrap();
        assert!(
            told.contains("--onto zone3") && told.contains("0/5000000") && told.contains("0/6000000"),
            "{told}"
        );
        assert!(of(Some((1, "0/6000000")), Some((2, "0/5000000"))).is_some(), "a later timeline");
        assert!(of(None, Some((1, "0/6000000"))).is_some());
        assert_eq!(of(Some((1, "0/6000000")), Some((1, "0/6000000"))), None);
        assert_eq!(of(Some((1, "0/6000000")), None), None);
        assert_eq!(of(None, None), None);
    }
}
