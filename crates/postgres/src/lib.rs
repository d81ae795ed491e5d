//! One PostgreSQL instance: creating it, configuring it, running it, and asking it.
//!
//! PostgreSQL outlives the process that started it, so nothing here keeps state about it: every function looks at the
//! data directory and the processes again. Every function that waits has a deadline.

mod auto_conf;
mod base_backup;
mod client_roles;
mod command;
mod config_file;
mod configure;
mod conninfo;
mod control;
mod control_data;
mod create_roles;
mod data_directory;
mod draft;
mod error;
mod facts;
mod failover_slots;
mod hba;
mod initdb;
mod left_wal;
mod member_settings;
mod member_slots;
mod owned_settings;
mod pgbouncer;
mod plain_settings;
mod postmaster;
mod private_settings;
mod probe;
mod quorum;
mod required_settings;
mod roles;
mod session;
mod setting_proposal;
mod setting_value;
mod settings;
mod shutdown_checkpoint;
mod slots_on_disk;
mod stop;
mod tools;

pub use auto_conf::{members_own_settings, restore_auto_conf, settings_of_now, take_over_settings};
pub use base_backup::{CopySource, base_backup};
pub use client_roles::{
    ClientProof, ClientRole, ClientRoleError, client_secrets, create_client_role, drop_client_role,
    list_client_roles, scram_verifier, set_client_password,
};
pub use command::{CommandOutput, run};
pub use configure::{InstanceConfig, configure, keep_ours};
pub use conninfo::{PrimaryConninfo, conninfo_address};
pub use control::{promote, reload, start, start_private};
pub use control_data::{ControlData, ControlState};
pub use create_roles::ensure_roles;
pub use data_directory::{DataDirectory, check_permissions, inspect};
pub use error::PostgresError;
pub use facts::{InstanceFacts, WalReceiver};
pub use failover_slots::{FAILOVER_SLOTS_SINCE, FailoverSlots, NOBODYS_SLOT};
pub use hba::{ANY_ADDRESS, IDENT_MAP, REPLICATION_ALONE, render_hba, render_ident};
pub use initdb::initdb;
pub use left_wal::{LeftWal, left_wal};
pub use member_settings::{MemberSetting, MemberSettings, SettingState, member_settings};
pub use member_slots::{Keep, SlotReport, SlotWork, has_slots_to_see_to, keep_member_slots, member_slot};
pub use owned_settings::{Owned, owned_by_cellar};
pub use pgbouncer::{PoolConfig, PoolConsole, PoolDaemon, find_pgbouncer, render_pool_users};
pub use postmaster::{
    Postmaster, PostmasterState, kill_orphan, occupants, orphans, remove_left_memory, running,
};
pub use private_settings::{PrivateSettings, RecoverySettings, RecoveryTarget};
pub use probe::Probe;
pub use quorum::{
    CanarySession, MemberLook, MemberProbe, NOBODY, Receiver, ShownSettings, StreamingStandby, resume_replay,
    write_term_row,
};
pub use required_settings::RequiredSettings;
pub use roles::{CERTIFICATE_CLIENT_GROUP, CLIENT_GROUP, MONITOR_ROLE, REPLICATION_ROLE, SUPERUSER};
pub use session::{Endpoint, execute, execute_in, query};
pub use setting_proposal::{
    Proposal, ProposalError, SettingProblem, check_configuration, check_names, check_proposal,
};
pub use settings::{Settings, TlsFiles};
pub use stop::{StopTimeouts, Stopped, stop, stop_vanished};
pub use tools::Tools;
