//! The names and uses that a certificate is to have.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use cellar_model::{
    CLOCK_TOLERANCE, CellName, ClientName, ClusterName, DatabaseName, DatabaseScope, OperatorRole,
    PgbackrestName, Principal, qualified_name,
};
use rustls_pki_types::DnsName;

use crate::certificate::CertificateInfo;
use crate::error::{Result, TlsError};

/// How long a leaf certificate lives unless asked otherwise: one year.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// How far the start of a certificate's validity is put back, so that a host
/// whose clock is behind accepts it at once. At most a tenth of its lifetime.
pub const CLOCK_SKEW: Duration = CLOCK_TOLERANCE;

/// Longest common name accepted, in bytes: a database's and a cell's name, a
/// dot, a colon and a number. X.520 allows 64, which none of rustls, Go and OpenSSL enforces.
const MAX_COMMON_NAME: usize = 138;

/// A leaf certificate to be issued.
///
/// The constructors give each party of a cluster exactly the names and uses it
/// needs. Common names matter to three readers: pgBackRest authorises
/// `pgbackrest` (or what took its place), PostgreSQL maps `cellar_replication` to a role, and etcd takes
/// the name for its user; so no two kinds may ever share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafRequest {
    /// The subject's common name.
    pub common_name: String,
    /// DNS names a server is reached by.
    pub dns_names: BTreeSet<String>,
    /// IP addresses a server is reached by.
    pub ip_addresses: BTreeSet<IpAddr>,
    /// `spiffe://<cluster>/<role>/<name>`.
    pub uri: Option<String>,
    /// Whether a server may present it.
    pub server_auth: bool,
    /// Whether a client may present it.
    pub client_auth: bool,
    /// How long it is valid, from now or from `valid_from`. Cut at the authority's own end.
    pub lifetime: Duration,
    /// Start of validity; `None` is now less [`CLOCK_SKEW`]. Tests issue
    /// expired and future certificates with it.
    pub valid_from: Option<SystemTime>,
}

impl LeafRequest {
    fn new(common_name: impl Into<String>) -> Self {
        Self {
            common_name: common_name.into(),
            dns_names: BTreeSet::new(),
            ip_addresses: BTreeSet::new(),
            uri: None,
            server_auth: false,
            client_auth: false,
            lifetime: LEAF_LIFETIME,
            valid_from: None,
        }
    }

    fn client(common_name: impl Into<String>) -> Self {
        Self { client_auth: true, ..Self::new(common_name) }
    }

    fn server_and_client(common_name: impl Into<String>, host: &str) -> Self {
        Self { server_auth: true, ..Self::client(common_name) }.with_local_names().with_host(host)
    }

    /// The pgBackRest TLS server of a cell, and the client of the other cells' ones, by the name that they accept.
    #[must_use]
    pub fn pgbackrest(name: PgbackrestName, cell_host: &str) -> Self {
        Self::server_and_client(name.to_string(), cell_host)
    }

    /// The pooler of one database in one cell: gRPC server, and client of etcd.
    #[must_use]
    pub fn pooler(cluster: &ClusterName, database: &DatabaseName, cell: &CellName, cell_host: &str) -> Self {
        Self::server_and_client(format!("{database}.{cell}"), cell_host)
            .with_uri(format!("spiffe://{cluster}/pooler/{database}/{cell}"))
    }

    /// The same after so many revocations, under a name that etcd has not known before.
    /// The colon keeps it apart from all other poolers' names.
    #[must_use]
    pub fn after_revocations(mut self, count: u32) -> Self {
        if count > 0 {
            self.common_name = format!("{}:{count}", self.common_name);
        }
        self
    }

    /// The same for a database whose name is in the names of its certificates, so that they open no other database's servers:
    /// of a [pgBackRest server](Self::pgbackrest) or of [replication](Self::replication). No other kind of name has an `@` at
    /// such a place.
    #[must_use]
    pub fn qualified_by(mut self, qualifier: Option<&DatabaseName>) -> Self {
        if let Some(database) = qualifier {
            self.common_name = qualified_name(&self.common_name, Some(database));
        }
        self
    }

