//! The vocabulary of Cellar: names, records, the job state machine and the decisions.
//!
//! Nothing here does I/O, reads a clock or is async. Every function is a pure
//! function of its arguments, so every rule of the system can be tested by
//! calling it. The records' JSON is canonical proto3 JSON: what `etcdctl get`
//! shows is what the gRPC API answers.

pub mod access;
mod audit;
mod backup;
mod code;
mod drive;
mod grant;
mod instance;
mod job;
mod json;
mod key;
mod layout;
mod lock;
mod lsn;
mod name;
mod outcome;
mod path_rule;
mod pgbackrest_name;
mod plan;
mod pooler;
mod precondition;
mod proof;
mod recovery;
mod restore;
mod schedule;
mod secret;
mod snapshot;
mod topology;
mod upkeep;
mod wal;

pub use access::{OperatorRole, Principal};
pub use audit::{
    AUDIT_KEPT, AuditId, AuditOutcome, AuditRecord, RECORDED, WITHHELD, forgettable_audit, recordable,
};
pub use backup::{
    BackupLabel, BackupResult, BackupSource, BackupType, CELL_ANNOTATION, JOB_ANNOTATION, PROOF_ANNOTATION,
};
pub use code::{Code, Refusal};
pub use drive::{Decision, Scene, drive};
pub use grant::{Grant, GrantRange};
pub use instance::{InstanceState, LagClass, Role};
pub use job::{
    BackupParams, CancelRequest, Closure, Job, JobError, JobId, JobKind, JobRecord, JobState, JobStep,
    Progress, RebuildParams, RequestId, Run, RunResult, Transition,
};
pub use json::{parse_timestamp, storable, timestamp_ms, timestamp_text};
pub use key::{Key, Keyspace};
pub use layout::{
    CellLayout, ClusterLayout, LayoutError, PORT_SPAN, Ports, SOCKET_PATH_LIMIT, check_socket_path,
};
pub use lock::{Lock, LockDecision};
pub use lsn::{Lsn, SystemIdentifier, Timeline};
pub use name::{CellName, ClusterName, DatabaseName, NameError, ScheduleName, StanzaName};
pub use outcome::{claimable, closable, join, lost_is_recoverable, with_steps};
pub use path_rule::{path_fault, value_fault};
pub use pgbackrest_name::{PgbackrestName, PgbackrestNameError};
pub use plan::{
    DEFAULT_MAX_LAG, JobRequest, plan_backup, plan_cell_removal, plan_confirm, plan_drill, plan_rebuild,
    plan_restore, plan_restore_plan, plan_rollback,
};
pub use pooler::{Archiver, Leader, Pooler, PoolerStatus, Versions};
pub use precondition::{Expected, Observed, RECONNECT, check_primary_source, check_standby_source};
pub use proof::{CopyCount, Proof, ProofFailure, prove};
pub use recovery::{Choice, Found, Survey, SurveyedBackup, choose, newest_on, windows};
pub use restore::{
    CellPlan, DrillCheck, DrillParams, DrillResult, FenceResult, Incarnation, RebuildResult, RecoverParams,
    RecoveryResult, RecoveryWindow, RestoreParams, RestorePlan, RestorePointError, RestorePointName,
    RestoreResult, Target,
};
pub use schedule::{
    Calendar, CalendarError, MOST_CELLS, SCHEDULE_REQUESTS, START_WITHIN, Schedule, ScheduledBackup,
    ScheduledDrill, ScheduledRun, ScheduledWork, Turn,
};
pub use secret::{Secret, SecretError};
pub use snapshot::Snapshot;
pub use topology::{Cell, Database, RepoCipher, Retention, RevocationList, next_index};
pub use upkeep::{
    CheckResult, DrilledBackup, ExpireParams, ExpireResult, Faults, Verified, VerifyResult, WalRange,
    check_expiry, faults, plan_check, plan_expire, plan_verify,
};
pub use wal::{
    Ancestor, Archive, DEFAULT_SEGMENT_SIZE, History, HistoryError, Lineage, Segment, SegmentSize,
};
