//! The recovery target, from its flags.

use cellar_api::v1::restore_target::Target as To;
use cellar_api::v1::{LatestTarget, RestoreTarget};
use cellar_model::{BackupLabel, Lsn, RestorePointName};
use clap::Args;
use jiff::Timestamp;

use crate::render::when::parse_time;

/// The recovery target; exactly one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Point {
    /// To the end of what is archived
    #[arg(long)]
    latest: bool,
    /// To a time: everything that was committed then or before; UTC unless it has an offset
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to_time: Option<Timestamp>,
    /// To a WAL position; the record there is included
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<Lsn>,
    /// To a restore point, made by pg_create_restore_point
    #[arg(long, value_name = "NAME")]
    to_name: Option<RestorePointName>,
    /// To the commit of a transaction; it is included
    #[arg(long, value_name = "XID", value_parser = clap::value_parser!(u64).range(3..))]
    to_xid: Option<u64>,
    /// To the end of a backup
    #[arg(long, value_name = "LABEL")]
    to_backup: Option<BackupLabel>,
}

impl Point {
    /// The time, if the target is one.
    pub(super) fn time(&self) -> Option<Timestamp> {
        self.to_time
    }

    /// The target as requests carry it.
    pub(super) fn target(&self) -> RestoreTarget {
        let target = self
            .to_time
            .map(|time| To::Time(time.into()))
            .or_else(|| self.to_lsn.map(|lsn| To::Lsn(lsn.to_string())))
            .or_else(|| self.to_name.as_ref().map(|name| To::Name(name.to_string())))
            .or_else(|| self.to_xid.map(To::Xid))
            .or_else(|| self.to_backup.as_ref().map(|label| To::Backup(label.to_string())))
            .or_else(|| self.latest.then_some(To::Latest(LatestTarget {})));
        RestoreTarget { target }
    }
}
