//! `cellar up`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_api::v1::GetDatabaseRequest;
use cellar_model::{CellName, Repository, RepositoryError, Secret};
use cellar_provisioner::{
    Cluster, GivenCredentials, PASSPHRASE_VARIABLE, PortOffset, UpOptions, read_passphrase, up,
};
use clap::Args;

use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::{Global, absolute};
use crate::output::Form;
use crate::render::units::{self, parse_duration};
use crate::{local, output};

/// Start a local cluster, finish an interrupted start, or restart what died
///
/// Ends with exit code 0 once every cell streams from the primary and the repository holds a full
/// backup. Safe to interrupt and to repeat; a second `up` needs no flags.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar up
  cellar up --cells zone1,zone2
  cellar up --cluster ci --port-offset auto      beside other clusters
  cellar up --dir /srv/cellar/demo --repo /mnt/backup/demo
  cellar up --repo 's3://backups/demo?region=eu-west-1' --repo-credentials-file aws.env
  (umask 077; openssl rand -base64 48 > pass) && cellar up --repo-cipher-pass-file pass")]
pub(crate) struct Up {
    /// Names of the cells; indexes and ports follow the alphabet [default: zone1,zone2,zone3]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    cells: Option<Vec<CellName>>,
    /// Add this to every port, or let free ports be found
    #[arg(long, value_name = "N|auto")]
    port_offset: Option<PortOffset>,
    /// Where backups go: a directory, or the URL of a store, as s3://bucket/path?region=REGION (also azure://, gcs://,
    /// sftp://) [default: repo in the cluster's directory]
    #[arg(long, value_name = "PATH|URL")]
    repo: Option<PathBuf>,
    /// The credentials of the repository's store, one NAME=VALUE a line, in a file with mode 0600: AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY, AZURE_STORAGE_KEY, GOOGLE_APPLICATION_CREDENTIALS, …
    ///
    /// A new cluster takes them from the environment when there is no file. Given to a cluster that runs, they replace those
    /// that it has: what begins from then on uses the new ones, and nothing is restarted.
    #[arg(long, value_name = "FILE")]
    repo_credentials_file: Option<PathBuf>,
    /// Encrypt the repository of a new cluster with the passphrase in this file (mode 0600, at least 16 bytes);
    /// or give it in the environment as CELLAR_REPO_CIPHER_PASS. Keep a copy elsewhere: without it no backup
    /// can be read
    #[arg(long, value_name = "FILE")]
    repo_cipher_pass_file: Option<PathBuf>,
    /// How many full backups `cellar expire` keeps from now on, with what builds on them [default: 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9999))]
    retention_full: Option<u32>,
    /// The OS user of PostgreSQL and everything beside it [default: postgres for root, else yourself]
    #[arg(long, value_name = "USER")]
    os_user: Option<String>,
    /// How long certificates are valid that are issued from now on [default: 1 year]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    cert_lifetime: Option<Duration>,
    /// Let multiadmin renew certificates at two thirds of their lifetime
    ///
    /// multiadmin gets a key pair of its own that signs on behalf of the authority, whose key stays where it is.
    /// Without it, or with `--auto-renew=false`, `cellar up` and `cellar certs rotate` renew them. Takes effect when
    /// multiadmin starts.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    auto_renew: Option<bool>,
    /// Run an HAProxy that leads clients to the primary (port 5000) and to the standbys (5001), with statistics (8404);
    /// the port offset is added to all three
    ///
    /// It is remembered: later runs keep it, and `--route=false` ends it. Needs Debian's package haproxy.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    route: Option<bool>,
    /// Run a PgBouncer in each cell that pools connections to the primary, and holds clients while it is moved: ports 6432 and
    /// up, one a cell; the port offset is added
    ///
    /// It is remembered: later runs keep it, and `--pool=false` ends it. Needs Debian's package pgbouncer.
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pool: Option<bool>,
    /// When to give up waiting
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    timeout: Duration,
}

/// The repository: a path, which may be relative, or a URL such as `file:///path`.
///
/// A URL is not repeated when it is refused: it may hold a secret.
fn repository(repo: &Path) -> Outcome<Repository> {
    let text = repo.display().to_string();
    let refused = |reason: String| match text.contains("://") {
        true => Failure::usage(
            format!("--repo: {reason}"),
            "docs/guides/repositories.md has an example for each kind of store",
        ),
        false => {
            Failure::usage(format!("--repo {text}: {reason}"), "name a directory, or the URL of a store")
        }
    };
    let path = match text.split_once("://") {
        Some(("file", path)) => absolute(Path::new(path))?,
        Some(_) => repo.to_owned(),
        None => absolute(repo)?,
    };
    let named = path.to_str().ok_or_else(|| refused("it is not valid UTF-8".to_owned()))?;
    named.parse().map_err(|error: RepositoryError| refused(error.to_string()))
}

