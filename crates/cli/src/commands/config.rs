//! `cellar config`.

use std::net::IpAddr;
use std::path::PathBuf;

use cellar_model::{CellName, HealthQuestion, Ports};
use cellar_provisioner::{
    ClusterSpec, DEFAULT_ROUTE_LAG, HaproxyConfig, Member, ProvisionError, generate_configs,
};
use clap::Subcommand;

use crate::client::poolers::poolers;
use crate::client::routes::{databases, routed_cells};
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::{Global, absolute};
use crate::{local, output};

/// Generated configs: of pgBackRest, and for HAProxy
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
    /// Print a config for HAProxy, which leads clients to the primary and to the standbys
    ///
    /// HAProxy asks the health endpoints of the multipoolers, over HTTPS, and passes TLS to PostgreSQL through: clients
    /// verify PostgreSQL's certificate. Print it again when cells are added or removed. Certificates are valid for the
    /// hosts of the cells and for localhost: an HAProxy on each application's host is reached as localhost.
    #[command(after_help = "Examples:
  cellar config haproxy > haproxy.cfg && haproxy -c -f haproxy.cfg
  cellar config haproxy --authorities /etc/haproxy/cellar-ca.crt --listen '*' --max-lag 64MB")]
    Haproxy {
        /// The file of the cluster's authorities on HAProxy's host [default: ca.crt of the client directory]
        #[arg(long, value_name = "FILE")]
        authorities: Option<PathBuf>,
        /// Where clients connect to HAProxy: an IP address, or * for all; may be repeated
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = bind_address)]
        listen: Vec<String>,
        /// The port that leads to the primary
        #[arg(long, value_name = "PORT", default_value_t = Ports::ROUTE_WRITES, value_parser = clap::value_parser!(u16).range(1..))]
        writes: u16,
        /// The port that leads to the standbys, and to the primary while there is none
        #[arg(long, value_name = "PORT", default_value_t = Ports::ROUTE_READS, value_parser = clap::value_parser!(u16).range(1..))]
        reads: u16,
        /// The port of the statistics, on loopback
        #[arg(long, value_name = "PORT", default_value_t = Ports::ROUTE_STATISTICS, value_parser = clap::value_parser!(u16).range(1..))]
        statistics: u16,
        /// A standby that lags more is not read from
        #[arg(long, value_name = "SIZE", default_value = DEFAULT_ROUTE_LAG, value_parser = lag)]
        max_lag: String,
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

/// `*`, or an IP address as HAProxy's `bind` takes it.
fn bind_address(text: &str) -> Result<String, String> {
    match (text, text.parse::<IpAddr>()) {
        ("*", _) => Ok("*".to_owned()),
        (_, Ok(IpAddr::V4(address))) => Ok(address.to_string()),
        (_, Ok(IpAddr::V6(address))) => Ok(format!("[{address}]")),
        (_, Err(_)) => Err("it must be an IP address or *".to_owned()),
    }
}

/// A limit as the health endpoints take it.
fn lag(text: &str) -> Result<String, String> {
    let question = HealthQuestion::parse("/replica", Some(&format!("lag={text}")));
    match question {
        Ok(_) if !text.contains('&') => Ok(text.to_owned()),
        _ => Err("it must be a number of bytes, or one with kB, MB, GB or TB".to_owned()),
    }
}

impl Config {
    async fn haproxy(self, global: &Global) -> Outcome {
        let Self::Haproxy { authorities, listen, writes, reads, statistics, max_lag } = self else {
            return Ok(());
        };
        let authorities = match (authorities, &global.client_dir) {
            (Some(file), _) => file,
            (None, Some(client)) => client.join("ca.crt"),
            (None, None) => global.directory()?.join("client/ca.crt"),
        };
        let answer = poolers(&Target::of(global).await?, &global.database()).await?;
        let databases = databases(&answer);
        if databases.len() > 1 {
            let names: Vec<&str> = databases.into_iter().collect();
            return Err(Failure::usage(
                format!("the cluster has several databases ({})", names.join(", ")),
                "name one with --database; each needs ports of its own",
            ));
        }
        let (cells, without) = routed_cells(&answer);
        if !without.is_empty() && !cells.is_empty() {
            output::note(&format!(
                "left out, because they have no health endpoints: {}; `cellar up`, on hosts `cellar cluster wait`, gives them a port",
                without.join(", ")
            ));
        }
        let authorities = absolute(&authorities)?.display().to_string();
        let config = HaproxyConfig { cells, authorities, listen, writes, reads, statistics, max_lag };
        output::write(config.render()?.as_bytes())
    }
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
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::Generate { spec, out } => generate(&spec, &out),
            Self::Show { cell } => show(global, &cell),
            Self::Haproxy { .. } => self.haproxy(global).await,
        }
    }
}
