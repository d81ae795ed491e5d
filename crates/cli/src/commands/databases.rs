//! `cellar databases`.

use cellar_api::v1::{ListDatabasesRequest, ListDatabasesResponse};
use cellar_model::{CellName, DatabaseName, StanzaName};
use cellar_provisioner::{NewDatabase, create_database_on_hosts};
use clap::Subcommand;

use crate::client::target::Target;
use crate::commands::cluster::print_bundles;
use crate::failure::Outcome;
use crate::global::Global;
use crate::local;
use crate::render::status::repository;
use crate::render::table::Table;

/// The databases of a cluster
#[derive(Debug, Subcommand)]
pub(crate) enum Databases {
    /// List the databases with their cells, primary and repository
    #[command(after_help = "Example:
  cellar databases list")]
    List,
    /// Give a cluster on hosts another database, on the operator's machine
    ///
    /// Records it and issues the bundles of all hosts again. Its instances are made when these are installed and started;
    /// what runs goes on. Repeating it with the same values finishes one that was interrupted. All hosts must run this
    /// release already.
    #[command(after_help = "Example:
  cellar databases create sales --cells zone2,zone3")]
    Create {
        /// Its name
        #[arg(value_name = "NAME")]
        name: DatabaseName,
        /// The cells in which it is to have members [default: all, also those that are added later]
        #[arg(long, value_name = "CELLS", value_delimiter = ',')]
        cells: Vec<CellName>,
        /// pgBackRest's name for it [default: its own]
        #[arg(long, value_name = "NAME")]
        stanza: Option<StanzaName>,
        /// Added to every port of its members [default: the next free range]
        #[arg(long, value_name = "N")]
        port_offset: Option<u16>,
        /// How many full backups an expiry keeps
        #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=9_999_999))]
        retention_full: u32,
    },
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
        if let Self::Create { name, cells, stanza, port_offset, retention_full } = self {
            local::refuse_remote(global, "databases create")?;
            let cluster = local::open(global)?;
            let new = NewDatabase { name, stanza, cells, port_offset, retention_full };
            let issued = create_database_on_hosts(cluster.layout.root(), &new, &local::steps()).await?;
            return print_bundles(global, &issued);
        }
        let answer = Target::of(global)
            .await?
            .call(ListDatabasesRequest {}, async |mut client, request| client.list_databases(request).await)
            .await?;
        global.output.print(&answer, render_list)
    }
}
