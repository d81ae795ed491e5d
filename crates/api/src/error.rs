//! One mapping from the model's codes to gRPC, and from gRPC to exit codes.

use std::collections::HashMap;

use cellar_model::{Code, Refusal};
use tonic::{Code as Grpc, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The `domain` of our `ErrorInfo` details.
const DOMAIN: &str = "cellar";

/// The subject of a refusal that says that a repository has nothing of the stanza named there: it is a new one, or not
/// the one that was meant.
pub const MISSING_STANZA: &str = "missing_stanza";

fn grpc_of(code: Code) -> Grpc {
    match code {
        Code::InvalidArgument | Code::RequestIdReused => Grpc::InvalidArgument,
        Code::UnknownCell
        | Code::UnknownDatabase
        | Code::UnknownJob
        | Code::UnknownBackup
        | Code::UnknownSchedule
        | Code::UnknownRole => Grpc::NotFound,
        Code::AlreadyExists => Grpc::AlreadyExists,
        Code::CellDown
        | Code::IsPrimary
        | Code::NotPrimary
        | Code::Lagging
        | Code::WrongPrimary
        | Code::DataLoss
        | Code::TwoPrimaries
        | Code::NoPrimary
        | Code::WrongInstance
        | Code::LastCell
        | Code::InUse
        | Code::TargetUnreachable
        | Code::WalMissing
        | Code::NothingKept
        | Code::RestoreOpen
        | Code::LastBackup
        | Code::Unsupported
        | Code::AlreadyEnded => Grpc::FailedPrecondition,
        Code::Busy => Grpc::Aborted,
        Code::QueueFull | Code::EtcdFull | Code::DiskFull | Code::MemoryShort => Grpc::ResourceExhausted,
        Code::DeadlineExceeded => Grpc::DeadlineExceeded,
        Code::Canceled => Grpc::Cancelled,
        Code::Unavailable => Grpc::Unavailable,
        Code::PermissionDenied => Grpc::PermissionDenied,
        Code::ProofFailed | Code::PageErrors | Code::RepoDamaged | Code::CheckFailed => Grpc::DataLoss,
        Code::PgbackrestFailed | Code::PostgresFailed | Code::PoolerRestarted | Code::Internal => {
            Grpc::Internal
        }
    }
}

/// What a refusal said of a subject, such as `job` or `cell`; none when it did not name one.
#[must_use]
pub fn subject_of(status: &Status, subject: &str) -> Option<String> {
    status.get_details_error_info()?.metadata.get(subject).cloned()
}

/// The gRPC status that a refusal travels as, with `ErrorInfo`, the hint as `LocalizedMessage`,
/// and `BadRequest` when a field is at fault.
#[must_use]
pub fn status_of(refusal: &Refusal) -> Status {
    let metadata: HashMap<String, String> =
        refusal.about.iter().map(|(what, value)| ((*what).to_owned(), value.clone())).collect();
    let mut details = ErrorDetails::new();
    details.set_error_info(refusal.code.as_str(), DOMAIN, metadata);
    if !refusal.hint.is_empty() {
        details.set_localized_message("en", refusal.hint.as_str());
    }
    if let (Grpc::InvalidArgument, Some(field)) = (grpc_of(refusal.code), refusal.about.get("field")) {
        details.add_bad_request_violation(field.as_str(), refusal.message.as_str());
    }
    Status::with_error_details(grpc_of(refusal.code), refusal.message.as_str(), details)
}

/// The stable code that a status carries; `None` when it does not come from Cellar.
#[must_use]
pub fn reason_of(status: &Status) -> Option<Code> {
    let info = status.get_details_error_info()?;
    Code::ALL.iter().copied().find(|code| info.domain == DOMAIN && code.as_str() == info.reason)
}

/// What to do next, if the status says.
#[must_use]
pub fn hint_of(status: &Status) -> Option<String> {
    status.get_details_localized_message().map(|message| message.message)
}

/// The process exit code for a call that ended with `code`: 2 wrong argument, 3 refused in the
/// present state, 4 out of reach, 5 not permitted, 1 anything else.
#[must_use]
pub fn exit_code(code: Grpc) -> u8 {
    match code {
        Grpc::Ok => 0,
        Grpc::InvalidArgument | Grpc::NotFound | Grpc::OutOfRange => 2,
        Grpc::FailedPrecondition | Grpc::Aborted | Grpc::AlreadyExists | Grpc::ResourceExhausted => 3,
        Grpc::Unavailable | Grpc::DeadlineExceeded => 4,
        Grpc::PermissionDenied | Grpc::Unauthenticated => 5,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire() {
        for code in Code::ALL {
            let status = status_of(&Refusal::new(*code, "no").hint("do this").about("cell", "zone1"));
            assert_eq!(reason_of(&status), Some(*code));
            assert_eq!(hint_of(&status).as_deref(), Some("do this"));
            assert_ne!(status.code(), Grpc::Ok);
        }
    }

    #[test]
    fn a_bad_field_is_named() {
        let status = status_of(&Refusal::new(Code::InvalidArgument, "bad").about("field", "cell"));
        assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "cell");
    }

    #[test]
    fn a_foreign_status_has_no_reason() {
        assert_eq!(reason_of(&Status::unavailable("x")), None);
        assert_eq!(exit_code(Grpc::Unavailable), 4);
    }
}
