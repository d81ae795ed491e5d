//! `cellar config`.

use std::path::PathBuf;

use cellar_model::CellName;
use cellar_provisioner::{ClusterSpec, Member, ProvisionError, generate_configs};
use clap::Subcommand;

use crate::failure::{Failure, Outcome};
use crate::global::{Global, absolute};
use crate::{local, output};

/// Generated pgbackrest.conf files
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Write one pgbackrest.conf per cell of a specification, touching nothing else
    #[command(after_help = "Example:
  cellar config generate --spec cluster.toml --out conf

cluster.toml:
  cluster = \"demo\"
  [database]
  name = \"app\"                  # the stanza too, unless `stanza` is given
  [repo]
  path = \"/backup/repo\"
  retention_full = 7
  [tls]
  dir = \"/backup/repo/tls\"      # ca.crt, server.crt, server.key
  [[cells]]                     # indexes, and so ports, follow the alphabet
  name = \"zone1\"
  host = \"zone1.example.org\"
  pg_data = \"/zone1/pg_data\"
  pg_sockets = \"/zone1/pg_sockets\"
  postgres_port = 5432
  config = \"/zone1/pgbackrest.conf\"")]
    Generate {
        /// The specification
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
        /// The directory in which CELL/pgbackrest.conf is written
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Print the generated pgbackrest.conf of a cell on this machine
    #[command(after_help = "Example:
  cellar config show zone2")]
    Show {
        /// The cell
        #[arg(value_name = "CELL")]
        cell: CellName,
    },
}

fn generate(spec: &std::path::Path, out: &std::path::Path) -> Outcome {
    let spec = ClusterSpec::read(spec).map_err(ProvisionError::from)?;
    for path in generate_configs(&spec, &absolute(out)?)? {
        output::print(&path.display().to_string())?;
    }
    Ok(())
}

fn show(global: &Global, cell: &CellName) -> Outcome {
    local::refuse_remote(global, "config show")?;
    let cluster = local::open_here(global)?;
    let cells: Vec<&str> = cluster.state.cells.iter().map(|cell| cell.name.as_str()).collect();
    if cluster.state.cell(cell).is_none() {
        return Err(Failure::usage(
            format!("the cluster has no cell {cell} (known: {})", cells.join(", ")),
            "name one of them",
        ));
    }
    let members: Vec<_> = cluster.state.members_in(cell);
    let is_named = |member: &&Member| global.database.as_ref().is_none_or(|name| *name == member.database);
    let wanted: Vec<_> = members.iter().filter(is_named).collect();
    let [member] = wanted.as_slice() else {
        let known: Vec<&str> = members.iter().map(|member| member.database.as_str()).collect();
        let message = match &global.database {
            Some(name) => {
                format!("database {name} has no member in cell {cell} (known: {})", known.join(", "))
            }
            None => format!("several databases have a member in cell {cell} ({})", known.join(", ")),
        };
        return Err(Failure::usage(message, "name one of them with --database"));
    };
    let path = cluster.layout_of(member).config();
    let text = std::fs::read(&path)
        .map_err(|source| Failure::Io { what: format!("read {}", path.display()), source })?;
    output::write(&text)
}

impl Config {
    pub(crate) fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Generate { spec, out } => generate(&spec, &out),
            Self::Show { cell } => show(global, &cell),
        }
    }
}
