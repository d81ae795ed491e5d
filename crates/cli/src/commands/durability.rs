//! `cellar durability`.

use std::time::Duration;

use cellar_api::v1::{DatabaseView, GetDatabaseRequest, LeadershipPhase, SetDurabilityRequest};
use cellar_model::{Code, Durability as Wanted, Refusal};
use clap::Args;
use tokio::time::Instant;

use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::render::facts::NOTHING;
use crate::render::status::leadership_word;
use crate::render::table::Table;

/// How long quorum commit may take to begin: until all standbys stream under their new names.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(90);

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(300);

/// What an acknowledged commit survives: show it, or turn quorum commit on or off
///
/// With `quorum` a commit is acknowledged when a majority of the members has it. When the primary is lost, a standby that has
/// every acknowledged commit takes its place by itself, within seconds. With `async`, as it is at first, the primary alone
/// acknowledges, and nobody is promoted without a person.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar durability
  cellar durability quorum")]
pub(crate) struct Durability {
    /// quorum or async; without it, what there is is shown
    #[arg(value_name = "DURABILITY", value_parser = ["quorum", "async"])]
    durability: Option<String>,
}

/// Whether quorum commit is in force.
fn is_established(view: &DatabaseView) -> bool {
    let leadership = view.leader.as_ref().and_then(|leader| leader.leadership.as_ref());
    leadership.is_some_and(|it| !it.ended && it.phase() == LeadershipPhase::Steady && it.rules.len() == 1)
}

pub(crate) fn render(view: &DatabaseView) -> String {
    let mut table = Table::new(&["DATABASE", "DURABILITY", "TERM", "PHASE", "PRIMARY", "A COMMIT NEEDS"]);
    let database = view.database.clone().unwrap_or_default();
    let leader = view.leader.clone().unwrap_or_default();
    let leadership = leader.leadership.filter(|it| !it.ended);
    let has_quorum = database.durability() == cellar_api::v1::Durability::Quorum;
    let [durability, term, phase, needs] = match &leadership {
        Some(leadership) if has_quorum => {
            let others = |rule: &cellar_api::v1::CommitRule| {
                let others: Vec<&str> =
                    rule.cohort.keys().map(String::as_str).filter(|cell| *cell != leadership.cell).collect();
                if others.is_empty() {
                    return "the primary alone".to_owned();
                }
                format!("{} of {}", rule.k, others.join(", "))
            };
            let needs: Vec<String> = leadership.rules.iter().map(others).collect();
            [
                "quorum".to_owned(),
                leadership.term.to_string(),
                leadership_word(leadership.phase()).to_owned(),
                needs.join(", then "),
            ]
        }
        _ if has_quorum => ["quorum", NOTHING, "begins", NOTHING].map(str::to_owned),
        _ => ["async", NOTHING, NOTHING, "the primary alone"].map(str::to_owned),
    };
    table.row([database.name, durability, term, phase, leader.cell, needs]);
    table.render()
}

impl Durability {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = Target::of(global).await?;
        let Some(wanted) = self.durability else {
            let request = GetDatabaseRequest { name: global.database() };
            let view =
                target.call(request, async |mut client, request| client.get_database(request).await).await?;
            return global.output.print(&view, render);
        };
        let wanted: Wanted =
            wanted.parse().map_err(|refusal: Refusal| Failure::usage(refusal.message, "quorum or async"))?;
        let durability = match wanted {
            Wanted::Quorum => cellar_api::v1::Durability::Quorum,
            Wanted::Async => cellar_api::v1::Durability::Async,
        };
        let request = SetDurabilityRequest { database: global.database(), durability: durability.into() };
        let mut view =
            target.call(request, async |mut client, request| client.set_durability(request).await).await?;
        let deadline = Instant::now() + BEGIN_TIMEOUT;
        while wanted == Wanted::Quorum && !is_established(&view) {
            if Instant::now() >= deadline {
                return Err(Failure::Rpc(Box::new(cellar_api::status_of(
                    &Refusal::new(Code::DeadlineExceeded, "quorum commit was turned on and has not begun yet").hint(
                        "`cellar status` shows which cells do not stream; it begins when they do. `cellar durability async` takes it back",
                    ),
                ))));
            }
            tokio::time::sleep(INTERVAL).await;
            let request = GetDatabaseRequest { name: global.database() };
            view =
                target.call(request, async |mut client, request| client.get_database(request).await).await?;
        }
        global.output.print(&view, render)
    }
}
