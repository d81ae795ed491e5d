//! Child processes that live in their own group and die with this process.
//!
//! A backup's local workers outlive a killed main process and keep the stanza's
//! lock (measured with 2.45), so whatever ends a command must end its whole
//! group. A shell leads the group: the kernel sends it SIGUSR1 when this process
//! dies, and it kills the group. `PR_SET_PDEATHSIG` reaches only a direct child,
//! which is why pgBackRest alone under `setpriv` would leave its workers behind.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::Error;

/// Leads the group. A signal to the group interrupts `wait`, so it waits until the command is gone; the
/// handlers are not inherited by the command. Should the shell itself be killed, the command dies with it.
const LEADER: &str = r#"
trap 'kill -KILL 0' USR1
trap : TERM INT HUP QUIT
setpriv --pdeathsig KILL -- "$@" & child=$!
while :; do
  wait "$child"; code=$?
  kill -0 "$child" 2>/dev/null || exit "$code"
done
"#;

/// Most of a log that is quoted in an error.
const QUOTED: usize = 4000;

type Spawned = std::io::Result<Running>;
type Requests = mpsc::Sender<(Command, Handle, oneshot::Sender<Spawned>)>;

/// `PR_SET_PDEATHSIG` fires when the *thread* that spawned the child ends, and a runtime's threads come and
/// go, so one thread that lives as long as the process spawns all children.
fn spawner() -> Result<&'static Requests, Error> {
    static SPAWNER: OnceLock<Option<Requests>> = OnceLock::new();
    let sender = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<(Command, Handle, oneshot::Sender<Spawned>)>();
        let thread = std::thread::Builder::new().name("child-spawner".to_owned()).spawn(move || {
            for (mut command, runtime, answer) in receiver {
                let _entered = runtime.enter();
                // When nobody waits for the answer any more, it is dropped, and that ends the child.
                let _ = answer.send(command.spawn().and_then(Running::new));
            }
        });
        thread.ok().map(|_| sender)
    });
    sender.as_ref().ok_or_else(|| {
        Error::io(
            "start the thread that spawns children",
            std::io::Error::other("no thread could be started"),
        )
    })
}

/// A program on PATH, or itself when it is a path.
pub(crate) fn find(program: &Path, package: &'static str) -> Result<PathBuf, Error> {
    let missing = || Error::Missing { program: program.to_path_buf(), package };
    if program.components().count() > 1 {
        return if program.is_file() { Ok(program.to_path_buf()) } else { Err(missing()) };
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file()).ok_or_else(missing)
}

/// A process group that is killed when this is dropped.
struct Group {
    id: Pid,
    /// Set once the leader was waited for: from then on the number may belong to another process.
    ended: bool,
}

impl Group {
    fn signal(&self, signal: Signal) {
        if !self.ended {
            // ESRCH: everybody has gone already.
            let _ = killpg(self.id, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

/// A running command with all its workers. Dropping it kills them.
pub struct Running {
    // Declared first so that the group is killed before tokio lets go of the child.
    group: Group,
    child: Child,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("group", &self.group()).finish_non_exhaustive()
    }
}

/// How a command ended: its exit code, or none when a signal ended it.
///
/// # Errors
/// When the command was not begun: a shell, `setpriv` and `nice` say so with 126 and 127.
fn code(status: ExitStatus) -> std::io::Result<Option<u8>> {
    match status.code() {
        Some(126) => Err(std::io::Error::other("the program cannot be executed")),
        Some(127) => Err(std::io::Error::other("the program, or what starts it, was not found")),
        // The leading shell reports a signal as 128 and its number; pgBackRest's own codes end at 125.
        code => Ok(code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code <= 125)),
    }
}

impl Running {
    fn new(child: Child) -> std::io::Result<Self> {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let id = Pid::from_raw(id.ok_or_else(|| std::io::Error::other("the child has no process id"))?);
        Ok(Self { group: Group { id, ended: false }, child })
    }

    pub(crate) async fn spawn(
        program: &Path,
        arguments: &[String],
        stdout: Stdio,
        stderr: Stdio,
    ) -> Result<Self, Error> {
        let setpriv = find(Path::new("setpriv"), "util-linux")?;
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "USR1", "--", "sh", "-c", LEADER, "sh"]).arg(program).args(arguments);
        for (name, _) in std::env::vars_os() {
            // PGBACKREST_* are options of pgBackRest, other PG* of libpq: either would change what is done.
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("TZ", "UTC");
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).process_group(0);
        let (answer, spawned) = oneshot::channel();
        let gone = || Error::io("spawn a child", std::io::Error::other("the spawning thread has ended"));
        spawner()?.send((command, Handle::current(), answer)).map_err(|_| gone())?;
        let what = || format!("start {}", program.display());
        spawned.await.map_err(|_| gone())?.map_err(|source| Error::io(what(), source))
    }

    /// The process group, for a log.
    #[must_use]
    pub fn group(&self) -> i32 {
        self.group.id.as_raw()
    }

    /// Waits for the end and kills workers that were left behind.
    ///
    /// # Errors
    /// When the operating system cannot wait for it.
    pub async fn wait(&mut self) -> Result<Option<u8>, Error> {
        let status = self.child.wait().await.map_err(|source| Error::io("wait for a child", source))?;
        self.group.signal(Signal::SIGKILL);
        self.group.ended = true;
        code(status).map_err(|source| Error::io("start pgbackrest", source))
    }

    /// Asks it to end with SIGTERM, on which pgBackRest releases its locks and exits with 63 within
    /// milliseconds, and kills whatever is left after `grace`.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub async fn terminate(&mut self, grace: Duration) -> Result<Option<u8>, Error> {
        self.group.signal(Signal::SIGTERM);
        if let Ok(ended) = timeout(grace, self.wait()).await {
            return ended;
        }
        self.group.signal(Signal::SIGKILL);
        self.wait().await
    }

    pub(crate) fn streams(
        &mut self,
    ) -> (Option<tokio::process::ChildStdout>, Option<tokio::process::ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }
}

/// The end of a text, cut at a line where possible.
pub(crate) fn tail(text: &str) -> &str {
    let mut from = text.len().saturating_sub(QUOTED);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let end = &text[from..];
    if from == 0 { end } else { end.split_once('\n').map_or(end, |(_, rest)| rest) }
}
