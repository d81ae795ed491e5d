//! Whether etcd knows that a host's member has begun before: asked when a bundle is installed and there is no data. The
//! bundle may be from before the member ran, or from before another took its place; then it would begin with nothing under
//! an id that the others count on.

use std::fs;
use std::time::Duration;

use cellar_model::CellName;
use cellar_tls::{CA_CERTIFICATE, ClientTls, SERVER_KEY};
use cellar_topology::{EtcdKv, EtcdMember};

use crate::certificates::sets::POOLER_CERTIFICATE;
use crate::cluster::etcd_origin::{EtcdBeginning, EtcdOrigin};
use crate::cluster::local_cluster::Cluster;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::bundle::Bundle;

/// How long etcd is asked. On the first hosts of a cluster there is none yet.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether these members of etcd leave no place for one that begins with nothing as its bundle says.
fn has_begun(members: &[EtcdMember], cell: &CellName, origin: Option<&EtcdOrigin>) -> bool {
    let waits = |member: &EtcdMember| {
        let is_it = match origin {
            Some(origin) if origin.from == EtcdBeginning::Joined => format!("{:x}", member.id) == origin.id,
            _ => member.name == cell.as_str(),
        };
        // A member names these when it is started for the first time.
        is_it && member.client_urls.is_empty()
    };
    !members.iter().any(waits)
}

impl Cluster {
    /// What keeps the member on this host from beginning with nothing, if etcd answers.
    pub(super) async fn etcd_has_begun(&self, bundle: &Bundle) -> Result<Option<Finding>> {
        let origin = self.own_etcd_origin();
        let is_other = |origin: &EtcdOrigin| origin.started || origin.from == EtcdBeginning::Restored;
        if !self.has_etcd() || self.has_etcd_data() || origin.is_some_and(is_other) {
            return Ok(None);
        }
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.members_with(bundle)).await;
        // etcd may not run yet, and need not know this host.
        let Ok(Ok(members)) = asked else { return Ok(None) };
        Ok(has_begun(&members, &bundle.cell, origin).then(|| Finding {
            message: format!(
                "etcd runs, and its member of cell {} has begun before or was replaced: with this bundle it would begin anew \
                 under an id that the others count on",
                bundle.cell
            ),
            hint: Some(format!(
                "on the operator's machine: `cellar etcd replace {}`, which issues another bundle; if the member was \
                 replaced already, install the newest one",
                bundle.cell
            )),
        }))
    }

    /// The members of etcd, asked with the keys in a bundle, which are not installed yet.
    async fn members_with(&self, bundle: &Bundle) -> Result<Vec<EtcdMember>> {
        let files =
            tempfile::tempdir().map_err(ProvisionError::io("make a directory in", &std::env::temp_dir()))?;
        // Any of the host's poolers may ask for this.
        let member = self.state.members_in(&bundle.cell).into_iter().next();
        let tls = member.map(|member| self.layout_of(&member).tls()).unwrap_or_default();
        let tls = tls.strip_prefix(self.layout.root()).unwrap_or(&tls);
        let put = |name: &str| {
            let text = tls.join(name).to_str().and_then(|path| bundle.files.get(path));
            let path = files.path().join(name);
            let text = text.map(|file| file.text.as_str()).unwrap_or_default();
            fs::write(&path, text).map_err(ProvisionError::io("write", &path))?;
            Ok::<_, ProvisionError>(path)
        };
        let (ca, certificate, key) = (put(CA_CERTIFICATE)?, put(POOLER_CERTIFICATE)?, put(SERVER_KEY)?);
        let client = ClientTls::from_files(&ca, &certificate, &key)?;
        let etcd = EtcdKv::connect(&self.etcd_urls()?, Some(client.tonic_config())).await?;
        Ok(etcd.members().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str, has_run: bool) -> EtcdMember {
        EtcdMember {
            id,
            name: name.to_owned(),
            peer_urls: vec![format!("https://db{id}:12380")],
            client_urls: has_run.then(|| format!("https://db{id}:12379")).into_iter().collect(),
            learner: false,
        }
    }

    #[test]
    fn member_begins_only_while_etcd_waits_for_it() {
        let (zone2, zone3): (CellName, CellName) = ("zone2".parse().unwrap(), "zone3".parse().unwrap());
        let new = [member(1, "zone1", true), member(2, "zone2", false), member(3, "zone3", true)];
        assert!(!has_begun(&new, &zone2, None), "the last of a new cluster that is started");
        assert!(has_begun(&new, &zone3, None));
        let replaced = [member(1, "zone1", true), member(7, "", false), member(3, "zone3", true)];
        assert!(has_begun(&replaced, &zone2, None), "another takes its place");
        let joined = |id: &str| EtcdOrigin::joined(id.to_owned());
        assert!(!has_begun(&replaced, &zone2, Some(&joined("7"))));
        assert!(has_begun(&replaced, &zone2, Some(&joined("6"))), "it was replaced once more");
        assert!(has_begun(&replaced, &zone3, Some(&joined("3"))), "it has run since");
    }
}
