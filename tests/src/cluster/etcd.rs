//! The records of a cluster in its etcd.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cellar_model::Keyspace;
use cellar_topology::{EtcdKv, Store};

use crate::cluster::local::Cluster;
use crate::machine::etcdctl::etcdctl;
use crate::machine::process::command_line;
use crate::machine::run::Finished;
use crate::machine::wait::wait_for;

impl Cluster {
    /// Where the cluster's etcd is, such as `https://localhost:12379`.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    #[track_caller]
    pub fn etcd_url(&self) -> String {
        wait_for("etcd to run", Duration::from_secs(10), || {
            let words = command_line(self.pid("pid/etcd.pid"));
            words.iter().find_map(|word| word.strip_prefix("--advertise-client-urls=").map(str::to_owned))
        })
    }

    /// The cluster's records, with the rights of its provisioner.
    ///
    /// # Panics
    /// When there is no certificate for it.
    pub async fn store(&self) -> Store {
        cellar_tls::install_ring_provider();
        let Ok(tls) = cellar_tls::ClientTls::from_dir(&self.directory.join("state/tls")) else {
            panic!("no certificate for etcd")
        };
        let Ok(kv) = EtcdKv::connect(&[self.etcd_url()], Some(tls.tonic_config())).await else {
            panic!("bad etcd endpoint")
        };
        let Ok(cluster) = "demo".parse() else { panic!("demo is a name") };
        Store::new(Arc::new(kv), Keyspace::new(&cluster))
    }

    pub(crate) fn etcdctl(&self, arguments: &[&str]) -> Finished {
        self.etcdctl_as("state/tls/client.crt", "state/tls/client.key", arguments)
    }

    /// `etcdctl` with somebody's certificate: files below the cluster's directory.
    #[must_use]
    #[track_caller]
    pub fn etcdctl_as(&self, certificate: &str, key: &str, arguments: &[&str]) -> Finished {
        let tls = ["ca/ca.crt", certificate, key].map(|name| self.directory.join(name));
        etcdctl(Command::new("etcdctl"), &[self.etcd_url()], Some(tls), arguments)
    }

    /// Every key in etcd.
    #[must_use]
    #[track_caller]
    pub fn etcd_keys(&self) -> Vec<String> {
        let text = self.etcdctl(&["get", "--prefix", "--keys-only", "/cellar/"]).ok();
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Everything in etcd, keys and values.
    #[must_use]
    #[track_caller]
    pub fn etcd_dump(&self) -> String {
        self.etcdctl(&["get", "--prefix", ""]).ok()
    }

    /// The value of a key in etcd.
    #[must_use]
    #[track_caller]
    pub fn etcd_get(&self, key: &str) -> String {
        self.etcdctl(&["get", "--print-value-only", key]).ok().trim().to_owned()
    }

    /// Sets a key in etcd, past multiadmin and the poolers.
    #[track_caller]
    pub fn etcd_put(&self, key: &str, value: &str) {
        let _ = self.etcdctl(&["put", key, value]).ok();
    }

    /// Deletes a key in etcd, past multiadmin and the poolers.
    #[track_caller]
    pub fn etcd_delete(&self, key: &str) {
        let _ = self.etcdctl(&["del", key]).ok();
    }
}
