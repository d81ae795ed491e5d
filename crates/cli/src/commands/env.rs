//! `cellar env`.

use cellar_api::v1::{PoolerView, Role};

use crate::client::poolers::poolers;
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::local;
use crate::output::{self, Form};

/// Variables that point programs at the cluster's present primary.
pub(crate) async fn variables(global: &Global) -> Outcome<Vec<(&'static str, String)>> {
    if let (None, Ok(cluster)) = (&global.admin, local::open(global)) {
        // The socket is on the primary's host.
        cluster.check_is_local("cellar env")?;
    }
    let target = Target::of(global).await?;
    let answer = poolers(&target, &global.database()).await?;
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
    if let Some(client) = client {
        all.push(("CELLAR_CLIENT_DIR", client.display().to_string()));
    }
    all.extend([
        ("CELLAR_PRIMARY", pooler.cell),
        ("PGHOST", pooler.socket_directory),
        ("PGPORT", pooler.postgres_port.to_string()),
        ("PGDATABASE", "postgres".to_owned()),
        ("PGUSER", "postgres".to_owned()),
    ]);
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
