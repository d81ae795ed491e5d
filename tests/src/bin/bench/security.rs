//! What security costs a caller, and what a crowd at the door costs the others.

mod flood;
mod tls_cost;

pub(crate) use flood::flood;
pub(crate) use tls_cost::tls_cost;

use std::path::Path;

use cellar_tls::{CLIENT_CERTIFICATE, CLIENT_KEY, Ca, KeyFile, LeafRequest, OperatorRole, issue};
use tokio::runtime::{Builder, Runtime};

use crate::topology::name;

/// The value, without which there is no figure.
#[track_caller]
fn must<T, E: std::fmt::Debug>(what: &str, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

fn runtime(threads: usize) -> Runtime {
    must("a runtime", Builder::new_multi_thread().worker_threads(threads).enable_all().build())
}

/// Makes `directory` the client directory of an operator of the cluster `demo`, certified by `ca`.
fn certify(ca: &Ca, directory: &Path, operator: &str) {
    let request = LeafRequest::operator(&name("demo"), OperatorRole::Operator, operator);
    let key = must("a key", KeyFile::load_or_create(&directory.join(CLIENT_KEY), None));
    let request = must("a name", request);
    must("a certificate", issue(ca, &request, &key, &directory.join(CLIENT_CERTIFICATE)));
    must("the authority", ca.install_certificate(directory, None));
}
