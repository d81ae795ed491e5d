//! `multipooler`: the agent beside one PostgreSQL instance.

use anyhow::Context;
use cellar_pooler::{Arguments, run};
use cellar_system::{OsUser, PidFile, become_user, init_logging};
use clap::Parser;

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    init_logging();
    // Before any thread exists, and after this binary is loaded: the OS user need not be able to read it.
    let user = OsUser::resolve(arguments.os_user.as_deref())?;
    become_user(&user)?;
    // Only this user may read the files that this process creates, as with those of PostgreSQL and pgBackRest.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    let _pid_file = PidFile::acquire(&arguments.pid_file)?;
    cellar_tls::install_ring_provider();
    // One thread for everything: the agent mostly waits, and one thread keeps it small.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let local = tokio::task::LocalSet::new();
    let outcome = runtime.block_on(local.run_until(async move {
        // A task of its own: what `run_until` is given is polled whenever anything of the set is woken.
        tokio::task::spawn_local(run(arguments, user)).await.unwrap_or_else(|error| Err(error.into()))
    }));
    // A blocking call that hangs (a dead disk) must not keep the process from ending.
    runtime.shutdown_background();
    outcome
}
