//! What ends a command early: its message, its hint and its exit code.

use cellar_api::v1::{Job, JobKind, JobState};
use cellar_model::{Code, Refusal};
use cellar_provisioner::{FailureKind, ProvisionError};
use cellar_tls::TlsError;

use crate::render::words::kind_word;

/// The result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// An argument that clap cannot check.
    #[error("{message}")]
    Usage { message: String, hint: String },
    /// From the provisioner: a local cluster or a specification.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// multiadmin refused or failed.
    #[error("{}", .0.message())]
    Rpc(Box<tonic::Status>),
    /// multiadmin does not answer; `reason` is the connection's.
    #[error("multiadmin at {address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String, hint: String },
    /// The cluster is there, and what its client needs is not.
    #[error("{message}")]
    NoClient { message: String, hint: String },
    /// The client's certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The job ran and did not succeed.
    #[error("{}", job_message(.0))]
    Job(Box<Job>),
    /// The plan found that the restore cannot be done; nothing was changed.
    #[error("{}", refusal_message(.0))]
    Refused(Box<Job>),
    /// Ctrl-C.
    #[error("interrupted{}", .job.as_ref().map_or_else(String::new, |id| format!("; job {id} goes on")))]
    Interrupted {
        /// The job that was followed.
        job: Option<String>,
        /// The last request for a job.
        request: Option<String>,
    },
    /// Problems were found, which are on stdout already.
    #[error("{0}")]
    ProblemsFound(String),
    /// No majority of etcd's members follows one leader; how each is, is on stdout already.
    #[error("etcd has no majority: PostgreSQL goes on, and no job begins or ends")]
    EtcdLost,
    /// A file or program could not be used.
    #[error("cannot {what}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    /// A log that is to be shown is not there, or cannot be read.
    #[error("{message}")]
    NoLog { message: String, hint: String, is_denied: bool },
    /// The program of `cellar exec` could not be run.
    #[error("cannot run {program}")]
    Exec {
        program: String,
        #[source]
        source: std::io::Error,
    },
    /// stdout is closed: its reader wants no more.
    #[error("stdout is closed")]
    BrokenPipe,
    /// A bug.
    #[error("this is a bug: {0}")]
    Bug(String),
}

fn job_message(job: &Job) -> String {
    let verb = if job.state() == JobState::Canceled { "was canceled" } else { "failed" };
    let subject = match job.kind() {
        JobKind::Restore | JobKind::Rollback | JobKind::Confirm | JobKind::Plan => {
            format!("of database {}", job.database)
        }
        JobKind::Drill => format!("in cell {}", job.cell),
        _ => format!("of cell {}", job.cell),
    };
    let kind = kind_word(job.kind());
    match &job.error {
        Some(error) => format!("{kind} {subject} {verb}: {} ({})", error.message, error.code),
        None => format!("{kind} {subject} {verb}"),
    }
}

fn refusal_message(job: &Job) -> String {
    job.error.as_ref().map_or_else(|| job_message(job), |error| format!("{} ({})", error.message, error.code))
}

