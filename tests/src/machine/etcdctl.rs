//! Running `etcdctl`.

use std::path::PathBuf;
use std::process::Command;

use crate::machine::run::{Finished, run};

/// Lets `etcdctl`, with which this command ends, ask these members. Over TLS it has the files of the authority, of a
/// certificate and of its key.
#[must_use]
#[track_caller]
pub fn etcdctl(
    mut command: Command,
    endpoints: &[String],
    tls: Option<[PathBuf; 3]>,
    arguments: &[&str],
) -> Finished {
    command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]);
    for (flag, file) in ["--cacert", "--cert", "--key"].into_iter().zip(tls.into_iter().flatten()) {
        command.arg(flag).arg(file);
    }
    run(command.args(arguments))
}
