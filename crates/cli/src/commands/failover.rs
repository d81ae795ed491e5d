//! `cellar failover`.

use std::time::Duration;

use cellar_api::v1::{
    DatabaseView, FailOverRequest, FailoverPlan, GetDatabaseRequest, GetFailoverPlanRequest, LeadershipPhase,
};
use cellar_model::{CellName, Code, Refusal};
use clap::Args;
use tokio::time::Instant;

use crate::client::target::Target;
use crate::commands::durability::render;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output;
use crate::question::{ask, check_terminal};
use crate::render::units;

/// How long the failover may take: the members that are left promise, one is promoted.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(200);

/// Make another member the primary when Cellar does not do it by itself
///
/// For a database with quorum commit that is paused, or that has lost so many members that nobody who is left is known to have
/// every acknowledged commit. Then it needs --accept-loss: it says what would be lost, asks, and the members that are left go on without
/// the others. Switch the lost machines off before: what they acknowledge among themselves, out of reach, is lost too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar failover --to zone3
  cellar failover --to zone3 --accept-loss")]
pub(crate) struct Failover {
    /// The cell that is to have the primary
    #[arg(long, value_name = "CELL")]
    to: CellName,
    /// Go on without what only lost members have
    #[arg(long)]
    accept_loss: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What would be lost, in words.
fn loss(plan: &FailoverPlan) -> String {
    let has = match &plan.last_commit {
        Some(_) => format!(
            "the last transaction that {} has is of {}",
            plan.to,
            units::exact(plan.last_commit.as_ref())
        ),
        None => format!("{} has {}", plan.to, plan.position),
    };
    let known = match &plan.loss {
        None => format!("nothing was heard of {} since this multiadmin started", plan.from),
        Some(loss) => {
            let transactions = loss.transactions.map_or_else(
                || "an unknown number of transactions".to_owned(),
                |count| format!("{count} transactions"),
            );
            let bytes =
                loss.bytes.map_or_else(String::new, |bytes| format!(" ({} of WAL)", units::size(bytes)));
            format!(
                "when {} was last heard, {} s ago, it had {transactions}{bytes} that {} has not",
                plan.from, loss.heard_seconds_ago, plan.to
            )
        }
    };
    format!(
        "{has}; {known}. What was acknowledged after that on {} alone is lost, too",
        plan.missing.join(", ")
    )
}

/// Who leads, and nothing of a change is under way.
fn settled(view: &DatabaseView) -> Option<&str> {
    let leadership = view.leader.as_ref().and_then(|leader| leader.leadership.as_ref());
    let settled = leadership.filter(|it| it.handover.is_none() && it.phase() == LeadershipPhase::Steady);
    settled.map(|it| it.cell.as_str())
}

impl Failover {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        if self.accept_loss {
            check_terminal(self.yes)?;
        }
        let target = Target::of(global).await?;
        let to = self.to.to_string();
        // Who was shown to be missing: a loss that was not shown is not accepted.
        let mut missing = Vec::new();
        if self.accept_loss {
            let request = GetFailoverPlanRequest { database: global.database(), to: to.clone() };
            let plan = target
                .call(request, async |mut client, request| client.get_failover_plan(request).await)
                .await?;
            if plan.may_lose {
                output::note(&format!("without {}: {}", plan.missing.join(", "), loss(&plan)));
                if !self.yes {
                    ask(&format!("{to} becomes the primary with what it has."), &plan.database).await?;
                }
                missing = plan.missing;
            } else {
                output::note(&format!(
                    "{} are left, which is enough: nothing is lost",
                    plan.takes_part.join(", ")
                ));
            }
        }
        let request = FailOverRequest {
            database: global.database(),
            to: to.clone(),
            accept_loss: !missing.is_empty(),
            missing,
        };
        let mut view =
            target.call(request, async |mut client, request| client.fail_over(request).await).await?;
        let deadline = Instant::now() + TIMEOUT;
        while settled(&view).is_none() && Instant::now() < deadline {
            tokio::time::sleep(INTERVAL).await;
            let get = GetDatabaseRequest { name: global.database() };
            view = target.call(get, async |mut client, request| client.get_database(request).await).await?;
        }
        if let Some(leads) = settled(&view) {
            if leads == to {
                return global.output.print(&view, render);
            }
            let message = format!("{leads} leads now: it had more than {to}");
            return Err(Failure::Rpc(Box::new(cellar_api::status_of(
                &Refusal::new(Code::Lagging, message).hint(format!(
                    "nothing more goes on; `cellar switchover --to {to}` moves the primary there when it has everything"
                )),
            ))));
        }
        let message = format!("{to} does not lead yet");
        Err(Failure::Rpc(Box::new(cellar_api::status_of(
            &Refusal::new(Code::DeadlineExceeded, message).hint(
                "it goes on by itself; `cellar explain` says what is awaited, `cellar history` what was done",
            ),
        ))))
    }
}
