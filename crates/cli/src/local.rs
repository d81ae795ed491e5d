//! What the commands on a local cluster share.

use cellar_provisioner::{Cluster, Steps};

use crate::arguments::Global;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::render::units;

/// One line per step on stderr, with the time since the command began.
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

/// A command that changes a local cluster cannot be told to do so through an address.
pub(crate) fn refuse_remote(global: &Global, command: &str) -> Outcome {
    if global.admin.is_some() {
        return Err(Failure::usage(
            format!("{command} works on this machine's clusters and takes no --admin"),
            "name the cluster with --cluster or --dir",
        ));
    }
    Ok(())
}

/// The time that a command took, for its last line.
pub(crate) fn took(since: std::time::Instant) -> String {
    units::duration(since.elapsed())
}
