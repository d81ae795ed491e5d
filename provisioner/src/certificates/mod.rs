//! The certificate authority: certificates issued, renewed, rotated and revoked.

pub(crate) mod authority;
pub(crate) mod names;
pub(crate) mod renew;
pub(crate) mod revocation;
pub(crate) mod rotation;
