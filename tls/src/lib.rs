//! Certificates and mutual TLS: the cluster's authority, the leaves it signs,
//! and the rustls and tonic configurations made from them.
//!
//! Every socket of Cellar is mutual TLS under one private authority per
//! cluster. Issuing (which needs the authority's key) happens only in the
//! provisioner; everything else only loads, validates and presents.

mod authority;
mod certificate;
mod client;
mod connections;
mod error;
mod exchange;
mod file;
mod file_names;
mod guard;
mod identity;
mod key;
mod known_certificates;
mod leaf;
mod limits;
mod listener;
mod open_listener;
mod probe;
mod provider;
mod request;
mod revocation;
mod server;
mod stamp;
mod stream;
mod subject;

pub use authority::{CA_LIFETIME, Ca, generate_ca, generate_delegate, install_authorities};
pub use cellar_model::OperatorRole;
pub use certificate::{CertificateInfo, PeerIdentity, certificate_expiry};
pub use client::ClientTls;
pub use connections::ConnectionLimits;
pub use error::{Result, TlsError};
pub use exchange::{exchange, exchange_back, forget_previous, install_renewed, leftovers, previous};
pub use file_names::{
    CA_CERTIFICATE, CA_KEY, CLIENT_CERTIFICATE, CLIENT_KEY, REVOCATIONS, SERVER_CERTIFICATE, SERVER_KEY,
};
pub use guard::{Guard, Guarded, Revoked, ToStatus};
pub use identity::Identity;
pub use key::{KeyFile, public_key};
pub use known_certificates::{
    KNOWN_CERTIFICATES, KnownCertificate, known_certificates, remember_certificates,
};
pub use leaf::{Issued, generate_server_cert, issue, sign_request};
pub use limits::{MAX_REQUEST, ServerLimits};
pub use listener::{HandshakeLimits, MtlsIncoming, MtlsListener};
pub use open_listener::{Connecting, OpenListener};
pub use probe::{ProbeProtocol, Probed, probe, unchecked_client};
pub use provider::install_ring_provider;
pub use request::{CLOCK_SKEW, LEAF_LIFETIME, LeafRequest};
pub use revocation::{RevokedSerials, install_revocations, parse_serial, read_revocations, sign_revocations};
pub use server::{ReloadableServerConfig, Reloaded, ServerFiles};
pub use stamp::Stamps;
pub use stream::{MtlsConnectInfo, MtlsStream};
