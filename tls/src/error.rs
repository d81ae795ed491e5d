//! What can go wrong, and what to do about it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, TlsError>;

/// A failure around keys, certificates or TLS sockets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done, such as `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A lock was not taken.
    #[error(transparent)]
    Lock(#[from] cellar_system::LockError),
    /// A file is there but does not hold what it should.
    #[error("{} is not usable: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where it helps, what to do.
        reason: String,
    },
    /// Others may read a private key.
    #[error(
        "the key {} has mode {mode:04o}, so others may have read it: run `chmod 600` on it if you are sure that nobody did",
        path.display()
    )]
    ExposedKey {
        /// The key.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The authority's certificate is there and its key is not.
    #[error(
        "{} holds ca.crt but not ca.key: put the key back from your copy; a new authority would make every certificate issued so far worthless, so none is made here. To start over, move ca.crt away yourself",
        dir.display()
    )]
    AuthorityKeyMissing {
        /// The authority's directory.
        dir: PathBuf,
    },
    /// There is no authority to load.
    #[error("{} holds no certificate authority: `cellar up` makes one", dir.display())]
    NoAuthority {
        /// The directory that was looked at.
        dir: PathBuf,
    },
    /// A certificate and a key do not belong together.
    #[error("{} does not belong to the key {}: put the matching pair back or issue the certificate again", certificate.display(), key.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A certificate does not verify against the trusted authority.
    #[error("{} is not accepted under {}: if the certificate expired or comes from another authority, issue it again (`cellar certs rotate`)", certificate.display(), authority.display())]
    Untrusted {
        /// The certificate.
        certificate: PathBuf,
        /// File of trusted authorities.
        authority: PathBuf,
        /// The verifier's error.
        #[source]
        source: rustls::Error,
    },
    /// A certificate was asked for that cannot exist.
    #[error("a certificate cannot have the {field} {value:?}: {reason}")]
    BadRequest {
        /// The field of the request.
        field: &'static str,
        /// What it holds.
        value: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// A peer's certificate could not be read.
    #[error("the certificate cannot be read: {reason}")]
    BadCertificate {
        /// What is wrong with it.
        reason: String,
    },
    /// A key or certificate could not be made.
    #[error("cannot make {what}: {reason}")]
    Generate {
        /// What was being made.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// rustls refused a configuration.
    #[error("cannot set up TLS for {what}")]
    Configure {
        /// Which side.
        what: &'static str,
        /// Why not.
        #[source]
        source: rustls::Error,
    },
    /// A listening socket could not be opened.
    #[error("cannot listen on port {} of {}{}", addr.port(), addr.ip(), bind_hint(source))]
    Bind {
        /// Address and port.
        addr: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An address to connect to is not valid.
    #[error("{address:?} is not an address to connect to: it must be HOST:PORT")]
    BadAddress {
        /// What was given.
        address: String,
        /// tonic's error.
        #[source]
        source: tonic::transport::Error,
    },
    /// A server could not be looked at.
    #[error("cannot tell what certificate is served at {address}")]
    Probe {
        /// Where.
        address: SocketAddr,
        /// Why not; a rustls error inside when the server's certificate was refused.
        #[source]
        source: io::Error,
    },
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another process has it; stop that process or choose another --port-offset"
        }
        io::ErrorKind::AddrNotAvailable => ": this host does not have that address",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need more rights",
        _ => "",
    }
}

impl TlsError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn bad_file(path: &Path, reason: impl Into<String>) -> Self {
        Self::BadFile { path: path.to_owned(), reason: reason.into() }
    }

    /// Whether the failure is that the file or directory does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NoAuthority { .. } => true,
            _ => false,
        }
    }
}
