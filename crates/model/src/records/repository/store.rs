//! Repositories that are reached over the network, by every host alike.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::records::repository::repo_path::RepoPath;
use crate::records::repository::store_kind::StoreKind;
use crate::records::repository::store_option::rules;

/// Where each listens unless the URL says otherwise.
const HTTPS_PORT: u16 = 443;
const SSH_PORT: u16 = 22;

/// pgBackRest's defaults.
const AZURE_ENDPOINT: &str = "blob.core.windows.net";
const GCS_ENDPOINT: &str = "storage.googleapis.com";

/// A repository in a store: what a URL says of it. It holds no secret.
///
/// Everything in it was checked: each value may stand in `pgbackrest.conf` as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Store {
    pub(crate) kind: StoreKind,
    /// The account of Azure, or the user of SFTP.
    pub(crate) account: Option<String>,
    /// The bucket, container or host.
    pub(crate) place: String,
    /// The port of SFTP.
    pub(crate) port: Option<u16>,
    pub(crate) path: RepoPath,
    /// By their names in the URL.
    pub(crate) options: BTreeMap<&'static str, String>,
}

impl Store {
    /// Which kind it is of.
    #[must_use]
    pub fn kind(&self) -> StoreKind {
        self.kind
    }

    /// The bucket, container or host.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The account of Azure, or the user of SFTP; none for the others.
    #[must_use]
    pub fn account(&self) -> Option<&str> {
        self.account.as_deref()
    }

    /// Where in it the repository is: an absolute path.
    #[must_use]
    pub fn path(&self) -> &RepoPath {
        &self.path
    }

    /// The value of an option of the URL.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// How the store is to know who asks, as the URL or pgBackRest's default has it: `shared`, `auto`, …; none for SFTP.
    #[must_use]
    pub fn key_type(&self) -> Option<&str> {
        let default = match self.kind {
            StoreKind::S3 | StoreKind::Azure => "shared",
            StoreKind::Gcs => "service",
            StoreKind::Sftp => return None,
        };
        Some(self.option("key-type").unwrap_or(default))
    }

    /// The host of an S3 store; Amazon's for the region when the URL names none.
    #[must_use]
    pub fn s3_endpoint(&self) -> Option<String> {
        let region = self.option("region").filter(|_| self.kind == StoreKind::S3)?;
        let amazons = || {
            let top = if region.starts_with("cn-") { "com.cn" } else { "com" };
            format!("s3.{region}.amazonaws.{top}")
        };
        Some(self.option("endpoint").map_or_else(amazons, str::to_owned))
    }

    /// The host and port that pgBackRest connects to.
    ///
    /// In host style the name of the bucket comes before this one; both lead to the same servers.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        let account = self.account.as_deref().unwrap_or_default();
        let endpoint = self.option("connect-host").or_else(|| self.option("endpoint"));
        let host = match (self.kind, endpoint) {
            (StoreKind::Sftp, _) => return (self.place.clone(), self.port.unwrap_or(SSH_PORT)),
            (StoreKind::Azure, None) => format!("{account}.{AZURE_ENDPOINT}"),
            // As for pgBackRest, which puts the account before it in its default style.
            (StoreKind::Azure, Some(host)) if self.option("connect-host").is_none() => {
                match self.option("uri-style") {
                    Some("path") => host.to_owned(),
                    _ => format!("{account}.{host}"),
                }
            }
            (_, Some(host)) => host.to_owned(),
            (StoreKind::Gcs, None) => GCS_ENDPOINT.to_owned(),
            (StoreKind::S3, None) => self.s3_endpoint().unwrap_or_default(),
        };
        (host, self.option("port").and_then(|port| port.parse().ok()).unwrap_or(HTTPS_PORT))
    }

    /// pgBackRest's options for it, without `repoN-` before them, without secrets, and without `path`.
    #[must_use]
    pub fn pgbackrest_options(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![("type", self.kind.as_str().to_owned())];
        let mut add = |option, value: &str| all.push((option, value.to_owned()));
        let account = self.account.as_deref().unwrap_or_default();
        match self.kind {
            StoreKind::S3 => add("s3-bucket", &self.place),
            StoreKind::Azure => {
                add("azure-account", account);
                add("azure-container", &self.place);
            }
            StoreKind::Gcs => add("gcs-bucket", &self.place),
            StoreKind::Sftp => {
                add("sftp-host", &self.place);
                if let Some(port) = self.port {
                    add("sftp-host-port", &port.to_string());
                }
                add("sftp-host-user", account);
            }
        }
        if let (Some(endpoint), None) = (self.s3_endpoint(), self.option("endpoint")) {
            add("s3-endpoint", &endpoint);
        }
        for rule in rules(self.kind) {
            if let Some(value) = self.options.get(rule.name) {
                add(rule.option, value);
            }
        }
        all
    }
}

/// The URL, in the one form in which it is always shown.
impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}://", self.kind.as_str());
        match (self.kind, &self.account) {
            (StoreKind::Azure, Some(account)) => text += &format!("{account}/{}", self.place),
            (StoreKind::Sftp, Some(user)) => text += &format!("{user}@{}", self.place),
            _ => text += &self.place,
        }
        if let Some(port) = self.port {
            text += &format!(":{port}");
        }
        text += self.path.as_str();
        for (at, (name, value)) in self.options.iter().enumerate() {
            text += &format!("{}{name}={value}", if at == 0 { '?' } else { '&' });
        }
        f.pad(&text)
    }
}

impl From<Store> for String {
    fn from(store: Store) -> String {
        store.to_string()
    }
}
