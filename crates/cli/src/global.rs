//! The flags that every command takes, and the cluster's directory that they name.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use cellar_model::{ClusterName, DatabaseName};
use cellar_provisioner::DEFAULT_CLUSTER;
use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::output::Form;

/// The variable that names the local cluster's directory. Set and empty counts as unset.
const DIRECTORY_VARIABLE: &str = "CELLAR_DIR";

/// Which cluster, and how to answer.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster and output")]
pub(crate) struct Global {
    /// The database; needed only where a cluster has several
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) database: Option<DatabaseName>,
    /// How to answer; JSON is the API's own, one document or one a line
    #[arg(long, global = true, value_name = "FORM", default_value = "human")]
    pub(crate) output: Form,
    /// multiadmin's address, instead of a local cluster's
    #[arg(long, global = true, value_name = "HOST:PORT", requires = "client_dir")]
    pub(crate) admin: Option<String>,
    /// Directory of ca.crt, client.crt and client.key
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) client_dir: Option<PathBuf>,
    /// The local cluster's name [default: demo]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) cluster: Option<ClusterName>,
    /// The local cluster's directory [default: /var/lib/cellar/CLUSTER for root, else
    /// $XDG_STATE_HOME/cellar/CLUSTER] [env: CELLAR_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

impl Global {
    /// The database's name as requests carry it: empty stands for the only one.
    pub(crate) fn database(&self) -> String {
        self.database.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// The local cluster's directory, absolute: `--dir`, else `CELLAR_DIR`, else the cluster's default one.
    pub(crate) fn directory(&self) -> Outcome<PathBuf> {
        self.directory_by_default(self.cluster.as_ref().map_or(DEFAULT_CLUSTER, ClusterName::as_str))
    }

    /// The same of a cluster whose name a file gives.
    pub(crate) fn directory_of(&self, cluster: &ClusterName) -> Outcome<PathBuf> {
        self.directory_by_default(cluster.as_str())
    }

    fn directory_by_default(&self, cluster: &str) -> Outcome<PathBuf> {
        let variable = std::env::var_os(DIRECTORY_VARIABLE);
        let dir = match named_directory(self.dir.as_deref(), variable.as_deref()) {
            Some(dir) => dir,
            None => state_directory()?.join(cluster),
        };
        absolute(&dir)
    }
}

fn named_directory(flag: Option<&Path>, variable: Option<&OsStr>) -> Option<PathBuf> {
    flag.map(Path::to_owned).or_else(|| variable.filter(|value| !value.is_empty()).map(PathBuf::from))
}

/// Makes a path absolute without following links: it becomes part of configuration files.
pub(crate) fn absolute(path: &Path) -> Outcome<PathBuf> {
    let path = std::path::absolute(path)
        .map_err(|source| Failure::Io { what: format!("resolve {}", path.display()), source })?;
    // pgBackRest compares texts, so `a/../b` and a trailing slash must not come through.
    Ok(path.components().fold(PathBuf::new(), |mut clean, part| {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
        clean
    }))
}

fn state_directory() -> Outcome<PathBuf> {
    if nix::unistd::Uid::effective().is_root() {
        return Ok(PathBuf::from("/var/lib/cellar"));
    }
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    set("XDG_STATE_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("cellar"))
        .ok_or_else(|| {
            Failure::usage(
                "neither $XDG_STATE_HOME nor $HOME is an absolute path, so there is no default directory",
                "name the cluster's directory with --dir",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_absolute_and_normal() {
        assert_eq!(absolute(Path::new("/a/./b/../c/")).unwrap(), Path::new("/a/c"));
        assert_eq!(absolute(Path::new("/..")).unwrap(), Path::new("/"));
        assert!(absolute(Path::new("x")).unwrap().is_absolute());
    }

    #[test]
    fn an_empty_directory_variable_counts_as_unset() {
        let named = |flag: Option<&str>, variable: Option<&str>| {
            named_directory(flag.map(Path::new), variable.map(OsStr::new))
        };
        assert_eq!(named(None, None), None);
        assert_eq!(named(None, Some("")), None);
        assert_eq!(named(None, Some("/c")).as_deref(), Some(Path::new("/c")));
        assert_eq!(named(Some("/flag"), Some("/c")).as_deref(), Some(Path::new("/flag")));
    }
}
