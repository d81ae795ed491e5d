//! The programs that a local cluster consists of, and where they are.

use std::path::PathBuf;

use crate::error::finding::Finding;

/// Programs that others make, with the Debian package that has each.
const FOREIGN: [(&str, &str); 3] =
    [("etcd", "etcd-server"), ("pgbackrest", "pgbackrest"), ("setsid", "util-linux")];

/// Our own daemons.
pub(crate) const DAEMONS: [&str; 2] = ["multiadmin", "multipooler"];

/// A program in `$PATH`.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    which::which_global(program).ok()
}

/// HAProxy, which Debian has where only root's `$PATH` leads.
pub(crate) fn find_haproxy() -> Option<PathBuf> {
    find("haproxy").or_else(|| which::which_global("/usr/sbin/haproxy").ok())
}

/// HAProxy, if it is missing.
pub(crate) fn missing_haproxy() -> Option<Finding> {
    find_haproxy().is_none().then(|| missing_program("haproxy"))
}

/// PgBouncer, if it is missing.
pub(crate) fn missing_pgbouncer() -> Option<Finding> {
    cellar_postgres::find_pgbouncer().is_none().then(|| missing_program("pgbouncer"))
}

/// A program that is a Debian package of the same name.
fn missing_program(name: &str) -> Finding {
    Finding {
        message: format!("{name} is not installed: it is in the Debian package {name}"),
        hint: Some(format!("install the Debian package: apt-get install {name}")),
    }
}

/// One of our daemons: beside the running program, else in `$PATH`, else in `$CELLAR_BIN_DIR`.
pub(crate) fn find_daemon(program: &str) -> Option<PathBuf> {
    let in_directory = |directory: PathBuf| which::which_global(directory.join(program)).ok();
    let own = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.to_owned()));
    own.and_then(in_directory)
        .or_else(|| find(program))
        .or_else(|| in_directory(PathBuf::from(std::env::var_os("CELLAR_BIN_DIR")?)))
}

/// Programs that are missing.
pub(crate) fn missing() -> Vec<Finding> {
    let install = |package: &str| Some(format!("install the Debian package: apt-get install {package}"));
    let mut findings: Vec<Finding> = FOREIGN
        .into_iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(program, package)| Finding {
            message: format!("{program} is not installed: it is in the Debian package {package}"),
            hint: install(package),
        })
        .collect();
    if let Err(error) = cellar_postgres::Tools::find(None) {
        let package = match &error {
            cellar_postgres::PostgresError::MissingBinary { package, .. } => package.as_str(),
            _ => "postgresql",
        };
        findings.push(Finding { message: error.to_string(), hint: install(package) });
    }
    findings.extend(DAEMONS.into_iter().filter(|program| find_daemon(program).is_none()).map(|program| {
        Finding {
            message: format!(
                "{program} is neither beside the cellar program nor in $PATH nor in $CELLAR_BIN_DIR"
            ),
            hint: Some(
                "build all programs (`cargo build`), or set CELLAR_BIN_DIR to their directory".to_owned(),
            ),
        }
    }));
    findings
}
