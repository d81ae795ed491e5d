//! The vocabulary of Cellar: names, records, the job state machine and the decisions.
//!
//! Nothing here does I/O, reads a clock or is async. Every function is a pure
//! function of its arguments, so every rule of the system can be tested by
//! calling it. The records' JSON is canonical proto3 JSON: what `etcdctl get`
//! shows is what the gRPC API answers.

mod decide;
mod records;
mod store;
mod types;

pub use decide::admission::{
    JobRequest, plan_backup, plan_cell_removal, plan_confirm, plan_drill, plan_rebuild, plan_restore,
    plan_restore_plan, plan_rollback,
};
pub use decide::driven::{Decision, Scene, drive};
pub use decide::maintenance::{Faults, check_expiry, faults, plan_check, plan_expire, plan_verify};
pub use decide::outcome::{claimable, closable, join, lost_is_recoverable, with_steps};
pub use decide::precondition::{Expected, Observed, RECONNECT, check_primary_source, check_standby_source};
pub use decide::proof::{CopyCount, Proof, ProofFailure, prove};
pub use decide::recovery_target::{Choice, Found, Survey, SurveyedBackup, choose, newest_on, windows};
pub use decide::snapshot::Snapshot;
pub use records::audit::{
    AUDIT_KEPT, AuditId, AuditOutcome, AuditRecord, RECORDED, WITHHELD, forgettable_audit, recordable,
};
pub use records::backup::{
    BackupLabel, BackupResult, BackupSource, BackupType, CELL_ANNOTATION, JOB_ANNOTATION, PROOF_ANNOTATION,
};
pub use records::instance::{InstanceState, LagClass, Role};
pub use records::job::{
    CancelRequest, Closure, Job, JobError, JobRecord, JobState, JobStep, Progress, Run, Transition,
};
pub use records::job_id::{JobId, RequestId};
pub use records::lock::{Lock, LockDecision};
pub use records::maintenance::{
    CheckResult, DrilledBackup, ExpireParams, ExpireResult, Verified, VerifyResult, WalRange,
};
pub use records::outcome::JobOutcome;
pub use records::pooler::{Archiver, Leader, Pooler, PoolerStatus, Versions};
pub use records::restore::{
    CellPlan, DrillCheck, DrillParams, DrillResult, FenceResult, Incarnation, RebuildResult, RecoverParams,
    RecoveryResult, RecoveryWindow, RestoreParams, RestorePlan, RestorePointError, RestorePointName,
    RestoreResult, Target,
};
pub use records::schedule::{
    Calendar, CalendarError, MOST_CELLS, SCHEDULE_REQUESTS, START_WITHIN, Schedule, ScheduledBackup,
    ScheduledDrill, ScheduledRun, ScheduledWork, Turn,
};
pub use records::spec::{BackupParams, DEFAULT_MAX_LAG, JobKind, JobSpec, RebuildParams};
pub use records::topology::{Cell, Database, RepoCipher, Retention, RevocationList, next_index};
pub use store::access;
pub use store::access::Principal;
pub use store::grant::{Grant, GrantRange};
pub use store::key::{Key, Keyspace};
pub use store::layout::{
    CellLayout, ClusterLayout, LayoutError, PORT_SPAN, Ports, SOCKET_PATH_LIMIT, check_socket_path,
};
pub use types::code::{Code, Refusal};
pub use types::json::{parse_timestamp, storable, timestamp_ms, timestamp_text};
pub use types::lsn::{Lsn, SystemIdentifier, Timeline};
pub use types::name::{CellName, ClusterName, DatabaseName, NameError, ScheduleName, StanzaName};
pub use types::path_rule::{path_fault, value_fault};
pub use types::pgbackrest_name::{PgbackrestName, PgbackrestNameError};
pub use types::role::OperatorRole;
pub use types::secret::{Secret, SecretError};
pub use types::wal::{
    Ancestor, Archive, DEFAULT_SEGMENT_SIZE, History, HistoryError, Lineage, Segment, SegmentSize,
};
