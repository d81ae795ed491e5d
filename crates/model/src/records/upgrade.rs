//! The record by which the hosts of a cluster are upgraded one at a time.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::types::json;
use crate::types::name::CellName;

/// Whose host is being upgraded. It is bound to a lease of the process that does it, and gone with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostUpgrade {
    /// The cell whose host it is.
    pub cell: CellName,
    /// The process on that host.
    #[serde(default)]
    pub pid: u32,
    /// When it began, for people.
    #[serde(with = "json::opt_time", skip_serializing_if = "Option::is_none", default)]
    pub begun: Option<Timestamp>,
}
