//! The certificates that a cluster's directory holds.

use std::path::PathBuf;

use cellar_tls::{CA_CERTIFICATE, CertificateInfo};

use crate::cluster::local_cluster::Cluster;

/// A certificate of a local cluster, and where it is.
#[derive(Debug, Clone)]
pub struct ListedCertificate {
    /// Its file.
    pub path: PathBuf,
    /// Its content; the reason when it cannot be read.
    pub info: std::result::Result<CertificateInfo, String>,
}

impl Cluster {
    /// Every certificate that the cluster's directory holds, in the order of its paths.
    #[must_use]
    pub fn certificates(&self) -> Vec<ListedCertificate> {
        let sets = self.certificate_sets_on_disk().unwrap_or_default();
        let mut directories: Vec<PathBuf> = sets.into_iter().map(|set| set.directory).collect();
        let signers = [self.layout.ca(), self.signing()];
        directories.extend(signers.clone());
        directories.push(self.issued());
        let files = directories
            .iter()
            .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten());
        let mut paths: Vec<PathBuf> = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "crt"))
            .collect();
        // Copies of the authority's certificate are everywhere; one is enough.
        let signs = |path: &PathBuf| signers.iter().any(|signer| path.parent() == Some(signer));
        paths.retain(|path| !path.ends_with(CA_CERTIFICATE) || signs(path));
        paths.sort();
        let read = |path: PathBuf| {
            let info = CertificateInfo::from_file(&path).map_err(|error| error.to_string());
            ListedCertificate { path, info }
        };
        paths.into_iter().map(read).collect()
    }
}
