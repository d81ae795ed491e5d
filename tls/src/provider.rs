//! The one crypto provider.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};

/// Makes ring the process's crypto provider. Every `main` calls it before its
/// first TLS connection; calling it again does nothing.
pub fn install_ring_provider() {
    if CryptoProvider::get_default().is_none() {
        // Losing the race against another thread means that one is installed.
        drop(ring::default_provider().install_default());
    }
}

/// ring, handed to each configuration explicitly so that libraries and tests
/// need no process-wide state.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
