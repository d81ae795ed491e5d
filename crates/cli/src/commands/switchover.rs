//! `cellar switchover`.

use std::time::Duration;

use cellar_api::v1::{DatabaseView, GetDatabaseRequest, LeadershipPhase, SwitchPrimaryRequest};
use cellar_model::{CellName, Code, Refusal};
use clap::Args;
use tokio::time::Instant;

use crate::client::target::Target;
use crate::commands::durability::render;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output;

/// How long the move may take until it is given up: multiadmin gives it up after 30 s, and the old primary starts again.
const TIMEOUT: Duration = Duration::from_secs(90);

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(200);

/// Make another member the primary, without losing anything
///
/// The primary writes a checkpoint, stops when its standbys have everything, and comes back as a standby. Sessions are ended;
/// writes fail for some seconds. Needs quorum commit (`cellar durability quorum`). If it cannot be done in half a minute the
/// old primary goes on.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar switchover
  cellar switchover --to zone2")]
pub(crate) struct Switchover {
    /// The cell that is to have the primary (default: the standby that is furthest)
    #[arg(long, value_name = "CELL")]
    to: Option<CellName>,
}

/// Whether nothing of a move is under way.
fn is_settled(view: &DatabaseView) -> bool {
    let leadership = view.leader.as_ref().and_then(|leader| leader.leadership.as_ref());
    leadership.is_some_and(|it| it.handover.is_none() && it.phase() == LeadershipPhase::Steady)
}

fn primary(view: &DatabaseView) -> String {
    view.leader.as_ref().map(|leader| leader.cell.clone()).unwrap_or_default()
}

/// Has another member lead, `to` or whoever is furthest. While the members are not ready it is asked again, for `patience`.
///
/// # Errors
/// When it was refused or given up: then the primary is where it was, or in a third cell.
pub(crate) async fn move_primary(
    global: &Global,
    target: &Target,
    to: Option<&CellName>,
    patience: Duration,
) -> Outcome<DatabaseView> {
    let get = || GetDatabaseRequest { name: global.database() };
    let before = target.call(get(), async |mut client, request| client.get_database(request).await).await?;
    before.slot_notes.iter().for_each(|note| output::note(note));
    if let Some(job) = before.lock.as_ref().and_then(|lock| lock.holder.as_ref()) {
        output::note(&format!(
            "job {job} goes on: one that reads from the primary, such as a backup, fails when that stops"
        ));
    }
    let to = to.map(ToString::to_string).unwrap_or_default();
    let begun = Instant::now();
    let mut view = loop {
        let request =
            SwitchPrimaryRequest { database: global.database(), to: to.clone(), from: primary(&before) };
        let asked = target.call(request, async |mut client, request| client.switch_primary(request).await);
        match asked.await {
            Err(Failure::Rpc(status))
                if begun.elapsed() < patience && cellar_api::reason_of(&status) == Some(Code::Lagging) =>
            {
                tokio::time::sleep(INTERVAL).await;
            }
            asked => break asked?,
        }
    };
    let deadline = Instant::now() + TIMEOUT;
    while !is_settled(&view) && Instant::now() < deadline {
        tokio::time::sleep(INTERVAL).await;
        view = target.call(get(), async |mut client, request| client.get_database(request).await).await?;
    }
    let (old, new) = (primary(&before), primary(&view));
    if !is_settled(&view) {
        let message = format!("after {} s the move is still under way", TIMEOUT.as_secs());
        return Err(Failure::Rpc(Box::new(cellar_api::status_of(
            &Refusal::new(Code::DeadlineExceeded, message)
                .hint("`cellar explain` says what it waits for; when that is over it goes on by itself, or is given up"),
        ))));
    }
    let is_there = if to.is_empty() { new != old } else { new == to };
    if is_there {
        return Ok(view);
    }
    let message = if new == old {
        format!("the primary is in {old} as before: the move was given up")
    } else {
        format!("{new} has the primary now, which had more of it than {to}")
    };
    Err(Failure::Rpc(Box::new(cellar_api::status_of(
        &Refusal::new(Code::DeadlineExceeded, message)
            .hint("nothing is lost; multiadmin's log says why, and `cellar status` how the members are"),
    ))))
}

impl Switchover {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = Target::of(global).await?;
        let view = move_primary(global, &target, self.to.as_ref(), Duration::ZERO).await?;
        global.output.print(&view, render)
    }
}
