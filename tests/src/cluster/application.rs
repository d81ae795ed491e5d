//! An application of a cluster: a role with a password, its database, and the URIs that lead it there.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::cluster::local::Cluster;
use crate::machine::run::{Finished, as_user, run};

/// The role's password.
const PASSWORD: &str = "correct-horse-battery-staple-9c40";

/// The role `app`, which owns the database `app`.
#[derive(Debug, Clone)]
pub struct Application {
    routed: String,
    /// Through the PgBouncer of each cell, without a user or database; empty where there is none.
    pooled: String,
}

impl Cluster {
    /// A running cluster with the given cells and an HAProxy, made from nothing.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn with_route(cells: &str) -> Self {
        let cluster = Self::new();
        let _ = cluster.try_cellar(&["up", "--cells", cells, "--port-offset", "auto", "--route"]).ok();
        cluster
    }

    /// The same with a PgBouncer in each cell.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn with_pool(cells: &str) -> Self {
        let cluster = Self::new();
        let arguments = ["up", "--cells", cells, "--port-offset", "auto", "--route", "--pool"];
        let _ = cluster.try_cellar(&arguments).ok();
        cluster
    }

    /// Makes the role and the database.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    #[track_caller]
    pub fn application(&self) -> Application {
        let Ok(directory) = tempfile::tempdir() else { panic!("no temporary directory") };
        let file = directory.path().join("password");
        let written = std::fs::write(&file, format!("{PASSWORD}\n"))
            .and_then(|()| std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)));
        if let Err(error) = written {
            panic!("{}: {error}", file.display());
        }
        let file = file.display().to_string();
        self.cellar(&["roles", "create", "app", "--password-file", &file, "--owns", "app"]);
        let variables = self.json(&["env"]);
        let Some(uri) = variables.get("CELLAR_ROUTED_URI").and_then(Value::as_str) else {
            panic!("no CELLAR_ROUTED_URI in {variables}")
        };
        let pooled = variables.get("CELLAR_POOLED_URI").and_then(Value::as_str).unwrap_or_default();
        Application { routed: format!("{uri}&user=app&dbname=app"), pooled: pooled.to_owned() }
    }

    /// Runs SQL in a cell's database `app`, as the OS user of PostgreSQL.
    #[must_use]
    #[track_caller]
    pub fn try_app_sql(&self, cell: &str, sql: &str) -> Finished {
        run(self.app_psql(cell)().args(["-v", "ON_ERROR_STOP=1", "-XAtqc", sql]))
    }

    /// Makes a `psql` that connects to a cell's database `app` past the route, as the OS user of PostgreSQL.
    ///
    /// # Panics
    /// When there is no such cell.
    pub fn app_psql(&self, cell: &str) -> impl Fn() -> Command + Send + 'static {
        let (instance, user) = (self.instance(cell), self.user.clone());
        move || {
            let mut command = as_user(&user, "psql");
            command.args(["-h", &instance.sockets, "-p", &instance.port.to_string(), "-d", "app"]);
            // What a standby refuses is nothing for its log.
            command.env("PGOPTIONS", "-c log_min_messages=fatal");
            command
        }
    }
}

impl Application {
    /// A program of PostgreSQL's that connects as the role through HAProxy, to the primary.
    #[must_use]
    pub fn routed(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-d", &self.routed]).env("PGPASSWORD", PASSWORD).env("HOME", "/nonexistent");
        command
    }

    /// The URI of the PgBouncer of one cell as the role.
    ///
    /// # Panics
    /// When the cluster has none.
    #[must_use]
    #[track_caller]
    pub fn pooled_uri(&self, cluster: &Cluster, cell: &str) -> String {
        let poolers = cluster.poolers();
        let cards = poolers.iter().filter_map(|view| view.pooler.as_ref());
        let Some(card) = cards.into_iter().find(|card| card.cell == cell && card.pool_port != 0) else {
            panic!("{cell} has no PgBouncer")
        };
        let Some((_, parameters)) = self.pooled.split_once("/?") else { panic!("no URI: {}", self.pooled) };
        format!("postgresql://{}:{}/?{parameters}&user=app&dbname=app", card.host, card.pool_port)
    }

    /// A program that connects as the role through the PgBouncer of one cell: `psql`, or `pgbench`.
    #[must_use]
    #[track_caller]
    pub fn pooled(&self, cluster: &Cluster, cell: &str, program: &str) -> Command {
        let uri = self.pooled_uri(cluster, cell);
        let mut command = Command::new(program);
        command.arg(uri).env("PGPASSWORD", PASSWORD).env("HOME", "/nonexistent");
        command
    }

    /// `pgbench` that connects so: its `-d` is another option, and it takes a URI where the database is named.
    #[must_use]
    pub fn routed_for_pgbench(&self) -> Command {
        let mut command = Command::new("pgbench");
        command.arg(&self.routed).env("PGPASSWORD", PASSWORD).env("HOME", "/nonexistent");
        command
    }
}
