//! `cellar explain`.

use cellar_api::v1::{FailoverOutlook, GetFailoverOutlookRequest};
use clap::Args;

use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::facts::section;
use crate::render::table::Table;
use crate::render::units;

/// Why there is no failover now, and what would happen at each loss
///
/// Asks every member at this moment, and decides by the same rules as multiadmin. Needs quorum commit.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  cellar explain")]
pub(crate) struct Explain {}

pub(crate) fn render(outlook: &FailoverOutlook) -> String {
    let mut table = Table::new(&["IF THIS IS LOST", "THEN"]);
    for loss in &outlook.losses {
        table.row([loss.loss.clone(), loss.outcome.clone()]);
    }
    let silent: Vec<String> = outlook
        .silent
        .iter()
        .map(|cell| format!("{cell} does not report: it counts as lost already"))
        .collect();
    let notes: Vec<String> = silent.into_iter().chain(outlook.slot_notes.iter().cloned()).collect();
    let typical = outlook.typical_milliseconds.map_or_else(String::new, |millis| {
        format!("the last failovers took {} in the middle\n", units::millis(millis.into()))
    });
    format!("now: {}\n{typical}\n{}{}", outlook.now, table.render(), section("notes", &notes))
}

impl Explain {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let request = GetFailoverOutlookRequest { database: global.database() };
        let answer = Target::of(global)
            .await?
            .call(request, async |mut client, request| client.get_failover_outlook(request).await)
            .await?;
        global.output.print(&answer, render)
    }
}