    /// A standby's streaming connection to its primary.
    #[must_use]
    pub fn replication(cluster: &ClusterName, cell: &CellName) -> Self {
        Self::client("cellar_replication").with_uri(format!("spiffe://{cluster}/replication/{cell}"))
    }

    /// A multiadmin: gRPC server, and client of etcd and of the poolers.
    #[must_use]
    pub fn multiadmin(cluster: &ClusterName, host: &str) -> Self {
        Self::server_and_client("multiadmin", host).with_uri(format!("spiffe://{cluster}/multiadmin/{host}"))
    }

    /// One of several multiadmins, which etcd knows by the cell on whose host it is.
    /// The colon keeps it apart from all poolers' names.
    #[must_use]
    pub fn multiadmin_of_cell(cluster: &ClusterName, cell: &CellName, host: &str) -> Self {
        let mut request = Self::multiadmin(cluster, host);
        request.common_name = format!("{}:{cell}", request.common_name);
        request
    }

    /// An etcd member towards its clients. It is a client too: etcd's own gateway dials it.
    #[must_use]
    pub fn etcd_server(cluster: &ClusterName, host: &str) -> Self {
        Self::server_and_client("etcd-server", host).with_uri(format!("spiffe://{cluster}/etcd/{host}"))
    }

    /// An etcd member towards the other members.
    #[must_use]
    pub fn etcd_peer(cluster: &ClusterName, host: &str) -> Self {
        Self::server_and_client("etcd-peer", host).with_uri(format!("spiffe://{cluster}/etcd/{host}"))
    }

    /// A person or program that calls multiadmin.
    ///
    /// The common name is `<role>:<name>`, so that an operator who is called
    /// `multiadmin` or `pgbackrest` is not taken for one.
    ///
    /// # Errors
    /// When `name` holds anything but letters, digits, `.`, `-`, `_` and `@`, or more than 64 bytes.
    pub fn operator(cluster: &ClusterName, role: OperatorRole, name: &str) -> Result<Self> {
        Self::operator_of(cluster, role, &DatabaseScope::All, name)
    }

