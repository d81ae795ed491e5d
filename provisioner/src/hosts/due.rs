//! Certificates of hosts that end soon. Nothing but people renews them, since no host has a key that signs.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cellar_model::CellName;
use cellar_tls::{CA_CERTIFICATE, CertificateInfo};

use crate::certificates::set::CertificateSet;
use crate::cluster::local_cluster::Cluster;
use crate::error::finding::Finding;
use crate::error::provision_error::Result;
use crate::hosts::bundle::install_command;
use crate::hosts::host::open_host;

impl Cluster {
    /// The hosts for which certificates were issued that end soon.
    #[must_use]
    pub fn certificates_due(&self, now: SystemTime) -> Vec<Finding> {
        let mut findings = Vec::new();
        let sets = self.certificate_sets().unwrap_or_default();
        for cell in self.state.cells.iter().filter(|cell| cell.host.is_some()).map(|cell| &cell.name) {
            let own = self.for_host(cell).root().to_owned();
            let files = sets
                .iter()
                .filter(|set| set.directory.starts_with(&own))
                .flat_map(CertificateSet::certificates);
            if let Some(text) = due_text(files, now) {
                findings
                    .push(Finding { message: format!("cell {cell}: {text}"), hint: Some(renewal_of(cell)) });
            }
        }
        findings
    }
}

/// How the certificates of a cell's host are renewed.
fn renewal_of(cell: &CellName) -> String {
    format!(
        "on the operator's machine `cellar cluster bundle {cell}`, and on the host `{}`",
        install_command(cell)
    )
}

/// When the first of these certificates ends, if that is soon.
fn due_text(files: impl Iterator<Item = PathBuf>, now: SystemTime) -> Option<String> {
    let due = files.filter_map(|file| CertificateInfo::from_file(&file).ok());
    let first = due.filter(|info| info.warning(now).is_some()).min_by_key(|info| info.not_after)?;
    let left = first.not_after.duration_since(now).unwrap_or_default().as_secs() / 3600;
    Some(match left {
        0 => "the certificates of its host have ended, or end within the hour".to_owned(),
        1..48 => format!("the certificates of its host end in {left} hours"),
        _ => format!("the certificates of its host end in {} days", left / 24),
    })
}

/// What there is to say of the certificates that are installed on this host: those that end soon, and what to do.
///
/// # Errors
/// When nothing is installed there.
pub fn installed_certificates_due(dir: &Path, now: SystemTime) -> Result<Option<String>> {
    let (cluster, cell) = open_host(dir)?;
    let mut directories = vec![cluster.etcd_tls(), cluster.layout.multiadmin()];
    directories.extend(cluster.members_here().iter().map(|member| cluster.layout_of(member).tls()));
    let entries = directories.iter().flat_map(|one| std::fs::read_dir(one).into_iter().flatten().flatten());
    let files = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "crt") && !path.ends_with(CA_CERTIFICATE));
    Ok(due_text(files, now).map(|text| format!("{text}: {}", renewal_of(&cell))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::cell_host::CellHost;

    #[test]
    fn hosts_whose_certificates_end_soon_are_named_with_the_commands() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1", "zone2"]);
        for (n, cell) in cluster.state.cells.iter_mut().enumerate() {
            cell.host = Some(CellHost {
                host: format!("db{n}.test").parse().unwrap(),
                listen: "0.0.0.0".parse().unwrap(),
                directory: "/var/lib/cellar/demo".into(),
                etcd: n == 0,
                multiadmin: true,
            });
        }
        let (ca, trusted) = (cluster.authority().unwrap(), cluster.trusted().unwrap());
        for set in cluster.certificate_sets().unwrap() {
            set.ensure(&ca, &trusted).unwrap();
        }
        let day = Duration::from_secs(24 * 3600);
        let said = |days: u32| {
            let findings = cluster.certificates_due(SystemTime::now() + days * day);
            findings.into_iter().map(|one| (one.message, one.hint.unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(said(0), []);
        assert_eq!(said(330), []);
        let soon = said(345);
        assert_eq!(soon.len(), 2, "{soon:?}");
        assert!(soon[1].0.starts_with("cell zone2: the certificates of its host end in"), "{soon:?}");
        assert!(soon[1].1.contains("`cellar cluster bundle zone2`"), "{soon:?}");
        assert!(soon[1].1.contains("`cellar host install zone2.bundle && rm zone2.bundle`"), "{soon:?}");
        assert!(said(400)[0].0.contains("have ended"));
        // One that is renewed is not named any more.
        let _ = std::fs::remove_dir_all(cluster.for_host(&"zone1".parse().unwrap()).root());
        assert_eq!(said(345).len(), 1);
    }
}
