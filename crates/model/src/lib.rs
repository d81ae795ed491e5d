//! The vocabulary of Cellar: names, records, the job state machine and the decisions.
//!
//! Nothing here does I/O, reads a clock or is async. Every function is a pure
//! function of its arguments, so every rule of the system can be tested by
//! calling it. The records' JSON is canonical proto3 JSON: what `etcdctl get`
//! shows is what the gRPC API answers.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod decide;
mod records;
mod store;
mod types;

pub use decide::admission::backup::{plan_backup, plan_rebuild};
pub use decide::admission::cell::plan_cell_removal;
pub use decide::admission::kept_data::{open_restore, plan_confirm, plan_rollback};
pub use decide::admission::maintenance::{
    check_settings_protocol, plan_check, plan_drill, plan_expire, plan_restart, plan_unconditional,
};
pub use decide::admission::restore::{plan_restore, plan_restore_plan};
pub use decide::archiving::{ArchiveNote, in_doubt, kept_from, unarchived, unreachable_from};
pub use decide::availability;
pub use decide::cell_claim::{CellDecision, CellScene, decide_cell};
pub use decide::claim_times::{CLAIM_LEASE_SECONDS, LOST_TIMEOUT, WORK_TIMEOUT};
pub use decide::condition::{Condition, ConditionKind, ConditionScene, conditions};
pub use decide::driven::driver::drive;
pub use decide::driven::scene::{Decision, Scene};
pub use decide::expiry::{check_expiry, fulls_to_keep, going_with, wal_gone};
pub use decide::health::{
    HealthQuestion, HealthQuestionError, HealthScene, HealthStanding, LookedAt, MAX_FACTS_AGE, answer_health,
};
pub use decide::logical_slots::{keepers_of_slots, slot_notes};
pub use decide::mark::Mark;
pub use decide::outcome::{claimable, closable, join, lost_is_recoverable, state, with_steps};
pub use decide::pooling::{HOLD_LIMIT, PoolScene, Pooling, is_hold_due, pooling};
pub use decide::precondition::{
    Expected, Observed, RECONNECT_TIMEOUT, check_primary_source, check_standby_source,
};
pub use decide::primary_fence::{contradicted, silent_primary};
pub use decide::proof::{CopyCount, Proof, ProofFailure, prove};
pub use decide::recovery_target::{Choice, choose, fork_ahead, hint_at_fork};
pub use decide::request::JobRequest;
pub use decide::rolling::{RestartMember, RestartScene, RestartStep, WaitReason, next_restart};
pub use decide::snapshot::Snapshot;
pub use decide::survey::{Found, Held, Survey, SurveyedBackup, windows};
pub use decide::verification::{Backlog, Faults, ListedBackup, backlog, faults};
pub use decide::worth::{Worth, best_on, type_to_take, worth};
pub use records::audit::{AuditId, AuditOutcome, AuditRecord, MAX_AUDIT_RECORDS, forgettable_audit};
pub use records::backup::{
    BackupLabel, BackupParams, BackupResult, BackupSource, BackupType, CELL_ANNOTATION, DEFAULT_MAX_LAG,
    JOB_ANNOTATION, PROOF_ANNOTATION,
};
pub use records::calendar::{Calendar, CalendarError};
pub use records::cell_claim::{CellClaim, CellClaimError, OwnClaims};
pub use records::drill::{DrillCheck, DrillParams, DrillResult};
pub use records::failover::{Failover, FailoverHistory, FailoverKind};
pub use records::hand_over::{HandOverAnswer, HandOverRequest};
pub use records::incarnation::{Incarnation, check_in_use};
pub use records::instance::{InstanceState, LagClass, Role};
pub use records::job::id::{JobId, RequestId};
pub use records::job::outcome::JobOutcome;
pub use records::job::record::{CancelRequest, Closure, DeadPrimary, Job, JobRecord, JobStep};
pub use records::job::run::{JobError, JobState, Progress, Run, Transition};
pub use records::job::spec::{JobKind, JobSpec};
pub use records::leadership::{CopyNumber, Leadership, Phase, Position, Rule, Term};
pub use records::lock::{Lock, LockDecision};
pub use records::maintenance::{
    CheckResult, DrilledBackup, ExpireParams, ExpireResult, RestartParams, Verified, VerifyResult, WalRange,
};
pub use records::pooler::{Archiver, Leader, LogicalSlot, Pooler, PoolerStatus, Versions};
pub use records::rebuild::{RebuildParams, RebuildResult};
pub use records::recordable::{RECORDED, RECORDED_INSIDE, WITHHELD, recordable};
pub use records::recovery::{FenceResult, RecoverParams, RecoveryResult, RecoveryWindow};
pub use records::repository::error::RepositoryError;
pub use records::repository::location::Repository;
pub use records::repository::repo_path::RepoPath;
pub use records::repository::store::Store;
pub use records::repository::store_kind::StoreKind;
pub use records::restore::{CellPlan, RestoreParams, RestorePlan, RestoreResult};
pub use records::schedule::{
    MAX_SCHEDULED_CELLS, MAX_START_DELAY, SCHEDULE_REQUESTS, Schedule, ScheduleAction, ScheduledBackup,
    ScheduledDrill, ScheduledRun, ScheduledWork,
};
pub use records::target::{RestorePointError, RestorePointName, Target};
pub use records::topology::{
    Cell, Database, Durability, Pause, RepoCipher, Retention, RevocationList, next_index,
};
pub use records::upgrade::HostUpgrade;
pub use store::access;
pub use store::access::Principal;
pub use store::grant::{Grant, GrantRange};
pub use store::key::{Key, Keyspace};
pub use store::layout::{CellLayout, ClusterLayout, check_socket_path};
pub use store::layout_error::{LayoutError, SOCKET_PATH_LIMIT};
pub use store::ports::{PORT_SPAN, Ports};
pub use types::client_role::{ClientName, ClientNameError, ScramVerifier, ScramVerifierError};
pub use types::clocks::{CLOCK_TOLERANCE, is_future};
pub use types::code::{Code, Refusal};
pub use types::commands::naming_database;
pub use types::host::{HostName, HostNameError};
pub use types::json::{parse_timestamp, storable, timestamp_ms, timestamp_text};
pub use types::lsn::{Lsn, SystemIdentifier, Timeline};
pub use types::name::{CellName, ClusterName, DatabaseName, NameError, ScheduleName, StanzaName};
pub use types::path_rule::{path_fault, value_fault};
pub use types::pgbackrest_name::{PgbackrestName, PgbackrestNameError, qualified_name, unqualified_name};
pub use types::protocol::Protocol;
pub use types::role::{DatabaseScope, OperatorRole};
pub use types::secret::{Secret, SecretError};
pub use types::session_rules::{SESSION_RULES, superuser_session_rules};
pub use types::wal::{
    Ancestor, Archive, DEFAULT_SEGMENT_SIZE, ForkWithoutFile, History, HistoryError, Lineage, Missing,
    Segment, SegmentSize,
};
