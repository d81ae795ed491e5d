//! `cellar databases`.

use cellar_api::v1::{ListDatabasesRequest, ListDatabasesResponse};
use clap::Subcommand;

use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::status::repository;
use crate::render::table::Table;

/// The databases of a cluster
#[derive(Debug, Subcommand)]
pub(crate) enum Databases {
    /// List the databases with their cells, primary and repository
    #[command(after_help = "Example:
  cellar databases list")]
    List,
}

fn render_list(answer: &ListDatabasesResponse) -> String {
    let mut table = Table::new(&["DATABASE", "STANZA", "CELLS", "PRIMARY", "REPOSITORY"]);
    for view in &answer.databases {
        let database = view.database.clone().unwrap_or_default();
        let primary = view.leader.as_ref().map(|leader| leader.cell.clone()).unwrap_or_default();
        let repository = repository(&database);
        table.row([database.name, database.stanza, view.cells.join(" "), primary, repository]);
    }
    table.render()
}

impl Databases {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let Self::List = self;
        let answer = Target::of(global)
            .await?
            .call(ListDatabasesRequest {}, async |mut client, request| client.list_databases(request).await)
            .await?;
        global.output.print(&answer, render_list)
    }
}
