//! Child processes that live in their own group and die with this process.
//!
//! A backup's local workers outlive a killed main process and keep the stanza's
//! lock (measured with 2.45), so whatever ends a command must end its whole
//! group. A shell leads the group: the kernel sends it SIGUSR1 when this process
//! dies, and it kills the group. `PR_SET_PDEATHSIG` reaches only a direct child,
//! which is why pgBackRest alone under `setpriv` would leave its workers behind.
//!
//! A command may be confined to some files. Whatever a thread gives up is given up by all that it starts, and by nobody
//! else, so a thread of its own starts the whole group.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

use cellar_system::{FileAccess, SERVICE_MANAGER_VARIABLES, confine};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::error::Error;

/// Kills the group when its time is over. Each line on standard input is the uptime of the host, in whole seconds, until
/// which the group may live; the end of the input is the end of the process that gives it time. The clock is the host's,
/// so that it counts for a process that was stopped, and no change of the wall clock counts.
const WATCHDOG: &str = r#"
watchdog() {
  trap : TERM INT HUP QUIT
  local end=$1 next up rest
  while :; do
    read -r up rest < /proc/uptime || kill -KILL 0
    up=${up%.*}
    [ "$up" -lt "$end" ] || kill -KILL 0
    if read -r -t "$((end - up))" next; then end=$next; elif [ $? -le 128 ]; then kill -KILL 0; fi
  done
}
exec 3<&0 </dev/null
watchdog "$1" <&3 >/dev/null 2>&1 &
exec 3<&-
shift
"#;

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

/// How long the watchdog's pipe may take to take a line; it has room for thousands.
const EXTENSION_TIMEOUT: Duration = Duration::from_millis(100);

/// Most of a log that is quoted in an error.
const QUOTED: usize = 4000;

/// A child to be spawned.
struct Order {
    command: Command,
    until: Option<Duration>,
    runtime: Handle,
    answer: oneshot::Sender<std::io::Result<Running>>,
}

impl Order {
    /// Spawns the child, on the thread that it lives as long as.
    fn spawn(&mut self) -> std::io::Result<Running> {
        let _entered = self.runtime.enter();
        self.command.spawn().and_then(|child| Running::new(child, self.until))
    }
}

/// Spawns a child that may use these files only, from a thread that ends when [`Running`] is dropped.
fn spawn_confined(mut order: Order, access: FileAccess) -> std::io::Result<()> {
    let thread = std::thread::Builder::new().name("confined-spawner".to_owned());
    let begun = thread.spawn(move || {
        let (keeper, kept) = mpsc::channel::<()>();
        let spawned = confine(&access)
            .map_err(|error| std::io::Error::other(format!("the kernel's Landlock refuses: {error}")))
            .and_then(|enforced| {
                let mut running = order.spawn()?;
                running.confinement = Some(Confinement { enforced, _keeper: keeper });
                Ok(running)
            });
        // When nobody waits for the answer any more, it is dropped, and that ends the child.
        let _ = order.answer.send(spawned);
        // Ends when the other side is dropped: nothing is ever sent.
        let _ = kept.recv();
    });
    begun.map(drop)
}

