//! Which multiadmin a command talks to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_provisioner::{Cluster, DEFAULT_CLUSTER};
use cellar_tls::ClientTls;
use tonic::transport::Channel;

use crate::arguments::Global;
use crate::failure::{Failure, Outcome};

/// A unary call that takes longer has failed. Reading a large repo takes seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of multiadmin, and where it is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) address: String,
    tls: ClientTls,
    hint: String,
}

/// The client of the generated code.
pub(crate) type Client = MultiAdminClient<Channel>;

impl Global {
    /// The local cluster's directory, absolute.
    pub(crate) fn directory(&self) -> Outcome<PathBuf> {
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => {
                let cluster =
                    self.cluster.as_ref().map_or(DEFAULT_CLUSTER, cellar_model::ClusterName::as_str);
                state_directory()?.join(cluster)
            }
        };
        absolute(&dir)
    }

    /// Whom to talk to: `--admin`, or the multiadmin of the local cluster.
    pub(crate) fn target(&self) -> Outcome<Target> {
        if let (Some(address), Some(dir)) = (&self.admin, &self.client_dir) {
            let hint = "check the address, and that multiadmin runs there".to_owned();
            return Target::new(address, dir, hint);
        }
        let directory = self.directory()?;
        let client = self.client_dir.clone().unwrap_or_else(|| directory.join("client"));
        let endpoint = client.join("endpoint");
        let address = std::fs::read_to_string(&endpoint).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Failure::from(cellar_provisioner::ProvisionError::NoCluster { dir: directory.clone() })
            }
            _ => Failure::Io { what: format!("read {}", endpoint.display()), source: error },
        })?;
        if self.client_dir.is_none()
            && let Ok(cluster) = Cluster::open(&directory)
        {
            cluster.renew_operators();
        }
        let hint = format!(
            "start what does not run with `cellar up --dir {}`; multiadmin's log is {}",
            directory.display(),
            directory.join("log/multiadmin.log").display()
        );
        Target::new(address.trim(), &client, hint)
    }
}

/// Makes a path absolute without following links: it becomes part of configuration files.
pub(crate) fn absolute(path: &Path) -> Outcome<PathBuf> {
    let path = std::path::absolute(path)
        .map_err(|source| Failure::Io { what: format!("resolve {}", path.display()), source })?;
    // pgBackRest compares texts, so `a/../b` and a trailing slash must not come through.
    Ok(path.components().fold(PathBuf::new(), |mut clean, part| {
        match part {
            std::path::Component::ParentDir => {
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
                "neither $XDG_STATE_HOME nor $HOME says where clusters are kept",
                "name the cluster's directory with --dir",
            )
        })
}

impl Target {
    fn new(address: &str, client_dir: &Path, hint: String) -> Outcome<Self> {
        let mut tls = ClientTls::from_dir(client_dir)?;
        if let Some((host, _)) = address.rsplit_once(':') {
            tls = tls.domain_name(host.trim_start_matches('[').trim_end_matches(']'));
        }
        let target = Self { address: address.to_owned(), tls, hint };
        // A bad address is found now rather than at the first call.
        target.tls.endpoint(address, None)?;
        Ok(target)
    }

    /// A client whose calls end after a minute.
    pub(crate) fn client(&self) -> Outcome<Client> {
        self.connect(Some(CALL_TIMEOUT))
    }

    /// A client for calls that answer with a stream.
    pub(crate) fn streaming_client(&self) -> Outcome<Client> {
        self.connect(None)
    }

    fn connect(&self, timeout: Option<Duration>) -> Outcome<Client> {
        let endpoint = self.tls.endpoint(&self.address, timeout)?;
        // Backups of thousands of tables have long listings; ours have no limit of their own.
        Ok(MultiAdminClient::new(endpoint.connect_lazy()).max_decoding_message_size(64 << 20))
    }

    /// What a status means here: one that never came from Cellar says that nobody is there.
    pub(crate) fn failure(&self, status: tonic::Status) -> Failure {
        let from_cellar = cellar_api::reason_of(&status).is_some();
        let no_answer = matches!(
            status.code(),
            tonic::Code::Unavailable | tonic::Code::DeadlineExceeded | tonic::Code::Cancelled
        );
        if from_cellar || !no_answer {
            return status.into();
        }
        let mut reason = status.message().to_owned();
        let mut cause = std::error::Error::source(&status);
        while let Some(source) = cause {
            reason = source.to_string();
            cause = source.source();
        }
        // As rustls says it of their certificate, and as an alert says it of ours.
        let expired = reason.contains("certificate expired") || reason.contains("CertificateExpired");
        let hint = if expired {
            "renew the certificates where the cluster was made: `cellar certs rotate`; one that was given out is issued \
             again (`cellar certs issue`)"
                .to_owned()
        } else {
            self.hint.clone()
        };
        Failure::Unreachable { address: self.address.clone(), reason, hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_plain() {
        assert_eq!(absolute(Path::new("/a/./b/../c/")).unwrap(), Path::new("/a/c"));
        assert_eq!(absolute(Path::new("/..")).unwrap(), Path::new("/"));
        assert!(absolute(Path::new("x")).unwrap().is_absolute());
    }
}
