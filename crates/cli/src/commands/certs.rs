//! `cellar certs`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use cellar_model::{CellName, ClientName, DatabaseName, OperatorRole, timestamp_text};
use cellar_provisioner::{
    Cluster, Finding, ListedCertificate, RevokedOnHosts, revoke, revoke_on_hosts, rotate, rotate_hosts,
};
use clap::Subcommand;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::commands::cluster::print_bundles;
use crate::failure::{Failure, Outcome};
use crate::global::{Global, absolute};
use crate::output::Form;
use crate::render::facts::NOTHING;
use crate::render::table::Table;
use crate::render::units::{duration, parse_duration};
use crate::{local, output};

/// Certificates of a cluster: list, issue, rotate, revoke
///
/// These commands need the authority's key, so they run where the cluster's own directory is: of a cluster on hosts, on
/// the operator's machine.
#[derive(Debug, Subcommand)]
pub(crate) enum Certs {
    /// List every certificate with its owner, serial number and end
    #[command(after_help = "Example:
  cellar certs list")]
    List,
    /// Issue a certificate for a person or program that calls multiadmin, or for a role of PostgreSQL
    ///
    /// Writes ca.crt, client.crt, client.key and endpoint: all that a gRPC client needs, and what --client-dir takes.
    /// Repeated, it renews the certificate there; a directory that holds something else is refused.
    /// A viewer reads; an operator also backs up, drills and rebuilds standbys; an admin may do everything. With --database
    /// it is for these databases only: calls about others are refused, and lists show no other.
    /// With --client it is for an application that connects to PostgreSQL as that role (`cellar roles create NAME
    /// --certificate`): ca.crt, client.crt and client.key, which are libpq's sslrootcert, sslcert and sslkey.
    /// Needs the authority's key, which never leaves the cluster's own directory.
    #[command(after_help = "Examples:
  cellar certs issue --client reports --out /etc/reports/tls
  cellar certs issue --role operator --name ci --out /etc/ci/cellar
  cellar certs issue --role viewer --name grafana --out ./grafana --lifetime 30d
  cellar certs issue --role admin --name ann --database sales --out ./ann
  cellar jobs list --admin localhost:15070 --client-dir /etc/ci/cellar")]
    Issue {
        /// What it may do: viewer, operator or admin
        #[arg(long, value_name = "ROLE", required_unless_present = "client", requires = "name")]
        role: Option<OperatorRole>,
        /// Who it is for
        #[arg(long, value_name = "NAME", requires = "role")]
        name: Option<String>,
        /// A database that it is for; may be given several times [default: all]
        #[arg(id = "database", long = "database", value_name = "NAME")]
        databases: Vec<DatabaseName>,
        /// The role of PostgreSQL that it is for
        #[arg(long, value_name = "NAME", conflicts_with_all = ["role", "name", "database"])]
        client: Option<ClientName>,
        /// The directory that is written
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long it is valid [default: 1 year]
        #[arg(long, value_name = "TIME", value_parser = parse_duration)]
        lifetime: Option<Duration>,
    },
    /// Replace every key and certificate, without stopping anything
    ///
    /// Each server loads its new files by itself and is then asked which certificate it serves; files that it does not
    /// load are replaced by the old ones. With --ca the authority is replaced too, in steps: trust both, sign with the
    /// new one, trust only the new one. Safe to interrupt and to repeat. Certificates that were issued to people and
    /// programs become invalid with their authority: issue them again.
    /// In a cluster on hosts, bundles with new keys are issued for the named cells' hosts or for all. What runs takes them
    /// up when they are installed there. The old keys are valid until they end or are revoked. --ca is refused there.
    #[command(after_help = "Examples:
  cellar certs rotate
  cellar certs rotate --ca
  cellar certs rotate zone2               of a cluster on hosts")]
    Rotate {
        /// The cells whose hosts get new keys; all when none is named. In a cluster on hosts only
        #[arg(value_name = "CELL", conflicts_with = "ca")]
        cells: Vec<CellName>,
        /// Replace the authority too
        #[arg(long)]
        ca: bool,
        /// When to give up
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Revoke a certificate, within seconds and on every server
    ///
    /// A certificate that the cluster itself uses is replaced first, with its key. pgBackRest's servers check names and
    /// no revocation list, so for a cell's certificate, or with --unknown, all cells get certificates with another name; jobs that read through another cell's pgBackRest server at that moment fail.
    /// In a cluster on hosts, the new keys come in bundles that the command names and whose installation it waits for:
    /// then the certificate is revoked. Repeated, it goes on. A host of which nothing answers for 30 seconds, or until the
    /// timeout, is not waited for; what it lacks is told. A person's certificate is revoked at once.
    #[command(after_help = "Example:
  cellar certs revoke 5f3a9c0e7d1b42e8a6c4f0d2b3958e71")]
    Revoke {
        /// Its serial number, as `cellar certs list` shows it
        #[arg(value_name = "SERIAL")]
        serial: String,
        /// Revoke it although no certificate that is known here has it
        #[arg(long)]
        unknown: bool,
        /// When to give up
        #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
        timeout: Duration,
    },
}

fn text(time: SystemTime) -> String {
    Timestamp::try_from(time).map(timestamp_text).unwrap_or_default()
}

fn left(until: SystemTime) -> String {
    match until.duration_since(SystemTime::now()) {
        Ok(left) => duration(left),
        Err(_) => "EXPIRED".to_owned(),
    }
}

pub(crate) fn render(certificates: &[ListedCertificate], root: &std::path::Path) -> String {
    let mut table = Table::new(&["FILE", "IDENTITY", "SERIAL", "ENDS", "LEFT"]);
    for certificate in certificates {
        let file = certificate.path.strip_prefix(root).unwrap_or(&certificate.path).display().to_string();
        match &certificate.info {
            Ok(info) => {
                let who = info.uri.clone().unwrap_or_else(|| info.common_name.clone());
                table.row([file, who, info.serial.clone(), text(info.not_after), left(info.not_after)]);
            }
            Err(why) => {
                let nothing = || NOTHING.to_owned();
                table.row([file, why.clone(), nothing(), nothing(), nothing()]);
            }
        }
    }
    table.render()
}

fn document(certificate: &ListedCertificate) -> Value {
    let path = certificate.path.display().to_string();
    match &certificate.info {
        Ok(info) => json!({
            "path": path,
            "uri": info.uri,
            "commonName": info.common_name,
            "serial": info.serial,
            "notBefore": text(info.not_before),
            "notAfter": text(info.not_after),
        }),
        Err(why) => json!({ "path": path, "error": why }),
    }
}

fn print_list(global: &Global, cluster: &Cluster, found: &[ListedCertificate]) -> Outcome {
    let answer = json!({ "certificates": found.iter().map(document).collect::<Vec<_>>() });
    global.output.print(&answer, |_| render(found, cluster.layout.root()))
}

impl Certs {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "certs")?;
        let cluster = local::open(global)?;
        match self {
            Self::Rotate { cells, ca, .. } if !cluster.is_local() => {
                if ca {
                    cluster.check_is_local("cellar certs rotate --ca")?;
                }
                let issued = rotate_hosts(cluster.layout.root(), &cells, &local::steps()).await?;
                print_bundles(global, &issued)
            }
            Self::Rotate { cells, .. } if !cells.is_empty() => Err(Failure::usage(
                "the cells of this cluster are on this machine, and are rotated together",
                "leave the cells out",
            )),
            Self::Rotate { ca, timeout, .. } => {
                let steps = local::steps();
                let found = rotate(cluster.layout.root(), ca, timeout, &steps).await?;
                print_list(global, &cluster, &found)
            }
            Self::Revoke { serial, unknown, timeout } => {
                let steps = local::steps();
                let dir = cluster.layout.root();
                let RevokedOnHosts { serial, lacking } = match cluster.is_local() {
                    true => RevokedOnHosts {
                        serial: revoke(dir, &serial, unknown, timeout, &steps).await?,
                        lacking: Vec::new(),
                    },
                    false => revoke_on_hosts(dir, &serial, unknown, timeout, &steps).await?,
                };
                for Finding { message, hint } in &lacking {
                    output::note(&format!("{message}\n  {}", hint.as_deref().unwrap_or_default()));
                }
                let messages = lacking.iter().map(|one| &one.message).collect::<Vec<_>>();
                let answer = json!({ "serial": serial, "revoked": true, "lacking": messages });
                global.output.print(&answer, |_| format!("{serial} is revoked"))
            }
            Self::List => {
                let found = cluster.certificates();
                print_list(global, &cluster, &found)
            }
            Self::Issue { role, name, databases, client, out, lifetime } => {
                let out = absolute(&out)?;
                let (info, note) = match (role, name, client) {
                    (_, _, Some(client)) => (
                        cluster.issue_database_client(&client, lifetime, &out)?,
                        format!(
                            "use it with sslrootcert={0}/ca.crt sslcert={0}/client.crt sslkey={0}/client.key",
                            out.display()
                        ),
                    ),
                    (Some(role), Some(name), None) => (
                        cluster.issue_operator(role, &databases, &name, lifetime, &out)?,
                        format!("use it with --admin HOST:PORT --client-dir {}", out.display()),
                    ),
                    _ => {
                        let message = "neither a role with a name nor a client is given".to_owned();
                        return Err(Failure::usage(message, "give --role and --name, or --client"));
                    }
                };
                let issued = ListedCertificate { path: out.join("client.crt"), info: Ok(info.clone()) };
                if global.output == Form::Human {
                    output::note(&note);
                }
                global.output.print(&document(&issued), |_| {
                    format!(
                        "{} is valid until {}, serial {}",
                        info.uri.unwrap_or(info.common_name),
                        text(info.not_after),
                        info.serial
                    )
                })
            }
        }
    }
}
