//! `cellar history`.

use cellar_api::v1::{Failover, FailoverHistory, FailoverKind, ListFailoversRequest};
use clap::Args;

use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::facts::NOTHING;
use crate::render::table::Table;
use crate::render::units;

/// Show who became the primary when, why, and how long that took
///
/// The last hundred changes of a primary, the newest first. SILENT: for how long nobody had heard of the old primary when the
/// failover began. PROMISES: until enough members had promised to follow it no longer. PROMOTION: until the first commit of the new
/// one was on a majority. LEFT BEHIND: WAL that the old primary had and that was acknowledged to nobody.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar history
  cellar history --output json")]
pub(crate) struct History {}

fn span(millis: Option<u32>) -> String {
    millis.map_or_else(|| NOTHING.to_owned(), |millis| format!("{millis} ms"))
}

fn row(failover: &Failover) -> [String; 10] {
    let kind = match failover.kind() {
        FailoverKind::Lost => "lost",
        FailoverKind::Planned => "planned",
        FailoverKind::Forced => "forced",
        FailoverKind::Unspecified => NOTHING,
    };
    [
        units::time(failover.begin_time.as_ref()),
        failover.term.to_string(),
        kind.to_owned(),
        failover.from.clone(),
        failover.to.clone().unwrap_or_else(|| NOTHING.to_owned()),
        span(failover.unheard),
        span(failover.promises),
        span(failover.promotion),
        failover.left_behind.map_or_else(|| NOTHING.to_owned(), |bytes| units::size(bytes.into())),
        failover.why.clone(),
    ]
}

fn render(history: &FailoverHistory) -> String {
    if history.failovers.is_empty() {
        return "no change of the primary is recorded\n".to_owned();
    }
    let mut table = Table::new(&[
        "BEGUN",
        "TERM",
        "KIND",
        "FROM",
        "TO",
        "SILENT",
        "PROMISES",
        "PROMOTION",
        "LEFT BEHIND",
        "WHY",
    ]);
    history.failovers.iter().rev().for_each(|failover| table.row(row(failover)));
    table.render()
}

impl History {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let request = ListFailoversRequest { database: global.database() };
        let target = Target::of(global).await?;
        let call = target.call(request, async |mut client, request| client.list_failovers(request).await);
        global.output.print(&call.await?, render)
    }
}