/// The exit code of a call that is refused for the same reason; 1 for a reason of a later version.
fn refusal_exit_code(job: &Job) -> u8 {
    let reason = job.error.as_ref().map_or("", |error| error.code.as_str());
    let code = Code::ALL.iter().copied().find(|code| code.as_str() == reason);
    code.map_or(1, |code| cellar_api::exit_code(cellar_api::status_of(&Refusal::new(code, "refused")).code()))
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: hint.into() }
    }

    /// The exit code: 0 done, 1 failed, 2 usage, 3 refused, 4 unreachable, 5 not permitted, 126 and 127 from `exec`, 130
    /// interrupted.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => 2,
            Self::Provision(error) => match error.kind() {
                FailureKind::Usage => 2,
                FailureKind::Refused => 3,
                FailureKind::Unreachable => 4,
                FailureKind::NotPermitted => 5,
                FailureKind::Failed => 1,
            },
            Self::Rpc(status) => cellar_api::exit_code(status.code()),
            Self::Refused(job) => refusal_exit_code(job),
            Self::Unreachable { .. } | Self::NoClient { .. } | Self::EtcdLost => 4,
            Self::Tls(error) if error.is_not_found() => 4,
            Self::Tls(TlsError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                5
            }
            Self::Tls(TlsError::BadAddress { .. }) => 2,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => 5,
            Self::NoLog { is_denied: true, .. } => 5,
            // As shells have it.
            Self::Exec { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 127,
            Self::Exec { .. } => 126,
            Self::Interrupted { .. } => 130,
            Self::BrokenPipe => 0,
            _ => 1,
        }
    }

    /// What to do next.
    pub(crate) fn hint(&self) -> Option<String> {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        match self {
            Self::Usage { hint, .. }
            | Self::Unreachable { hint, .. }
            | Self::NoClient { hint, .. }
            | Self::NoLog { hint, .. } => text(hint),
            Self::Provision(error) => error.hint(),
            Self::EtcdLost => text(
                "start the members that do not run (`cellar up`, on hosts `cellar host start`); if their data is lost, docs/runbooks/lost-etcd.md",
            ),
            Self::Rpc(status) => cellar_api::hint_of(status),
            Self::Tls(error) if error.is_not_found() => {
                text("start a cluster with `cellar up`, or name the client's certificates with --client-dir")
            }
            Self::Job(job) | Self::Refused(job) => job.error.as_ref().and_then(|error| text(&error.hint)),
            Self::Interrupted { job: Some(id), .. } => Some(format!(
                "follow it with `cellar jobs watch {id}`, end it with `cellar jobs cancel {id}`"
            )),
            Self::Interrupted { job: None, request: Some(id) } => Some(format!(
                "if the request had arrived, its job goes on: `cellar jobs list` shows it, and the same command with `--request-id {id}` follows it"
            )),
            _ => None,
        }
    }

    /// The message with its causes, without those that it contains already.
    pub(crate) fn message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(source) = cause {
            let text = source.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = source.source();
        }
        message
    }

    /// The last lines that the failed job's tool wrote; empty when there are none.
    pub(crate) fn tool_output(&self) -> &str {
        match self {
            Self::Job(job) | Self::Refused(job) => {
                job.error.as_ref().map_or("", |error| error.tool_output.as_str())
            }
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use cellar_api::v1::JobError;

    use super::*;

    fn of_refusal(code: Code) -> u8 {
        Failure::from(cellar_api::status_of(&Refusal::new(code, "no"))).exit_code()
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        for (code, expected) in [
            (Code::InvalidArgument, 2),
            (Code::UnknownCell, 2),
            (Code::UnknownJob, 2),
            (Code::IsPrimary, 3),
            (Code::CellDown, 3),
            (Code::Busy, 3),
            (Code::LastCell, 3),
            (Code::Unavailable, 4),
            (Code::DeadlineExceeded, 4),
            (Code::PermissionDenied, 5),
            (Code::Internal, 1),
        ] {
            assert_eq!(of_refusal(code), expected, "{code}");
        }
        assert_eq!(Failure::Interrupted { job: None, request: None }.exit_code(), 130);
        assert_eq!(Failure::Job(Box::default()).exit_code(), 1);
        assert_eq!(Failure::usage("a", "b").exit_code(), 2);
        assert_eq!(Failure::BrokenPipe.exit_code(), 0);
        let exec =
            |kind: std::io::ErrorKind| Failure::Exec { program: "x".into(), source: kind.into() }.exit_code();
        assert_eq!(exec(std::io::ErrorKind::NotFound), 127);
        assert_eq!(exec(std::io::ErrorKind::PermissionDenied), 126);
        let missing = ProvisionError::NoCluster { dir: "/c".into() };
        assert_eq!(Failure::from(missing).exit_code(), 4);
    }

    #[test]
    fn a_failed_plan_has_the_exit_code_of_a_refusal() {
        let of_plan = |code: &str| {
            let error = JobError { code: code.to_owned(), message: "no".to_owned(), ..JobError::default() };
            let mut job = Job { error: Some(error), ..Job::default() };
            job.set_kind(JobKind::Plan);
            job.set_state(JobState::Failed);
            Failure::Refused(Box::new(job))
        };
        for (code, expected) in [
            ("TARGET_UNREACHABLE", 3),
            ("WAL_MISSING", 3),
            ("NO_PRIMARY", 3),
            ("DISK_FULL", 3),
            ("MEMORY_SHORT", 3),
            ("UNKNOWN_BACKUP", 2),
            ("INVALID_ARGUMENT", 2),
            ("UNAVAILABLE", 4),
            ("DEADLINE_EXCEEDED", 4),
            ("PGBACKREST_FAILED", 1),
            ("CANCELED", 1),
            ("OF_A_LATER_VERSION", 1),
        ] {
            assert_eq!(of_plan(code).exit_code(), expected, "{code}");
        }
        for code in Code::ALL {
            assert_eq!(of_plan(code.as_str()).exit_code(), of_refusal(*code), "{code}");
        }
        assert_eq!(of_plan("WAL_MISSING").message(), "no (WAL_MISSING)");
        assert_eq!(Failure::Refused(Box::default()).exit_code(), 1);
    }

    #[test]
    fn a_refusals_hint_is_shown() {
        let status = cellar_api::status_of(&Refusal::new(Code::IsPrimary, "no").hint("allow it"));
        assert_eq!(Failure::from(status).hint().as_deref(), Some("allow it"));
        let request = Some("r1".to_owned());
        let interrupted = Failure::Interrupted { job: Some("7".into()), request: request.clone() };
        assert_eq!(interrupted.to_string(), "interrupted; job 7 goes on");
        assert!(interrupted.hint().is_some_and(|hint| hint.contains("jobs watch 7")));
        // Before the answer came the request may have arrived.
        let unanswered = Failure::Interrupted { job: None, request };
        assert!(unanswered.hint().is_some_and(|hint| hint.contains("--request-id r1")));
        assert_eq!(Failure::Interrupted { job: None, request: None }.hint(), None);
    }
}