/// The repository's passphrase, from the file or the variable. A variable that is set and empty is refused: it was meant
/// to hold one.
pub(crate) fn passphrase(file: Option<&Path>, variable: Option<OsString>) -> Outcome<Option<Secret>> {
    let usage = |message: String, hint: &str| Err(Failure::usage(message, hint));
    match (file, variable) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => usage(
            format!("both --repo-cipher-pass-file and {PASSPHRASE_VARIABLE} are given"),
            "leave one of them out",
        ),
        (Some(file), None) => match read_passphrase(file) {
            Ok(secret) => Ok(Some(secret)),
            Err(error) => usage(error.to_string(), "the file holds nothing but the passphrase, on one line"),
        },
        // Without the text: a message must not show a passphrase.
        (None, Some(text)) => match text.to_str().map(Secret::passphrase) {
            Some(Ok(secret)) => Ok(Some(secret)),
            Some(Err(reason)) => usage(
                format!("the passphrase in {PASSPHRASE_VARIABLE} is refused: {reason}"),
                "unset the variable for a repository that is not encrypted",
            ),
            None => usage(
                format!("the passphrase in {PASSPHRASE_VARIABLE} is refused: it is not UTF-8 text"),
                "give it in a file: --repo-cipher-pass-file",
            ),
        },
    }
}

fn next_commands(cluster: &Cluster, primary: &str) -> String {
    let dir = cluster.layout.root().display();
    let standby = cluster.state.cells.iter().map(|cell| cell.name.as_str()).find(|cell| *cell != primary);
    let from = match standby {
        Some(standby) => format!("--from {standby}"),
        None => format!("--from {primary} --allow-primary"),
    };
    format!(
        "cluster {} is up: {} is the primary\n\nnext:\n  cellar status --dir {dir}\n  cellar backup {from} --dir {dir}\n  cellar down --dir {dir}",
        cluster.state.cluster, primary
    )
}

impl Up {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "up")?;
        let begun = Instant::now();
        let variable = std::env::var_os(PASSPHRASE_VARIABLE);
        let passphrase = passphrase(self.repo_cipher_pass_file.as_deref(), variable)?;
        let options = UpOptions {
            dir: global.directory()?,
            cluster: global.cluster.clone(),
            cells: self.cells,
            port_offset: self.port_offset,
            repo: self.repo.as_deref().map(repository).transpose()?,
            database: global.database.clone(),
            os_user: self.os_user,
            cert_lifetime: self.cert_lifetime,
            renews: self.auto_renew,
            retention_full: self.retention_full,
            passphrase,
            credentials: GivenCredentials::of_process(self.repo_credentials_file),
            route: self.route,
            pool: self.pool,
            timeout: self.timeout,
        };
        let outcome = up(&options, &local::steps()).await?;
        match global.output {
            Form::Human => {
                for (_, primary) in &outcome.primaries {
                    output::note(&format!("\n{}", next_commands(&outcome.cluster, primary)));
                }
                output::note(&format!("\nthat took {}", units::duration(begun.elapsed())));
                Ok(())
            }
            Form::Json => {
                let target = Target::of(global).await?;
                let request =
                    GetDatabaseRequest { name: outcome.cluster.state.first_database.name.to_string() };
                let database = target.client()?.get_database(request).await;
                output::json(database.map_err(|status| target.failure(status))?.get_ref())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_a_url_is_not_repeated() {
        assert_eq!(repository(Path::new("/mnt/repo")).unwrap().to_string(), "/mnt/repo");
        assert_eq!(repository(Path::new("file:///mnt/repo")).unwrap().to_string(), "/mnt/repo");
        let url = "s3://backups/demo?region=eu-west-1";
        assert_eq!(repository(Path::new(url)).unwrap().to_string(), url);
        for (url, why) in [
            ("s3://AKIA:hunter2@backups/demo?region=r", "looks like a secret"),
            ("s3://backups/demo?region=r&key=hunter2", "looks like a secret"),
            ("s3://backups/demo?zone=hunter2", "zone: s3 has no such option"),
            ("http://hunter2@h/p", "kind http are not supported"),
        ] {
            let failure = repository(Path::new(url)).unwrap_err();
            let said = format!("{failure} {failure:?}");
            assert!(said.contains(why) && !said.contains("hunter2"), "{said}");
            assert_eq!(failure.exit_code(), 2);
        }
    }

    #[test]
    fn a_passphrase_is_read_from_one_place_and_never_shown() {
        use std::os::unix::fs::OpenOptionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        let mut made =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file).unwrap();
        std::io::Write::write_all(&mut made, b"battery staple horse\n").unwrap();
        assert_eq!(passphrase(None, None).unwrap(), None);
        let given = passphrase(Some(&file), None).unwrap();
        assert_eq!(given, passphrase(None, Some("battery staple horse".into())).unwrap());
        assert!(given.is_some());
        for (file, variable, why) in [
            (Some(file.as_path()), Some("battery staple horse"), "both --repo-cipher-pass-file and"),
            (None, Some(""), "shorter than 16 bytes"),
            (None, Some("battery"), "shorter than 16 bytes"),
            (None, Some("battery staple\nbattery staple"), "line break"),
            (Some(Path::new("/nowhere")), None, "/nowhere"),
        ] {
            let failure = passphrase(file, variable.map(OsString::from)).unwrap_err();
            let said = format!("{failure} {failure:?}");
            assert!(said.contains(why) && !said.contains("battery"), "{said}");
            assert_eq!(failure.exit_code(), 2);
        }
    }
}