/// `PR_SET_PDEATHSIG` fires when the *thread* that spawned the child ends, and a runtime's threads come and
/// go, so one thread that lives as long as the process spawns all children.
fn spawner() -> Result<&'static mpsc::Sender<Order>, Error> {
    static SPAWNER: OnceLock<Option<mpsc::Sender<Order>>> = OnceLock::new();
    let sender = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        let thread = std::thread::Builder::new().name("child-spawner".to_owned()).spawn(move || {
            for mut order in receiver {
                // When nobody waits for the answer any more, it is dropped, and that ends the child.
                let spawned = order.spawn();
                let _ = order.answer.send(spawned);
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
    watchdog: Option<Watchdog>,
    // Declared last: the thread that has started the group ends when the group has gone.
    confinement: Option<Confinement>,
}

/// What a group was confined to.
struct Confinement {
    /// Whether the kernel can do it.
    enforced: bool,
    /// Its end lets the thread end that has started the group.
    _keeper: mpsc::Sender<()>,
}

/// The watchdog of a group, which is told until when the group may live.
struct Watchdog {
    input: ChildStdin,
    until: Duration,
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
    fn new(mut child: Child, until: Option<Duration>) -> std::io::Result<Self> {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let id = Pid::from_raw(id.ok_or_else(|| std::io::Error::other("the child has no process id"))?);
        let watchdog = until.zip(child.stdin.take()).map(|(until, input)| Watchdog { input, until });
        Ok(Self { group: Group { id, ended: false }, child, watchdog, confinement: None })
    }

    /// Starts a command, which opens sessions in PostgreSQL with the options of libpq. With `until`, an uptime of the host, a watchdog kills it then, unless
    /// [`Running::extend`] gives it more time. With `confined` it may use these files only, itself and the programs that
    /// start it apart.
    pub(crate) async fn spawn(
        program: &Path,
        arguments: &[String],
        session_options: &str,
        stdout: Stdio,
        stderr: Stdio,
        until: Option<Duration>,
        confined: Option<FileAccess>,
    ) -> Result<Self, Error> {
        let setpriv = find(Path::new("setpriv"), "util-linux")?;
        let confined = confined.map(|mut access| {
            // `sh` and `setpriv` are started by name.
            access.programs.extend([program.to_owned(), setpriv.clone()]);
            access.programs.extend(find(Path::new("sh"), "dash").ok());
            access
        });
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", "USR1", "--"]);
        match until {
            None => command.args(["sh", "-c", LEADER, "sh"]).stdin(Stdio::null()),
            Some(until) => {
                // `read` with a time limit is bash's. With -p it reads no file that the environment names.
                let bash = find(Path::new("bash"), "bash")?;
                let script = format!("{WATCHDOG}{LEADER}");
                command.arg(bash).args(["-p", "-c", &script, "bash", &until.as_secs().to_string()]);
                command.stdin(Stdio::piped())
            }
        };
        command.arg(program).args(arguments);
        for (name, _) in std::env::vars_os() {
            // PGBACKREST_* are options of pgBackRest, other PG* of libpq: either would change what is done.
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        for name in SERVICE_MANAGER_VARIABLES {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").env("TZ", "UTC").env("PGOPTIONS", session_options);
        command.stdout(stdout).stderr(stderr).process_group(0);
        let (answer, spawned) = oneshot::channel();
        let gone = || Error::io("spawn a child", std::io::Error::other("the spawning thread has ended"));
        let what = || format!("start {}", program.display());
        let order = Order { command, until, runtime: Handle::current(), answer };
        match confined {
            None => spawner()?.send(order).map_err(|_| gone())?,
            Some(access) => spawn_confined(order, access).map_err(|source| Error::io(what(), source))?,
        }
        spawned.await.map_err(|_| gone())?.map_err(|source| Error::io(what(), source))
    }

    /// The process group, for a log.
    #[must_use]
    pub fn group(&self) -> i32 {
        self.group.id.as_raw()
    }

    /// Whether it can use only the files that it was confined to. False when it was not confined, or the kernel cannot
    /// do that.
    #[must_use]
    pub fn is_confined(&self) -> bool {
        self.confinement.as_ref().is_some_and(|confinement| confinement.enforced)
    }

    /// Gives it time until `until`, an uptime of the host. Nothing happens when it has no watchdog, or that is no news.
    pub async fn extend(&mut self, until: Duration) {
        let Some(watchdog) = self.watchdog.as_mut().filter(|watchdog| watchdog.until != until) else {
            return;
        };
        let line = format!("{}\n", until.as_secs());
        // A watchdog that does not read is stopped, or has ended the group.
        if let Ok(Ok(())) = timeout(EXTENSION_TIMEOUT, watchdog.input.write_all(line.as_bytes())).await {
            watchdog.until = until;
        }
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
    /// As [`Running::wait`], and when it does not even end then: a process that waits for a file system that does not
    /// answer cannot be killed.
    pub async fn terminate(&mut self, grace: Duration) -> Result<Option<u8>, Error> {
        self.group.signal(Signal::SIGTERM);
        if let Ok(ended) = timeout(grace, self.wait()).await {
            return ended;
        }
        self.group.signal(Signal::SIGKILL);
        let group = self.group();
        timeout(grace, self.wait()).await.unwrap_or(Err(Error::Unkillable { group, after: grace }))
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
