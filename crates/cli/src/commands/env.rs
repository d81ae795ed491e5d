//! `cellar env`.

use std::path::Path;

use cellar_api::v1::{ListPoolersResponse, PoolerView, Role};
use cellar_provisioner::Cluster;

use crate::client::poolers::poolers;
use crate::client::routes::{databases, direct_uri, pooled_uri, uri};
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::local;
use crate::output::{self, Form};

/// URIs for applications: over TCP, with TLS. Where there is HAProxy or PgBouncer, also through it.
fn uris(
    cluster: Option<&Cluster>,
    answer: &ListPoolersResponse,
    authorities: &Path,
) -> Outcome<Vec<(&'static str, String)>> {
    let databases = databases(answer);
    if databases.len() > 1 {
        // One URI would lead to whichever of them answers first.
        let names: Vec<&str> = databases.into_iter().collect();
        output::note(&format!(
            "CELLAR_DIRECT_URI is left out, because the cluster has several databases ({}): name one with --database",
            names.join(", ")
        ));
        return Ok(Vec::new());
    }
    let mut all = vec![("CELLAR_DIRECT_URI", direct_uri(answer, authorities))];
    if let Some(cluster) = cluster.filter(|cluster| cluster.state.route) {
        let (writes, reads, _) = cluster.route_ports()?;
        let at = |port: u16| [("localhost".to_owned(), u32::from(port))];
        all.push(("CELLAR_ROUTED_URI", uri(&at(writes), "read-write", authorities)));
        all.push(("CELLAR_READ_URI", uri(&at(reads), "any", authorities)));
    }
    all.extend(pooled_uri(answer, authorities).map(|uri| ("CELLAR_POOLED_URI", uri)));
    Ok(all)
}

/// Where psql finds the primary's socket, on this machine.
fn socket(answer: &ListPoolersResponse) -> Outcome<[(&'static str, String); 5]> {
    let is_primary =
        |view: &&PoolerView| view.status.as_ref().is_some_and(|status| status.role() == Role::Primary);
    let primaries: Vec<_> = answer.poolers.iter().filter(is_primary).collect();
    let pooler = match primaries.as_slice() {
        [only] => only.pooler.clone().unwrap_or_default(),
        [] => {
            return Err(no_single("no primary answers"));
        }
        _ => return Err(no_single("more than one instance reports that it is the primary")),
    };
    Ok([
        ("CELLAR_PRIMARY", pooler.cell),
        ("PGHOST", pooler.socket_directory),
        ("PGPORT", pooler.postgres_port.to_string()),
        ("PGDATABASE", "postgres".to_owned()),
        ("PGUSER", "postgres".to_owned()),
    ])
}

/// Variables that point programs at the cluster's present primary.
pub(crate) async fn variables(global: &Global) -> Outcome<Vec<(&'static str, String)>> {
    let cluster = if global.admin.is_none() { local::open(global).ok() } else { None };
    let target = Target::of(global).await?;
    let answer = poolers(&target, &global.database()).await?;
    let directory = match &global.admin {
        None => Some(global.directory()?),
        Some(_) => None,
    };
    let client = global.client_dir.clone().or_else(|| directory.as_ref().map(|dir| dir.join("client")));
    let mut all = Vec::new();
    if let Some(directory) = directory {
        all.push(("CELLAR_DIR", directory.display().to_string()));
    }
    all.push(("CELLAR_ADMIN", target.address.clone()));
    if let Some(client) = &client {
        all.extend(uris(cluster.as_ref(), &answer, &client.join("ca.crt"))?);
        all.push(("CELLAR_CLIENT_DIR", client.display().to_string()));
    }
    // The sockets of a cluster on hosts are there.
    if cluster.is_none_or(|cluster| cluster.is_local()) {
        all.extend(socket(&answer)?);
    }
    Ok(all)
}

fn no_single(message: &str) -> Failure {
    Failure::Rpc(Box::new(cellar_api::status_of(
        &cellar_model::Refusal::new(cellar_model::Code::NoPrimary, message)
            .hint("look at `cellar status`, and name one database with --database"),
    )))
}

/// Quotes a value for a POSIX shell.
pub(crate) fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._:-".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', "'\\''"))
}

pub(crate) async fn run(global: &Global) -> Outcome {
    let variables = variables(global).await?;
    if global.output == Form::Json {
        return output::json(&variables.into_iter().collect::<std::collections::BTreeMap<_, _>>());
    }
    let lines: String =
        variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect();
    output::print(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_values_are_read_by_a_shell_as_they_are() {
        assert_eq!(quoted("/var/lib/x"), "/var/lib/x");
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
