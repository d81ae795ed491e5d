//! What the commands on a local cluster share.

use cellar_provisioner::{Cluster, Steps};

use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output;

/// One line for each step on stderr, with the time since the command began.
pub(crate) fn steps() -> Steps {
    Steps::new(|elapsed, text| {
        output::note(&format!("[{:>6.1}s] {text}", elapsed.as_secs_f64()));
    })
}

/// The local cluster that the flags name.
pub(crate) fn open(global: &Global) -> Outcome<Cluster> {
    let cluster = Cluster::open(global.directory()?)?;
    match &global.cluster {
        Some(wanted) if *wanted != cluster.state.cluster => Err(Failure::usage(
            format!(
                "the cluster in {} is called {}, not {wanted}",
                cluster.layout.root().display(),
                cluster.state.cluster
            ),
            "leave --cluster out, or name another directory with --dir",
        )),
        _ => Ok(cluster),
    }
}

/// The cluster that the flags name, as this machine has it: a local one, the operator's, or that of a host.
pub(crate) fn open_here(global: &Global) -> Outcome<Cluster> {
    let directory = global.directory()?;
    open(global).or_else(|failure| match failure {
        Failure::Usage { .. } => Err(failure),
        failure => Cluster::open_on_host(&directory).map_err(|_| failure),
    })
}

/// Refuses `--admin` for a command that works on a local cluster's files and processes.
pub(crate) fn refuse_remote(global: &Global, command: &str) -> Outcome {
    if global.admin.is_some() {
        return Err(Failure::usage(
            format!("{command} works on this machine's clusters and takes no --admin"),
            "name the cluster with --cluster or --dir",
        ));
    }
    Ok(())
}
