//! Names of the files in a `tls` directory and in an authority's.

/// The trusted authorities, in an authority's own directory and in everybody else's.
pub const CA_CERTIFICATE: &str = "ca.crt";

/// An authority's key. It never leaves the authority's directory.
pub const CA_KEY: &str = "ca.key";

/// The revocation lists, beside the authority's certificate.
pub const REVOCATIONS: &str = "ca.crl";

/// A server's certificate.
pub const SERVER_CERTIFICATE: &str = "server.crt";

/// A cell's one key.
pub const SERVER_KEY: &str = "server.key";

/// File name of an operator's certificate in a client directory.
pub const CLIENT_CERTIFICATE: &str = "client.crt";

/// File name of an operator's key in a client directory.
pub const CLIENT_KEY: &str = "client.key";
