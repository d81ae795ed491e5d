//! Refusals that are not decided in the model: bad fields, unknown jobs, errors of etcd and of poolers.

use cellar_api::{MISSING_STANZA, hint_of, reason_of, status_of, subject_of};
use cellar_model::{CellName, Code, JobId, Refusal};
use cellar_topology::StoreError;
use tonic::Status;

/// A field that does not parse or breaks a rule.
pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidArgument, message).about("field", field)
}

/// etcd does not answer.
pub(crate) fn unavailable(why: &str) -> Refusal {
    Refusal::new(Code::Unavailable, format!("multiadmin cannot reach etcd ({why})")).hint(
        "check that etcd runs and that its endpoints are right (`etcdctl endpoint health`), then ask again; \
         the request may have been recorded: repeat it with the same request id, or look at `cellar jobs list`",
    )
}

/// Too many requests changed the same records at the same time.
pub(crate) fn contended(what: &str) -> Refusal {
    Refusal::new(Code::Unavailable, format!("too many requests change {what} at once"))
        .hint("nothing was changed; ask again")
}

/// Why a change was tried several times and not made, after the last try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Setback {
    /// Something else had changed the records first.
    Overtaken,
    /// etcd did not answer, or not in time.
    Unanswered(String),
    /// What this process knows of the records is older than they are: it hears nothing from etcd.
    Outdated,
}

impl Setback {
    /// After a conflict, and a moment in which what caused it should have been seen.
    pub(crate) fn of_conflict(is_seen: bool) -> Self {
        if is_seen { Self::Overtaken } else { Self::Outdated }
    }
}

/// A change was not made, however often it was tried.
pub(crate) fn given_up(what: &str, last: &Setback) -> Refusal {
    match last {
        Setback::Overtaken => contended(what),
        Setback::Unanswered(why) => unavailable(why),
        Setback::Outdated => unavailable(&format!("what it knows of {what} is older than what etcd has")),
    }
}

/// A record that the decision needs cannot be read.
pub(crate) fn unreadable(key: &str, reason: &str) -> Refusal {
    Refusal::new(Code::Internal, format!("the record {key} in etcd cannot be read: {reason}"))
        .hint(format!("look at it with `etcdctl get {key}`, then repair or delete it"))
}

/// A bug of ours, such as a record that cannot be converted to its message.
pub(crate) fn internal(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(Code::Internal, format!("a bug in multiadmin: {error}"))
}

/// No database has such a job.
pub(crate) fn unknown_job(id: JobId) -> Refusal {
    Refusal::new(Code::UnknownJob, format!("there is no job {id}"))
        .hint("`cellar jobs list` shows the newest; ended jobs are kept for a while only")
        .about("job", id)
}

/// An error of the store as the caller sees it.
pub(crate) fn of_store(error: StoreError) -> Refusal {
    match error {
        StoreError::Retryable(why) => unavailable(&why),
        StoreError::Corrupt { key, reason } => unreadable(&key, &reason),
        StoreError::Full(why) => Refusal::new(
            Code::EtcdFull,
            format!("etcd's database is full, so nothing can be recorded; nothing was changed ({why})"),
        )
        .hint(ETCD_FULL_REMEDY),
        other => Refusal::new(Code::Internal, other.to_string()),
    }
}

/// What to do about an etcd whose database is full.
pub(crate) const ETCD_FULL_REMEDY: &str = "free space in etcd: `etcdctl compact REVISION` with the present revision (`etcdctl endpoint status -w json`), `etcdctl defrag` for each member, then `etcdctl alarm disarm`; docs/troubleshooting.md (etcd's database is full) has the commands";

/// An error of a call to a pooler. A refusal of the pooler passes through; any other error means that it
/// cannot be reached.
pub(crate) fn of_pooler(cell: &CellName, status: &Status) -> Refusal {
    match reason_of(status) {
        Some(code) => {
            let refusal = Refusal::new(code, status.message())
                .hint(hint_of(status).unwrap_or_default())
                .about("cell", cell);
            match subject_of(status, MISSING_STANZA) {
                Some(stanza) => refusal.about(MISSING_STANZA, stanza),
                None => refusal,
            }
        }
        None => Refusal::new(
            Code::CellDown,
            format!(
                "the multipooler of cell {cell} does not answer ({}: {})",
                status.code(),
                status.message()
            ),
        )
        .hint("check that it runs (`cellar status`) and that its gRPC port can be reached")
        .about("cell", cell),
    }
}

/// The gRPC status of a refusal. Bugs are logged here, where they leave the process.
pub(crate) fn to_status(refusal: &Refusal) -> Status {
    if refusal.code == Code::Internal {
        tracing::error!(%refusal, "a request failed because of a bug in multiadmin");
    }
    status_of(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_that_etcd_did_not_take_is_not_put_down_to_other_requests() {
        let told = |last: &Setback| given_up("the cells", last).message;
        assert!(told(&Setback::of_conflict(true)).contains("too many requests change the cells"));
        for last in [Setback::Unanswered("no answer in time".to_owned()), Setback::of_conflict(false)] {
            let message = told(&last);
            assert!(message.contains("cannot reach etcd") && !message.contains("requests"), "{message}");
        }
    }
}