    /// The same for these databases only.
    ///
    /// # Errors
    /// As [`LeafRequest::operator`].
    pub fn operator_of(
        cluster: &ClusterName,
        role: OperatorRole,
        databases: &DatabaseScope,
        name: &str,
    ) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_@".contains(&b);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(TlsError::BadRequest {
                field: "operator name",
                value: name.chars().take(80).collect(),
                reason: "1 to 64 letters, digits, '.', '-', '_' and '@' are allowed",
            });
        }
        let uri = Principal::operator_uri(cluster, role, databases, name);
        Ok(Self::client(format!("{role}:{name}")).with_uri(uri))
    }

    /// An application that connects to PostgreSQL as a role with a certificate.
    ///
    /// The common name is `client:<role>`, which is nobody else's, and there is no URI: it opens PostgreSQL only.
    #[must_use]
    pub fn database_client(role: &ClientName) -> Self {
        Self::client(format!("client:{role}"))
    }

    /// The names and uses of an existing certificate, to renew it.
    #[must_use]
    pub fn like(info: &CertificateInfo) -> Self {
        Self {
            common_name: info.common_name.clone(),
            dns_names: info.dns_names.clone(),
            ip_addresses: info.ip_addresses.clone(),
            uri: info.uri.clone(),
            server_auth: info.server_auth,
            client_auth: info.client_auth,
            lifetime: LEAF_LIFETIME,
            valid_from: None,
        }
    }

    /// Adds a host by which the server is reached: a DNS name or an IP address.
    #[must_use]
    pub fn with_host(mut self, host: &str) -> Self {
        match host.parse() {
            Ok(address) => self.ip_addresses.insert(address),
            Err(_) => self.dns_names.insert(host.to_ascii_lowercase()),
        };
        self
    }

    /// Sets how long the certificate is valid.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    fn with_uri(mut self, uri: String) -> Self {
        self.uri = Some(uri);
        self
    }

    fn with_local_names(mut self) -> Self {
        self.dns_names.insert("localhost".to_owned());
        self.ip_addresses.extend([IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]);
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let bad = |field, value: &str, reason| {
            Err(TlsError::BadRequest { field, value: value.chars().take(80).collect(), reason })
        };
        if self.common_name.is_empty() || self.common_name.len() > MAX_COMMON_NAME {
            return bad("common name", &self.common_name, "1 to 138 bytes are allowed");
        }
        if !self.common_name.bytes().all(|b| b.is_ascii_graphic()) {
            return bad("common name", &self.common_name, "only visible ASCII characters are allowed");
        }
        for name in &self.dns_names {
            if DnsName::try_from(name.as_str()).is_err() {
                return bad("host name", name, "it is not a DNS name");
            }
        }
        if let Some(uri) = &self.uri
            && !(uri.starts_with("spiffe://") && uri.bytes().all(|b| b.is_ascii_graphic()))
        {
            return bad("URI", uri, "it must start with spiffe:// and be visible ASCII");
        }
        if self.lifetime < Duration::from_secs(1) {
            return bad("lifetime", &format!("{:?}", self.lifetime), "a second is the least");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> ClusterName {
        "demo".parse().unwrap()
    }

    #[test]
    fn operator_cannot_have_the_name_of_a_service() {
        for name in ["multiadmin", "pgbackrest", "cellar_replication", "root", "etcd-peer"] {
            let request = LeafRequest::operator(&cluster(), OperatorRole::Viewer, name).unwrap();
            assert_eq!(request.common_name, format!("viewer:{name}"));
            assert!(!request.server_auth);
        }
        for name in ["", "a/b", "../admin", "a b", "a\n", "é", "a:b", &"a".repeat(65)] {
            assert!(LeafRequest::operator(&cluster(), OperatorRole::Admin, name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn name_of_a_revoked_pooler_is_never_used_again() {
        let (database, cell) = ("app".parse().unwrap(), "zone1".parse().unwrap());
        let pooler = LeafRequest::pooler(&cluster(), &database, &cell, "localhost");
        let named = |count: u32| pooler.clone().after_revocations(count).common_name;
        assert_eq!([named(0), named(1), named(12)], ["app.zone1", "app.zone1:1", "app.zone1:12"]);
        // Neither a database nor a cell can have such a name.
        assert!("zone1:1".parse::<CellName>().is_err());
        let longest = "a".repeat(63);
        let longest = LeafRequest::pooler(
            &cluster(),
            &longest.parse().unwrap(),
            &longest.parse().unwrap(),
            "localhost",
        );
        longest.after_revocations(u32::MAX).check().unwrap();
    }

    #[test]
    fn host_is_a_dns_name_or_an_address() {
        let request =
            LeafRequest::pgbackrest(PgbackrestName::default(), "Zone1.Example.Org").with_host("10.0.0.7");
        assert!(request.dns_names.contains("zone1.example.org"));
        assert!(request.ip_addresses.contains(&"10.0.0.7".parse().unwrap()));
        assert_eq!(LeafRequest::pgbackrest(PgbackrestName::default(), "localhost").dns_names.len(), 1);
        request.check().unwrap();
    }

    #[test]
    fn refusal_names_the_field() {
        let field = |request: LeafRequest| match request.check().unwrap_err() {
            TlsError::BadRequest { field, .. } => field,
            other => panic!("{other}"),
        };
        for host in ["", "a b", "*.example.org", "a\nb", "[::1]"] {
            assert_eq!(
                field(LeafRequest::pgbackrest(PgbackrestName::default(), host)),
                "host name",
                "{host:?}"
            );
        }
        let request = LeafRequest::pgbackrest(PgbackrestName::default(), "h");
        assert_eq!(field(LeafRequest { common_name: "a\0".into(), ..request.clone() }), "common name");
        assert_eq!(field(LeafRequest { common_name: String::new(), ..request.clone() }), "common name");
        assert_eq!(field(LeafRequest { uri: Some("http://x".into()), ..request.clone() }), "URI");
        assert_eq!(field(request.with_lifetime(Duration::ZERO)), "lifetime");
    }
}
